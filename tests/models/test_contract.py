"""What every registered model keeps to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.facts import MEAN, STD, TRAINING
from torch import Tensor, nn

from kinema.models.build import build_model, initialise
from kinema.models.load import load_model
from kinema.models.weights import WeightsConfig, save
from kinema.registry import entries
from kinema.sections import InitSection
from kinema.types import Heads, Inputs, InputShape, Preprocessing

NAMES = list(entries("model"))
ONE: Heads = {"action": ("open", "close", "push")}
TWO: Heads = {"verb": ("open", "close"), "noun": ("door", "box", "jar", "lid")}
TINY = {"backbone": "tiny"}
SMALL: dict[str, dict[str, Any]] = {
    "c3d": {"num_hidden": 16},
    "tsm": {"backbone": "timm/mobilenetv2_050"},  # needs blocks to shift in
    "r2plus1d_18": {"num_blocks": 3, "pool": "perceiver", "num_self": 1, "num_queries": 4, "attention_size": 32},
    "video_transformer": {"hidden_size": 32, "num_layers": 2, "num_heads": 2},
}
"""Arguments that make a network on clips small."""
FRAME_NAMES = [
    name
    for name, model in entries("model").items()
    if any(argument.name == "backbone" for argument in model.parameters)
]
LARGE = ("mvit", "swin3d", "r3d_18", "mc3_18", "s3d", "resnext101_3d")
"""Have no small form yet: that they answer as references do is tested, this contract is not."""
NAMES = [name for name in NAMES if name not in LARGE]
SHORTEST = {"video_transformer": 2}
"""Frames, where one is too few."""


def small(name: str) -> dict[str, Any]:
    return SMALL.get(name, TINY if name in FRAME_NAMES else {})


# Parameters with the backbone tiny, 128 features and the default arguments, and one task of three classes, by hand.
_TINY = (
    sum(9 * a * b + 2 * b for a, b in ((3, 16), (16, 32), (32, 64), (64, 64)))  # convolutions and their batch norms
    + (64 * 4 * 4 * 128 + 128)  # linear layer over the grid
    + 2 * 128  # its batch norm
)
_HEAD = 128 * 3 + 3
PARAMETERS = {
    "frame_average": _TINY + _HEAD,
    "cnn_lstm": _TINY + 4 * 128 * (128 + 128 + 2) + _HEAD,
    "cnn_conv1d": _TINY + (128 * 128 + 128 + 2 * 128) + 4 * (3 * 128 * 128 + 2 * 128) + _HEAD,
}


BLIND = {"frame_average", "frame_class_conv", "frame_max", "tsn"}
"""They cannot see the order of frames."""


def shape(num_frames: int, size_px: int) -> Inputs:
    return {"rgb": InputShape(num_frames=num_frames, channels=3, height_px=size_px, width_px=size_px)}


def build(name: str, *, heads: Heads = ONE, num_frames: int = 4, size_px: int = 32, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, {**small(name), **arguments}, heads=heads, inputs=shape(num_frames, size_px))


def clips(num: int, num_frames: int = 4, size_px: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    return {"rgb": torch.randn(num, num_frames, 3, size_px, size_px, generator=generator)}


def backward(logits: dict[str, Tensor]) -> None:
    """One backward pass, of targets that go through the classes."""
    losses = [
        nn.functional.cross_entropy(values, torch.arange(len(values)) % values.shape[1]) for values in logits.values()
    ]
    torch.autograd.backward(torch.stack(losses).sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_frames", "size_px"), [(1, 32), (4, 32), (9, 32), (4, 64)])
def test_lengths_and_sizes(name: str, num_frames: int, size_px: int) -> None:
    num_frames = max(num_frames, SHORTEST.get(name, 1))
    model = build(name, num_frames=num_frames, size_px=size_px).eval()
    logits = model(clips(2, num_frames, size_px))
    assert {task: tuple(values.shape) for task, values in logits.items()} == {"action": (2, 3)}
    assert torch.isfinite(logits["action"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_several_tasks(name: str) -> None:
    logits = build(name, heads=TWO).eval()(clips(3))
    assert list(logits) == ["verb", "noun"]
    assert {task: tuple(values.shape) for task, values in logits.items()} == {"verb": (3, 2), "noun": (3, 4)}


@pytest.mark.parametrize("name", NAMES)
def test_a_new_model_is_ready_to_be_trained(name: str) -> None:
    model = build(name)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", [ONE, TWO], ids=["one", "two"])
def test_gradient_reaches_every_parameter(name: str, heads: Heads) -> None:
    model = build(name, heads=heads)
    backward(model(clips(4)))
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_forward_makes_no_parameter_and_changes_none(name: str) -> None:
    model = build(name)
    before = {n: parameter.clone() for n, parameter in model.named_parameters()}
    keys = list(model.state_dict())
    model(clips(2))
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert list(model.state_dict()) == keys
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_the_paper_says(name: str) -> None:
    assert sum(parameter.numel() for parameter in build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_independent_of_the_batch(name: str) -> None:
    model = build(name).eval()
    batch = clips(5)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        together = model(batch)["action"]
        assert torch.equal(model(batch)["action"], together)
        for row in range(5):
            alone = model({"rgb": batch["rgb"][row : row + 1]})["action"]
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_on_in_training_alone(name: str) -> None:
    model = build(name, dropout=0.9)
    batch = clips(4)
    first, second = model(batch)["action"], model(batch)["action"]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", FRAME_NAMES)
def test_order_of_frames_matters_where_it_should(name: str) -> None:
    model = build(name).eval()
    batch = clips(3)
    with torch.inference_mode():
        forwards, backwards = model(batch)["action"], model({"rgb": batch["rgb"].flip(1)})["action"]
    same = torch.allclose(forwards, backwards, rtol=0, atol=1e-5)
    assert same == (name in BLIND)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", [ONE, TWO], ids=["one", "two"])
def test_saved_and_loaded_it_says_the_same(name: str, heads: Heads, tmp_path: Path) -> None:
    model = build(name, heads=heads)
    model(clips(4))  # so that batch norm's statistics are not those of a new model
    preprocessing = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
    config = WeightsConfig(model=name, arguments=small(name), heads=heads, preprocessing={"rgb": preprocessing})
    save(tmp_path / "weights", model.state_dict(), config, TRAINING, card="# A model\n")
    loaded, loaded_config = load_model(tmp_path / "weights")
    assert loaded_config == config
    assert not loaded.training
    with torch.inference_mode():
        expected, found = model.eval()(clips(3)), loaded(clips(3))
    assert list(found) == list(expected) == list(heads)
    assert all(torch.equal(found[task], expected[task]) for task in heads)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_backbone_stays_as_it_is(name: str, tmp_path: Path) -> None:
    source = build(name)
    source(clips(4))
    path = tmp_path / "tiny.pt"
    torch.save(source.backbone.body.state_dict(), path)  # type: ignore[union-attr]
    model = build(name)
    initialise(model, InitSection(weights=str(path), mean=MEAN, std=STD, freeze="backbone"))
    backbone: Any = model.backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    model.train()
    assert not any(module.training for module in backbone.body.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    old = [parameter.detach().clone() for parameter in trained]
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        backward(model(clips(4)))
        assert all(parameter.grad is not None for parameter in trained)
        optimiser.step()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert all(not torch.equal(a, b) for a, b in zip(old, trained, strict=True))
    model.eval()
    model.train()
    assert not any(module.training for module in backbone.body.modules())


def test_frozen_features_do_not_depend_on_how_many_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build("frame_average").eval()
    frames = clips(9)["rgb"].flatten(0, 1)
    with torch.inference_mode():
        whole = model.backbone(frames)
        model.backbone.freeze()
        for chunk in (1, 7, 36, 100):
            monkeypatch.setattr("kinema.models.layers.backbone._FROZEN_CHUNK", chunk)
            torch.testing.assert_close(model.backbone(frames), whole, rtol=0, atol=1e-5)
