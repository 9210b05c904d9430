"""A CNN on frames and Transformers over windows of several lengths.

The multi-scale temporal part of the EPIC-KITCHENS study that kinema rebuilds (windows of 4, 8 and 16 frames), which has
no paper of its own; its blocks are those of Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
https://arxiv.org/abs/1706.03762, with the norm in front, GELU and learned positions.
Deviation: there, a scale was the first 4, 8 or 16 frames of the clip, so that most of it was seen at one scale alone;
here windows of each length lie over the whole clip.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.transformer import MultiScalePool
from kinema.registry import register_model
from kinema.types import Heads, Inputs, only

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=16,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults, with the classes of UCF101.",
    ),
)


@register_model
def cnn_multi_scale_transformer(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    windows: tuple[int, ...] = (4, 8, 16),
    shared: bool = False,
    width: int | None = 512,
    num_layers: int = 2,
    num_heads: int = 8,
    feed_forward: int | None = None,
    layer_dropout: float = 0.1,
    drop_path: float = 0.1,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then Transformers over windows of several lengths.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        windows: Frames in the windows of each scale.
        shared: One Transformer for all scales instead of one for each.
        width: Of tokens, to which frame features are projected; null: as long as they are.
        num_layers: Blocks of each Transformer.
        num_heads: Of attention.
        feed_forward: Units of a block's linear layers; null: four times the width.
        layer_dropout: Inside blocks.
        drop_path: Probability that a window passes by the last block's parts; smaller in those before it.
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
    temporal = MultiScalePool(
        frames.num_features,
        num_frames=only(inputs).num_frames,
        windows=windows,
        shared=shared,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        feed_forward=feed_forward,
        dropout=layer_dropout,
        drop_path=drop_path,
    )
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
