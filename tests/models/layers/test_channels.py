"""First layers on something else than red, green and blue."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.contract import ONE, SEVERAL, check_gradient
from tests.models.test_contract import LARGE, SHORTEST, small
from torch import nn

from kinema.models.build import build_model
from kinema.models.freezing import backbones
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.channels import adapted, input_channels, set_channels
from kinema.models.matching import load_matching
from kinema.registry import entries
from kinema.types import ConfigError, InputShape

NAMES = [name for name in entries("model") if name not in {"ensemble", *SEVERAL}]


@pytest.mark.parametrize("channels", [2, 10])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in NAMES])
def test_every_model_takes_flow(name: str, channels: int) -> None:
    num_frames = max(4, SHORTEST.get(name, 1))
    inputs = {"flow": InputShape(num_frames=num_frames, channels=channels, height_px=32, width_px=32)}
    torch.manual_seed(0)
    model = build_model(name, small(name), heads=ONE, inputs=inputs)
    clips = torch.randn(2, num_frames, channels, 32, 32)
    with torch.no_grad():
        plain = model.eval()({"flow": clips})["action"]
        clips[:, :, -1] += 10  # every channel is looked at
        other = model({"flow": clips})["action"]
    assert plain.shape == (2, 3)
    assert torch.isfinite(plain).all()
    assert not torch.allclose(plain, other)


def test_gradient_reaches_the_new_layer() -> None:
    inputs = {"flow": InputShape(num_frames=4, channels=2, height_px=32, width_px=32)}
    model = build_model("cnn_lstm", small("cnn_lstm"), heads=ONE, inputs=inputs)
    check_gradient(_Named(model), {"rgb": torch.randn(4, 4, 2, 32, 32)})


class _Named(nn.Module):
    """Takes its stream under the name that the contract gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, streams: dict[str, torch.Tensor]) -> Any:
        return self.model({"flow": streams["rgb"]})


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 10])
def test_a_picture_in_all_channels_is_answered_alike(channels: int) -> None:
    """The layer gives what it gave to a grey picture, in each channel the same."""
    layer = nn.Conv2d(3, 8, 5, bias=False)
    grey = torch.randn(2, 1, 16, 16)
    expected = layer(grey.expand(2, 3, 16, 16))
    weight = adapted(layer.weight, channels, of_colours=False)
    assert weight.shape == (8, channels, 5, 5)
    torch.testing.assert_close(
        nn.functional.conv2d(grey.expand(2, channels, 16, 16), weight), expected, rtol=1e-4, atol=1e-5
    )


def test_stacked_differences_keep_their_colours() -> None:
    layer = nn.Conv2d(3, 8, 5, bias=False)
    frames = torch.randn(2, 3, 16, 16)
    twice = nn.functional.conv2d(torch.cat([frames, frames], dim=1), adapted(layer.weight, 6, of_colours=True))
    torch.testing.assert_close(twice, layer(frames), rtol=1e-4, atol=1e-5)


def test_weights_of_rgb_are_loaded_adapted() -> None:
    rgb, flow = FrameBackbone("resnet18"), FrameBackbone("resnet18")
    set_channels(flow, 2, name="resnet18")
    assert input_channels(flow) == 2
    holder = nn.ModuleDict({"backbone": flow})
    loaded = load_matching(holder, rgb.body.state_dict(), source="rgb.pt")
    assert "the first layer's from RGB to 2 channels" in loaded.summary
    assert not [name for name in loaded.random if "num_batches" not in name]
    expected = rgb.body.get_parameter("conv1.weight").mean(dim=1, keepdim=True) * 1.5
    torch.testing.assert_close(flow.body.get_parameter("conv1.weight"), expected.expand(-1, 2, -1, -1))


def test_stacked_flow_has_no_colours() -> None:
    """Six channels of flow are no two pictures."""
    source = build_model("cnn_lstm", small("cnn_lstm"), heads=ONE, inputs=_inputs("rgb", 3))
    (part,) = backbones(source).values()
    expected = part.body.get_parameter("convolutions.0.0.weight")
    for stream in ("flow", "rgb_difference"):
        model = build_model("cnn_lstm", small("cnn_lstm"), heads=ONE, inputs=_inputs(stream, 6))
        load_matching(model, part.body.state_dict(), source="rgb.pt")
        (own,) = backbones(model).values()
        found = own.body.get_parameter("convolutions.0.0.weight")
        mean = expected.mean(dim=1, keepdim=True).expand(-1, 6, -1, -1) / 2
        torch.testing.assert_close(found, mean if stream == "flow" else torch.cat([expected, expected], dim=1) / 2)


def _inputs(stream: str, channels: int) -> dict[str, InputShape]:
    return {stream: InputShape(num_frames=4, channels=channels, height_px=32, width_px=32)}


def test_new_weights_have_the_deviation_of_the_old() -> None:
    network = FrameBackbone("resnet18")
    before = float(network.body.get_parameter("conv1.weight").detach().std())
    set_channels(network, 10, name="resnet18")
    assert float(network.body.get_parameter("conv1.weight").detach().std()) == pytest.approx(before, rel=0.05)


def test_what_takes_no_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.modality: other takes red, green and blue, and not 2 channels"):
        set_channels(nn.Linear(3, 4), 2, name="other")
