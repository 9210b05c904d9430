"""Which frames attention looks at: in Transformers over frames, Perceivers, between tasks, in BERT's pooling.

What is kept is what each layer computed, a softmax over the keys for each query and head, not an estimate. Through
several layers, attention is followed as in Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020
("rollout"): weights of heads are averaged, ways around the layers count as half, and layers are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.explain.clips import Shown
from kinema.explain.layers import open_to_gradients
from kinema.models.freezing import backbones
from kinema.models.layers.cross_task import CrossTaskAttention
from kinema.models.layers.perceiver import Attention
from kinema.models.layers.transformer import MultiScalePool, window_starts
from kinema.types import UserError


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What one call of an attention computed of one clip.

    Attributes:
        layer: Name of the module; of one that is called several times, with the number of the call behind it.
        values: (windows, heads, queries, keys); rows sum to 1. There is one window, except where a Transformer sees
            parts of a clip alone.
    """

    layer: str
    values: Float[Tensor, "W heads N M"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How much each query of a layer looks at each frame.

    Attributes:
        name: Of the layer.
        who: What the queries are, in words.
        rows: Name of each query.
        frames: The mean over heads, spread over the frames of which each key is made; rows sum to 1.
        summary: Of that, what counts: the class token's row, or the mean over queries.
        num_heads: Heads of which this is the mean.
    """

    name: str
    who: str
    rows: tuple[str, ...]
    frames: Float[Tensor, "N T"]
    summary: Float[Tensor, "T"]
    num_heads: int


@dataclass(frozen=True, kw_only=True)
class Attentions:
    """All of a model's attention over the frames of a clip.

    Attributes:
        stream: Whose frames.
        weights: As they were computed.
        looks: The same over frames. Of layers whose keys are no frames, what they look at through those before them.
    """

    stream: str
    weights: tuple[Weights, ...]
    looks: tuple[Look, ...]


@torch.no_grad()
def attention(model: nn.Module, shown: Shown) -> Attentions:
    """Attention over the frames of one clip. What looks at places inside of frames, in a backbone, is left out.

    Args:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        shown: The clip as the model sees it.

    Raises:
        UserError: The model has no attention over frames.
    """
    stream = next(iter(shown.inputs))
    num_frames = shown.inputs[stream].shape[1]
    with open_to_gradients(model), recorded(model) as weights:
        model(shown.inputs)
    looks = _looks(model, weights, num_frames)
    if not looks:
        raise UserError(
            "this model has no attention over frames; models with it are cnn_transformer, cnn_perceiver, cnn_bert, "
            "cnn_hybrid, cnn_multi_scale_transformer and cross_task_attention"
        )
    return Attentions(stream=stream, weights=tuple(weights), looks=tuple(looks))


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Weights]]:
    """Keep the weights of every attention outside of backbones.

    Yields:
        What is called while the block runs the model, in order.
    """
    inside = tuple(f"{name}." for name in backbones(model))
    found: list[Weights] = []
    calls: dict[str, int] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, named: Any, _: Any) -> None:
            values = _computed(module, arguments, named)
            number = calls[name] = calls.get(name, 0) + 1
            found.append(Weights(layer=name if number == 1 else f"{name} ({number})", values=values.cpu()))

        return hook

    handles = [
        module.register_forward_hook(keep(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention | Attention) and not name.startswith(inside)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _computed(module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """The softmax of a call, from the same queries and keys: (B, heads, N, M)."""
    if isinstance(module, Attention):
        return module.weights(*arguments, **named)
    again = {**named, "need_weights": True, "average_attn_weights": False}
    weights: Tensor = module.forward(*arguments, **again)[1]  # not through hooks
    return weights


def _looks(model: nn.Module, weights: list[Weights], num_frames: int) -> list[Look]:
    """Of each call that can be told what its keys are."""
    looks: list[Look] = []
    spans = _spans(model, num_frames)
    tasks = {
        f"{name}.attention.task_{task}": (task, module.tasks)
        for name, module in model.named_modules()
        if isinstance(module, CrossTaskAttention)
        for task in module.tasks
    }
    rolled: Tensor | None = None
    for one in weights:
        mean = one.values.mean(dim=1)
        heads = one.values.shape[1]
        if one.layer in tasks:
            looks += _of_tasks(one.layer, mean[0], spans, *tasks[one.layer], num_heads=heads)
            continue
        if len(mean) > 1:
            look = _of_windows(one.layer, mean, num_frames, heads)
            looks += [] if look is None else [look]
            continue
        rolled, is_direct = _followed(rolled, mean[0], num_frames)
        if rolled is None:
            continue
        frames = _to_frames(mean[0], num_frames) if is_direct else rolled
        looks.append(_look(one.layer, frames, heads, through=not is_direct))
    if rolled is not None and sum(look.name != "" for look in looks) > 1:
        looks.append(_look("all layers", rolled, 0, through=True))
    return looks


def _followed(before: Tensor | None, weights: Float[Tensor, "N M"], num_frames: int) -> tuple[Tensor | None, bool]:
    """What tokens see of frames behind a layer, and whether the layer's keys are frames themselves."""
    num_queries, num_keys = weights.shape
    extra = num_keys - num_frames
    is_square = num_queries == num_keys
    if before is None:
        if extra not in (0, 1):
            return None, False
        direct = _to_frames(weights, num_frames)
        if not is_square:  # learned queries
            return direct, True
        own = torch.cat([torch.zeros(extra, num_frames), torch.eye(num_frames)])
        return _rows(0.5 * (weights @ own) + 0.5 * own), True
    if num_keys == len(before) + 1 and is_square:  # a class token that has seen nothing yet
        before = torch.cat([torch.zeros(1, num_frames), before])
    if is_square and num_keys == len(before):
        return _rows(0.5 * (weights @ before) + 0.5 * before), len(before) - num_frames in (0, 1) and extra in (0, 1)
    if extra == 0:  # learned queries look at the frames once more
        again = weights if num_queries == len(before) else torch.cat([torch.zeros(1, num_frames), weights])
        return (_rows(0.5 * again + 0.5 * before) if len(again) == len(before) else before), True
    return before, False


def _to_frames(weights: Float[Tensor, "N M"], num_frames: int) -> Float[Tensor, "N T"]:
    """Without the column of a class token, which is no frame."""
    return _rows(weights[:, weights.shape[1] - num_frames :])


def _rows(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _look(layer: str, frames: Float[Tensor, "N T"], num_heads: int, *, through: bool) -> Look:
    num, num_frames = frames.shape
    has_class = num == num_frames + 1 or (through and num != num_frames)
    if num - has_class == num_frames:
        rows, who = [f"frame {i + 1}" for i in range(num_frames)], "frames"
    else:
        rows, who = [f"query {i + 1}" for i in range(num - has_class)], "queries"
    if has_class:
        rows, who = ["class", *rows], "class token"
    return Look(
        name=layer,
        who=f"{who}, through all before" if through else who,
        rows=tuple(rows),
        frames=frames,
        summary=frames[0] if has_class else frames.mean(dim=0),
        num_heads=num_heads,
    )


def _of_windows(layer: str, weights: Float[Tensor, "W N M"], num_frames: int, num_heads: int) -> Look | None:
    """Windows of a clip, each of which looks at its own frames; where they overlap, the mean."""
    length = weights.shape[1]
    starts = window_starts(num_frames, length)
    if len(starts) != len(weights) or length != weights.shape[2]:
        return None
    frames, num = torch.zeros(num_frames, num_frames), torch.zeros(num_frames, 1)
    for start, values in zip(starts, weights, strict=True):
        frames[start : start + length, start : start + length] += values
        num[start : start + length] += 1
    frames = frames / num
    return Look(
        name=layer,
        who=f"frames, in windows of {length}",
        rows=tuple(f"frame {i + 1}" for i in range(num_frames)),
        frames=frames,
        summary=frames.mean(dim=0),
        num_heads=num_heads,
    )


def _of_tasks(
    layer: str,
    weights: Float[Tensor, "N M"],
    spans: list[tuple[int, int]],
    task: str,
    tasks: tuple[str, ...],
    *,
    num_heads: int,
) -> list[Look]:
    """A task's tokens look at those of each of the others; each row is of its own share."""
    others = [other for other in tasks if other != task] or [task]
    if weights.shape[1] != len(others) * len(spans):
        return []
    num_frames = max(stop for _, stop in spans)
    spread = torch.zeros(len(spans), num_frames)
    for row, (start, stop) in enumerate(spans):
        spread[row, start:stop] = 1 / (stop - start)
    looks = []
    for other, part in zip(others, weights.split(len(spans), dim=1), strict=True):
        frames = _rows(part @ spread)
        looks.append(
            Look(
                name=f"{layer} to {other}" if len(others) > 1 else layer,
                who=f"{task}, at {other}",
                rows=tuple(f"{start + 1} to {stop}" if stop - start > 1 else f"frame {stop}" for start, stop in spans),
                frames=frames,
                summary=frames.mean(dim=0),
                num_heads=num_heads,
            )
        )
    return looks


def _spans(model: nn.Module, num_frames: int) -> list[tuple[int, int]]:
    """First frame, and the one behind the last, of each token that a temporal module makes of a clip."""
    pools = [module for module in model.modules() if isinstance(module, MultiScalePool)]
    if not pools:
        return [(frame, frame + 1) for frame in range(num_frames)]
    return [
        (start, min(start + window, num_frames))
        for window in pools[0].windows
        for start in window_starts(num_frames, window)
    ]
