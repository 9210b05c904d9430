"""Frames that are looked at where it moves: how much they count, and what the maps of that learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.contract import ONE, backward
from torch import Tensor, nn

from kinema.models.build import build_model
from kinema.models.flow_attention import FlowAttention
from kinema.models.freezing import freeze
from kinema.training.losses import auxiliary_loss
from kinema.types import ConfigError, Inputs, InputShape

SMALL: dict[str, Any] = {"backbone": "tiny", "channels": 8, "grid": 8, "flow_channels": 4}


def inputs(*streams: str) -> Inputs:
    channels = {"rgb": 3, "flow_magnitude": 2, "flow": 4}
    return {
        stream: InputShape(num_frames=4, channels=channels[stream], height_px=32, width_px=32) for stream in streams
    }


def build(*streams: str, **more: Any) -> FlowAttention:
    torch.manual_seed(0)
    given = inputs(*(streams or ("rgb", "flow_magnitude")))
    model = build_model("flow_attention", {**SMALL, **more}, heads=ONE, inputs=given)
    assert isinstance(model, FlowAttention)
    return model


def clips() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    magnitude = torch.rand(3, 4, 2, 32, 32, generator=generator) * 4
    magnitude[0, 0] = 0  # nothing moves
    return {"rgb": torch.randn(3, 4, 3, 32, 32, generator=generator), "flow_magnitude": magnitude}


def test_the_loss_of_maps_as_computed_by_hand() -> None:
    model, batch = build(flow_weight=0.5).eval(), clips()
    coarse = nn.functional.avg_pool2d(batch["flow_magnitude"].mean(dim=2), 4)
    largest = coarse.flatten(2).amax(dim=2)[..., None, None]
    away = model.predicted(batch["rgb"]) - torch.where(largest > 0, coarse / largest, torch.zeros(()))
    expected = 0.5 * (away.abs().mean() + (away * away).mean())
    found = auxiliary_loss(model, batch)
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_the_loss_of_maps_does_not_move_running_statistics_again() -> None:
    model, batch = build(), clips()
    model.train()(batch)
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    auxiliary_loss(model, batch)
    assert before
    for name, value in model.named_buffers():
        if name in before:
            assert torch.equal(value, before[name]), name
    model(batch)
    assert not all(torch.equal(value, before[name]) for name, value in model.named_buffers() if name in before)


def test_other_models_and_other_inputs_have_no_such_loss() -> None:
    model, batch = build(), clips()
    assert auxiliary_loss(model, {"rgb": batch["rgb"]}) is None
    assert auxiliary_loss(model, {"features": torch.zeros(1)}) is None
    assert auxiliary_loss(nn.Linear(1, 1), batch) is None


def test_an_answer_needs_frames_alone() -> None:
    model, batch = build().eval(), clips()
    with torch.no_grad():
        both = model(batch)["action"]
        alone = build("rgb").eval()
        alone.load_state_dict(model.state_dict())
        assert torch.equal(both, model({"rgb": batch["rgb"]})["action"])
        assert torch.equal(both, alone({"rgb": batch["rgb"]})["action"])


def test_frames_count_as_their_maps_say_and_not_less_than_half() -> None:
    """A frame whose map is 1 everywhere stays what it is, one whose map is below 0.5 is halved."""
    model, batch = build(least=0.5).eval(), clips()
    seen: list[Tensor] = []
    model.backbone.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    last = model.magnitude[-2]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        for bias in (50.0, -50.0, 1.0):
            last.bias.fill_(bias)
            model(batch)
    frames = batch["rgb"].flatten(0, 1)
    share = float(torch.tensor(1.0).sigmoid())
    for found, factor in zip(seen, (1.0, 0.5, share), strict=True):
        torch.testing.assert_close(found, frames * factor)


@pytest.mark.parametrize("frozen", [False, True])
def test_maps_learn_from_the_classes_too(frozen: bool) -> None:
    """Through a frozen backbone as well, which itself stays as it is."""
    model, batch = build().train(), clips()
    if frozen:
        freeze(model, "backbone")
    backward(model(batch))
    assert all(p.grad is not None and p.grad.any() for p in model.magnitude.parameters())
    assert all((p.grad is None) == frozen for p in model.backbone.parameters())


def test_pairs_are_neighbours() -> None:
    model, batch = build().eval(), clips()["rgb"]
    given: list[Tensor] = []
    model.magnitude.register_forward_pre_hook(lambda _, pair: given.append(pair[0]))
    model.predicted(batch)
    model.predicted(batch[:, :1])
    pairs = given[0].reshape(3, 4, 2, 3, 32, 32)
    order = [(0, 1), (1, 2), (2, 3), (3, 2)]
    for place, (one, other) in enumerate(order):
        assert torch.equal(pairs[:, place, 0], batch[:, one])
        assert torch.equal(pairs[:, place, 1], batch[:, other])
    assert torch.equal(given[1][:, :3], given[1][:, 3:])


@pytest.mark.parametrize(
    ("streams", "arguments", "message"),
    [
        (
            ("rgb", "flow"),
            {},
            r"data\.modality: flow_attention sees one stream, in training beside flow_magnitude, and not rgb",
        ),
        (("flow_magnitude",), {}, r"data\.modality: flow_attention sees one stream"),
        (("rgb",), {"least": 1.0}, r"model\.least: has to be at least 0 and less than 1"),
        (("rgb",), {"flow_weight": -1.0}, r"model\.flow_weight: has to be at least 0"),
        (("rgb",), {"grid": 0}, r"model\.grid: has to be at least 1"),
    ],
)
def test_impossible_settings_are_refused(streams: tuple[str, ...], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(*streams, **arguments)
