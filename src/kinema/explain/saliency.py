"""Where in a clip, and when, a model sees what speaks for a class: Grad-CAM.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
https://arxiv.org/abs/1610.02391. Of a layer's activations A, of which channel k lies over moments and places, and the
logit y of a class, the map is ReLU(sum over k of w_k A_k), with w_k the mean of dy / dA_k. Over a clip that mean is:

- over moments and places, of layers that see the clip at once (3D convolutions, tokens of a video transformer);
- over the places of each moment, of layers that see each frame alone: what comes behind them may treat every frame
  otherwise, and a frame that speaks against the class is not to take weight from one that speaks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kinema.explain.clips import Shown
from kinema.explain.layers import (
    Layer,
    Places,
    called_layers,
    find_layer,
    latent_prefixes,
    open_to_gradients,
    places,
    watched,
)
from kinema.models.freezing import backbones
from kinema.registry import suggest
from kinema.types import ConfigError, Heads, UserError

_TRIED = 8
"""Layers that are kept at once, with what they give, where one is looked for from behind."""

_PASSIVE = ("Dropout", "Identity", "Pool")
"""In names of classes: what only hands on or makes coarser."""

_MARKED = 0.2
"""Share of a clip's pixels that is blurred to see whether the map marks what matters."""
_DRAWS = 4
"""Random maps that the map is compared with."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What becomes of the class's probability where a part of the clip is blurred.

    Attributes:
        whole: Of the clip as it is.
        without_marked: Without the fifth of its pixels that the map marks most.
        without_random: Without a fifth that the same map marks with its places shuffled; the mean over several.
    """

    whole: float
    without_marked: float
    without_random: float


@dataclass(frozen=True, kw_only=True)
class Saliency:
    """What in a clip speaks for a class.

    Attributes:
        task: Whose class.
        label: Name of the class.
        predicted: Name of the most probable class of that task.
        probability: Of the class, without a temperature.
        logit: Of the class.
        layer: Whose activations are looked at.
        stream: The stream that the layer sees.
        coarse: The map as the layer has it; 0 and more, in units of the logit.
        heat: The same in frames and pixels of the stream, of its highest value; zero if nothing speaks for the class.
        moments: Each frame's share of the whole; None if nothing speaks for the class.
        check: Whether it matters what is marked; None where that was not asked for.
    """

    task: str
    label: str
    predicted: str
    probability: float
    logit: float
    layer: str
    stream: str
    coarse: Float[Tensor, "t h w"]
    heat: Float[Tensor, "T H W"]
    moments: tuple[float, ...] | None
    check: Check | None


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A layer, what it gave, and the gradient of the class's logit."""

    layer: tuple[Layer, Places, str]
    activation: Tensor
    gradient: Tensor
    scores: Float[Tensor, "1 K"]
    index: int


def saliency(
    model: nn.Module,
    shown: Shown,
    heads: Heads,
    *,
    task: str | None = None,
    label: str | None = None,
    layer: str | None = None,
    check: bool = True,
) -> Saliency:
    """Grad-CAM of one clip.

    Args:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        shown: The clip as the model sees it.
        heads: Task -> class names.
        task: By default the first.
        label: Name of a class of it; by default the most probable.
        layer: Name of a layer. By default the last one with places on which the class depends.
        check: Also see what blurring does.

    Raises:
        ConfigError: There is no such task, class or layer, or the layer knows neither places nor moments.
        UserError: The class depends on no layer that does.
    """
    task = _task(task, heads)
    if label is not None and label not in heads[task]:
        raise ConfigError(f"--class: {task} has no class {label!r}{suggest(label, heads[task])}")
    inputs = shown.inputs
    with open_to_gradients(model):
        layers = called_layers(model, lambda: model(inputs))
        known = map_layers(model, layers, shown)
        chosen = _candidates(model, known) if layer is None else [_named(layer, known, layers)]
        seen = _depended_on(model, inputs, chosen, task=task, index=None if label is None else heads[task].index(label))
        one, where, stream = seen.layer
        names, index, scores = heads[task], seen.index, seen.scores
        activation, gradient = seen.activation, seen.gradient
        coarse = grad_cam(where.arrange(activation), where.arrange(gradient), alone=where.alone)
        heat = upsample(coarse, tuple(inputs[stream].shape[i] for i in (1, 3, 4)))
        probability = float(scores.float().softmax(dim=1)[0, index])
        checked = _check(model, shown, coarse, stream, task, index, probability) if check and heat.any() else None
    return Saliency(
        task=task,
        label=names[index],
        predicted=names[int(scores[0].argmax())],
        probability=probability,
        logit=float(scores[0, index]),
        layer=one.name,
        stream=stream,
        coarse=coarse.cpu(),
        heat=heat.cpu(),
        moments=_moments(heat),
        check=checked,
    )


def grad_cam(
    activation: Float[Tensor, "D t h w"], gradient: Float[Tensor, "D t h w"], *, alone: bool
) -> Float[Tensor, "t h w"]:
    """ReLU of the sum of a layer's channels, each weighted by the mean of its gradient.

    Args:
        activation: What the layer gave.
        gradient: Of the logit with respect to it.
        alone: The mean is of each moment, not of the clip.
    """
    weight = gradient.mean(dim=(2, 3) if alone else (1, 2, 3), keepdim=True)
    return (weight * activation).sum(dim=0).relu()


def upsample(coarse: Float[Tensor, "t h w"], size: tuple[int, ...]) -> Float[Tensor, "T H W"]:
    """A map in frames and pixels, of its highest value."""
    fine = F.interpolate(coarse[None, None].float(), size=size, mode="trilinear", align_corners=False)[0, 0]
    highest = fine.max()
    return fine / highest if highest > 0 else torch.zeros_like(fine)


def map_layers(model: nn.Module, layers: Sequence[Layer], shown: Shown) -> list[tuple[Layer, Places, str]]:
    """Layers that know places or moments, where their numbers belong, and the stream that they see."""
    without = latent_prefixes(model)
    found = []
    for layer in layers:
        for stream in shown.streams_of(model, layer.name):
            num_frames = shown.inputs[stream].shape[1]
            where = places(layer, layers, num_frames=num_frames, without=without)
            if where is not None and max(where.shape[1:]) > 1:
                found.append((layer, where, stream))
                break
    return found


def _candidates(model: nn.Module, known: Sequence[tuple[Layer, Places, str]]) -> list[tuple[Layer, Places, str]]:
    """From the last to the first: those with places, or else those with moments."""
    whole = {
        name for part in backbones(model) for name in (part, f"{part}.body")
    }  # what ends in them has a better name
    active = [each for each in known if each[0].name not in whole and not any(w in each[0].kind for w in _PASSIVE)]
    with_places = [each for each in active if each[1].shape[2] > 1]
    if not active:
        raise UserError("no layer of this model knows places or moments of a clip")
    return (with_places or active)[::-1]


def _named(
    layer: str, known: Sequence[tuple[Layer, Places, str]], layers: Sequence[Layer]
) -> tuple[Layer, Places, str]:
    by_name = {one.name: (one, where, stream) for one, where, stream in known}
    every = [one.name for one in layers]
    name = find_layer(layer, every if layer in every else [*by_name, *(n for n in every if n not in by_name)])
    if name not in by_name:
        shape = next(one.shape for one in layers if one.name == name)
        raise ConfigError(
            f"--layer: what {name} gives, {shape}, lies at no places or moments of the clip; take one of those that "
            "kinema explain layers marks"
        )
    return by_name[name]


def _depended_on(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    chosen: Sequence[tuple[Layer, Places, str]],
    *,
    task: str,
    index: int | None,
) -> _Seen:
    """The first of some layers on which the logit of a class, by default the highest, depends at any place. Of a class
    token's answer, the last layer's other tokens are not part."""
    for start in range(0, len(chosen), _TRIED):
        tried = chosen[start : start + _TRIED]
        with watched({one.name: one.module for one, _, _ in tried}, gradients=True) as kept:
            scores = model(inputs)[task]
        best = int(scores[0].argmax()) if index is None else index
        tensors = [kept[one.name] for one, _, _ in tried]
        found = torch.autograd.grad(scores[0, best], tensors, allow_unused=True)
        for each, activation, gradient in zip(tried, tensors, found, strict=True):
            if gradient is not None and bool(each[1].arrange(gradient).any()):
                return _Seen(
                    layer=each, activation=activation.detach(), gradient=gradient, scores=scores.detach(), index=best
                )
    if len(chosen) == 1:
        raise ConfigError(f"--layer: the class does not depend on what {chosen[0][0].name} gives at any place")
    raise UserError("the class depends on no place that a layer of this model knows")


def _moments(heat: Float[Tensor, "T H W"]) -> tuple[float, ...] | None:
    of_each = heat.double().mean(dim=(1, 2))
    total = float(of_each.sum())
    return tuple((of_each / total).tolist()) if total > 0 else None


def _check(model: nn.Module, shown: Shown, coarse: Tensor, stream: str, task: str, index: int, whole: float) -> Check:
    """Blur what the map marks, and as much elsewhere."""
    clip = shown.inputs[stream]
    blurred = blur(clip)
    size = tuple(clip.shape[i] for i in (1, 3, 4))
    generator = torch.Generator().manual_seed(0)
    maps = [coarse]
    for _ in range(_DRAWS):
        order = torch.randperm(coarse.numel(), generator=generator).to(coarse.device)
        maps.append(coarse.flatten()[order].view_as(coarse))
    left = []
    with torch.no_grad():
        for one in maps:
            fine = upsample(one, size)
            cut = fine.flatten().kthvalue(max(1, int((1 - _MARKED) * fine.numel()))).values
            mask = (fine > cut)[None, :, None]
            changed = {**shown.inputs, stream: torch.where(mask, blurred, clip)}
            left.append(float(model(changed)[task].float().softmax(dim=1)[0, index]))
    return Check(whole=whole, without_marked=left[0], without_random=sum(left[1:]) / _DRAWS)


def blur(clip: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T C H W"]:
    """So coarse, an eighth of the frame, that what is done is not to be seen, and the scene's colours are."""
    frames = clip.flatten(0, 1)
    small = F.interpolate(frames, size=(8, 8), mode="bilinear", antialias=True, align_corners=False)
    wide = F.interpolate(small, size=frames.shape[-2:], mode="bilinear", align_corners=False)
    return torch.unflatten(wide, 0, clip.shape[:2])


def _task(task: str | None, heads: Heads) -> str:
    if task is not None and task not in heads:
        raise ConfigError(f"--task: no task {task!r}{suggest(task, heads)}")
    return task or next(iter(heads))
