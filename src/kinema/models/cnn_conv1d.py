"""A CNN on frames and 1D convolutions over time.

After the temporal convolutions over frame features of Lea et al., "Temporal Convolutional Networks for Action
Segmentation and Detection", CVPR 2017, https://arxiv.org/abs/1611.05267, in residual blocks as in He et al., "Deep
Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385. Deviations: there is neither a
decoder nor pooling or dilation between the convolutions; activations are leaky (0.01); features are projected by a
convolution of one frame first; the last block's output is averaged over time, so that a clip has one answer and may
have any number of frames.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.temporal import ConvNet1D
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
)


@register_model
def cnn_conv1d(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    channels: int = 128,
    num_blocks: int = 2,
    kernel_size: int = 3,
    causal: bool = False,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then residual convolutions over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        channels: Filters of every convolution over time.
        num_blocks: Residual blocks of two convolutions.
        kernel_size: Frames that one convolution sees; odd.
        causal: They are a frame and those before it, so that a stream can be followed from a state of constant size.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut)
    temporal = ConvNet1D(
        frames.num_features, channels=channels, num_blocks=num_blocks, kernel_size=kernel_size, causal=causal
    )
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
