"""Configurations that are shipped with a model, and what they come to: parameters and arithmetic.

The file of a model names them in `CONFIGURATIONS`; `kinema models` and `docs/models.md` show what is measured here on
torch's meta device, which needs no memory and does no arithmetic.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kinema.registry import entries, entry
from kinema.types import InputShape


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
        channels: Of a frame.
    """

    name: str
    arguments: Mapping[str, Any]
    classes: Mapping[str, int]
    num_frames: int
    size_px: int
    freeze: str | int = "none"
    summary: str
    channels: int = 3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a configuration comes to.

    Attributes:
        total: Trainable and frozen parameters, without buffers such as running statistics.
        trainable: Parameters that are trained.
        gflops: Of one clip, in evaluation, in 1e9; a multiplication and the addition behind it are one, as in the
            tables of the field.
    """

    total: int
    trainable: int
    gflops: float


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
    size_px = configuration.size_px
    shape = InputShape(
        num_frames=configuration.num_frames, channels=configuration.channels, height_px=size_px, width_px=size_px
    )
    with torch.device("meta"):
        model: nn.Module = function(heads, {"rgb": shape}, **configuration.arguments)
    return model


def measure(model_name: str, configuration: Configuration) -> Measured:
    """Count the parameters of a configuration, and the arithmetic for one clip."""
    from kinema.models.freezing import freeze

    model = build_without_memory(model_name, configuration)
    freeze(model, configuration.freeze)
    parameters = list(model.parameters())
    return Measured(
        total=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        gflops=_gflops(model.eval(), configuration),
    )


def _gflops(model: nn.Module, configuration: Configuration) -> float:
    size_px = configuration.size_px
    clip = torch.empty(1, configuration.num_frames, configuration.channels, size_px, size_px, device="meta")
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one kernel, in which nothing is counted
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model({"rgb": clip})
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() / 2e9
