"""Models of several streams that are no choice of networks: the contract of all models, and what each stream is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import contract
from tests.models.contract import ONE, SEVERAL, THREE
from tests.models.test_two_stream import clips, inputs
from torch import nn

from kinema.models.build import build_model
from kinema.models.fused_model import FusedModel
from kinema.registry import entries
from kinema.types import ConfigError, Heads

MODELS: dict[str, dict[str, Any]] = {
    "two_stream_conv_lstm": {"backbone": "tiny", "channels": 8},
    "two_stream_cross_task": {
        "backbone": "tiny",
        "windows": [2, 4],
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
        "branch_width": 16,
        "head_hidden": [],
    },
}


def build(name: str, heads: Heads = ONE, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, {**MODELS[name], **more}, heads=heads, inputs=inputs())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("heads", [ONE, THREE], ids=["one", "three"])
def test_contract(name: str, heads: Heads, tmp_path: Path) -> None:
    contract.check_answers(build(name, heads), clips(3), heads)
    contract.check_forward_makes_no_parameter_and_changes_none(build(name, heads), clips(3))
    contract.check_evaluation(build(name, heads), clips(3))
    contract.check_gradient(build(name, heads), clips(4))
    contract.check_half_precision(build(name, heads), clips(3))
    contract.check_round_trip(
        build(name, heads), clips(4), tmp_path / "weights", name=name, arguments=MODELS[name], heads=heads
    )


@pytest.mark.parametrize("name", MODELS)
def test_each_stream_and_the_order_count(name: str) -> None:
    model, batch = build(name).eval(), clips(3)
    with torch.no_grad():
        plain = model(batch)["action"]
        for stream in batch:
            assert not torch.allclose(plain, model({**batch, stream: batch[stream].flip(0)})["action"]), stream
        backwards = model({stream: frames.flip(1) for stream, frames in batch.items()})["action"]
    assert not torch.allclose(plain, backwards, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_of_the_second_network_the_backbone_is_kept_alone(name: str) -> None:
    model = build(name)
    assert isinstance(model, FusedModel)
    others = {key for key, _ in model.networks["flow"].named_parameters() if not key.startswith("backbone.")}
    assert not others


@pytest.mark.parametrize("name", MODELS)
def test_one_stream_is_too_few(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} fuses several streams, and there is one"):
        build_model(name, MODELS[name], heads=ONE, inputs={"rgb": inputs()["rgb"]})


def test_none_is_left_out() -> None:
    assert {*MODELS, "two_stream"} == SEVERAL <= set(entries("model"))
