"""Fitting the threshold below which clips are rejected, on clips that were neither trained on nor are for testing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kinema.evaluation.evaluate import evaluate
from kinema.evaluation.rejection import (
    FEWEST_CLIPS,
    Method,
    background_class,
    fit_threshold,
    is_background,
    scores,
)
from kinema.models.weights import Rejection, read_calibration, read_config, read_training, save_rejection
from kinema.progress import SILENT, Reporter
from kinema.types import ConfigError, DataError

log = logging.getLogger(__name__)


def fit_rejection(
    weights: Path,
    overrides: Sequence[str] = (),
    *,
    method: Method | None = None,
    recall: float = 0.95,
    background: str | None = None,
    reporter: Reporter = SILENT,
) -> Rejection:
    """Fit a threshold on the validation split, and keep it with the weights.

    Args:
        weights: A weights folder.
        overrides: As for an evaluation.
        method: Which score; by default that of the background class where there is one, else `max_probability`.
        recall: Share of the clips that is to be answered.
        background: Class that stands for nothing. Its clips are not among those to be answered.
        reporter: Where to show progress.

    Raises:
        ConfigError: There is no validation split, or no such class.
        DataError: It has too few clips, or something cannot be read or written.
    """
    heads, made = read_config(weights).heads, read_training(weights).background
    if background is None and made:
        task, label = next(iter(made.items()))
        background = heads[task][label]
    method = method or ("max_probability" if background is None else "background")
    if method == "background" and background is None:
        raise ConfigError("--background: name the class that stands for nothing, or train with data.background=NAME")
    place = None if background is None else background_class(background, heads)
    try:
        predictions = evaluate(weights, overrides, split="validation", reporter=reporter).predictions
    except ConfigError as error:
        if "no validation split" not in str(error):
            raise
        raise ConfigError(
            "a threshold is fitted on clips that were not trained on and are not for testing, and this run has no "
            "validation split; train with data.validation=0.1, which cuts one out by group"
        ) from None
    calibrated = read_calibration(weights)
    found = scores(
        predictions.logits,
        method,
        temperatures=None if calibrated is None else calibrated.temperatures,
        background=place,
    )
    known = np.ones(len(found), dtype=bool) if place is None else ~is_background(predictions.labels, place)
    found = found[known]
    if len(found) < FEWEST_CLIPS:
        raise DataError(
            f"{weights}: the validation split has {len(found)} clips of known classes; at least {FEWEST_CLIPS} are "
            "needed for a threshold that means something"
        )
    if len(found) * (1 - recall) < 1 and recall < 1:
        log.warning(
            "of %d validation clips all have to be answered to answer %g %%: the threshold is the lowest score among "
            "them, and another such set of clips would give another one",
            len(found),
            100 * recall,
        )
    clip_ids = [clip.clip_id for clip, is_known in zip(predictions.clips, known.tolist(), strict=True) if is_known]
    rejection = Rejection(
        method=method,
        threshold=fit_threshold(found, recall),
        recall=recall,
        background=background if method == "background" else None,
        split="validation",
        clip_ids=clip_ids,
    )
    save_rejection(weights, rejection)
    return rejection
