"""What every registered model keeps to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import contract
from tests.models.contract import ONE, SEVERAL, THREE, backward, clips
from tests.models.facts import MEAN, STD
from torch import nn

from kinema.models.build import initialise
from kinema.models.freezing import backbones
from kinema.registry import entries
from kinema.sections import InitSection
from kinema.types import Heads

TASKS = pytest.mark.parametrize("heads", [ONE, THREE], ids=["one", "three"])
TINY = {"backbone": "tiny"}
SMALL: dict[str, dict[str, Any]] = {
    "c3d": {"num_hidden": 16},
    "tsm": {"backbone": "timm/mobilenetv2_050"},  # needs blocks to shift in
    "r3d_18": {"num_blocks": 3},
    "mc3_18": {"num_blocks": 3},
    "resnext101_3d": {"divisor": 4},
    "r2plus1d_18": {"num_blocks": 3, "pool": "perceiver", "num_self": 1, "num_queries": 4, "attention_size": 32},
    "joint_ensemble": {"backbones": ["tiny", "tiny"], "cnn_channels": [8, 16], "branch_size": 16},
    "ensemble": {"members": [{"name": "cnn_lstm", "backbone": "tiny"}, {"name": "frame_average", "backbone": "tiny"}]},
    "video_transformer": {"hidden_size": 32, "num_layers": 2, "num_heads": 2},
}
"""Arguments that make a network on clips small."""
FRAME_NAMES = [
    name
    for name, model in entries("model").items()
    if name not in SEVERAL and any(argument.name == "backbone" for argument in model.parameters)
]
LARGE = ("mvit", "swin3d", "s3d", "resnext101_3d")
"""No argument makes them small enough: of these, the contract is in the slow suite."""
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
    for name in entries("model")
    if name not in SEVERAL
]
SHORTEST = {"video_transformer": 2, "s3d": 5}
"""Frames, where one is too few."""


_LAST = "backbone.body.blocks.15.attn"
UNREACHED = {"mvit": (f"{_LAST}.rel_pos", f"{_LAST}.pool_q.pool.weight")}
"""What reaches no answer in the network as published: the answer is the class token's, and of the last block these are
for the queries of the others."""


def frames(name: str) -> int:
    """Of the clips of most tests."""
    return max(4, SHORTEST.get(name, 1))


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


def build(
    name: str, *, heads: Heads = ONE, num_frames: int | None = None, size_px: int = 32, **arguments: Any
) -> nn.Module:
    return contract.build(
        name, {**small(name), **arguments}, heads=heads, num_frames=num_frames or frames(name), size_px=size_px
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_frames", "size_px"), [(1, 32), (4, 32), (9, 32), (4, 64)])
def test_lengths_and_sizes(name: str, num_frames: int, size_px: int) -> None:
    num_frames = max(num_frames, SHORTEST.get(name, 1))
    model = build(name, num_frames=num_frames, size_px=size_px)
    contract.check_answers(model, clips(2, num_frames, size_px), ONE)


@pytest.mark.parametrize("name", NAMES)
def test_several_tasks(name: str) -> None:
    contract.check_answers(build(name, heads=THREE), clips(3, frames(name)), THREE)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_model_is_ready_to_be_trained(name: str) -> None:
    model = build(name)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
@TASKS
def test_gradient_reaches_every_parameter(name: str, heads: Heads) -> None:
    contract.check_gradient(build(name, heads=heads), clips(4, frames(name)), but=UNREACHED.get(name, ()))


@pytest.mark.parametrize("name", NAMES)
@TASKS
def test_half_precision(name: str, heads: Heads) -> None:
    contract.check_half_precision(build(name, heads=heads), clips(3, frames(name)))


@pytest.mark.parametrize("name", NAMES)
def test_forward_makes_no_parameter_and_changes_none(name: str) -> None:
    contract.check_forward_makes_no_parameter_and_changes_none(build(name), clips(2, frames(name)))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_the_paper_says(name: str) -> None:
    assert sum(parameter.numel() for parameter in build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_independent_of_the_batch(name: str) -> None:
    contract.check_evaluation(build(name), clips(5, frames(name)))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_on_in_training_alone(name: str) -> None:
    with_dropout: dict[str, Any] = {"dropout": 0.9}
    if name == "ensemble":
        with_dropout = {"members": [{**member, **with_dropout} for member in SMALL[name]["members"]]}
    model = build(name, **with_dropout)
    batch = clips(4, frames(name))
    first, second = model(batch)["action"], model(batch)["action"]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", FRAME_NAMES)
def test_order_of_frames_matters_where_it_should(name: str) -> None:
    model = build(name).eval()
    batch = clips(3, frames(name))
    with torch.inference_mode():
        forwards, backwards = model(batch)["action"], model({"rgb": batch["rgb"].flip(1)})["action"]
    same = torch.allclose(forwards, backwards, rtol=0, atol=1e-5)
    assert same == (name in BLIND)


@pytest.mark.parametrize("name", NAMES)
@TASKS
def test_saved_and_loaded_it_says_the_same(name: str, heads: Heads, tmp_path: Path) -> None:
    model, folder = build(name, heads=heads), tmp_path / "weights"
    contract.check_round_trip(model, clips(4, frames(name)), folder, name=name, arguments=small(name), heads=heads)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_backbone_stays_as_it_is(name: str, tmp_path: Path) -> None:
    source = build(name)
    source(clips(4, frames(name)))
    files = {}
    for place, part in backbones(source).items():
        files[place] = str(tmp_path / f"{place}.pt")
        torch.save(part.body.state_dict(), files[place])
    model = build(name)
    initialise(model, InitSection(weights=files, mean=MEAN, std=STD, freeze="backbone"))
    frozen = backbones(model)
    before = {key: value.clone() for key, value in model.state_dict().items() if key.startswith((*frozen,))}
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in before.items())
    model.train()
    assert not any(module.training for part in frozen.values() for module in part.body.modules())
    assert not any(parameter.requires_grad for part in frozen.values() for parameter in part.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    old = [parameter.detach().clone() for parameter in trained]
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        backward(model(clips(4, frames(name))))
        assert all(parameter.grad is not None for parameter in trained)
        optimiser.step()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert all(not torch.equal(a, b) for a, b in zip(old, trained, strict=True))
    model.eval()
    model.train()
    assert not any(module.training for part in frozen.values() for module in part.body.modules())


def test_frozen_features_do_not_depend_on_how_many_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build("frame_average").eval()
    frames = clips(9)["rgb"].flatten(0, 1)
    with torch.inference_mode():
        whole = model.backbone(frames)
        model.backbone.freeze()
        for chunk in (1, 7, 36, 100):
            monkeypatch.setattr("kinema.models.layers.backbone._FROZEN_CHUNK", chunk)
            torch.testing.assert_close(model.backbone(frames), whole, rtol=0, atol=1e-5)
