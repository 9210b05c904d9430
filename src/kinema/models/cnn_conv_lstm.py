"""A CNN on frames and a convolutional LSTM over its maps.

Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", NeurIPS 2015,
https://arxiv.org/abs/1506.04214, on maps of an image network as in Sudhakaran and Lanz, "Learning to Detect Violent
Videos using Convolutional Long Short-Term Memory", AVSS 2017, https://arxiv.org/abs/1709.06531. Deviations: no peephole
connections; one layer, whose last state is averaged over the frame, in place of a network that forecasts. Gates are
logistic and the candidate and the output tanh, as in the paper, where the gates of Keras 2 are hard sigmoids; the bias
of the forget gate begins like all others, at random, where Keras begins with 1.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.conv_lstm import ConvLSTMPool
from kinema.models.layers.heads import LinearHeads
from kinema.registry import register_model
from kinema.types import Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=20,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults, with the classes of UCF101.",
    ),
    Configuration(
        name="epic_categories",
        arguments={"backbone_cut": "features.13", "pool": "max", "head_hidden": (1000,)},
        classes={"verb": 13},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="ConvLSTM of the egocentric-vision report, as its saved model is: 64 filters 3x3 behind block 12.",
    ),
    Configuration(
        name="epic_categories_text",
        arguments={"channels": 8, "kernel_size": 4, "stride": 4, "head_norm": "batch"},
        classes={"verb": 13},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="ConvLSTM of the egocentric-vision report, as its text says: 8 filters 4x4 with stride 4.",
    ),
    Configuration(
        name="epic_50_filters",
        arguments={"channels": 50, "kernel_size": 4},
        classes={"verb": 13},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="ConvLSTM of the egocentric-vision report beside its LSTM of 50 units: 50 filters 4x4.",
    ),
)


@register_model
def cnn_conv_lstm(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    channels: int = 64,
    kernel_size: int = 3,
    stride: int = 1,
    pool: Literal["mean", "max"] = "mean",
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Maps of frames, then a convolutional LSTM over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        channels: Filters of the ConvLSTM.
        kernel_size: Of its convolutions.
        stride: Of its convolution of the input; above 1 that is not padded.
        pool: How its last state is pooled over the frame.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut, maps=True)
    temporal = ConvLSTMPool(frames.num_features, channels=channels, kernel_size=kernel_size, stride=stride, pool=pool)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
