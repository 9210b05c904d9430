"""A CNN on frames and a stack of 1D convolutions without padding that ends in one step.

The ConvNet1D of the egocentric-vision report whose models kinema rebuilds, which has no paper. Deviation: it took
exactly 20 frames; a clip of another number is brought to as many steps first.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.temporal import ConvStack1D
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
        name="epic",
        arguments={},
        classes={"verb": 97, "noun": 300},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="ConvNet1D of the egocentric-vision report: verbs and nouns.",
    ),
    Configuration(
        name="epic_categories",
        arguments={},
        classes={"verb": 13},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="The same for 13 verb categories.",
    ),
    Configuration(
        name="epic_categories_1000",
        arguments={"out_channels": 1000},
        classes={"verb": 13},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="The same with 1000 filters, as it was shipped.",
    ),
)


@register_model
def cnn_conv1d_stack(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    num_steps: int = 20,
    channels: int = 10,
    num_blocks: int = 4,
    kernel_size: int = 3,
    out_channels: int = 100,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then convolutions over time until one step is left.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        num_steps: Steps in time that clips of any number of frames are brought to.
        channels: Filters in the blocks.
        num_blocks: Blocks of two convolutions; each block takes away twice `kernel_size - 1` steps.
        kernel_size: Steps that a convolution in a block sees.
        out_channels: Filters of the last convolution, which sees all steps that are left.
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
    temporal = ConvStack1D(
        frames.num_features,
        num_steps=num_steps,
        channels=channels,
        num_blocks=num_blocks,
        kernel_size=kernel_size,
        out_channels=out_channels,
    )
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
