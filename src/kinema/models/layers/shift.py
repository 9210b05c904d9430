"""Temporal shift: a part of a map's channels comes from the frame before, another from the frame behind.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019: a residual shift, in front
of the first convolution of every block with a way around it, which keeps what the frame itself shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn.functional import pad

from kinema.types import ConfigError

_BLOCKS = ("BasicBlock", "Bottleneck", "InvertedResidual", "MBConv", "FusedMBConv", "EdgeResidual")
"""As torchvision and timm call them. The last is timm's name for the one before."""


class Shift:
    """A hook in front of a convolution. The convolution, and with it the network, keeps the names of its weights.

    Args:
        num_frames: Of a clip; frames come clip after clip.
        share: One in so many channels comes from the next frame, and as many from the one before.
        online: None comes from the next frame, which a stream has not got yet.

    Attributes:
        before: Of a stream that is followed frame by frame: the channels of the last frame that go into the next.
        follows: It is; frames are one each of several streams, and no clips.
    """

    def __init__(self, num_frames: int, share: int, *, online: bool = False) -> None:
        self.num_frames = num_frames
        self.share = share
        self.online = online
        self.follows = False
        self.before: Tensor | None = None

    def __call__(self, _: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
        maps: Tensor = arguments[0]
        if not self.follows:
            return shift(maps, self.num_frames, self.share, online=self.online)
        num = maps.shape[1] // self.share
        before = torch.zeros_like(maps[:, :num]) if self.before is None else self.before
        self.before = maps[:, :num].clone()
        return cat([before, maps[:, num:]], dim=1)


def shift(
    maps: Float[Tensor, "N D h w"], num_frames: int, share: int, *, online: bool = False
) -> Float[Tensor, "N D h w"]:
    """Move channels by one frame, within each clip; where there is no frame to come from, there is zero."""
    clips = maps.reshape(-1, num_frames, *maps.shape[1:])
    num = maps.shape[1] // share
    if online:
        earlier = pad(clips[:, :-1, :num], (0, 0, 0, 0, 0, 0, 1, 0))
        return cat([earlier, clips[:, :, num:]], dim=2).flatten(0, 1)
    later = pad(clips[:, 1:, :num], (0, 0, 0, 0, 0, 0, 0, 1))
    earlier = pad(clips[:, :-1, num : 2 * num], (0, 0, 0, 0, 0, 0, 1, 0))
    return cat([later, earlier, clips[:, :, 2 * num :]], dim=2).flatten(0, 1)


def shifts_of(network: nn.Module) -> Iterator[Shift]:
    """Those that were put into a network, in its own order. Not kept beside it: copies of a network have copies."""
    for module in network.modules():
        yield from (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, Shift))


def insert_shifts(network: nn.Module, *, num_frames: int, share: int, name: str, online: bool = False) -> int:
    """Put a shift into every block that has a way around it.

    Returns:
        How many there are.

    Raises:
        ConfigError: The network has no such blocks, or the setting is impossible.
    """
    if share < 2:
        raise ConfigError(f"model.shift_share: has to be at least 2, got {share}: there are two directions")
    convolutions = []
    for block in network.modules():
        if type(block).__name__ not in _BLOCKS or not _has_skip(block):
            continue
        convolutions.append(next(part for part in block.modules() if isinstance(part, nn.Conv2d)))
    if not convolutions:
        raise ConfigError(
            f"model.backbone: {name!r} has no residual blocks to shift in; take a ResNet, MobileNet or EfficientNet"
        )
    least = min(convolution.in_channels for convolution in convolutions)
    if share > least:
        raise ConfigError(
            f"model.shift_share: has to be at most {least} with {name!r}, got {share}: a block of so few channels "
            "would not be shifted"
        )
    for convolution in convolutions:
        convolution.register_forward_pre_hook(Shift(num_frames, share, online=online))
    return len(convolutions)


def _has_skip(block: nn.Module) -> bool:
    said = [getattr(block, name) for name in ("use_res_connect", "has_skip") if hasattr(block, name)]
    return bool(said[0]) if said else True
