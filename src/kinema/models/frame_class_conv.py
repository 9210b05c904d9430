"""One more convolution on the maps of each frame, averaged over frame and clip.

The still-image network that is applied to every frame, as in the Kinetics project whose 2D CNN kinema rebuilds:
Inception-ResNet-v2 (Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", AAAI 2017, https://arxiv.org/abs/1602.07261) with a 3x3 convolution of its own and global average pooling.
Deviation: what is averaged over frames are features; with a linear classifier that equals averaging the logits, where
the original averaged probabilities.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.conv_lstm import MapConvolution
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
        name="stanford40",
        arguments={"backbone": "inception_resnet_v2"},
        classes={"action": 40},
        num_frames=1,
        size_px=600,
        freeze="backbone",
        summary="2D CNN of the Kinetics project, fine-tuned on Stanford40: Inception-ResNet-v2.",
    ),
)


@register_model
def frame_class_conv(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    channels: int = 1024,
    kernel_size: int = 3,
    feature_norm: Literal["none", "batch"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """A convolution on each frame's maps, the mean over frame and clip, then a classifier.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        channels: Filters of the convolution.
        kernel_size: Of the convolution.
        feature_norm: `batch` normalises the frames' features; helps on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut, maps=True)
    temporal = MapConvolution(frames.num_features, channels=channels, kernel_size=kernel_size)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
