"""Saying "nothing of what I know": which clips a recogniser had better not answer.

Three scores, each higher for clips that are of one of the classes: the maximum softmax probability (Hendrycks and
Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017), the energy of the logits
(Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020; here with its sign turned, at temperature 1)
and what a class that was trained as background leaves over. With several tasks a clip has one score: the probability of
the most probable combination, or the sum of the tasks' energies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64

from kinema.evaluation.predictions import Predictions, log_softmax
from kinema.models.weights import Rejection
from kinema.types import ConfigError, Heads

Method = Literal["max_probability", "energy", "background"]
METHODS: tuple[Method, ...] = get_args(Method)

RECALL = 0.95
"""Share of clips of known classes that a threshold lets through, if nothing else is asked for."""

FEWEST_CLIPS = 10
"""Of fewer the lowest score says nothing about others."""


MOST_POINTS = 300
"""Of a curve."""

_NUM_BINS = 30
"""Of the histograms of scores."""


def scores(
    logits: Mapping[str, np.ndarray],
    method: Method,
    *,
    temperatures: Mapping[str, float] | None = None,
    background: Mapping[str, int] | None = None,
) -> Float64[np.ndarray, "B"]:
    """How sure it is that a clip is of one of the classes.

    Args:
        logits: Task -> (B, K).
        method: Which score.
        temperatures: Task -> what logits are divided by before they become probabilities; energies take them as they
            are.
        background: Task -> class that stands for nothing.
    """
    if method == "energy":
        return np.asarray(sum(_log_sum(values.astype(np.float64)) for values in logits.values()))
    logs = {
        task: log_softmax(values / np.float32((temperatures or {}).get(task, 1.0))) for task, values in logits.items()
    }
    if method == "background":
        assert background
        return np.asarray(1 - np.exp(sum(logs[task][:, label] for task, label in background.items())))
    return np.asarray(np.exp(sum(values.max(axis=1) for values in logs.values())))


def background_class(name: str, heads: Heads) -> dict[str, int]:
    """Task -> index of a class, of the tasks that have it.

    Raises:
        ConfigError: None has.
    """
    found = {task: names.index(name) for task, names in heads.items() if name in names}
    if not found:
        raise ConfigError(f"--background: {name!r} is no class of this model")
    return found


def is_background(labels: Mapping[str, np.ndarray], background: Mapping[str, int]) -> Bool[np.ndarray, "B"]:
    """Which clips are of the class that stands for nothing, in all tasks that have it.

    Args:
        labels: Task -> (B,).
        background: At least one task -> its class.
    """
    return np.logical_and.reduce([labels[task] == label for task, label in background.items()])


def fit_threshold(known: Float64[np.ndarray, "B"], recall: float = RECALL) -> float:
    """A threshold that lets through a share of clips of known classes, half-way between the scores of the last one that
    is let through and of the first one that is not: at a score itself, rounding would decide.

    Args:
        known: Scores of clips that were not trained on, at least one.
        recall: The share, above 0 and at most 1.
    """
    lowest = _lowest_let_through(known, recall)
    below = known[known < lowest]
    return float((lowest + below.max()) / 2 if len(below) else lowest - 1e-5 * abs(lowest))


def _lowest_let_through(known: Float64[np.ndarray, "B"], recall: float) -> float:
    ordered = np.sort(known)
    return float(ordered[len(ordered) - int(np.ceil(recall * len(ordered) - 1e-9))])


def separation(known: Float64[np.ndarray, "B"], unknown: Float64[np.ndarray, "U"]) -> dict[str, float]:
    """How well a score tells clips of the classes from others.

    Returns:
        `auroc`, the probability that a known clip's score is above an unknown one's (Mann and Whitney), and `fpr95`,
        the share of unknown clips that are let through where 95 % of the known ones are.
    """
    ordered = np.sort(unknown)
    below, up_to = np.searchsorted(ordered, known, side="left"), np.searchsorted(ordered, known, side="right")
    area = float((below + up_to).sum() / (2 * len(known) * len(unknown)))
    return {"auroc": area, "fpr95": float((unknown >= _lowest_let_through(known, RECALL)).mean())}


def roc(
    known: Float64[np.ndarray, "B"], unknown: Float64[np.ndarray, "U"], *, most: int = MOST_POINTS
) -> dict[str, list[float]]:
    """The receiver operating characteristic: what each threshold lets through, the highest first.

    Args:
        known: Scores of clips of the classes.
        unknown: Of others.
        most: Of more thresholds than this, so many are taken: those that divide the way along the curve evenly.

    Returns:
        `threshold`, and the shares of `unknown` and of `known` clips with at least that score; the last lets all
        through, and what lets none through is left out.
    """
    thresholds = np.unique(np.concatenate([known, unknown]))[::-1]
    shares = {
        name: 1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values)
        for name, values in (("unknown", unknown), ("known", known))
    }
    along = shares["unknown"] + shares["known"]
    taken = np.unique(np.searchsorted(along, np.linspace(along[0], 2, most))) if len(along) > most else slice(None)
    return {name: values[taken].tolist() for name, values in {"threshold": thresholds, **shares}.items()}


def accepted(found: Float64[np.ndarray, "B"], threshold: float) -> Bool[np.ndarray, "B"]:
    """Which clips are answered."""
    return np.asarray(found >= threshold)


def rejection_record(
    predictions: Predictions,
    unknown: Predictions | None,
    *,
    kept: Rejection | None,
    temperatures: Mapping[str, float] | None,
    background: Mapping[str, int] | None = None,
    has_logits: bool = True,
) -> dict[str, Any]:
    """What rejecting comes to.

    Args:
        predictions: Of clips of the classes.
        unknown: Of clips of none.
        kept: The threshold that is kept with the weights.
        temperatures: Of the weights.
        background: Task -> class that was made to stand for nothing, if there is one.
        has_logits: Whether logits are a model's own, or their mean; of averaged probabilities there is no energy.

    Returns:
        `methods`: method -> `auroc` and `fpr95`, where there are unknown clips; `roc`:
        method -> its curve; `scores`: of the kept method, or the
        first, counts of `known` and `unknown` clips between `edges`, for a picture; and of the kept threshold `method`,
        `threshold`, `known_accepted`, `unknown_accepted`, and `top1_accepted`, the accuracy on known clips that are
        answered.
    """
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {"temperatures": temperatures}
    methods: Sequence[Method] = ("max_probability", "energy")
    if kept is not None and kept.method == "background":
        settings["background"] = background_class(str(kept.background), predictions.classes)
    elif background:
        settings["background"] = background
    if "background" in settings:
        methods = METHODS
    if "background" in settings:  # clips that are said to show nothing are not among those to be told from it
        predictions = _without(predictions, settings["background"])
    if not has_logits:
        methods = tuple(method for method in methods if method != "energy")
        kept = None if kept is not None and kept.method == "energy" else kept
    known_scores = {method: scores(predictions.logits, method, **settings) for method in methods}
    shown: Method = METHODS[-1] if "background" in settings else "max_probability"
    if kept is not None:
        shown = kept.method  # type: ignore[assignment]
    if unknown is not None:
        unknown_scores = {method: scores(unknown.logits, method, **settings) for method in methods}
        found["num_unknown"] = len(unknown.clips)
        found["methods"] = {method: separation(known_scores[method], unknown_scores[method]) for method in methods}
        found["roc"] = {method: roc(known_scores[method], unknown_scores[method]) for method in methods}
        found["scores"] = {"method": shown, **_histogram(known_scores[shown], unknown_scores[shown])}
    if kept is not None:
        answered = accepted(known_scores[shown], kept.threshold)
        right = np.logical_and.reduce(
            [predictions.logits[task].argmax(axis=1) == predictions.labels[task] for task in predictions.classes]
        )
        found |= {
            "method": kept.method,
            "threshold": kept.threshold,
            "known_accepted": float(answered.mean()),
            "top1_accepted": float(right[answered].mean()) if answered.any() else None,
        }
        if unknown is not None:
            found["unknown_accepted"] = float(accepted(unknown_scores[shown], kept.threshold).mean())
    return found


def _without(predictions: Predictions, background: Mapping[str, int]) -> Predictions:
    shown = ~is_background(predictions.labels, background)
    return replace(
        predictions,
        clips=[clip for clip, is_shown in zip(predictions.clips, shown.tolist(), strict=True) if is_shown],
        logits={task: values[shown] for task, values in predictions.logits.items()},
        labels={task: values[shown] for task, values in predictions.labels.items()},
    )


def _histogram(known: np.ndarray, unknown: np.ndarray) -> dict[str, list[float]]:
    edges = np.histogram_bin_edges(np.concatenate([known, unknown]), bins=_NUM_BINS)
    counts = {name: np.histogram(some, bins=edges)[0] for name, some in (("known", known), ("unknown", unknown))}
    return {"edges": edges.tolist(), **{name: some.tolist() for name, some in counts.items()}}


def _log_sum(values: np.ndarray) -> np.ndarray:
    highest = values.max(axis=1)
    return np.asarray(highest + np.log(np.exp(values - highest[:, None]).sum(axis=1)))
