"""A CNN on frames and a Transformer over time.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, https://arxiv.org/abs/1706.03762, over frame features as in
Girdhar and Grauman, "Anticipative Video Transformer", ICCV 2021, https://arxiv.org/abs/2106.02036, without its causal
mask. Deviations: an encoder alone; by default the norm is in front of each part, with a last one behind all of them,
the clip's feature is what a learned CLS token becomes, and positions are learned instead of sinusoidal; GELU instead of
ReLU; drop path; dropout neither of attention weights nor of the tokens that go in, but between the linear layers too.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.transformer import TransformerPool
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
    Configuration(
        name="epic_efficientnet_b3",
        arguments={
            "backbone": "efficientnet_b3",
            "width": 512,
            "positions": "sinusoidal",
            "norm": "post",
            "pool": "mean",
            "feed_forward": 2048,
            "head_hidden": (256,),
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="EfficientNet-B3 + Transformer of the EPIC-KITCHENS study: 4 blocks of 512.",
    ),
    Configuration(
        name="epic_resnet50",
        arguments={
            "backbone": "resnet50",
            "width": 512,
            "positions": "sinusoidal",
            "norm": "post",
            "pool": "mean",
            "num_layers": 6,
            "feed_forward": 2048,
            "head_hidden": (256,),
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="ResNet-50 + Transformer of the EPIC-KITCHENS study: 6 blocks of 512.",
    ),
    Configuration(
        name="epic_resnet50_ff1024",
        arguments={
            "backbone": "resnet50",
            "width": 512,
            "positions": "sinusoidal",
            "norm": "post",
            "pool": "mean",
            "num_layers": 6,
            "feed_forward": 1024,
            "head_hidden": (256,),
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="The same with narrower linear layers.",
    ),
    Configuration(
        name="epic_resnet50_ff512",
        arguments={
            "backbone": "resnet50",
            "width": 512,
            "positions": "sinusoidal",
            "norm": "post",
            "pool": "mean",
            "num_layers": 6,
            "feed_forward": 512,
            "head_hidden": (256,),
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="The same with linear layers that are narrower still.",
    ),
    Configuration(
        name="epic_resnet50_2",
        arguments={
            "backbone": "resnet50",
            "width": 512,
            "positions": "sinusoidal",
            "norm": "post",
            "pool": "mean",
            "num_layers": 2,
            "feed_forward": 2048,
            "head_hidden": (256,),
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="The size that the study states: 2 blocks.",
    ),
    Configuration(
        name="epic_resnet50_2048",
        arguments={"backbone": "resnet50", "width": None, "feed_forward": 2048, "head_hidden": (512,)},
        classes={"verb": 97, "noun": 300},
        num_frames=8,
        size_px=224,
        summary="As its public code is: 4 blocks as wide as the features.",
    ),
    Configuration(
        name="epic_efficientnet_b3_1536",
        arguments={"backbone": "efficientnet_b3", "width": None, "feed_forward": 2048, "head_hidden": (512,)},
        classes={"verb": 97, "noun": 300},
        num_frames=8,
        size_px=224,
        summary="The same over EfficientNet-B3.",
    ),
    Configuration(
        name="epic_improved",
        arguments={"backbone": "resnet50", "width": None, "num_layers": 2, "pool": "mean", "head_hidden": (1024,)},
        classes={"verb": 97, "noun": 300},
        num_frames=8,
        size_px=224,
        freeze=2,
        summary="Improved Transformer of phase 2 of the EPIC-KITCHENS study: 2 blocks, two stages frozen.",
    ),
)


@register_model
def cnn_transformer(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    width: int | None = 512,
    num_layers: int = 4,
    num_heads: int = 8,
    feed_forward: int | None = None,
    pool: Literal["cls", "mean"] = "cls",
    positions: Literal["learned", "sinusoidal", "none"] = "learned",
    norm: Literal["pre", "post"] = "pre",
    layer_dropout: float = 0.1,
    drop_path: float = 0.1,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then a Transformer over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        width: Of tokens, to which frame features are projected; null: as long as they are.
        num_layers: Blocks.
        num_heads: Of attention.
        feed_forward: Units of a block's linear layers; null: four times the width.
        pool: What the classifier sees: what a learned token has become (`cls`), or the `mean` over frames.
        positions: How tokens say when their frame is; without, order cannot be seen.
        norm: Layer norm in front of each part of a block, or behind it.
        layer_dropout: Inside blocks.
        drop_path: Probability that a clip passes by the last block's parts; smaller in those before it.
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
    temporal = TransformerPool(
        frames.num_features,
        num_frames=only(inputs).num_frames,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        feed_forward=feed_forward,
        pool=pool,
        positions=positions,
        norm=norm,
        dropout=layer_dropout,
        drop_path=drop_path,
    )
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
