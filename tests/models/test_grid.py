"""Any frame backbone with any temporal module: a sample of the grid here, all of it in the slow suite."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from kinema.models.build import build_model
from kinema.types import InputShape

BACKBONES: dict[str, dict[str, Any]] = {
    "tiny": {"backbone": "tiny"},
    "wide_cnn": {"backbone": "wide_cnn"},
    "mobilenet_v2": {"backbone": "mobilenet_v2"},
    "mobilenet_v2 cut": {"backbone": "mobilenet_v2", "backbone_cut": "features.13"},
    "resnet18": {"backbone": "resnet18"},
    "resnet18 cut": {"backbone": "resnet18", "backbone_cut": "layer2"},
    "efficientnet_b0": {"backbone": "efficientnet_b0"},
    "timm/resnet10t": {"backbone": "timm/resnet10t"},
    "timm/mobilenetv3_small_050": {"backbone": "timm/mobilenetv3_small_050"},
}
SMALL_TRANSFORMER = {"width": 16, "num_layers": 1, "num_heads": 2}
MODULES: dict[str, dict[str, Any]] = {
    "cnn_bert": {"width": 16, "num_heads": 2},
    "cnn_conv1d": {"channels": 8},
    "cnn_conv1d_stack": {},
    "cnn_conv_lstm": {"channels": 8},
    "cnn_gru": {"hidden_size": 8},
    "cnn_hybrid": {"width": 16, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "feed_forward": 16},
    "cnn_lsta": {"channels": 8, "bank": 4},
    "cnn_lstm": {"hidden_size": 8, "bidirectional": True},
    "cnn_multi_scale_transformer": {**SMALL_TRANSFORMER, "windows": (2, 4)},
    "cnn_perceiver": {"size": 16, "num_queries": 4, "num_self": 1},
    "cnn_rnn": {"hidden_size": 8},
    "cnn_transformer": SMALL_TRANSFORMER,
    "cross_task_attention": {**SMALL_TRANSFORMER, "windows": (2, 4), "branch_width": 16, "head_hidden": ()},
    "frame_average": {},
    "frame_class_conv": {"channels": 8},
    "frame_max": {},
    "frame_statistics": {},
    "tsn": {},
}
GRID = list(product(BACKBONES, MODULES))
# Every module once, over backbones in turn; and every backbone at least once.
SAMPLE = [(list(BACKBONES)[index % len(BACKBONES)], name) for index, name in enumerate(MODULES)]


def check(backbone: str, name: str) -> None:
    torch.manual_seed(0)
    inputs = {"rgb": InputShape(num_frames=4, channels=3, height_px=64, width_px=64)}
    heads = {"verb": ("open", "close"), "noun": ("door", "box", "jar")}
    model = build_model(name, {**BACKBONES[backbone], **MODULES[name]}, heads=heads, inputs=inputs)
    clips = {"rgb": torch.randn(2, 4, 3, 64, 64)}
    logits = model(clips)
    assert {task: values.shape for task, values in logits.items()} == {"verb": (2, 2), "noun": (2, 3)}
    losses = [nn.functional.cross_entropy(values, torch.tensor([0, 1])) for values in logits.values()]
    torch.autograd.backward(torch.stack(losses).sum())
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.inference_mode():
        together = model.eval()(clips)["verb"]
        alone = model({"rgb": clips["rgb"][1:]})["verb"]
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("backbone", "name"), SAMPLE)
def test_a_sample(backbone: str, name: str) -> None:
    check(backbone, name)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "name"), [pair for pair in GRID if pair not in SAMPLE])
def test_the_rest(backbone: str, name: str) -> None:
    check(backbone, name)


def test_the_grid_is_whole() -> None:
    """A model that is added and has a backbone to choose is in it."""
    from kinema.registry import entries

    with_backbone = {
        name
        for name, entry in entries("model").items()
        if {"backbone_cut", "feature_norm"} <= {parameter.name for parameter in entry.parameters}
    }
    assert with_backbone == set(MODULES)
    assert {backbone for backbone, _ in SAMPLE} == set(BACKBONES)
