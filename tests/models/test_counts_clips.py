"""Networks on clips have the parameters that their sources count, to the unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from kinema.models.configurations import Configuration, build_without_memory, configurations, measure
from kinema.models.layers.video_resnet import video_resnet
from kinema.types import ConfigError


def configuration(model: str, name: str) -> Configuration:
    (found,) = (one for one in configurations()[model] if one.name == name)
    return found


def num(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("num_blocks", "expected"), [(8, 31_300_125), (7, 17_137_693), (6, 7_804_601), (4, 1_929_865)])
def test_bodies_of_r2plus1d(num_blocks: int, expected: int) -> None:
    with torch.device("meta"):
        assert num(video_resnet("r2plus1d_18", num_blocks=num_blocks)) == expected


@pytest.mark.parametrize(("name", "expected"), [("default", 31_505_325), ("hmdb51", 31_326_288)])
def test_baselines_of_project_h(name: str, expected: int) -> None:
    assert measure("r2plus1d_18", configuration("r2plus1d_18", name)).total == expected


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("perceiver_1c6s", 31_300_125, 28_657_665),
        ("perceiver_1c2s", 31_300_125, 11_851_777),
        ("perceiver_1c1s", 31_300_125, 7_650_305),
        ("perceiver_1s", 31_300_125, 4_229_171),
        ("perceiver_4_blocks_2c12s", 1_929_865, 57_187_791),
    ],
)
def test_attention_of_project_h(name: str, body: int, expected: int) -> None:
    assert measure("r2plus1d_18", configuration("r2plus1d_18", name)).total == body + expected


@pytest.mark.parametrize(("model", "expected"), [("r2plus1d_18", 32_029_098), ("r3d_18", 33_895_245)])
def test_networks_of_the_epic_study(model: str, expected: int) -> None:
    """Classifiers 512 -> 512 -> 97 verbs, and 300 nouns."""
    assert measure(model, configuration(model, "epic")).total == expected


@pytest.mark.parametrize(
    "model", ["r2plus1d_18", "r3d_18", "mc3_18", "s3d", "mvit", "swin3d", "resnext101_3d", "video_transformer"]
)
def test_classifiers_may_have_hidden_layers(model: str) -> None:
    chosen = configuration(model, "default")
    arguments = {**chosen.arguments, "head_hidden": (24,), "head_dropout": 0.25, "dropout": 0.75}
    module: Any = build_without_memory(model, replace(chosen, arguments=arguments))
    (classifier,) = module.heads.linear.values()
    assert next(layer.out_features for layer in classifier if isinstance(layer, nn.Linear)) == 24
    assert [layer.p for layer in classifier if isinstance(layer, nn.Dropout)] == [0.25]
    assert module.heads.dropout.p == 0.75


def test_parts_of_the_attention_of_project_h() -> None:
    model: Any = build_without_memory("r2plus1d_18", configuration("r2plus1d_18", "perceiver_1c6s"))
    pool = model.pool.pool
    assert num(pool.cross) == 3_421_134
    assert num(pool.blocks) == 6 * 4_201_472
    assert pool.class_token.numel() + num(pool.norm) + num(model.heads) == 27_699


def test_cross_attention_alone() -> None:
    """The source counts no classifier here."""
    chosen = configuration("r2plus1d_18", "perceiver_1c")
    classifier = 2 * 512 + 51 * 512 + 51
    assert measure("r2plus1d_18", chosen).total - classifier == 31_300_125 + 3_421_134


@pytest.mark.parametrize(
    ("num_blocks", "num_tokens"), [(8, (2, 7, 7)), (7, (2, 7, 7)), (6, (4, 14, 14)), (4, (8, 28, 28))]
)
def test_tokens_of_project_h(num_blocks: int, num_tokens: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        maps = video_resnet("r2plus1d_18", num_blocks=num_blocks)(torch.empty(1, 3, 16, 112, 112))
    assert tuple(maps.shape[2:]) == num_tokens


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        ("c3d", "default", 65_773_912),
        ("conv3d", "valid", 20_196_453),
        ("resnext101_3d", "default", 48_819_544),
    ],
)
def test_networks_of_projects_k_and_u(model: str, name: str, expected: int) -> None:
    found = measure(model, configuration(model, name))
    assert (found.total, found.trainable) == (expected, expected)


def test_project_k_counts_running_statistics_of_its_resnext() -> None:
    model = build_without_memory("resnext101_3d", configuration("resnext101_3d", "default"))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    statistics = sum(2 * norm.num_features for norm in norms)
    assert num(model) + statistics == 48_957_400


def test_the_padded_c3d_has_wider_input_of_its_first_linear_layer() -> None:
    model: Any = build_without_memory("c3d", configuration("c3d", "padded"))
    assert model.backbone.body.fc6.in_features == 8192
    plain: Any = build_without_memory("c3d", configuration("c3d", "default"))
    assert plain.backbone.body.fc6.in_features == 4608
    assert round(num(model) / 1e6, 1) == 78.4


@pytest.mark.parametrize("num_frames", [1, 2, 5, 16, 45, 46])
@pytest.mark.parametrize("model", ["conv3d", "c3d"])
def test_any_clip_length_can_be_built(model: str, num_frames: int) -> None:
    chosen = replace(configuration(model, "default"), num_frames=num_frames, size_px=64)
    assert measure(model, chosen).gflops > 0


@pytest.mark.parametrize("num_frames", [5, 45])
def test_project_us_own_conv3d_cannot_be_built_for_short_clips(num_frames: int) -> None:
    with pytest.raises(ConfigError, match=r"^model\.padding: with valid, conv3d takes clips of at least 46 frames"):
        build_without_memory("conv3d", replace(configuration("conv3d", "valid"), num_frames=num_frames))
