"""Any frame backbone with any temporal module: a sample of the grid here, all of it in the slow suite."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.models import contract
from tests.models.contract import ONE, THREE, clips

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
    "cnn_correlation": {"channels": 8, "radius": 2},
    "cnn_difference": {"kind": "excitation", "reduction": 4},
    "cnn_gru": {"hidden_size": 8},
    "cnn_hybrid": {"width": 16, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "feed_forward": 16},
    "cnn_lsta": {"channels": 8, "bank": 4},
    "cnn_lstm": {"hidden_size": 8, "bidirectional": True},
    "cnn_multi_scale_transformer": {**SMALL_TRANSFORMER, "windows": [2, 4]},
    "cnn_perceiver": {"size": 16, "num_queries": 4, "num_self": 1},
    "cnn_rnn": {"hidden_size": 8},
    "cnn_transformer": SMALL_TRANSFORMER,
    "cross_task_attention": {**SMALL_TRANSFORMER, "windows": [2, 4], "branch_width": 16, "head_hidden": []},
    "frame_average": {},
    "frame_class_conv": {"channels": 8},
    "frame_max": {},
    "frame_statistics": {},
    "tsn": {},
}
LARGER = {
    "basic_cnn": {"backbone": "basic_cnn"},
    "flat_cnn": {"backbone": "flat_cnn"},
    "resnet50": {"backbone": "resnet50"},
    "resnet101": {"backbone": "resnet101"},
    "efficientnet_b3": {"backbone": "efficientnet_b3"},
    "timm/inception_resnet_v2": {"backbone": "timm/inception_resnet_v2"},
}
"""Too large for the whole grid, or too fixed in size: with a module on vectors, and with one on maps."""
GRID = list(product(BACKBONES, MODULES))
# Every module once, over backbones in turn; and every backbone at least once.
SAMPLE = [(list(BACKBONES)[index % len(BACKBONES)], name) for index, name in enumerate(MODULES)]


def check(backbone: str, name: str, folder: Path, *, sizes_px: tuple[int, int] = (64, 48)) -> None:
    """What every model keeps to: for one task and for three, of two lengths and two sizes."""
    arguments = {**BACKBONES, **LARGER}[backbone] | MODULES[name]
    for heads, num_frames, size_px in ((ONE, 4, sizes_px[0]), (THREE, 6, sizes_px[1])):
        model = contract.build(name, arguments, heads=heads, num_frames=num_frames, size_px=size_px)
        batch = clips(4, num_frames, size_px)
        contract.check_answers(model, batch, heads)
        contract.check_forward_makes_no_parameter_and_changes_none(model, batch)
        contract.check_evaluation(model, batch)
        contract.check_half_precision(model, batch)
        contract.check_gradient(model, batch)
        place = folder / str(num_frames)
        contract.check_round_trip(model, batch, place, name=name, arguments=arguments, heads=heads)


@pytest.mark.parametrize(("backbone", "name"), SAMPLE)
def test_a_sample(backbone: str, name: str, tmp_path: Path) -> None:
    check(backbone, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "name"), [pair for pair in GRID if pair not in SAMPLE])
def test_the_rest(backbone: str, name: str, tmp_path: Path) -> None:
    check(backbone, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_transformer", "cnn_conv_lstm"])
@pytest.mark.parametrize("backbone", LARGER)
def test_larger_backbones(backbone: str, name: str, tmp_path: Path) -> None:
    check(backbone, name, tmp_path, sizes_px=(112, 96))


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
