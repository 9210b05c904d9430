"""Pictures, still and moving, as amounts of their frequencies: gradients make better pictures of these than of pixels.

Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017, https://distill.pub/2017/feature-visualization:
amounts are divided by their frequency, so that a step of gradient ascent changes coarse and fine structure alike, and
colours are mixed as those of photographs are (the square root of the covariance of ImageNet's pixels). Over time it is
the same with a third axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of red, green and blue in ImageNet, as Lucid, the authors' code, has it."""
_SPREAD = 5.5
"""Standard deviation of pictures whose amounts have one of 1: that of Lucid's, of 224 px, for pictures of any size and
length, so that its learning rate fits all."""
_FIRST, _FIRST_MOVING = 0.4, 0.05
"""Standard deviation of amounts before the first step, of still and of moving pictures. Lucid begins with a fortieth of
the first, nearly grey: many units of first layers are then pushed to one flat colour, where nothing more comes through
their ReLU6, and of MobileNetV2's first block less than half of the activation is found. In moving pictures, which are
of few pixels each, that much noise would stay."""
_CONTRAST = 4.0
"""By which pictures are divided, before colours are mixed: as in Lucid, so that its learning rate fits."""


def frequencies(shape: Sequence[int]) -> Float[Tensor, "*_half"]:
    """How often each of the waves of a real Fourier transform repeats in a pixel, over all axes.

    Args:
        shape: (H, W), or (T, H, W).
    """
    axes = [torch.fft.fftfreq(size) for size in shape[:-1]] + [torch.fft.rfftfreq(shape[-1])]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(dim=0).sqrt()


def scales(shape: Sequence[int]) -> Float[Tensor, "*_half"]:
    """By what amounts are multiplied: one over their frequency, of which the lowest is that of one wave per picture."""
    inverse = 1 / frequencies(shape).clamp(min=1 / max(shape))
    return _SPREAD * math.sqrt(math.prod(shape)) * inverse / inverse.square().mean().sqrt()


def random_spectrum(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "3 *_half 2"]:
    """What a picture begins with: amounts of three colours, real and imaginary, of a faint noise."""
    first = _FIRST if len(shape) == 2 else _FIRST_MOVING
    return first * torch.randn(3, *shape[:-1], shape[-1] // 2 + 1, 2, generator=generator)


def to_picture(spectrum: Float[Tensor, "N 3 *half 2"], shape: Sequence[int]) -> Float[Tensor, "N 3 *shape"]:
    """Colours in 0..1 from amounts.

    Args:
        spectrum: Real and imaginary.
        shape: (H, W), or (T, H, W).
    """
    waves = torch.view_as_complex(spectrum.contiguous()) * scales(shape).to(spectrum.device)
    dims = tuple(range(2, 2 + len(shape)))
    values = torch.fft.irfftn(waves, s=list(shape), dim=dims) / _CONTRAST
    return torch.einsum("cd,nd...->nc...", _mixing().to(values), values).sigmoid()


def to_spectrum(picture: Float[Tensor, "N 3 *shape"]) -> Float[Tensor, "N 3 *half 2"]:
    """Amounts that give a picture: the inverse of `to_picture`.

    Args:
        picture: Colours between 0 and 1, neither of them reached.
    """
    shape = picture.shape[2:]
    values = torch.einsum("cd,nd...->nc...", torch.linalg.inv(_mixing()).to(picture), picture.logit()) * _CONTRAST
    waves = torch.fft.rfftn(values, dim=tuple(range(2, picture.ndim)))
    return torch.view_as_real(waves / scales(shape).to(picture.device))


def _mixing() -> Float[Tensor, "3 3"]:
    """The strongest colour has length 1."""
    matrix = torch.tensor(_COLOURS)
    return matrix / matrix.norm(dim=0).max()
