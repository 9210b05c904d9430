"""A CNN on frames and an LSTM over time.

Donahue et al., "Long-term Recurrent Convolutional Networks for Visual Recognition and Description", CVPR 2015.
Deviations: the classifier sees the LSTM's final state, or the mean of its outputs, instead of averaging the
predictions of every time step.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.temporal import LSTMPool
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs


@register_model
def cnn_lstm(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    hidden_size: int = 128,
    num_layers: int = 1,
    bidirectional: bool = False,
    pool: Literal["last", "mean"] = "last",
    feature_norm: Literal["none", "batch", "clip"] = "none",
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then an LSTM over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`.
        hidden_size: Units of the LSTM, per direction.
        num_layers: Stacked LSTM layers.
        bidirectional: Read the clip in both directions.
        pool: What the classifier sees: the `last` state, or the `mean` of all outputs.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    for name, value in (("hidden_size", hidden_size), ("num_layers", num_layers)):
        if value < 1:
            raise ConfigError(f"model.{name}: has to be at least 1, got {value}")
    frames = FrameBackbone(backbone)
    temporal = LSTMPool(
        frames.num_features,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bidirectional=bidirectional,
        pool=pool,
    )
    return FrameModel(frames, temporal, heads, dropout=dropout, feature_norm=feature_norm)
