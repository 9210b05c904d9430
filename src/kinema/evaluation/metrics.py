"""Numbers from predictions. All accuracies are shares of 1.

Top-k, mean class accuracy and the confusion matrix are computed from ranks and counts here, and tested against
torchmetrics: the library's macro average counts a class that no clip has, and it has no joint accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from kinema.evaluation.predictions import Predictions, log_softmax, ranks_of_truth
from kinema.types import JOINT

TOP_K = (1, 3, 5)

_JOINT_SCORES = 2_000_000
"""Scores that are held at once: EPIC-KITCHENS-100 has 29,100 combinations of classes for each clip."""


def task_metrics(predictions: Predictions, task: str, ks: Sequence[int] = TOP_K) -> dict[str, float]:
    """Top-k for each k, mean class accuracy and mean cross-entropy of one task.

    Mean class accuracy is the mean, over the classes that have clips, of the share of a class's clips that are right.
    Without clips every number is NaN.
    """
    labels = predictions.labels[task]
    logits = predictions.logits[task]
    if not len(labels):
        return {**{f"top{k}": float("nan") for k in ks}, "mean_class": float("nan"), "loss": float("nan")}
    ranks = ranks_of_truth(logits, labels)
    log_probabilities = log_softmax(logits)
    matrix = confusion_matrix(logits.argmax(axis=1), labels, num_classes=logits.shape[1])
    counts = matrix.sum(axis=1)
    return {
        **top_k(ranks, ks),
        "mean_class": float((matrix.diagonal()[counts > 0] / counts[counts > 0]).mean()),
        "loss": float(-np.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()),
    }


def top_k(ranks: Int64[np.ndarray, "B"], ks: Sequence[int] = TOP_K) -> dict[str, float]:
    """Share of clips whose true class is among the k best, for each k."""
    return {f"top{k}": float((ranks < k).mean()) if len(ranks) else float("nan") for k in ks}


def can_rank_joint(predictions: Predictions) -> bool:
    """Whether all combinations of classes of a clip can be ranked: the scores of one fit into 160 MB."""
    return math.prod(logits.shape[1] for logits in predictions.logits.values()) <= 10 * _JOINT_SCORES


def joint_ranks(
    predictions: Predictions, combinations: Sequence[Sequence[int]] | None = None
) -> Int64[np.ndarray, "B"]:
    """Rank of the true combination of classes among all combinations, by the product of the tasks' probabilities.

    Args:
        predictions: Of several tasks.
        combinations: Classes in the order of the tasks, and in how many training clips they came together. The product
            is then multiplied by how much oftener they came together than they would by chance: what a product of
            probabilities leaves out (Bayes, with tasks that are independent given the clip). One clip more is counted
            of each combination that chance would have.
    """
    tasks = list(predictions.classes)
    logs = [_relative_to_best(predictions.logits[task]) for task in tasks]
    sizes = [log.shape[1] for log in logs]
    labels = np.ravel_multi_index([predictions.labels[task] for task in tasks], sizes)
    prior = None if combinations is None else _prior(combinations, sizes)
    ranks = []
    at_once = max(1, _JOINT_SCORES // max(1, math.prod(sizes)))
    for start in range(0, len(labels), at_once):
        rows = slice(start, start + at_once)
        scores = logs[0][rows]
        for log in logs[1:]:
            scores = (scores[:, :, None] + log[rows][:, None, :]).reshape(len(scores), -1)
        if prior is not None:
            scores = scores + prior
        ranks.append(ranks_of_truth(scores, labels[rows].astype(np.int64)))
    if not ranks:
        return np.zeros(0, dtype=np.int64)
    if prior is not None:
        return np.concatenate(ranks)
    # A better class in one task makes a better combination, and so there are at least as many of them. Rounding may
    # have made equals of classes that hardly differ beside the best one.
    by_task = [ranks_of_truth(predictions.logits[task], predictions.labels[task]) for task in tasks]
    return np.maximum.reduce([np.concatenate(ranks), *by_task])


def _prior(combinations: Sequence[Sequence[int]], sizes: Sequence[int]) -> np.ndarray:
    """Logarithm of P(classes together) / product of P(class), of every combination."""
    counts = np.zeros(tuple(sizes))
    for *classes, number in combinations:
        counts[tuple(classes)] += number
    total = counts.sum()
    expected = np.array(1.0)
    for axis, size in enumerate(sizes):
        others = tuple(i for i in range(len(sizes)) if i != axis)
        share = (counts.sum(axis=others) + 1 / size) / (total + 1)  # no class has none
        expected = np.multiply.outer(expected, share)
    together = (counts + expected) / (total + 1)
    return np.asarray(np.log(together / expected)).reshape(-1)


def _relative_to_best(logits: Float32[np.ndarray, "B K"]) -> np.ndarray:
    """Logarithms of probabilities up to a summand per clip. The best class has exactly 0, so that rounding cannot put
    another combination before that of the best classes."""
    values = logits.astype(np.float64)
    return np.asarray(values - values.max(axis=1, keepdims=True))


def confusion_matrix(
    predicted: Int64[np.ndarray, "B"], labels: Int64[np.ndarray, "B"], *, num_classes: int
) -> Int64[np.ndarray, "K K"]:
    """Counts of clips: row the true class, column the predicted class."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def pair_accuracy(predictions: Predictions, pairs: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, float]:
    """Accuracy when only the two classes of a pair are offered, of the clips that have one of the two.

    Args:
        predictions: Of any clips.
        pairs: Task -> pairs of class names.

    Returns:
        "first / second" -> accuracy, for the pairs that have clips, and "all" over the clips of all pairs.
    """
    hits: dict[str, np.ndarray] = {}
    for task, names in pairs.items():
        if task not in predictions.classes:
            continue
        index = {name: i for i, name in enumerate(predictions.classes[task])}
        for first, second in names:
            if first not in index or second not in index:
                continue
            both = np.array([index[first], index[second]])
            labels = predictions.labels[task]
            chosen = np.isin(labels, both)
            if chosen.any():
                answers = both[predictions.logits[task][chosen][:, both].argmax(axis=1)]
                hits[f"{first} / {second}"] = answers == labels[chosen]
    if not hits:
        return {}
    return {
        "all": float(np.concatenate(list(hits.values())).mean()),
        **{name: float(right.mean()) for name, right in hits.items()},
    }


def right_answers(predictions: Predictions) -> dict[str, Bool[np.ndarray, "B"]]:
    """Task -> which clips are right, and with several tasks "joint": right in all of them at once."""
    right = {task: predictions.logits[task].argmax(axis=1) == predictions.labels[task] for task in predictions.classes}
    return {**right, JOINT: np.logical_and.reduce(list(right.values()))} if len(right) > 1 else right


def accuracy(predictions: Predictions) -> dict[str, float]:
    """Task (and "joint") -> top-1 accuracy."""
    right = right_answers(predictions)
    return {task: float(hits.mean()) if len(hits) else float("nan") for task, hits in right.items()}


def top_ks(record: Mapping[str, Any]) -> list[int]:
    """The k of the top-k accuracies of an evaluation, 1 first."""
    values = next(iter(record["tasks"].values()))
    return sorted(int(name[3:]) for name in values if name.startswith("top") and name[3:].isdigit())


def main_task(tasks: Sequence[str] | Mapping[str, Any]) -> str:
    """The name under which a run's headline accuracy stands: its only task, or "joint"."""
    names = list(tasks)
    return names[0] if len(names) == 1 else JOINT
