"""A CNN on frames and long short-term attention over its maps.

Sudhakaran, Escalera and Lanz, "LSTA: Long Short-Term Attention for Egocentric Action Recognition", CVPR 2019,
https://arxiv.org/abs/1811.10698. Deviations: a map is pooled with a mixture of the bank's rows, weighted by a softmax
over their scores, instead of with the best row alone; the bank over the input is learned from scratch instead of from
the classifier of ImageNet; as in the authors' code, the attention's states are gated sums of one channel, and the
output gate sees the pooled state channel by channel; the stream of flow belongs to another model.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.lsta import LSTAPool
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
def cnn_lsta(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "resnet34",
    backbone_cut: str | None = None,
    channels: int = 512,
    bank: int = 100,
    kernel_size: int = 3,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Maps of frames, then an LSTM that attends to one part of each.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        channels: Of the memory.
        bank: Parts of a frame, and of the memory, that can be looked for.
        kernel_size: Of all convolutions; odd.
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
    temporal = LSTAPool(frames.num_features, channels=channels, bank=bank, kernel_size=kernel_size)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
