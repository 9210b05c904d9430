"""Clips that are made of two: mixup and CutMix, the same for all frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kinema.training.losses import Labels, Mixed


def mix(
    inputs: Mapping[str, Float[Tensor, "B T ..."]],
    labels: Labels,
    *,
    mixup: float,
    cutmix: float,
    rng: np.random.Generator,
) -> tuple[dict[str, Float[Tensor, "B T ..."]], Mixed | None]:
    """Put a second clip of the batch into each clip.

    `mixup` (Zhang et al., ICLR 2018) is a weighted mean; of features as well as of pixels (Verma et al., "Manifold
    Mixup", ICML 2019). `cutmix` (Yun et al., ICCV 2019) puts a rectangle of the second clip, at the same place in all
    frames, into the first. With both, each batch has one of them, as likely.

    Args:
        inputs: Stream -> clips, whose last two axes are rows and columns where `cutmix` is above 0.
        labels: Task -> (B,).
        mixup: Both parameters of the Beta distribution that shares are drawn from; 0: no mixup.
        cutmix: Likewise.
        rng: Of the batch.

    Returns:
        The mixed clips, and what their second parts are; None where nothing was mixed.
    """
    num_clips = len(next(iter(labels.values())))
    if num_clips < 2 or (mixup == 0 and cutmix == 0):
        return dict(inputs), None
    cuts = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    drawn = share = float(rng.beta(cutmix, cutmix) if cuts else rng.beta(mixup, mixup))
    partner = torch.from_numpy(rng.permutation(num_clips))
    mixed: dict[str, Tensor] = {}
    place = rng.random(2)
    for stream, clips in inputs.items():
        others = clips[partner.to(clips.device)]
        if cuts:
            rows, columns, share = _box(clips.shape[-2], clips.shape[-1], drawn, place)
            both = clips.clone()
            both[..., rows, columns] = others[..., rows, columns]
            mixed[stream] = both
        else:
            mixed[stream] = share * clips + (1 - share) * others
    second = {task: values[partner.to(values.device)] for task, values in labels.items()}
    return mixed, Mixed(labels=second, share=share)


def _box(height: int, width: int, share: float, place: np.ndarray) -> tuple[slice, slice, float]:
    """Rows and columns of the rectangle, cut off at the edges, and the share of the first clip that is left then."""
    side = math.sqrt(1 - share)
    slices = []
    for size, centre in ((height, place[0]), (width, place[1])):
        middle, half = centre * size, side * size / 2
        slices.append(slice(max(0, round(middle - half)), min(size, round(middle + half))))
    area = math.prod(part.stop - part.start for part in slices)
    return slices[0], slices[1], 1 - area / (height * width)
