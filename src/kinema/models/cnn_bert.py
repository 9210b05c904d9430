"""A CNN on frames and BERT-style pooling over time.

Kalfaoglu, Kalkan and Alatan, "Late Temporal Modeling in 3D CNN Architectures with BERT for Action Recognition", ECCV
Workshops 2020, https://arxiv.org/abs/2008.01232. Deviations: over frames instead of the moments of a 3D network; no
token is masked in training; features are projected to the width of tokens where one is given.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.bert import BertPool
from kinema.models.layers.checks import share
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.temporal import Projected
from kinema.registry import register_model
from kinema.types import Heads, Inputs, only

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
def cnn_bert(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    width: int | None = 512,
    num_layers: int = 1,
    num_heads: int = 8,
    layer_dropout: float = 0.1,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then BERT-style pooling over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        width: To which frame features are projected; null: as long as they are.
        num_layers: Encoder layers.
        num_heads: Of attention.
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
    pool = BertPool(
        width or frames.num_features,
        num_tokens=only(inputs).num_frames,
        num_layers=num_layers,
        num_heads=num_heads,
        dropout=layer_dropout,
    )
    temporal = Projected(frames.num_features, pool, width=width)
    classifiers = LinearHeads(
        pool.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
