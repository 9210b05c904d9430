"""S3D: Inception with convolutions over space and over time in turn.

Xie et al., "Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification", ECCV 2018,
https://arxiv.org/abs/1712.04851. torchvision's implementation and published weights (Kinetics-400).
Deviations: without the gates of S3D-G, as torchvision's; a clip whose last map is smaller than 2 x 7 x 7 places, which
torchvision refuses, is averaged as a whole.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.video import (
    KINETICS_MEAN,
    KINETICS_STD,
    ClipBackbone,
    MeanMaps,
    torchvision_body,
    torchvision_fetch,
)
from kinema.registry import register_model
from kinema.types import Heads, Inputs

_NUM_FEATURES = 1024
_WINDOW = (2, 7, 7)

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 400},
        num_frames=16,
        size_px=224,
        summary="The network that torchvision publishes weights for, on 16 frames.",
    ),
)


@register_model
def s3d(
    heads: Heads,
    inputs: Inputs,
    *,
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.2,
) -> nn.Module:
    """S3D: Inception with convolutions over space and over time in turn.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.
    """
    network: Any = torchvision_body("s3d")
    body = nn.Sequential()
    body.add_module("features", network.features)
    clips = ClipBackbone(
        body,
        _NUM_FEATURES,
        name="s3d",
        fetch=torchvision_fetch("s3d"),
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        classifier="classifier.1",
    )
    return ClipModel(
        clips,
        MeanMaps(_NUM_FEATURES, window=_WINDOW),
        heads,
        dropout=dropout,
        hidden=head_hidden,
        hidden_dropout=head_dropout,
    )
