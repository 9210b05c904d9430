"""What pixels a model is given: what its weights expect, and no setting is passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.facts import MEAN, STD, TRAINING
from torch import nn

from kinema.models.build import build_model, initialise
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD, FrameBackbone
from kinema.models.weights import WeightsConfig, save
from kinema.sections import InitSection
from kinema.types import ConfigError, InputShape, Preprocessing

HEADS = {"action": ("open", "close", "push")}
INPUTS = {"rgb": InputShape(num_frames=2, channels=3, height_px=32, width_px=32)}
GIVEN = {"mean": MEAN, "std": STD}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, dict[str, str]]:
    """Two backbones, with published weights for one and a file for the other."""
    published = FrameBackbone("resnet18").body.state_dict()
    monkeypatch.setattr("kinema.models.layers.backbone._fetch", lambda library, name: published)
    torch.save(FrameBackbone("tiny").body.state_dict(), tmp_path / "tiny.pt")
    arguments: dict[str, Any] = {"backbones": ("tiny", "resnet18"), "cnn_channels": (4,), "branch_size": 8}
    model = build_model("joint_ensemble", arguments, heads=HEADS, inputs=INPUTS)
    return model, {"tiny": str(tmp_path / "tiny.pt"), "resnet18": "published"}


def test_a_file_beside_published_weights_cannot_expect_other_pixels(beside: tuple[nn.Module, dict[str, str]]) -> None:
    model, weights = beside
    with pytest.raises(ConfigError) as caught:
        initialise(model, InitSection(weights=weights, **GIVEN))
    assert str(caught.value).startswith(
        "init.mean: the published weights of resnet18 expect mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225), "
        f"{weights['tiny']} other pixels; "
    )
    assert "\n" not in str(caught.value)


def test_a_file_beside_published_weights_may_expect_the_same(beside: tuple[nn.Module, dict[str, str]]) -> None:
    model, weights = beside
    done = initialise(model, InitSection(weights=weights, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    assert (done.mean, done.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_what_a_file_beside_published_weights_is_taken_to_expect_is_said(
    beside: tuple[nn.Module, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    model, weights = beside
    done = initialise(model, InitSection(weights=weights))
    assert (done.mean, done.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert f"init.mean and init.std are not given: {weights['tiny']} is taken to expect" in caplog.text


@pytest.mark.parametrize("weights", ["published", {"resnet18": "published"}])
def test_published_weights_bring_their_own(beside: tuple[nn.Module, dict[str, str]], weights: Any) -> None:
    model = build_model("frame_average", {"backbone": "resnet18"}, heads=HEADS, inputs=INPUTS)
    with pytest.raises(ConfigError, match=r"^init\.mean: published weights bring their own; leave init\.mean and"):
        initialise(model, InitSection(weights=weights, **GIVEN))


def test_a_weights_folder_brings_its_own(tmp_path: Path) -> None:
    model = build_model("frame_average", {"backbone": "tiny"}, heads=HEADS, inputs=INPUTS)
    expected = Preprocessing(num_frames=2, size_px=32, resize_px=32, fit="crop", mean=(0.1,) * 3, std=(0.2,) * 3)
    config = WeightsConfig(
        model="frame_average", arguments={"backbone": "tiny"}, heads=HEADS, preprocessing={"rgb": expected}
    )
    save(tmp_path / "weights", model.state_dict(), config, TRAINING, card="")
    with pytest.raises(ConfigError) as caught:
        initialise(model, InitSection(weights=str(tmp_path), **GIVEN))
    where = tmp_path / "weights"
    assert str(caught.value) == f"init.mean: {where} brings its own; leave init.mean and init.std out"


def test_a_model_from_scratch_may_choose_its_normalisation() -> None:
    model = build_model("frame_average", {"backbone": "tiny"}, heads=HEADS, inputs=INPUTS)
    done = initialise(model, InitSection(**GIVEN))
    assert (done.summary, done.mean, done.std) == ("from scratch", MEAN, STD)


def test_an_ensemble_normalises_pixels_itself() -> None:
    members = [{"name": "frame_average", "backbone": "tiny"}]
    expected: dict[str, Any] = {"members": members, "means": [MEAN], "stds": [STD]}
    model = build_model("ensemble", expected, heads=HEADS, inputs=INPUTS)
    with pytest.raises(ConfigError, match=r"^init\.mean: this model normalises pixels itself"):
        initialise(model, InitSection(**GIVEN))
