"""What happens to uint8 frames on the device that the model runs on: colour changes (training) and normalisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.config import Augmentation
from kinema.types import Preprocessing

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_model_input(
    streams: Mapping[str, UInt8[Tensor, "B T C H W"]],
    preprocessing: Mapping[str, Preprocessing],
    *,
    augmentation: Augmentation | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "B T C H W"]]:
    """Frames as stored, to what a model takes. Everything that runs a model comes through here.

    Args:
        streams: Stream -> frames, already on the device.
        preprocessing: Stream -> how its frames are normalised.
        augmentation: Random colour, for training, the same for all frames of a clip; needs `generator`.
        generator: Source of that randomness, on the CPU, so that every device draws the same.
    """
    inputs = {}
    for stream, frames in streams.items():
        values = frames.float() / 255
        if augmentation is not None and augmentation.colour > 0:
            values = _jitter_colour(values, augmentation.colour, generator)
        mean = values.new_tensor(preprocessing[stream].mean).view(-1, 1, 1)
        std = values.new_tensor(preprocessing[stream].std).view(-1, 1, 1)
        inputs[stream] = (values - mean) / std
    return inputs


def _jitter_colour(
    values: Float[Tensor, "B T C H W"], strength: float, generator: torch.Generator | None
) -> Float[Tensor, "B T C H W"]:
    """Brightness, contrast and saturation, each by a factor of 1 +- strength, in this order, as torchvision's
    `ColorJitter` does; drawn once per clip, where that transform draws once per batch."""
    factors = 1 + strength * (2 * torch.rand(3, len(values), generator=generator) - 1)
    brightness, contrast, saturation = factors.to(values.device).view(3, -1, 1, 1, 1, 1)
    grey_weights = values.new_tensor(_GREY).view(-1, 1, 1)
    values = (values * brightness).clamp(0, 1)
    level = (values * grey_weights).sum(dim=2, keepdim=True).mean(dim=(1, 3, 4), keepdim=True)
    values = (level + (values - level) * contrast).clamp(0, 1)
    grey = (values * grey_weights).sum(dim=2, keepdim=True)
    return (grey + (values - grey) * saturation).clamp(0, 1)
