"""Networks on frames and on motion, side by side.

Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos", NIPS 2014,
https://arxiv.org/abs/1406.2199. Deviations: any registered model may be the network of a stream, there may be more than
two streams, and the networks are trained together, on the loss of the fused answer.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from kinema.config import model_section
from kinema.models.build import build_model
from kinema.models.configurations import Configuration
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
)


@register_model
def two_stream(
    heads: Heads,
    inputs: Inputs,
    *,
    network: dict[str, Any] | None = None,
    networks: dict[str, dict[str, Any]] | None = None,
    fusion: Literal["probabilities", "logits", "features"] = "probabilities",
    shares: dict[str, float] | None = None,
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
        fusion: What is fused: `probabilities` or `logits` are averaged, `features` go into one classifier.
        shares: Stream -> how much its answer counts beside the others; by default all the same.
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
    if len(inputs) < 2:
        raise ConfigError(
            f"model.name: two_stream fuses several streams, and there is one ({', '.join(inputs)}); name more of them, "
            "as in data.modality=[rgb, flow]"
        )
    counts = {stream: (shares or {}).get(stream, 1.0) for stream in inputs}
    if fusion == "features" and shares:
        raise ConfigError("model.shares: features are not averaged; leave it out, or take another model.fusion")
    if any(not share > 0 for share in counts.values()):
        raise ConfigError(f"model.shares: have to be above 0, got {', '.join(f'{v:g}' for v in counts.values())}")
    built = {stream: _network(stream, given.get(stream, network), heads, inputs) for stream in inputs}
    classifier = None
    if fusion == "features":
        num_features = sum(_described(stream, built[stream], inputs) for stream in inputs)
        classifier = LinearHeads(
            num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
        )
    return StreamsModel(built, fusion=fusion, shares=list(counts.values()), heads=classifier)


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
