"""A CNN on frames and Perceiver pooling over time.

Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021, https://arxiv.org/abs/2103.03206,
over a token for each frame. Deviations: every cross attention has queries of its own, to which what came before is
added, and its own weights, as has every self-attention; the classifier sees a class token instead of the mean over
queries, wherever there is self-attention; feed-forward layers are gated (GEGLU).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.checks import share
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.perceiver import PerceiverPool
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
def cnn_perceiver(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    size: int = 512,
    num_queries: int = 64,
    num_cross: int = 1,
    num_self: int = 2,
    layer_dropout: float = 0.0,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then a Perceiver over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        size: Length of a query, and of what comes out.
        num_queries: Learned queries of a cross attention.
        num_cross: Cross attentions. 0: frames attend to each other without positions, so that the order of frames is
            not seen.
        num_self: Self-attentions.
        layer_dropout: Inside layers.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    share(layer_dropout=layer_dropout)
    frames = FrameBackbone(backbone, cut=backbone_cut)
    temporal = PerceiverPool(
        frames.num_features,
        num_cross=num_cross,
        num_self=num_self,
        num_queries=num_queries,
        size=size,
        dropout=layer_dropout,
    )
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
