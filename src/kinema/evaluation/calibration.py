"""Whether a confidence of 80 % is right 80 % of the time, and one number that mends most of it where it is not.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017: expected calibration error over
bins of equal width, and temperature scaling, which changes no answer.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from kinema.evaluation.predictions import Predictions, log_softmax
from kinema.models.weights import Calibration

log = logging.getLogger(__name__)

NUM_BINS = 15

_COLDEST, _HOTTEST = 1 / 100, 100.0
"""Logits that say nothing of the classes would be made ever smaller."""


def calibration(logits: Float[np.ndarray, "B K"], labels: Int64[np.ndarray, "B"]) -> dict[str, Any]:
    """How far confidence is from accuracy.

    Returns:
        `ece`, the expected calibration error: the mean over clips of the difference between the mean confidence and
        the accuracy of a clip's bin; `confidence`, the mean over clips; and `bins`, of the bins that have clips:
        `low`, `high`, `num_clips`, `confidence`, `accuracy`. None where there are no clips.
    """
    if not len(labels):
        return {"ece": None, "confidence": None, "bins": []}
    confidence = np.exp(log_softmax(logits).max(axis=1))
    right = logits.argmax(axis=1) == labels
    places = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins = []
    for place in np.unique(places).tolist():
        inside = places == place
        bins.append(
            {
                "low": place / NUM_BINS,
                "high": (place + 1) / NUM_BINS,
                "num_clips": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    error = sum(one["num_clips"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / len(labels)
    return {"ece": float(error), "confidence": float(confidence.mean()), "bins": bins}


def fit_temperature(logits: Float[np.ndarray, "B K"], labels: Int64[np.ndarray, "B"]) -> float:
    """The temperature by which logits are to be divided so that the mean cross-entropy of these clips is the least, had
    there been one clip more that could have been of any class. Without that, few clips which are all answered rightly
    would make a model sure of everything.

    It is convex in the inverse of the temperature, so the place where its slope is 0 is found by halving. Between 0.01
    and 100.

    Args:
        logits: Of clips that were not trained on, at least one.
        labels: Their classes.
    """
    values = logits.astype(np.float64)
    any_class = 1 / (len(labels) + 1)
    true = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    true = (1 - any_class) * true + any_class * values.mean(axis=1)

    def slope(inverse: float) -> float:
        return float(((np.exp(log_softmax(values * inverse)) * values).sum(axis=1) - true).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(low) >= 0:
        return _HOTTEST
    if slope(high) <= 0:
        return _COLDEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def fit_calibration(predictions: Predictions, *, split: str) -> Calibration | None:
    """A temperature for each task, of clips that were not trained on.

    Args:
        predictions: Of at least one clip.
        split: Which these are.

    Returns:
        None where no task has one: with a single class, or where these clips do not show that the logits say anything.
    """
    temperatures = {}
    for task, logits in predictions.logits.items():
        found = fit_temperature(logits, predictions.labels[task])
        if _COLDEST < found < _HOTTEST:
            temperatures[task] = found
        elif logits.shape[1] > 1:
            log.warning("%s: no temperature is kept; the %d %s clips do not give one", task, len(logits), split)
    clip_ids = [clip.clip_id for clip in predictions.clips]
    return Calibration(temperatures=temperatures, split=split, clip_ids=clip_ids) if temperatures else None
