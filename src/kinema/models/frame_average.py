"""Averaging over frames: the baseline that cannot see order.

Karpathy et al., "Large-scale Video Classification with Convolutional Neural Networks", CVPR 2014 (single-frame model);
Donahue et al., "Long-term Recurrent Convolutional Networks", CVPR 2015, table 1 (averaged single frames).
Deviation: the frames' features are averaged and classified once; with a linear classifier that equals averaging the
frames' logits.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.temporal import MeanPool
from kinema.registry import register_model
from kinema.types import Heads, Inputs


@register_model
def frame_average(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    feature_norm: Literal["none", "batch"] = "none",
    dropout: float = 0.5,
) -> nn.Module:
    """Mean of the frames' features, then a linear classifier.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`.
        feature_norm: `batch` normalises the frames' features; helps on top of a frozen backbone.
        dropout: Before the classifier.
    """
    frames = FrameBackbone(backbone)
    return FrameModel(frames, MeanPool(frames.num_features), heads, dropout=dropout, feature_norm=feature_norm)
