"""Video Swin: a transformer whose attention is within windows of space and time.

Liu et al., "Video Swin Transformer", CVPR 2022, https://arxiv.org/abs/2106.13230. torchvision's implementation and
published weights (Kinetics-400).
Deviation: dropout may be put before the classifier.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.video import ClipBackbone, torchvision_body, torchvision_fetch
from kinema.registry import register_model
from kinema.types import Heads, Inputs


def _configuration(name: str, variant: str) -> Configuration:
    return Configuration(
        name=name,
        arguments={"variant": variant},
        classes={"action": 400},
        num_frames=32,
        size_px=224,
        summary=f"swin3d_{variant}, which torchvision publishes weights for.",
    )


CONFIGURATIONS = (
    _configuration("default", "t"),
    _configuration("swin3d_s", "s"),
    _configuration("swin3d_b", "b"),
)


@register_model
def swin3d(
    heads: Heads,
    inputs: Inputs,
    *,
    variant: Literal["t", "s", "b"] = "t",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """Video Swin: a transformer whose attention is within windows of space and time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        variant: Tiny, small or base.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.
    """
    name = f"swin3d_{variant}"
    body: Any = torchvision_body(name)
    num_features: int = body.num_features
    body.head = nn.Identity()
    clips = ClipBackbone(body, num_features, name=name, fetch=torchvision_fetch(name), classifier="head")
    return ClipModel(clips, None, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout)
