"""A CNN on frames and differences of neighbouring frames' maps: motion for nothing, without optical flow.

Jiang et al., "STM: SpatioTemporal and Motion Encoding for Action Recognition", ICCV 2019,
https://arxiv.org/abs/1908.02486: its channel-wise motion module; Li et al., "TEA: Temporal Excitation and Aggregation
for Action Recognition", CVPR 2020, https://arxiv.org/abs/2004.01398: its motion excitation. Deviations: one module
behind the last maps of a network, where the papers put one into each residual block; neither paper's convolutions over
time; differences, and what they are added to, go through a ReLU; then the mean over frames.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.motion import DifferencePool
from kinema.registry import register_model
from kinema.types import Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=8,
        size_px=224,
        summary="The arguments' defaults, with the classes of UCF101: ResNet-50, 8 frames, as in the papers.",
    ),
    Configuration(
        name="mobilenet_v2",
        arguments={"backbone": "mobilenet_v2"},
        classes={"action": 101},
        num_frames=8,
        size_px=224,
        freeze="backbone",
        summary="On top of a frozen MobileNetV2, whose maps can be stored.",
    ),
)


@register_model
def cnn_difference(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "resnet50",
    backbone_cut: str | None = None,
    kind: Literal["motion", "excitation"] = "motion",
    reduction: int = 16,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Maps of frames and how they change, then the mean over frames.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        kind: What differences do: `motion` is added to a frame's maps (STM); `excitation`, their averages over the
            frame, says by how much each channel counts (TEA).
        reduction: They are of one in so many channels.
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
    temporal = DifferencePool(frames.num_features, kind=kind, reduction=reduction)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
