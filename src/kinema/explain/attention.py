"""Which frames attention looks at: in Transformers over frames, Perceivers, between tasks, in BERT's pooling.

What is kept is what each layer computed, a softmax over the keys for each query and head, not an estimate. Through
several layers, attention is followed as in Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020
("rollout"): weights of heads are averaged, ways around the layers count as half, and layers are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kinema.explain.clips import Shown
from kinema.explain.layers import open_to_gradients, watched
from kinema.models.freezing import backbones
from kinema.models.layers.cross_task import CrossTaskAttention
from kinema.models.layers.perceiver import Attention
from kinema.models.layers.transformer import MultiScalePool, window_starts
from kinema.models.layers.video import ClipBackbone
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


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """What a temporal module is given.

    Attributes:
        name: Of one of them.
        spread: Of each token, how much each frame is part of it; rows sum to 1.
    """

    name: str
    spread: Float[Tensor, "N T"]


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
    clip_parts = {name: part for name, part in backbones(model).items() if isinstance(part, ClipBackbone)}
    with open_to_gradients(model), recorded(model) as weights, watched(clip_parts) as maps:
        model(shown.inputs)
    looks = _looks(model, weights, _tokens(maps.values(), num_frames))
    if not looks:
        raise UserError(
            "this model has no attention over frames; models with it are cnn_transformer, cnn_perceiver, cnn_bert, "
            "cnn_hybrid, cnn_multi_scale_transformer, cross_task_attention, and 3D networks with model.pool=perceiver"
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


def _tokens(maps: Iterable[Tensor], num_frames: int) -> list[_Tokens]:
    """What attention may be over: frames; or the moments, or the places and moments, of a clip's map."""
    found = [_Tokens(name="frame", spread=torch.eye(num_frames))]
    for values in maps:
        if values.ndim == 5:
            num, num_places = values.shape[2], values.shape[3] * values.shape[4]
            # Roughly: what a 3D network sees of a clip at each of its moments is wider than that.
            moments = F.interpolate(torch.eye(num_frames)[None], num, mode="area")[0].T
            found.append(_Tokens(name="moment", spread=_rows(moments)))
            found.append(_Tokens(name="place", spread=_rows(moments).repeat_interleave(num_places, dim=0)))
    return found


def _looks(model: nn.Module, weights: Sequence[Weights], kinds: Sequence[_Tokens]) -> list[Look]:
    """Of each call that can be told what its keys are."""
    looks: list[Look] = []
    num_frames = kinds[0].spread.shape[1]
    spans = _spans(model, num_frames)
    tasks = {
        f"{name}.attention.task_{task}": (task, module.tasks)
        for name, module in model.named_modules()
        if isinstance(module, CrossTaskAttention)
        for task in module.tasks
    }
    pools = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, MultiScalePool))
    seen: Tensor | None = None
    num_followed = 0
    for one in weights:
        mean = one.values.float().mean(dim=1)
        num_heads, num_keys = one.values.shape[1], mean.shape[2]
        if one.layer in tasks:
            looks += _of_tasks(one.layer, mean[0], spans, *tasks[one.layer], num_heads=num_heads)
        elif one.layer.startswith(pools):
            look = _of_windows(one.layer, mean, num_frames, num_heads)
            looks += [] if look is None else [look]
        else:
            if seen is None:
                kinds = [kind for kind in kinds if num_keys - len(kind.spread) in (0, 1)]
                if not kinds:
                    return []
            num_followed += 1
            direct, seen = _followed(seen, mean[0], len(kinds[0].spread))
            looks.append(_look(one.layer, seen if direct is None else direct, kinds[0], num_heads, direct is None))
    if seen is not None and num_followed > 1:
        looks.append(_look("all layers", seen, kinds[0], 0, True))
    return looks


def _followed(
    before: Float[Tensor, "L N"] | None, weights: Float[Tensor, "Q M"], num: int
) -> tuple[Float[Tensor, "Q N"] | None, Float[Tensor, "_R N"]]:
    """Go through a layer.

    Args:
        before: Of each of the layer's inputs, how much of each token is in it; None: they are the tokens.
        weights: The layer's.
        num: Of tokens.

    Returns:
        How much each query looks at each token, where that is what it looks at; and `before` of the next layer.
    """
    num_queries, num_keys = weights.shape
    if num_queries != num_keys:  # learned queries, that look at the tokens, perhaps once more
        if before is None:
            return weights, weights
        first = len(before) - num_queries  # a class token does not look
        return weights, torch.cat([before[:first], _rows(0.5 * weights + 0.5 * before[first:])])
    direct = None
    if before is None:
        before = torch.cat([torch.zeros(num_keys - num, num), torch.eye(num)])
        direct = _rows(weights[:, num_keys - num :])
    elif len(before) - num in (0, 1) and num_keys == len(before) and bool(before[-num:].diagonal().min() > 0):
        direct = _rows(weights[:, num_keys - num :])  # tokens that the way around keeps what they are
    if num_keys == len(before) + 1:  # a class token that has seen nothing yet
        before = torch.cat([torch.zeros(1, num), before])
    return direct, _rows(0.5 * (weights @ before) + 0.5 * before)


def _rows(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _look(layer: str, values: Float[Tensor, "Q N"], kind: _Tokens, num_heads: int, is_through: bool) -> Look:
    num, num_tokens = values.shape
    has_class = num == num_tokens + 1 or (is_through and num != num_tokens)
    what = kind.name if num - has_class == num_tokens else "query"
    rows = [f"{what} {number + 1}" for number in range(num - has_class)]
    who = "class token" if has_class else {"query": "queries"}.get(what, f"{what}s")
    frames = _rows(values) @ kind.spread
    return Look(
        name=layer,
        who=f"{who}, through all before" if is_through else who,
        rows=("class", *rows) if has_class else tuple(rows),
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
    for other, part in zip(others, torch.split(weights, len(spans), dim=1), strict=True):
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
