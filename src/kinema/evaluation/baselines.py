"""What costs nothing to reach: chance, and always answering the commonest class of the training clips."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from kinema.evaluation.predictions import Predictions
from kinema.types import JOINT, Clip, Heads


def class_counts(clips: Sequence[Clip], classes: Heads) -> dict[str, list[int]]:
    """Task -> number of clips of each class."""
    return {
        task: np.bincount([clip.labels[task] for clip in clips], minlength=len(names)).tolist()
        for task, names in classes.items()
    }


def commonest(clips: Sequence[Clip], classes: Heads) -> dict[str, Any]:
    """Task -> index of the commonest class (the first of several). With several tasks also "joint": the commonest
    combination, in the order of the tasks.

    Args:
        clips: At least one.
        classes: Task -> class names.
    """
    found: dict[str, Any] = {task: int(np.argmax(counts)) for task, counts in class_counts(clips, classes).items()}
    if len(classes) > 1:
        combinations = Counter(tuple(clip.labels[task] for task in classes) for clip in clips)
        highest = max(combinations.values())
        found[JOINT] = list(min(labels for labels, count in combinations.items() if count == highest))
    return found


def combinations(clips: Sequence[Clip], classes: Heads) -> list[list[int]]:
    """With several tasks: classes in the order of the tasks, and the number of clips in which they come together."""
    if len(classes) < 2:
        return []
    counts = Counter(tuple(clip.labels[task] for task in classes) for clip in clips)
    return [[*labels, number] for labels, number in sorted(counts.items())]


def majority_answers(predictions: Predictions, common: Mapping[str, Any]) -> dict[str, Bool[np.ndarray, "B"]]:
    """Task (and "joint") -> which clips are of the class that was commonest in training.

    Args:
        predictions: Only their labels are used.
        common: From `commonest` of the training clips.
    """
    hits = {task: predictions.labels[task] == common[task] for task in predictions.classes}
    if len(hits) > 1:
        of_tasks = zip(predictions.classes, common[JOINT], strict=True)
        hits[JOINT] = np.logical_and.reduce([predictions.labels[task] == label for task, label in of_tasks])
    return hits


def baselines(
    predictions: Predictions, common: Mapping[str, Any], background: Mapping[str, int] | None = None
) -> dict[str, dict[str, float]]:
    """Task (and "joint") -> `chance` and `majority` accuracy on the predicted clips.

    Args:
        predictions: Only their labels are used.
        common: From `commonest` of the training clips.
        background: Task -> class that stands for nothing. Where no clip is of it, chance is among the others.
    """
    sizes = {task: len(names) for task, names in predictions.classes.items()}
    for task, label in (background or {}).items():
        if not (predictions.labels[task] == label).any():
            sizes[task] -= 1
    sizes[JOINT] = math.prod(sizes.values())
    hits = majority_answers(predictions, common)
    return {task: {"chance": 1 / sizes[task], "majority": _mean(some)} for task, some in hits.items()}


def _mean(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else float("nan")
