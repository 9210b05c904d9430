"""Temporal shift in an image network, and the mean over frames.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019,
https://arxiv.org/abs/1811.08383: the residual shift in both directions. Deviations: features are averaged over frames
and classified once, which for a linear classifier is the mean of the frames' scores; the shift goes into MobileNets and
EfficientNets of torchvision and timm too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.configurations import Configuration
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.shift import insert_shifts
from kinema.registry import register_model
from kinema.types import Heads, Inputs, only

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=8,
        size_px=224,
        summary="The arguments' defaults, with the classes of UCF101: ResNet-50, 8 frames, as in the paper.",
    ),
    Configuration(
        name="mobilenet_v2",
        arguments={"backbone": "mobilenet_v2"},
        classes={"action": 101},
        num_frames=8,
        size_px=224,
        summary="The paper's small network.",
    ),
)


class ShiftModel(nn.Module):
    """Frames see their neighbours inside the network: it is no `FrameModel`, and features of single frames cannot be
    stored.

    Args:
        backbone: Its blocks get shifts.
        heads: Of the mean over frames.
        num_frames: Frames of a clip.
        share: See `kinema.models.layers.shift`.
    """

    def __init__(self, backbone: FrameBackbone, heads: nn.Module, *, num_frames: int, share: int) -> None:
        super().__init__()
        insert_shifts(backbone.body, num_frames=num_frames, share=share, name=backbone.name)
        self.backbone = backbone
        self.heads = heads
        self.num_frames = num_frames

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        clips = only(streams)
        if clips.shape[1] != self.num_frames:
            raise ValueError(f"the shifts are made for clips of {self.num_frames} frames, got {clips.shape[1]}")
        frames = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        # Not through the backbone itself, which takes frames apart when it is frozen.
        features: Tensor = self.backbone.body(frames)
        return self.heads(features.reshape(*clips.shape[:2], -1).mean(dim=1))


@register_model
def tsm(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "resnet50",
    backbone_cut: str | None = None,
    shift_share: int = 8,
    head_hidden: tuple[int, ...] = (),
    dropout: float = 0.5,
) -> nn.Module:
    """A ResNet, MobileNet or EfficientNet with temporal shift, then the mean over frames.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: A ResNet, MobileNet or EfficientNet of torchvision or timm.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        shift_share: One in so many channels comes from the next frame, and as many from the one before.
        head_hidden: Units of hidden layers in each task's classifier.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut)
    classifiers = LinearHeads(frames.num_features, heads, dropout=dropout, hidden=head_hidden)
    return ShiftModel(frames, classifiers, num_frames=only(inputs).num_frames, share=shift_share)
