"""A CNN on frames and the correlation of neighbouring frames' maps: motion for nothing, without optical flow.

Kwon et al., "MotionSqueeze: Neural Motion Feature Learning for Video Understanding", ECCV 2020,
https://arxiv.org/abs/2007.09933; Wang et al., "Video Modeling with Correlation Networks", CVPR 2020,
https://arxiv.org/abs/1906.03349. Deviations: one module behind the last maps of a network, where both have them inside;
convolutions see the correlations themselves, as in the second paper, where the first makes displacements of them; they
are not weighted by learned filters as in the second; no temporal shift beside it; then the mean over frames.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.motion import CorrelationPool
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
def cnn_correlation(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "resnet50",
    backbone_cut: str | None = None,
    channels: int = 64,
    radius: int = 3,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Maps of frames and where they are found again, then the mean over frames.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        channels: To which maps are squeezed to be compared, and of what is made of the comparison.
        radius: How far away, in places of the map, each place is looked for in the next frame.
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
    temporal = CorrelationPool(frames.num_features, channels=channels, radius=radius)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
