"""What a unit of a network answers to most: pictures made by gradient ascent.

Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017, https://distill.pub/2017/feature-visualization;
the idea is that of Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009. Deviations: turned and
scaled once per step, not in a row of lists; Adam's steps become smaller towards the end.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.explain.changes import changed
from kinema.explain.fourier import random_spectrum, to_picture
from kinema.explain.layers import open_to_gradients, tensor_of
from kinema.progress import Task

_RATE = 0.05
_LAST_RATE = 0.1
"""Share of the learning rate that the last step has."""
_EDGE = 24
"""One in so many places on each side is the edge."""
_NUM_NOISE = 8
"""Pictures of noise that are beside each unit's."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network that pictures are shown to.

    Attributes:
        module: The network.
        run: Takes normalised pictures (N, 3, H, W), or clips (N, T, 3, H, W), and runs the network.
        shape: (H, W), or (T, H, W), of what is shown.
        mean: Normalisation that the weights expect, per channel, of pixels in 0..1.
        std: Like `mean`.
    """

    module: nn.Module
    run: Callable[[Tensor], object]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def given(self, pictures: Float[Tensor, "N 3 *shape"]) -> Tensor:
        """Colours in 0..1 as the network takes them."""
        around = (1, 3) + (1,) * len(self.shape)
        mean, std = pictures.new_tensor(self.mean).view(around), pictures.new_tensor(self.std).view(around)
        normalised = (pictures - mean) / std
        return normalised.transpose(1, 2) if len(self.shape) == 3 else normalised


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a unit answers to.

    Attributes:
        unit: Channel of the layer.
        picture: Colours in 0..1.
        activation: The unit's mean over moments and the places in the middle, shown that picture.
        noise: Its highest, of several pictures of noise with frequencies as photographs have them.
    """

    unit: int
    picture: Float[Tensor, "3 *shape"]
    activation: float
    noise: float


def visualise(
    subject: Subject, layer: str, units: Sequence[int], *, steps: int, seed: int, task: Task | None = None
) -> list[Feature]:
    """Pictures that units of one layer answer to most, made together.

    A unit's first noise depends on the seed, the layer and the unit alone, the random changes on the seed: which units
    are made beside it makes no difference but that of rounding.

    Args:
        subject: The network.
        layer: Name of one of its modules.
        units: Channels of what that gives.
        steps: Of gradient ascent.
        seed: Of all that is random.
        task: Told of every step.
    """
    device = next(subject.module.parameters()).device
    index = torch.tensor(list(units), device=device)
    own = [torch.Generator().manual_seed(zlib.crc32(f"{seed} {layer} {unit}".encode())) for unit in units]
    spectrum = torch.stack([random_spectrum(subject.shape, generator) for generator in own]).to(device)
    spectrum.requires_grad_(True)
    optimiser = torch.optim.Adam([spectrum], lr=_RATE)
    changes = torch.Generator().manual_seed(seed)
    with open_to_gradients(subject.module), _waking(subject.module), _stopping(subject, layer) as activations:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = _RATE * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))
            answer = activations(changed(to_picture(spectrum, subject.shape), changes))
            loss = -answer.gather(1, index[:, None]).sum()
            (spectrum.grad,) = torch.autograd.grad(loss, spectrum)
            optimiser.step()
            if task is not None:
                task.advance(len(units))
        with torch.no_grad():
            pictures = to_picture(spectrum, subject.shape)
            found = activations(pictures).gather(1, index[:, None])[:, 0]
            noise = activations(noise_pictures(subject.shape, seed=seed).to(device)).amax(dim=0)[index]
    return [
        Feature(unit=unit, picture=pictures[row].cpu(), activation=float(found[row]), noise=float(noise[row]))
        for row, unit in enumerate(units)
    ]


def unit_activations(subject: Subject, layer: str, pictures: Float[Tensor, "N 3 *shape"]) -> Float[Tensor, "N D"]:
    """Of every unit of a layer, the mean over places and moments, for pictures in 0..1."""
    with open_to_gradients(subject.module), _stopping(subject, layer) as activations, torch.no_grad():
        return activations(pictures)


def noise_pictures(shape: Sequence[int], *, seed: int, num: int = _NUM_NOISE) -> Float[Tensor, "N 3 *shape"]:
    """Random pictures with as much contrast as photographs."""
    generator = torch.Generator().manual_seed(seed)
    spectra = torch.stack([random_spectrum(shape, generator) for _ in range(num)])
    flat = (to_picture(spectra, shape)).logit()
    return (flat / flat.std() * 1.2).sigmoid()


class _WakingReLU(torch.autograd.Function):
    """A ReLU that hands a picture's gradient back where, for that picture, none would come through: what is silent can
    be woken. Lucid has the same."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, highest: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.highest = highest
        return values.clamp(0, highest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        (gradient,) = gradients
        through = gradient * ((values > 0) & (values < ctx.highest))
        lost = through.flatten(1).abs().amax(dim=1) == 0
        # Upwards from below 0, downwards from above the highest; gradients are those of a loss.
        back = gradient * torch.where(values <= 0, gradient < 0, gradient > 0)
        return torch.where(lost.view(-1, *[1] * (values.ndim - 1)), back, through), None


@contextmanager
def _waking(network: nn.Module) -> Iterator[None]:
    """ReLUs of a network are such."""
    found = [module for module in network.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    for module in found:
        highest = 6.0 if isinstance(module, nn.ReLU6) else math.inf
        module.__dict__["forward"] = partial(_wake, highest)
    try:
        yield
    finally:
        for module in found:
            del module.__dict__["forward"]


def _wake(highest: float, values: Tensor) -> Tensor:
    answer: Tensor = _WakingReLU.apply(values, highest)
    return answer


class _ReachedError(Exception):
    pass


@contextmanager
def _stopping(subject: Subject, layer: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """Runs the network as far as a layer.

    Yields:
        From pictures to the mean activation (N, D) of each of the layer's units.
    """
    kept: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, answer: object) -> None:
        tensor = tensor_of(answer)
        assert tensor is not None
        kept.append(tensor)
        raise _ReachedError

    def activations(pictures: Tensor) -> Tensor:
        kept.clear()
        with suppress(_ReachedError):
            subject.run(subject.given(pictures))
        return by_unit(kept[-1], len(pictures))

    handle = subject.module.get_submodule(layer).register_forward_hook(hook)
    try:
        yield activations
    finally:
        handle.remove()


def by_unit(answer: Float[Tensor, "..."], num: int) -> Float[Tensor, "N D"]:
    """What a layer gives, averaged over moments and the places in the middle.

    At the edges a network sees zeros beyond the picture, and of units that answer to those there would be nothing else.

    Args:
        answer: With channels second, or, of tokens (three axes) and of maps whose last axis is no place, last.
        num: Pictures that it was given; each may have several rows, one for each frame.
    """
    rows = torch.unflatten(answer, 0, (num, -1))
    if rows.ndim == 3:
        return rows.mean(dim=1)
    if rows.ndim == 4 or rows.shape[-1] != rows.shape[-2]:
        return rows.flatten(1, -2).mean(dim=1)
    edge = rows.shape[-1] // _EDGE
    middle = slice(edge, rows.shape[-1] - edge)
    return rows[..., middle, middle].flatten(3).mean(dim=(1, 3))
