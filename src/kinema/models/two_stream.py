"""Networks on frames and on motion, side by side.

Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos", NIPS 2014,
https://arxiv.org/abs/1406.2199; fusion of maps by convolution: Feichtenhofer, Pinz and Zisserman, "Convolutional
Two-Stream Network Fusion for Video Action Recognition", CVPR 2016, https://arxiv.org/abs/1604.06573. Deviations: any
registered model may be the network of a stream, there may be more than two streams, and the networks are trained
together, on the loss of the fused answer. Of the second paper: what is fused goes on through the first network alone
and over time as that does, where the paper pools over space and time and keeps a second tower; behind the convolution
is a ReLU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from kinema.config import model_section
from kinema.models.build import build_model
from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.fused_model import FusedModel, by_convolution, several
from kinema.models.layers.checks import at_least, unused
from kinema.models.layers.heads import LinearHeads
from kinema.models.streams_model import StreamsModel, describe
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
        summary="The arguments' defaults on frames and differences of frames, with the classes of UCF101.",
        streams={"rgb": 3, "rgb_difference": 3},
    ),
    Configuration(
        name="convolution",
        arguments={"network": {"name": "frame_average", "backbone": "resnet50"}, "fusion": "convolution"},
        classes={"action": 101},
        num_frames=5,
        size_px=224,
        summary="Maps of two ResNet-50 fused by convolution, the second on 10 fields of flow as in the paper.",
        streams={"rgb": 3, "flow": 20},
    ),
    Configuration(
        name="ucf_two_stream",
        arguments={
            "networks": {
                "rgb": {"name": "frame_average", "backbone": "mobilenet_v2"},
                "rgb_difference": {"name": "frame_average", "backbone": "narrow_cnn"},
            },
            "fusion": "features",
            "branch_size": 256,
            "head_hidden": (512,),
        },
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        freeze=("mobilenet_v2",),
        summary="two_stream of the UCF101 framework: frozen MobileNetV2 on a frame, three convolutions on what changes "
        "there, where the framework gave both the same frame.",
        streams={"rgb": 3, "rgb_difference": 3},
    ),
    Configuration(
        name="epic_resnet50",
        arguments={
            "network": {"name": "frame_average", "backbone": "resnet50"},
            "fusion": "features",
            "head_hidden": (512,),
            "head_dropout": 0.3,
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="Two-stream network of the EPIC-KITCHENS study: features of a ResNet-50 on frames and one on flow.",
        streams={"rgb": 3, "flow": 2},
    ),
)

_NOT_AVERAGED = {"features": "features", "convolution": "maps"}


@register_model
def two_stream(
    heads: Heads,
    inputs: Inputs,
    *,
    network: dict[str, Any] | None = None,
    networks: dict[str, dict[str, Any]] | None = None,
    fusion: Literal["probabilities", "logits", "features", "convolution"] = "probabilities",
    shares: dict[str, float] | None = None,
    branch_size: int | None = None,
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Networks on frames and on motion, fused late.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        network: A `model:` section, of every stream that `networks` does not name. null: `frame_average`.
        networks: Stream -> a `model:` section of its own.
        fusion: What is fused: `probabilities` or `logits` are averaged, `features` go into one classifier. With
            `convolution` the maps of all streams are stacked, a convolution of 1x1 makes them one, and that goes on
            through the network of the first stream; of the others it is the backbone alone.
        shares: Stream -> how much its answer counts beside the others; by default all the same.
        branch_size: With `features`: units of a linear layer behind each network's feature; null: there is none.
        head_norm: With `features`: of all of them together.
        head_hidden: Likewise: units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: With `features`: before the classifier.

    Raises:
        ConfigError: An argument is impossible, or names a stream that is not there.
    """
    given = networks or {}
    for key, named in (("networks", given), ("shares", shares or {})):
        unknown = [stream for stream in named if stream not in inputs]
        if unknown:
            raise ConfigError(
                f"model.{key}: there is no stream {unknown[0]!r}; data.modality names {', '.join(inputs)}"
            )
    several(inputs, name="two_stream")
    counts = {stream: (shares or {}).get(stream, 1.0) for stream in inputs}
    if fusion in _NOT_AVERAGED and shares:
        raise ConfigError(
            f"model.shares: {_NOT_AVERAGED[fusion]} are not averaged; leave it out, or take another model.fusion"
        )
    if any(not (math.isfinite(share) and share > 0) for share in counts.values()):
        raise ConfigError(f"model.shares: have to be above 0, got {', '.join(f'{v:g}' for v in counts.values())}")
    if fusion != "features":
        unused(
            f"with model.fusion={fusion}, whose networks have their own classifiers",
            branch_size=(branch_size, None),
            head_norm=(head_norm, "none"),
            head_hidden=(tuple(head_hidden), ()),
            head_dropout=(head_dropout, None),
            dropout=(dropout, 0.5),
        )
    built = {stream: _network(stream, given.get(stream, network), heads, inputs) for stream in inputs}
    if fusion == "convolution":
        return _convolved(built, given, inputs)
    if fusion != "features":
        return StreamsModel(built, fusion=fusion, shares=list(counts.values()))
    lengths = [_described(stream, built[stream], inputs) for stream in inputs]
    branches = None
    if branch_size is not None:
        at_least(1, branch_size=branch_size)
        branches = [nn.Sequential(nn.Linear(length, branch_size), nn.ReLU()) for length in lengths]
        lengths = [branch_size] * len(lengths)
    classifier = LinearHeads(
        sum(lengths), heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return StreamsModel(built, fusion=fusion, shares=list(counts.values()), heads=classifier, branches=branches)


def _network(stream: str, section: dict[str, Any] | None, heads: Heads, inputs: Inputs) -> nn.Module:
    chosen = model_section(section or {"name": "frame_average"}, key=f"model.networks.{stream}")
    if chosen.name in ("two_stream", "ensemble"):
        raise ConfigError(f"model.networks.{stream}: {chosen.name} is no network of one stream")
    return build_model(chosen.name, chosen.arguments(), heads=heads, inputs={stream: inputs[stream]})


def _described(stream: str, network: nn.Module, inputs: Inputs) -> int:
    """Take the classifier away; how long the feature is that it took."""
    shape = inputs[stream]
    network.heads = nn.Identity()
    on_meta = copy.deepcopy(network).to("meta").eval()
    clip = torch.empty(2, shape.num_frames, shape.channels, shape.height_px, shape.width_px, device="meta")
    with torch.no_grad():
        return describe(on_meta, {stream: clip}).shape[1]


def _convolved(built: Mapping[str, nn.Module], given: Mapping[str, Mapping[str, Any]], inputs: Inputs) -> FusedModel:
    networks, (first, *others) = {}, inputs
    for stream, network in built.items():
        if not isinstance(network, FrameModel):
            raise ConfigError(
                f"model.fusion: convolution is of maps of single frames, and the network of {stream} has none; take a "
                "model with a frame backbone, or another model.fusion"
            )
        networks[stream] = network
    for stream in others:
        for key in given.get(stream, {}):
            if key not in ("name", "backbone", "backbone_cut"):
                raise ConfigError(
                    f"model.networks.{stream}.{key}: has no effect with model.fusion=convolution, which takes the "
                    f"backbone alone of this network, and all else from that of {first}; leave it out"
                )
    return by_convolution(networks, inputs)
