"""Mean and deviation of what a model is given: whether clips are prepared as those that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float

from kinema.data.decoding import Video
from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.types import Clip, Preprocessing

Moments: TypeAlias = Mapping[str, Sequence[float]]
"""Stream, or "features" -> number, sum and sum of squares."""

NUM_CLIPS = 16
"""Of which frames are decoded where a model was trained on stored features: as many as say enough. Each run of a
cross-validation decodes its own."""


def moments_of(values: Float[torch.Tensor, "B T *rest"]) -> Float[torch.Tensor, "3"]:
    """Number, sum and sum of squares of one frame of each clip, which says as much as all and costs nothing."""
    some = values[:, values.shape[1] // 2].double()
    return torch.stack([some.new_tensor(some.numel()), some.sum(), some.square().sum()])


def added(*parts: Moments) -> Moments:
    """Of all parts together."""
    found: dict[str, Sequence[float]] = {}
    for part in parts:
        for name, values in part.items():
            found[name] = [a + b for a, b in zip(found.get(name, (0.0, 0.0, 0.0)), values, strict=True)]
    return found


def mean_and_deviation(moments: Moments) -> dict[str, tuple[float, float]]:
    """Stream, or "features" -> mean and deviation."""
    found = {}
    for name, (number, total, squares) in moments.items():
        mean = total / number
        found[name] = (mean, math.sqrt(max(0.0, squares / number - mean * mean)))
    return found


def frame_moments(
    clips: Sequence[Clip],
    videos: Mapping[Path, Video],
    preprocessing: Mapping[str, Preprocessing],
    *,
    batch_size: int,
    workers: int,
) -> dict[str, tuple[float, float]]:
    """Stream -> mean and deviation of the frames of clips, prepared for a model that is not asked about them.

    Args:
        clips: Some; what cannot be read is left out.
        videos: What probing their videos found.
        preprocessing: Of each stream.
        batch_size: Clips at once.
        workers: Processes that read.
    """
    reader = ClipReader(list(clips), dict(videos), preprocessing, augmentation=None, seed=0)
    found: Moments = {}
    order = EpochOrder(len(clips), batch_size=batch_size, seed=None)
    with torch.inference_mode(), clip_loader(reader, order, workers=workers) as loader:
        order.set_position(epoch=0, first_batch=0)
        for batch in loader:
            if len(batch):
                inputs = to_model_input(batch.streams, preprocessing, flip=batch.flip)
                found = added(found, {name: moments_of(values).tolist() for name, values in inputs.items()})
    return mean_and_deviation(found)
