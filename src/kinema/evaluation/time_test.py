"""Does it use time? The same clips with their frames in another order, and what that costs, class by class.

Of a model that sees motion it is the moments that are put in another order, each with its own fields, and the same
order in all streams: a field goes on showing what moves in it, and in which direction, wherever it comes, and a moment
that is repeated goes on moving. What that costs says what the order of the moments is good for, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kinema.evaluation.class_statistics import groups_of, intervals
from kinema.evaluation.predictions import Predictions
from kinema.types import JOINT

MEANING = {
    "reversed": "the last frame first",
    "shuffled": "in an order drawn for each clip",
    "still": "the middle frame throughout",
}


_OF_MOTION = {
    "reversed": "the last moment first, its motion as it was",
    "shuffled": "moments in an order drawn for each clip",
    "still": "the middle moment throughout, with its motion",
}


def meaning(order: str, moving: Sequence[str]) -> str:
    """What an order is, in words.

    Args:
        order: One of them.
        moving: Streams of motion that the model sees.
    """
    return _OF_MOTION[order] if moving else MEANING[order]


def no_use(moving: Sequence[str]) -> str:
    """What follows where no order costs anything, in words."""
    if moving:
        return f"it does not use the order of moments, whatever it makes of the motion in each ({', '.join(moving)})"
    return "it does not use time"


def time_test(predictions: Predictions) -> dict[str, Any]:
    """What other orders of the frames cost.

    Args:
        predictions: With the answers to such orders.

    Returns:
        Order -> task (and "joint") -> `top1`; `drop`, by how much it is below that of the clips as they were filmed;
        `interval` of the drop (95 %, bootstrap over groups; None of few groups); `same`, the share of clips with the
        same answer as before; and `classes`, of tasks: `name`, `num_clips`, `recall`, `drop`, the largest drop first.
    """
    groups = groups_of(predictions)
    found: dict[str, Any] = {}
    for order, logits in predictions.reordered.items():
        before, after = _answers(predictions.logits), _answers(logits)
        right_before = {task: before[task] == predictions.labels[task] for task in before}
        right_after = {task: after[task] == predictions.labels[task] for task in after}
        same = {task: before[task] == after[task] for task in before}
        if len(before) > 1:
            for hits in (right_before, right_after, same):
                hits[JOINT] = np.logical_and.reduce(list(hits.values()))
        found[order] = {
            task: {
                "top1": _mean(right_after[task]),
                "drop": _mean(1.0 * right_before[task] - right_after[task]),
                "interval": intervals(1.0 * right_before[task] - right_after[task], groups)[0],
                "same": _mean(same[task]),
            }
            for task in right_before
        }
        for task, names in predictions.classes.items():
            labels = predictions.labels[task]
            rows = [
                {
                    "name": names[k],
                    "num_clips": int((labels == k).sum()),
                    "recall": _mean(right_after[task][labels == k]),
                    "drop": _mean(1.0 * right_before[task][labels == k] - right_after[task][labels == k]),
                }
                for k in np.unique(labels).tolist()
            ]
            found[order][task]["classes"] = sorted(rows, key=lambda row: -row["drop"])
    return found


def uses_time(values: dict[str, Any]) -> bool | None:
    """Whether another order of the frames costs a task anything that is not chance; None where that cannot be said.

    Args:
        values: Order -> task -> what `time_test` found, of one task.
    """
    known = [of["interval"] for of in values.values() if of["interval"] is not None]
    return any(interval[0] > 0 for interval in known) if known else None


def _answers(logits: Any) -> dict[str, np.ndarray]:
    return {task: values.argmax(axis=1) for task, values in logits.items()}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
