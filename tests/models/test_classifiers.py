"""The classifier in a file of weights, put where it fits into a model's head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.models.facts import MEAN, STD
from torch import Tensor, nn

from kinema.models.build import build_model, initialise
from kinema.models.matching import load_matching
from kinema.sections import InitSection
from kinema.types import InputShape


def build(
    name: str, num_classes: int | dict[str, int], *, num_frames: int = 2, size_px: int = 32, **arguments: Any
) -> nn.Module:
    classes = num_classes if isinstance(num_classes, dict) else {"action": num_classes}
    heads = {task: tuple(f"class {number}" for number in range(num)) for task, num in classes.items()}
    shape = InputShape(num_frames=num_frames, channels=3, height_px=size_px, width_px=size_px)
    return build_model(name, arguments, heads=heads, inputs={"rgb": shape}).eval()


def settled(network: nn.Module) -> nn.Module:
    """With classifiers that say something: some libraries begin with zeros."""
    torch.manual_seed(3)
    for parameter in network.parameters():
        if parameter.ndim <= 2:
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def answers(model: nn.Module, clips: Tensor) -> Tensor:
    with torch.no_grad():
        said: Tensor = model({"rgb": clips})["action"]
    return said


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18", "swin3d_t"])
def test_a_video_network_answers_as_torchvisions(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    theirs = settled(torchvision.models.get_model(name, weights=None, num_classes=400))
    path = tmp_path / "network.pt"
    torch.save({f"module.{key}": value for key, value in theirs.state_dict().items()}, path)
    model: Any = build(name.removesuffix("_t"), 400, num_frames=4)
    done = initialise(model, InitSection(weights=str(path), mean=MEAN, std=STD))
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2))
    torch.testing.assert_close(answers(model, clips), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    num = len(model.backbone.body.state_dict())
    said = f"and its classifier module.{'head' if name == 'swin3d_t' else 'fc'} as the head"
    assert done.summary == f"{num} of the backbone's {num} tensors from {path}, {said}"


@pytest.mark.parametrize(
    ("backbone", "classifier"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v2", "classifier.1"),
        ("convnext_tiny", "classifier.2"),
        ("timm/resnet18", "fc"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/mobilenetv3_small_050", "classifier"),
    ],
)
@pytest.mark.parametrize("name", ["frame_average", "tsn"])
def test_an_image_network_answers_as_its_librarys(backbone: str, classifier: str, name: str) -> None:
    """The mean of what it says of the frames."""
    torch.manual_seed(0)
    theirs = settled(
        timm.create_model(backbone.removeprefix("timm/"), num_classes=10)
        if backbone.startswith("timm/")
        else torchvision.models.get_model(backbone, weights=None, num_classes=10)
    )
    model = build(name, 10, backbone=backbone, size_px=64)
    loaded = load_matching(model, theirs.state_dict(), source="a file")
    clips = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(clips.flatten(0, 1)).unflatten(0, (2, 2)).mean(dim=1)
    torch.testing.assert_close(answers(model, clips), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert loaded.summary.endswith(f"from a file, and its classifier {classifier} as the head")
    assert loaded.random == []


@pytest.mark.parametrize(
    ("name", "their_name", "key"),
    [("s3d", "s3d", "classifier.1"), ("mvit", "mvit_v2_s", "head.1"), ("video_transformer", None, "classifier")],
)
def test_other_networks_keep_their_classifier(name: str, their_name: str | None, key: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 24, "num_layers": 1, "num_heads": 2} if their_name is None else {}
    model: Any = build(name, 400, num_frames=16, size_px=32, **sizes)
    if their_name is None:
        head = nn.Linear(24, 400)
        state = {**model.backbone.body.state_dict(), f"{key}.weight": head.weight.data, f"{key}.bias": head.bias.data}
    else:
        state = torchvision.models.get_model(their_name, weights=None).state_dict()
    assert f"and its classifier {key} as the head" in load_matching(model, state, source="a file").summary
    linear = model.heads.linear["task_action"]
    assert torch.equal(linear.weight, state[f"{key}.weight"].flatten(1))
    assert torch.equal(linear.bias, state[f"{key}.bias"])


@pytest.mark.parametrize(
    ("name", "classes", "arguments"),
    [
        ("frame_average", 11, {}),
        ("frame_average", {"verb": 10, "noun": 10}, {}),
        ("frame_average", 10, {"head_hidden": (512,)}),
        ("frame_average", 10, {"feature_norm": "batch"}),
        ("frame_average", 10, {"head_norm": "batch"}),
        ("cnn_lstm", 10, {"hidden_size": 512}),
        ("frame_average", 10, {"backbone_cut": "layer4"}),
    ],
)
def test_a_head_that_sees_something_else_stays_as_it_is(
    name: str, classes: int | dict[str, int], arguments: dict[str, Any]
) -> None:
    state = torchvision.models.get_model("resnet18", weights=None, num_classes=10).state_dict()
    model: Any = build(name, classes, backbone="resnet18", **arguments)
    before = {key: value.clone() for key, value in model.heads.state_dict().items()}
    loaded = load_matching(model, state, source="a file")
    assert "(2 not used: fc.weight, fc.bias)" in loaded.summary
    assert all(torch.equal(value, before[key]) for key, value in model.heads.state_dict().items())
    assert any(key.startswith("heads.") for key in loaded.random)


def test_a_network_without_its_last_block_has_no_such_classifier() -> None:
    """The features are as many, but others."""
    cut = build("r2plus1d_18", 10, num_blocks=7)
    state = torchvision.models.get_model("r2plus1d_18", weights=None, num_classes=10).state_dict()
    loaded = load_matching(cut, state, source="a file")
    assert "classifier" not in loaded.summary
    assert {"heads.linear.task_action.weight", "heads.linear.task_action.bias"} <= set(loaded.random)
