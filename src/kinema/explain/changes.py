"""Small random changes between the steps of an optimisation: what a unit likes in one place, at one size and at one
angle alone is mostly noise. Olah et al., "Feature Visualization", 2017, "transformation robustness".

Each change is one for all pictures, and for all moments of a moving one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_PAD = 1 / 16
"""Of the size, on each side, of the picture mirrored: an edge that is always there would be made use of."""
_JITTER = 1 / 16, 1 / 24
"""Before and behind turning and scaling; shares of the size."""
_SCALES = 0.9, 1.1
_DEGREES = 10.0
_FRAMES = 1
"""By how many frames a moving picture is moved over time."""


def changed(pictures: Float[Tensor, "N 3 *shape"], generator: torch.Generator) -> Float[Tensor, "N 3 *shape"]:
    """Pictures, moved, turned and scaled a little.

    Args:
        pictures: (N, 3, H, W), or (N, 3, T, H, W).
        generator: Where the changes are drawn from.
    """
    size = pictures.shape[-1]
    frames = pictures if pictures.ndim == 4 else pictures.transpose(1, 2).flatten(0, 1)
    pad = max(1, round(_PAD * size))
    wide = F.pad(frames, (pad,) * 4, mode="reflect")
    wide = _moved(wide, round(_JITTER[0] * size), generator)
    wide = _turned(wide, generator)
    wide = _moved(wide, round(_JITTER[1] * size), generator)
    frames = wide[..., pad : pad + size, pad : pad + size]
    if pictures.ndim == 4:
        return frames
    clips = torch.unflatten(frames, 0, (len(pictures), pictures.shape[2])).transpose(1, 2)
    if clips.shape[2] > 2 * _FRAMES:
        clips = clips.roll(_whole(-_FRAMES, _FRAMES, generator), dims=2)
    return clips


def _moved(frames: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return frames.roll((_whole(-most, most, generator), _whole(-most, most, generator)), dims=(2, 3))


def _turned(frames: Tensor, generator: torch.Generator) -> Tensor:
    scale = _between(*_SCALES, generator)
    angle = math.radians(_between(-_DEGREES, _DEGREES, generator))
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = frames.new_tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(frames), 2, 3)
    grid = F.affine_grid(matrix, list(frames.shape), align_corners=False)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _whole(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
