"""The composition that networks are whose streams become one in front of what looks at time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.frame_model import FrameModel, FramePart
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.channels import fit_stream
from kinema.types import ConfigError, Inputs


class FusedModel(nn.Module):
    """A frame backbone for each stream; what they say of a frame becomes one, and goes on through the first network.

    Args:
        networks: Stream -> network. Of all but the first the backbone alone is kept.
        fuse: (N, D, h, w) of each stream -> (N, E, h, w), if it says `takes_maps = True`, or (N, D) -> (N, E), where E
            is what the temporal module of the first network takes.
    """

    def __init__(self, networks: Mapping[str, FrameModel], fuse: nn.Module) -> None:
        super().__init__()
        _, *others = networks.values()
        for network in others:
            network.norm = network.temporal = network.heads = nn.Identity()
        self.takes_maps = bool(getattr(fuse, "takes_maps", False))
        if self.takes_maps:
            for network in networks.values():
                network.backbone.end_in_maps()
        self.networks = nn.ModuleDict(networks)
        self.fuse = fuse

    def forward(self, streams: Mapping[str, Float[Tensor, "B _T _C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        parts = self.frame_parts(tuple(streams))
        return self.classify_parts({name: part.features(streams[name]) for name, part in parts.items()})

    def frame_parts(self, streams: Sequence[str]) -> dict[str, FramePart]:
        """Stream -> the network of its backbone."""
        return {
            name: FramePart(stream=name, network=network, of_maps=self.takes_maps)
            for name, network in self.networks.items()
            if isinstance(network, FrameModel)
        }

    def classify_parts(self, features: Mapping[str, Float[Tensor, "B T _D *map"]]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features, stream by stream."""
        first: FrameModel = next(iter(self.networks.values()))  # type: ignore[assignment]
        given = [features[stream] for stream in self.networks]
        fused: Tensor = self.fuse([each.flatten(0, 1) for each in given])
        if self.takes_maps and not first.takes_maps:
            fused = fused.mean(dim=(2, 3))
        return first.classify(fused.reshape(*given[0].shape[:2], *fused.shape[1:]))

    @property
    def backbones(self) -> dict[str, FrameBackbone]:
        """Stream -> backbone."""
        return {name: network.backbone for name, network in self.networks.items() if isinstance(network, FrameModel)}


class MapFusion(nn.Module):
    """Maps of several networks, stacked, and a convolution of 1x1 (Feichtenhofer, Pinz and Zisserman, "Convolutional
    Two-Stream Network Fusion for Video Action Recognition", CVPR 2016, section 3.1), with a ReLU. Where all have as
    many channels as come out, it begins as their sum.

    Args:
        channels: Of each network's maps.
        out_channels: Of what comes out.
    """

    takes_maps = True

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(sum(channels), out_channels, 1)
        if set(channels) == {out_channels}:
            with torch.no_grad():
                self.convolution.weight.copy_(torch.eye(out_channels).repeat(1, len(channels))[:, :, None, None])
                self.convolution.bias.zero_()  # type: ignore[union-attr]

    def forward(self, maps: Sequence[Float[Tensor, "N _D h w"]]) -> Float[Tensor, "N _E h w"]:
        return torch.relu(self.convolution(torch.cat(list(maps), dim=1)))


class FeatureFusion(nn.Module):
    """Features of several networks, one behind the other, and a linear layer.

    Args:
        lengths: Of each network's features.
        num_features: Of what comes out.
    """

    def __init__(self, lengths: Sequence[int], num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(lengths), num_features)

    def forward(self, features: Sequence[Float[Tensor, "N _D"]]) -> Float[Tensor, "N _E"]:
        return self.linear(torch.cat(list(features), dim=1))


def with_backbones(first: nn.Module, inputs: Inputs, *, backbone: str, name: str) -> dict[str, FrameModel]:
    """Stream -> network: one for the first stream, and for each other a backbone alone.

    Args:
        first: Made for frames of three channels, as all backbones are.
        inputs: Stream -> shape.
        backbone: Of the others.
        name: Of the model, for messages.

    Raises:
        ConfigError: There is one stream alone.
    """
    several(inputs, name=name)
    assert isinstance(first, FrameModel)
    found: dict[str, FrameModel] = {}
    for stream, shape in inputs.items():
        network = first
        if found:
            alone = FrameBackbone(backbone)
            network = FrameModel(alone, nn.Identity(), nn.Identity(), feature_norm="none")
        fit_stream(network.backbone, stream, shape.channels, name=name)
        found[stream] = network
    return found


def several(inputs: Inputs, *, name: str) -> None:
    """See to it that there are several streams.

    Raises:
        ConfigError: There is one.
    """
    if len(inputs) < 2:
        raise ConfigError(
            f"model.name: {name} fuses several streams, and there is one ({', '.join(inputs)}); name more of them, "
            "as in data.modality=[rgb, flow]"
        )


def by_convolution(networks: Mapping[str, FrameModel], inputs: Inputs) -> FusedModel:
    """Networks whose maps are fused, as long as the first network's features.

    Args:
        networks: Stream -> network.
        inputs: Stream -> shape.

    Raises:
        ConfigError: Maps are of different sizes.
    """
    first, *others = networks
    (num_features, *_) = networks[first].feature_shape(inputs[first].height_px)
    shapes = {stream: network.backbone.map_shape(inputs[stream].height_px) for stream, network in networks.items()}
    for stream in others:
        if shapes[stream][1:] != shapes[first][1:]:
            sizes = [f"{shapes[each][1]}x{shapes[each][2]} ({each})" for each in (first, stream)]
            raise ConfigError(
                f"model.fusion: convolution fuses maps of the same size, and these are of {' and '.join(sizes)}; take "
                "backbones alike, or model.networks.*.backbone_cut"
            )
    return FusedModel(networks, MapFusion([shape[0] for shape in shapes.values()], num_features))
