"""Temporal shift in an image network, and the mean over frames.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019,
https://arxiv.org/abs/1811.08383: the residual shift in both directions, or, `online`, from the frame before alone.
Deviations: features are averaged over frames
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
from kinema.models.layers.shift import insert_shifts, shifts_of
from kinema.models.layers.stepping import State, mean_step
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
        online: Likewise. It can then follow a stream from the state of its shifts.
    """

    def __init__(
        self, backbone: FrameBackbone, heads: nn.Module, *, num_frames: int, share: int, online: bool = False
    ) -> None:
        super().__init__()
        insert_shifts(backbone.body, num_frames=num_frames, share=share, name=backbone.name, online=online)
        self.can_step = online
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

    def step(
        self, frame: Float[Tensor, "B C H W"], state: State = None
    ) -> tuple[dict[str, Float[Tensor, "B _K"]], State]:
        """One frame further in a stream, of an online network.

        Args:
            frame: The next of each stream.
            state: What the last call returned; None before the first frame.

        Returns:
            Logits for all frames up to this one, and the state to go on from, whose size stays the same.
        """
        shifts = list(shifts_of(self.backbone.body))
        before, mean = ((None,) * len(shifts), None) if state is None else state
        for each, own in zip(shifts, before, strict=True):
            each.follows, each.before = True, own
        try:
            feature = self.backbone.body(frame.contiguous(memory_format=torch.channels_last))
            pooled, mean = mean_step(feature, mean)
            return self.heads(pooled), (tuple(each.before for each in shifts), mean)
        finally:
            for each in shifts:
                each.follows, each.before = False, None


@register_model
def tsm(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "resnet50",
    backbone_cut: str | None = None,
    shift_share: int = 8,
    online: bool = False,
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
        online: None from the next, so that a stream can be followed frame by frame.
        head_hidden: Units of hidden layers in each task's classifier.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut)
    classifiers = LinearHeads(frames.num_features, heads, dropout=dropout, hidden=head_hidden)
    return ShiftModel(frames, classifiers, num_frames=only(inputs).num_frames, share=shift_share, online=online)
