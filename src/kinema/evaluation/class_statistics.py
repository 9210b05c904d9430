"""What a mean over clips hides: every class by itself, and how far the numbers could be off.

Precision, recall and F1 come from the confusion matrix; average precision and the area under the receiver operating
characteristic are torchmetrics'. Means over classes are over those that have clips here: of others nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from kinema.evaluation.metrics import confusion_matrix
from kinema.evaluation.predictions import Predictions

NUM_RESAMPLES = 2000
LEVEL = 0.95
"""Of intervals."""

FEWEST_GROUPS = 10
"""Of fewer, bootstrap intervals are much too narrow: there is too little to draw from."""

_NUM_AT_ONCE = 100


def class_statistics(predictions: Predictions, task: str) -> dict[str, Any]:
    """Statistics of one task and of each of its classes.

    Returns:
        `precision`, `recall` and `f1`, each as `_macro` and `_weighted` (by clips); `average_precision` and `auroc`,
        means over classes that have clips (`auroc`: and that others have too); and `classes`, one row per class that
        has clips or was answered: `name`, `num_clips`, `num_answers`, `right`, `recall`, `interval`, `precision`, `f1`,
        `average_precision`, `auroc`. None where there is no such number.
    """
    names = predictions.classes[task]
    labels, answers = predictions.labels[task], predictions.logits[task].argmax(axis=1)
    matrix = confusion_matrix(answers, labels, num_classes=len(names))
    num_clips, num_answers, right = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    recall, precision = _shares(right, num_clips), _shares(right, num_answers)
    f1 = _shares(2 * right, num_clips + num_answers)
    precision_or_0 = np.nan_to_num(precision)  # of a class that was never answered, as scikit-learn has it
    ap, auroc = _ranking(predictions, task, num_clips)
    _, by_class = intervals(answers == labels, groups_of(predictions), labels, num_classes=len(names))
    present = num_clips > 0
    found: dict[str, Any] = {}
    for name, values in (("precision", precision_or_0), ("recall", recall), ("f1", f1)):
        found[f"{name}_macro"] = _mean(values[present])
        found[f"{name}_weighted"] = _mean(values[present], num_clips[present])
    found |= {"average_precision": _mean(ap[present]), "auroc": _mean(auroc[present])}
    found["classes"] = [
        {
            "name": names[k],
            "num_clips": int(num_clips[k]),
            "num_answers": int(num_answers[k]),
            "right": int(right[k]),
            "recall": _number(recall[k]),
            "interval": by_class[k],
            "precision": _number(precision[k]),
            "f1": _number(f1[k]),
            "average_precision": _number(ap[k]),
            "auroc": _number(auroc[k]),
        }
        for k in np.flatnonzero(present | (num_answers > 0)).tolist()
    ]
    return found


def groups_of(predictions: Predictions) -> Int64[np.ndarray, "B"]:
    """Number of the group of each clip: what is alike, and so is drawn together. A clip of no group is drawn with the
    others of its video."""
    return group_numbers([clip.group or str(clip.video) for clip in predictions.clips])


def group_numbers(names: Sequence[str]) -> Int64[np.ndarray, "B"]:
    """The same number for the same name, from 0."""
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def intervals(
    values: np.ndarray,
    groups: Int64[np.ndarray, "B"],
    labels: Int64[np.ndarray, "B"] | None = None,
    *,
    num_classes: int = 1,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[list[float] | None, list[list[float] | None]]:
    """Percentile intervals of 95 % of means, by bootstrap over groups (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 13; whole groups are drawn, because the clips of one are alike). The same each time.

    Args:
        values: (B,) such as whether a clip was answered rightly.
        groups: From `groups_of`.
        labels: Class of each clip; by default there is one class.
        num_classes: K.
        num_resamples: Draws.

    Returns:
        Of the mean over all clips, and of those over the clips of each class. None where the clips are of less than
        `FEWEST_GROUPS`: of so few, what is drawn says too little of what there could have been. Where all clips are
        right, or none, drawing gives the same each time; then the bound is that of so many groups, each as a whole
        right or wrong (Clopper and Pearson, Biometrika 1934).
    """
    labels = np.zeros_like(groups) if labels is None else labels
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    place = groups * num_classes + labels
    size = num_groups * num_classes
    totals = np.bincount(place, minlength=size).reshape(num_groups, num_classes).astype(np.float32)
    sums = np.bincount(place, weights=values, minlength=size).reshape(num_groups, num_classes).astype(np.float32)
    in_groups = (totals > 0).sum(axis=0)
    if num_groups < FEWEST_GROUPS:
        return None, [None] * num_classes
    rng = np.random.default_rng(0)
    overall, by_class = [], []
    for start in range(0, num_resamples, _NUM_AT_ONCE):
        num = min(_NUM_AT_ONCE, num_resamples - start)
        drawn = rng.integers(num_groups, size=(num, num_groups)) + num_groups * np.arange(num)[:, None]
        weights = np.bincount(drawn.reshape(-1), minlength=num * num_groups).reshape(num, -1).astype(np.float32)
        sums_drawn, totals_drawn = weights @ sums, weights @ totals
        overall.append(_shares(sums_drawn.sum(axis=1), totals_drawn.sum(axis=1)))
        by_class.append(_shares(sums_drawn, totals_drawn))
    of_classes = np.concatenate(by_class)
    one_or_none = np.isin(values, (0, 1)).all()
    extreme = [
        _extreme(sums[:, k].sum() / totals[:, k].sum(), int(in_groups[k])) if one_or_none and in_groups[k] else None
        for k in range(num_classes)
    ]
    whole = _extreme(sums.sum() / totals.sum(), num_groups) if one_or_none else None
    return whole or _interval(np.concatenate(overall)), [
        (extreme[k] or _interval(of_classes[:, k])) if in_groups[k] >= FEWEST_GROUPS else None
        for k in range(num_classes)
    ]


def _extreme(share: float, num_groups: int) -> list[float] | None:
    """Of a share that is 0 or 1."""
    bound = ((1 - LEVEL) / 2) ** (1 / num_groups)
    return [bound, 1.0] if share == 1 else [0.0, 1 - bound] if share == 0 else None


def _interval(values: Float64[np.ndarray, "R"]) -> list[float]:
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.nanquantile(values, [tail, 1 - tail])]


def _ranking(predictions: Predictions, task: str, num_clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and area under the ROC of each class against all others; NaN without clips of both kinds."""
    scores, labels = torch.from_numpy(predictions.probabilities(task)), torch.from_numpy(predictions.labels[task])
    ap, auroc = np.full(len(num_clips), np.nan), np.full(len(num_clips), np.nan)
    for k in np.flatnonzero(num_clips).tolist():
        truth = (labels == k).long()
        ap[k] = binary_average_precision(scores[:, k], truth, validate_args=False)
        if num_clips[k] < len(labels):
            auroc[k] = binary_auroc(scores[:, k], truth, validate_args=False)
    return ap, auroc


def _shares(part: np.ndarray, of: np.ndarray) -> Float64[np.ndarray, "..."]:
    """NaN where there is nothing to have a share of."""
    of = np.asarray(of, dtype=np.float64)
    return np.divide(part, of, out=np.full(of.shape, np.nan), where=of > 0)


def _mean(values: np.ndarray, weights: Sequence[float] | np.ndarray | None = None) -> float | None:
    known = ~np.isnan(values)
    if not known.any():
        return None
    return float(np.average(values[known], weights=None if weights is None else np.asarray(weights)[known]))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
