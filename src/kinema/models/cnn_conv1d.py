"""A CNN on frames and 1D convolutions over time.

After the temporal convolutions over frame features of Lea et al., "Temporal Convolutional Networks for Action
Segmentation and Detection", CVPR 2017, in residual blocks as in He et al., CVPR 2016, and averaged over time, so that
a clip may have any number of frames.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.temporal import ConvNet1D
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs


@register_model
def cnn_conv1d(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    channels: int = 128,
    num_blocks: int = 2,
    kernel_size: int = 3,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then convolutions over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`.
        channels: Filters of every convolution over time.
        num_blocks: Residual blocks of two convolutions.
        kernel_size: Frames that one convolution sees; odd.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    if channels < 1:
        raise ConfigError(f"model.channels: has to be at least 1, got {channels}")
    if num_blocks < 0:
        raise ConfigError(f"model.num_blocks: has to be at least 0, got {num_blocks}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"model.kernel_size: has to be odd and at least 1, got {kernel_size}")
    frames = FrameBackbone(backbone)
    temporal = ConvNet1D(frames.num_features, channels=channels, num_blocks=num_blocks, kernel_size=kernel_size)
    return FrameModel(frames, temporal, heads, dropout=dropout, feature_norm=feature_norm)
