"""Residual video networks of 18 layers, whole or cut after a block.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, in torchvision's
implementation and with the names of its parameters, which its published weights (Kinetics-400) have.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from kinema.models.layers.video import (
    KINETICS_MEAN,
    KINETICS_STD,
    ClipBackbone,
    torchvision_body,
    torchvision_fetch,
)
from kinema.types import ConfigError

_BLOCKS_PER_LAYER = 2


def video_resnet(name: Literal["r2plus1d_18", "r3d_18", "mc3_18"], *, num_blocks: int = 8) -> ClipBackbone:
    """The network up to and with its block `num_blocks` of 8.

    Raises:
        ConfigError: It has no such block.
    """
    if not 1 <= num_blocks <= 4 * _BLOCKS_PER_LAYER:
        raise ConfigError(f"model.num_blocks: has to be from 1 to 8, got {num_blocks}")
    network: Any = torchvision_body(name)
    body = nn.Sequential()
    body.add_module("stem", network.stem)
    num_features = 64
    for number in range(4):
        left = num_blocks - _BLOCKS_PER_LAYER * number
        if left > 0:
            body.add_module(f"layer{number + 1}", getattr(network, f"layer{number + 1}")[:left])
            num_features = 64 * 2**number
    return ClipBackbone(
        body,
        num_features,
        name=name,
        fetch=torchvision_fetch(name),
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        classifier="fc" if num_blocks == 4 * _BLOCKS_PER_LAYER else None,
    )
