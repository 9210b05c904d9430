"""Following a stream: what a model says from its state, or from parts of it, is what it says of all the frames."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from tests.models.contract import ONE, build, clips

from kinema.models.build import build_model
from kinema.models.ensemble import Ensemble
from kinema.models.frame_model import FrameModel
from kinema.models.layers.stepping import can_step
from kinema.models.layers.temporal import ConvNet1D
from kinema.models.streaming import frame_parts, streaming
from kinema.models.streams_model import StreamsModel
from kinema.models.tsm import ShiftModel
from kinema.types import InputShape

TINY = {"backbone": "tiny"}
FRAMES = 6

FROM_STATE = [
    ("frame_average", {}),
    ("frame_max", {}),
    ("frame_class_conv", {"channels": 8}),
    ("tsn", {}),
    ("tsn", {"consensus": "max"}),
    ("cnn_rnn", {"hidden_size": 8}),
    ("cnn_gru", {"hidden_size": 8, "num_layers": 2}),
    ("cnn_lstm", {"hidden_size": 8, "bidirectional": False}),
    ("cnn_lstm", {"hidden_size": 8, "bidirectional": False, "pool": "mean", "num_layers": 2}),
    ("cnn_conv_lstm", {"channels": 4}),
    ("cnn_conv_lstm", {"channels": 4, "pool": "max"}),
    ("cnn_lsta", {"channels": 4}),
    ("cnn_conv1d", {"channels": 8, "causal": True}),
    ("cnn_conv1d", {"channels": 8, "causal": True, "num_blocks": 3, "kernel_size": 5, "feature_norm": "batch"}),
    ("frame_statistics", {"segments": 1, "difference_step": 1, "difference_segments": 1}),
]

FROM_WINDOW = [
    ("cnn_conv1d", {"channels": 8}),
    ("cnn_conv1d", {"channels": 8, "causal": True, "feature_norm": "clip"}),
    ("cnn_lstm", {"hidden_size": 8, "bidirectional": True}),
    ("cnn_transformer", {"width": 16, "num_heads": 2, "num_layers": 1}),
    ("frame_statistics", {}),
]


def trained(name: str, arguments: Mapping[str, object], **shape: int) -> torch.nn.Module:
    """A model whose batch norms have seen something, in evaluation."""
    model = build(name, arguments, heads=ONE, num_frames=FRAMES, **shape)
    with torch.no_grad():
        for _ in range(2):
            model.train()(clips(4, FRAMES))
    return model.eval()


@pytest.mark.parametrize(("name", "arguments"), FROM_STATE)
def test_the_state_gives_what_all_frames_so_far_give(name: str, arguments: Mapping[str, object]) -> None:
    model = trained(name, {**TINY, **arguments})
    assert isinstance(model, FrameModel)
    assert streaming(model) == "state"
    with torch.inference_mode():
        features = model.features(clips(2, FRAMES)["rgb"])
        state = None
        for num in range(1, FRAMES + 1):
            logits, state = model.step(features[:, num - 1], state)
            whole = model.classify(features[:, :num])
            assert set(logits) == set(whole) == set(ONE)
            for task, values in whole.items():
                torch.testing.assert_close(logits[task], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "arguments"), FROM_STATE)
def test_the_state_does_not_grow(name: str, arguments: Mapping[str, object]) -> None:
    def num_numbers(state: object) -> int:
        if isinstance(state, torch.Tensor):
            return state.numel()
        parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple | list) else ()
        return sum(num_numbers(part) for part in parts)

    model = trained(name, {**TINY, **arguments})
    assert isinstance(model, FrameModel)
    with torch.inference_mode():
        feature = model.features(clips(1, 1)["rgb"])[:, 0]
        state, sizes = None, []
        for _ in range(12):
            _, state = model.step(feature, state)
            sizes.append(num_numbers(state))
    assert sizes[0] > 0
    assert sizes[-1] == sizes[1]


@pytest.mark.parametrize(("name", "arguments"), FROM_WINDOW)
def test_what_looks_ahead_sees_windows(name: str, arguments: Mapping[str, object]) -> None:
    model = trained(name, {**TINY, **arguments})
    assert streaming(model) == "window"
    assert isinstance(model, FrameModel)
    assert not model.can_step


def test_a_network_of_both_directions_cannot_step() -> None:
    model = trained("cnn_gru", {**TINY, "hidden_size": 8})
    assert isinstance(model, FrameModel)
    assert can_step(model.temporal)
    both = trained("cnn_lstm", {**TINY, "hidden_size": 8, "bidirectional": True})
    assert isinstance(both, FrameModel)
    assert not can_step(both.temporal)


def test_causal_convolutions_do_not_see_what_comes() -> None:
    model = trained("cnn_conv1d", {**TINY, "channels": 8, "causal": True})
    assert isinstance(model, FrameModel)
    hidden = torch.randn(1, 8, 1, FRAMES)
    changed = hidden.clone()
    changed[..., -1] += 1
    with torch.inference_mode():
        assert isinstance(model.temporal, ConvNet1D)
        for block in model.temporal.blocks:
            assert torch.equal(block(hidden)[..., :-1], block(changed)[..., :-1])
            assert not torch.equal(block(hidden)[..., -1], block(changed)[..., -1])


def test_an_online_shift_goes_on_from_its_state() -> None:
    model = trained("tsm", {"backbone": "resnet18", "online": True})
    assert isinstance(model, ShiftModel)
    assert streaming(model) == "state"
    frames = clips(2, FRAMES)["rgb"]
    with torch.inference_mode():
        whole = model({"rgb": frames})["action"]
        state = None
        for frame in frames.unbind(dim=1):
            logits, state = model.step(frame, state)
        torch.testing.assert_close(logits["action"], whole, rtol=1e-4, atol=1e-4)
        # And it is no mean over frames that do not see each other.
        last, _ = model.step(frames[:, -1])
        first, after_first = model.step(frames[:, 0])
        both, _ = model.step(frames[:, -1], after_first)
        assert not torch.allclose(both["action"], (first["action"] + last["action"]) / 2, atol=1e-5)
        assert torch.equal(model({"rgb": frames})["action"], whole)  # clips as before


def test_a_shift_in_both_directions_sees_clips() -> None:
    model = trained("tsm", {"backbone": "resnet18"})
    assert streaming(model) is None
    assert frame_parts(model, ["rgb"]) is None


def test_networks_on_clips_see_clips() -> None:
    assert streaming(trained("conv3d", {})) is None


def test_parts_of_an_ensemble_are_normalised_as_it_does() -> None:
    members = ({"name": "frame_average", **TINY}, {"name": "cnn_conv1d", **TINY, "channels": 8})
    arguments = {
        "members": members,
        "means": ((0.5, 0.5, 0.5), (0.0, 0.0, 0.0)),
        "stds": ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
    }
    model = trained("ensemble", arguments)
    assert isinstance(model, Ensemble)
    assert streaming(model) == "window"
    parts = frame_parts(model, ["rgb"])
    assert parts is not None
    assert [part.stream for part in parts.values()] == ["rgb", "rgb"]
    batch = clips(2, FRAMES)
    with torch.inference_mode():
        found = model.classify_parts({name: part.features(batch[part.stream]) for name, part in parts.items()})
        torch.testing.assert_close(found["action"], model(batch)["action"])


def test_members_of_an_ensemble_see_their_own_streams() -> None:
    torch.manual_seed(0)
    inputs = {
        name: InputShape(num_frames=FRAMES, channels=3, height_px=size, width_px=size)
        for name, size in (("rgb", 32), ("rgb_2", 48))
    }
    arguments = {
        "members": ({"name": "frame_average", **TINY}, {"name": "frame_max", **TINY}),
        "means": ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3)),
        "stds": ((0.5, 0.5, 0.5), (1.0, 2.0, 3.0)),
        "streams": ({"rgb": "rgb"}, {"rgb": "rgb_2"}),
    }
    model = build_model("ensemble", arguments, heads=ONE, inputs=inputs).eval()
    assert isinstance(model, Ensemble)
    batch = {"rgb": torch.rand(1, FRAMES, 3, 32, 32), "rgb_2": torch.rand(1, FRAMES, 3, 48, 48)}
    parts = frame_parts(model, list(inputs))
    assert parts is not None
    assert [part.stream for part in parts.values()] == ["rgb", "rgb_2"]
    with torch.inference_mode():
        found = model.classify_parts({name: part.features(batch[part.stream]) for name, part in parts.items()})
        torch.testing.assert_close(found["action"], model(batch)["action"])


@pytest.mark.parametrize("fusion", ["probabilities", "logits", "features"])
def test_parts_of_two_streams(fusion: str) -> None:
    torch.manual_seed(0)
    inputs = {
        name: InputShape(num_frames=FRAMES, channels=channels, height_px=32, width_px=32)
        for name, channels in (("rgb", 3), ("flow", 4))
    }
    network = {"name": "frame_average", **TINY}
    model = build_model("two_stream", {"network": network, "fusion": fusion}, heads=ONE, inputs=inputs).eval()
    assert isinstance(model, StreamsModel)
    assert streaming(model) == "window"
    batch = {name: torch.rand(2, FRAMES, shape.channels, 32, 32) for name, shape in inputs.items()}
    parts = frame_parts(model, list(inputs))
    assert parts is not None
    with torch.inference_mode():
        found = model.classify_parts({name: part.features(batch[part.stream]) for name, part in parts.items()})
        torch.testing.assert_close(found["action"], model(batch)["action"])
