"""Averaging over frames: the baseline that cannot see order.

Karpathy et al., "Large-scale Video Classification with Convolutional Neural Networks", CVPR 2014 (single-frame model),
https://cs.stanford.edu/people/karpathy/deepvideo/; Donahue et al., "Long-term Recurrent Convolutional Networks", CVPR
2015, https://arxiv.org/abs/1411.4389, table 1 (averaged single frames).
Deviation: the frames' features are averaged and classified once; with a linear classifier that equals averaging the
frames' logits.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.temporal import MeanPool
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
        name="epic_resnet50",
        arguments={"backbone": "resnet50", "head_dropout": 0.3, "head_hidden": (512,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="Baseline of the EPIC-KITCHENS study: ResNet-50, mean over frames.",
    ),
    Configuration(
        name="epic_resnet50_frozen_2",
        arguments={"backbone": "resnet50", "head_dropout": 0.3, "head_hidden": (512,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        freeze=2,
        summary="The same with its stem and first two stages frozen, as in phase 2.",
    ),
    Configuration(
        name="ucf_basic_cnn",
        arguments={"backbone": "basic_cnn"},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        summary="basic_cnn of the UCF101 framework: four convolutions, from scratch.",
    ),
    Configuration(
        name="ucf_vgg",
        arguments={"backbone": "vgg16"},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        summary="vgg of the UCF101 framework: VGG-16, from scratch.",
    ),
    Configuration(
        name="ucf_mobilenet",
        arguments={"head_hidden": (512,), "dropout": 0.0, "head_dropout": 0.5},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        freeze="backbone",
        summary="mobilenet of the UCF101 framework: frozen MobileNetV2.",
    ),
    Configuration(
        name="ucf_mobilenet_finetuned",
        arguments={"head_hidden": (512,), "dropout": 0.0, "head_dropout": 0.5},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        freeze=12,
        summary="mobilenet_finetuned of the UCF101 framework: the same, the last 50 of 154 layers trained, but for the "
        "projection of a block that these cut in two.",
    ),
    Configuration(
        name="ucf_efficientnet",
        arguments={"backbone": "efficientnet_b0", "head_norm": "batch", "head_hidden": (512,)},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        freeze="backbone",
        summary="efficientnet of the UCF101 framework: frozen EfficientNet-B0.",
    ),
)


@register_model
def frame_average(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    feature_norm: Literal["none", "batch"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Mean of the frames' features, then a classifier.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        feature_norm: `batch` normalises the frames' features; helps on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut)
    temporal = MeanPool(frames.num_features)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
