"""Frames that are looked at where it moves, as a small network guesses from the frames themselves.

The `AttentionTemporalCNN` of the report on egocentric vision that kinema rebuilds, a prototype that has no paper: a
small CNN predicts maps of the magnitude of optical flow, 32x32, of pairs of frames, on the sum of L1 and L2; clipped to
[0.5, 1] they multiply the frames; a backbone, and a CNN over time with 64 filters. Deviations: both networks are
trained together, on the sum of the losses; magnitudes are told as shares of the largest in their frame, since units of
flow are not the network's to know; pairs are neighbouring frames of the clip, which lie further apart than the two
pictures of which the flow is; normalised frames are multiplied, so that what does not count fades to the mean colour;
layers of the small network, of which nothing is told, and the residual blocks over time are kinema's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.channels import fit_stream
from kinema.models.layers.checks import at_least, share
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.temporal import ConvNet1D
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=20,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults on frames, and in training the magnitude of flow, with the classes of UCF101.",
        streams={"rgb": 3, "flow_magnitude": 1},
    ),
    Configuration(
        name="epic",
        arguments={},
        classes={"verb": 97, "noun": 300},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="With the classes, frames and size of the egocentric-vision report.",
        streams={"rgb": 3, "flow_magnitude": 1},
    ),
)

_TARGET = "flow_magnitude"


class MagnitudeNet(nn.Sequential):
    """How much moves where, from two frames: (N, 2 C, H, W) -> (N, 1, grid, grid), in 0..1.

    Args:
        num_inputs: Channels of two frames.
        channels: Filters of its convolutions.
        grid: Height and width of its maps.
    """

    def __init__(self, num_inputs: int, channels: int, grid: int) -> None:
        layers: list[nn.Module] = []
        for num_in, stride in ((num_inputs, 2), (channels, 2), (channels, 1)):
            layers += [
                nn.Conv2d(num_in, channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(grid), nn.Conv2d(channels, 1, 3, padding=1), nn.Sigmoid())


class FlowAttention(nn.Module):
    """Frames times maps of what moves in them, then a model of frames. Frames see their neighbours in front of the
    backbone: it is no `FrameModel`, and features of single frames cannot be stored.

    Args:
        magnitude: Pairs of frames to maps.
        network: Of frames.
        stream: That it sees.
        least: Below that, maps count as much.
        flow_weight: Of the loss of these maps.

    Attributes:
        training_streams: What is read for the auxiliary loss alone, and not needed for an answer.
    """

    training_streams = (_TARGET,)

    def __init__(
        self, magnitude: MagnitudeNet, network: FrameModel, *, stream: str, least: float, flow_weight: float
    ) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.backbone, self.temporal, self.heads = network.backbone, network.temporal, network.heads
        self.norm = network.norm
        self.stream = stream
        self.least = least
        self.flow_weight = flow_weight

    def predicted(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T g g"]:
        """How much moves where, of each frame and the next; of the last and the one before."""
        others = torch.cat([frames[:, 1:], frames[:, -2:-1] if frames.shape[1] > 1 else frames], dim=1)
        found: Tensor = self.magnitude(torch.cat([frames, others], dim=2).flatten(0, 1))
        return found.reshape(*frames.shape[:2], *found.shape[2:])

    def forward(self, streams: Mapping[str, Float[Tensor, "B _T _C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        frames = streams[self.stream]
        counts = self.predicted(frames).clamp(self.least, 1.0)
        seen = frames * interpolate(counts, frames.shape[3:], mode="bilinear", align_corners=False)[:, :, None]
        # Not through the backbone itself, which lets no gradient through when it is frozen.
        features: Tensor = self.backbone.body(seen.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        normed: Tensor = self.norm(features)
        return self.heads(self.temporal(normed.reshape(*frames.shape[:2], -1)))

    def auxiliary_loss(self, streams: Mapping[str, Float[Tensor, "B _T _C H W"]]) -> Tensor | None:
        """L1 and L2 between maps and the magnitude of flow, where that is there."""
        if _TARGET not in streams:
            return None
        with _unmoved(self.magnitude):  # this step's forward pass has moved its running statistics
            found = self.predicted(streams[self.stream]).float()
        away = found - _shares(streams[_TARGET].float(), found.shape[-1])
        return self.flow_weight * (away.abs().mean() + away.square().mean())


@contextmanager
def _unmoved(network: nn.Module) -> Iterator[None]:
    """While this lasts, running statistics of batch norm stay as they are."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _shares(magnitude: Float[Tensor, "B T C H W"], grid: int) -> Float[Tensor, "B T g g"]:
    """Magnitudes, the mean of a frame's fields, as shares of the largest of the frame; 0 where nothing moves."""
    coarse = nn.functional.adaptive_avg_pool2d(magnitude.mean(dim=2), grid).clamp_min(0)
    return coarse / coarse.amax(dim=(2, 3), keepdim=True).clamp_min(1e-6)


@register_model
def flow_attention(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    grid: int = 32,
    least: float = 0.5,
    flow_weight: float = 1.0,
    flow_channels: int = 16,
    channels: int = 64,
    num_blocks: int = 2,
    kernel_size: int = 3,
    feature_norm: Literal["none", "batch"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frames times what moves in them, then convolutions over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        grid: Height and width of the maps of what moves.
        least: What multiplies places of a frame in which nothing moves.
        flow_weight: How much the loss of these maps counts beside that of the classes. They learn from the stream
            `flow_magnitude`, which is read in training alone; without it they learn from the classes.
        flow_channels: Filters of the network that makes them.
        channels: Filters of every convolution over time.
        num_blocks: Blocks of two of these.
        kernel_size: Frames that one of these sees; odd.
        feature_norm: `batch` normalises the frames' features.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible, or the streams are others.
    """
    seen = [stream for stream in inputs if stream != _TARGET]
    if len(seen) != 1:
        raise ConfigError(
            f"data.modality: flow_attention sees one stream, in training beside {_TARGET}, and not "
            f"{', '.join(inputs)}; take data.modality=[rgb, {_TARGET}]"
        )
    at_least(1, grid=grid, flow_channels=flow_channels)
    share(least=least)
    if flow_weight < 0:
        raise ConfigError(f"model.flow_weight: has to be at least 0, got {flow_weight:g}")
    shape, frames = inputs[seen[0]], FrameBackbone(backbone)
    fit_stream(frames, seen[0], shape.channels, name="flow_attention")
    temporal = ConvNet1D(frames.num_features, channels=channels, num_blocks=num_blocks, kernel_size=kernel_size)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    network = FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
    magnitude = MagnitudeNet(2 * shape.channels, flow_channels, grid)
    return FlowAttention(magnitude, network, stream=seen[0], least=least, flow_weight=flow_weight)
