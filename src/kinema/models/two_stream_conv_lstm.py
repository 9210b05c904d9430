"""Networks on frames and on motion, whose maps are fused in front of a convolutional LSTM.

Ye, Cheng, Yang and Xu, "Two-Stream Convolutional Network for Improving Activity Recognition Using Convolutional Long
Short-Term Memory Networks", IEEE Access 2019, https://doi.org/10.1109/ACCESS.2019.2918808, as the report on egocentric
vision that kinema rebuilds describes it: ResNet-101 on frames and on flow, fusion, ConvLSTM. Deviations: what the
report does not say is chosen here: maps are fused by a convolution of 1x1 (Feichtenhofer, Pinz and Zisserman, CVPR
2016), the ConvLSTM has 64 filters of 3x3, no peephole connections and one layer, its last state is averaged over the
frame, and all is trained together.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.cnn_conv_lstm import cnn_conv_lstm
from kinema.models.configurations import Configuration
from kinema.models.fused_model import by_convolution, with_backbones
from kinema.registry import register_model
from kinema.types import Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=20,
        size_px=224,
        summary="The arguments' defaults on frames and flow, with the classes of UCF101.",
        streams={"rgb": 3, "flow": 2},
    ),
    Configuration(
        name="epic",
        arguments={},
        classes={"verb": 97, "noun": 300},
        num_frames=20,
        size_px=224,
        freeze="backbone",
        summary="The same on frozen networks, with the classes of EPIC-KITCHENS-100.",
        streams={"rgb": 3, "flow": 2},
    ),
)


@register_model
def two_stream_conv_lstm(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "resnet101",
    channels: int = 64,
    kernel_size: int = 3,
    pool: Literal["mean", "max"] = "mean",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Maps of frames and of motion, fused, then a convolutional LSTM over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: Of each stream: an image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`,
            `narrow_cnn`, `wide_cnn`.
        channels: Filters of the ConvLSTM.
        kernel_size: Of its convolutions.
        pool: How its last state is pooled over the frame.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible, or there is one stream alone.
    """
    first = cnn_conv_lstm(
        heads,
        inputs,
        backbone=backbone,
        channels=channels,
        kernel_size=kernel_size,
        pool=pool,
        head_norm=head_norm,
        head_hidden=head_hidden,
        head_dropout=head_dropout,
        dropout=dropout,
    )
    return by_convolution(with_backbones(first, inputs, backbone=backbone, name="two_stream_conv_lstm"), inputs)
