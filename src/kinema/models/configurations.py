"""Configurations that are shipped with a model, and what they come to: parameters and arithmetic.

The file of a model names them in `CONFIGURATIONS`. What they come to is measured here on torch's meta device, which
needs no memory and does no arithmetic, but takes seconds for some: `kinema models` and `docs/models.md` show what
`kinema.models.shipped` wrote down.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kinema.models.build import construct
from kinema.models.clip_model import ClipModel
from kinema.models.freezing import freeze
from kinema.models.layers.channels import RGB
from kinema.models.streaming import Streaming, streaming
from kinema.models.streams_model import frame_models
from kinema.registry import entries, entry
from kinema.types import Inputs, InputShape

Kind = Literal["frames", "clips", "other"]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to build a model.

    Attributes:
        name: Unique within its model. Every model has one called `default`.
        arguments: The recipe's `model:` section, without its name.
        classes: Task -> number of classes.
        num_frames: Frames per clip.
        size_px: Height and width of a frame.
        freeze: The recipe's `init.freeze`.
        summary: What it reproduces, with its source.
        streams: Stream -> channels of a frame.
    """

    name: str
    arguments: Mapping[str, Any]
    classes: Mapping[str, int]
    num_frames: int
    size_px: int
    freeze: str | int | tuple[str, ...] = "none"
    summary: str
    streams: Mapping[str, int] = field(default_factory=lambda: {"rgb": RGB})

    @property
    def inputs(self) -> Inputs:
        """What the model receives."""
        num, side = self.num_frames, self.size_px
        return {
            stream: InputShape(num_frames=num, channels=channels, height_px=side, width_px=side)
            for stream, channels in self.streams.items()
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a configuration comes to.

    Attributes:
        total: Trainable and frozen parameters, without buffers such as running statistics.
        trainable: Parameters that are trained.
        gflops: Of one clip, in evaluation, in 1e9; a multiplication and the addition behind it are one, as in the
            tables of the field. Matrix products, convolutions and attention count; norms, activations and pooling
            do not.
        kind: `frames`: a `FrameModel`, whose frozen backbone's features can be stored. `clips`: a `ClipModel`.
        streams: See `kinema.models.streaming`.
    """

    total: int
    trainable: int
    gflops: float
    kind: Kind
    streams: Streaming | None


def configurations() -> dict[str, tuple[Configuration, ...]]:
    """Model -> its shipped configurations."""
    found = {}
    for name, model in entries("model").items():
        found[name] = tuple(getattr(importlib.import_module(model.module), "CONFIGURATIONS", ()))
    return found


def build_without_memory(model_name: str, configuration: Configuration) -> nn.Module:
    """The model on the meta device: with all its parameters, and none of their values."""
    function = entry("model", model_name, key="model.name").load()
    heads = {
        task: tuple(str(number) for number in range(num_classes)) for task, num_classes in configuration.classes.items()
    }
    with torch.device("meta"):
        return construct(model_name, function, configuration.arguments, heads=heads, inputs=configuration.inputs)


def measure(model_name: str, configuration: Configuration) -> Measured:
    """Count the parameters of a configuration, and the arithmetic for one clip."""
    model = build_without_memory(model_name, configuration)
    freeze(model, configuration.freeze)
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    # The counter follows gradients, and takes a view of a parameter for one, where there are none to follow.
    gflops = _gflops(model.eval().requires_grad_(False), configuration)
    of_frames = frame_models(model, list(configuration.streams)) is not None
    kind: Kind = "frames" if of_frames else "clips" if isinstance(model, ClipModel) else "other"
    return Measured(total=total, trainable=trainable, gflops=gflops, kind=kind, streams=streaming(model))


def described(configuration: Configuration) -> dict[str, Any]:
    """What a configuration is, as JSON has it."""
    shapes = configuration.inputs.items()
    return {
        "name": configuration.name,
        "summary": configuration.summary,
        "input": {name: [of.num_frames, of.channels, of.height_px, of.width_px] for name, of in shapes},
        "classes": dict(configuration.classes),
        "arguments": {
            key: list(value) if isinstance(value, tuple) else value for key, value in configuration.arguments.items()
        },
        "freeze": list(configuration.freeze) if isinstance(configuration.freeze, tuple) else configuration.freeze,
    }


def record(model_name: str, configuration: Configuration) -> dict[str, Any]:
    """What a configuration is and what it comes to, as JSON has it."""
    found = measure(model_name, configuration)
    return described(configuration) | {
        "parameters": {"total": found.total, "trainable": found.trainable},
        "gflops": round(found.gflops, 4),
        "kind": found.kind,
        "feature_store": found.kind == "frames",
        "streams": found.streams,
    }


def _gflops(model: nn.Module, configuration: Configuration) -> float:
    clips = {
        stream: torch.empty(1, of.num_frames, of.channels, of.height_px, of.width_px, device="meta")
        for stream, of in configuration.inputs.items()
    }
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one kernel, in which nothing is counted
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(clips)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() / 2e9
