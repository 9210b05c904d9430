"""Accuracy on clips that were trained on, from which every later evaluation takes its gap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kinema.config import resolve_evaluation
from kinema.data.hashing import content_hash
from kinema.data.load_dataset import load_dataset
from kinema.evaluation.evaluate import with_classes
from kinema.evaluation.predict_split import predict_split
from kinema.evaluation.predictions import Predictions
from kinema.models.weights import TrainingFacts, WeightsConfig
from kinema.progress import SILENT, Reporter
from kinema.types import Clip, DataError

ACCURACY_CLIPS = 2000
"""Training clips on which weights are measured: their accuracy is then known to about 1 %."""


def sample(clips: Sequence[Clip], *, seed: int, known: Sequence[Collection[str]] = ()) -> list[Clip]:
    """At most so many clips, in the order they had.

    Args:
        clips: Training clips.
        seed: Chooses among them.
        known: Content hashes; only clips are taken whose video is in each of these.
    """
    found: list[int] = []
    hashes: dict[Path, str | None] = {}
    for index in np.random.default_rng(seed).permutation(len(clips)).tolist():
        if len(found) == ACCURACY_CLIPS:
            break
        video = clips[index].video
        if known and video not in hashes:
            hashes[video] = None
            with suppress(OSError):  # probing says later what is wrong with a file
                hashes[video] = content_hash(video)
        if all(hashes[video] in contents for contents in known):
            found.append(index)
    return [clips[index] for index in sorted(found)]


def predict_common_training_clips(
    model: nn.Module,
    config: WeightsConfig,
    members: Sequence[TrainingFacts],
    chosen: TrainingFacts,
    *,
    reading: Mapping[str, Any] | None = None,
    reporter: Reporter = SILENT,
) -> Predictions:
    """Logits of a model for clips that all of its members were trained on, told by the content of their videos.

    Args:
        model: Made of these members, in evaluation mode.
        config: How it is fed.
        members: What each of them was trained on. Of a member that is an ensemble itself: what any of its own was.
        chosen: The one whose data are read.
        reading: `clips:` settings of reading: workers, batch_size.
        reporter: Where to show progress.

    Raises:
        UserError: The data cannot be read, or there are no such clips.
    """
    data, clips_section = resolve_evaluation(chosen.data, [], clips=reading or {})
    data = data.model_copy(update={"download": False})  # nobody asked for that
    dataset = with_classes(load_dataset(data, seed=chosen.seed, reporter=reporter), config.heads)
    known = [frozenset(facts.contents) for facts in members]
    some = sample(dataset.splits["train"], seed=chosen.seed, known=known)
    if not some:
        raise DataError(f"no training clip of {data.root or data.name} was trained on by all of the members")
    dataset = replace(dataset, splits={"train": tuple(some)})
    predictions = predict_split(
        model,
        config,
        dataset,
        "train",
        data=data,
        clips=clips_section,
        description="measuring on training clips",
        required=False,
        reporter=reporter,
    )
    if not predictions.clips:
        raise DataError(f"no training clip can be read; the first: {next(iter(predictions.skipped.values()))}")
    return predictions
