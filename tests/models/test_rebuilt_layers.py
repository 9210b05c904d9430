"""Configurations of the UCF101 framework have its layers in its order: a count says nothing of dropout or pooling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kinema.models.configurations import build_without_memory, configurations
from kinema.models.layers.backbone import FrameBackbone

POOLINGS = (nn.MaxPool2d, nn.MaxPool3d)
HEAD = ["linear 512", "dropout 0.5", "linear 101"]


def convolutions(*channels: int) -> list[str]:
    """Each with a pooling behind it."""
    return [layer for number in channels for layer in (f"convolution {number}", "pooling")]


def vgg() -> list[str]:
    channels = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    return [layer for number, times in channels for layer in [*[f"convolution {number}"] * times, "pooling"]]


EXPECTED = {
    ("frame_average", "ucf_basic_cnn"): [*convolutions(32, 64, 128, 128), "dropout 0.5", *HEAD],
    ("frame_average", "ucf_vgg"): [*vgg(), *["linear 4096", "dropout 0.5"] * 2, "linear 101"],
    ("frame_average", "ucf_mobilenet"): ["mobilenet_v2", *HEAD],
    ("frame_average", "ucf_mobilenet_finetuned"): ["mobilenet_v2", *HEAD],
    ("frame_average", "ucf_efficientnet"): ["efficientnet_b0", "norm", "dropout 0.5", *HEAD],
    ("cnn_lstm", "ucf_cnn_lstm"): [
        *convolutions(32, 64, 128),
        *["lstm 256", "lstm 128", "linear 256", "dropout 0.5", "linear 101"],
    ],
    ("cnn_lstm", "ucf_pretrained_cnn_lstm"): [
        *["mobilenet_v2", "lstm 256", "dropout 0.5", "lstm 128", "dropout 0.5"],
        *["linear 256", "dropout 0.5", "linear 101"],
    ],
    ("conv3d", "valid"): [
        *convolutions(32, 64, 128, 256),
        *["linear 512", "dropout 0.5", "linear 256", "dropout 0.5", "linear 101"],
    ],
    ("joint_ensemble", "ucf_ensemble"): [
        *["mobilenet_v2", "linear 256", "efficientnet_b0", "linear 256"],
        *[*convolutions(64, 128), "convolution 256", "linear 256", "dropout 0.5", *HEAD],
    ],
}


def said(layer: nn.Module) -> str | None:
    """What stands for a layer; nothing for what only bends, flattens or averages."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        return f"convolution {layer.out_channels}"
    if isinstance(layer, nn.Linear):
        return f"linear {layer.out_features}"
    if isinstance(layer, nn.LSTM):
        return f"lstm {layer.hidden_size}"
    if isinstance(layer, nn.Dropout) and layer.p > 0:
        return f"dropout {layer.p}"
    if isinstance(layer, nn.BatchNorm1d):
        return "norm"
    return "pooling" if isinstance(layer, POOLINGS) else None


def layers(model: nn.Module, clips: torch.Tensor) -> list[str]:
    """Layers in the order in which clips go through them; a network that comes with weights is one."""
    found: list[str] = []

    def note(what: str) -> Any:
        return lambda *_: found.append(what)

    def visit(part: nn.Module) -> None:
        if isinstance(part, FrameBackbone) and part.name in ("mobilenet_v2", "efficientnet_b0"):
            part.register_forward_pre_hook(note(part.name))
            return
        what = said(part)
        if what is not None:
            part.register_forward_pre_hook(note(what))
        for child in part.children():
            visit(child)

    visit(model)
    with torch.device("meta"), torch.no_grad():
        model.train()({"rgb": clips})
    return found


@pytest.mark.parametrize(("model", "name"), EXPECTED)
def test_layers_are_those_of_the_source(model: str, name: str) -> None:
    (configuration,) = (one for one in configurations()[model] if one.name == name)
    size_px = configuration.size_px
    clips = torch.empty(2, configuration.num_frames, 3, size_px, size_px, device="meta")
    assert layers(build_without_memory(model, configuration), clips) == EXPECTED[model, name]
