"""Image networks that end early."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from kinema.models.layers.backbone import FrameBackbone
from kinema.types import ConfigError

# Network, where it is cut, channels of its maps, and how many times smaller than the frame they are.
CUTS = [
    ("mobilenet_v2", "features.13", 96, 16),
    ("mobilenet_v2", "features.9", 64, 16),
    ("resnet18", "layer2", 128, 8),
    ("resnet18", "layer2.0.conv1", 128, 8),
    ("resnet18", "maxpool", 64, 4),
    ("timm/resnet18", "layer3", 256, 16),
    ("timm/mobilenetv2_050", "blocks.2", 16, 8),
    ("efficientnet_b0", "features.4", 80, 16),
    ("tiny", "convolutions.2", 64, 8),
    ("basic_cnn", "convolutions", 128, 16),
]


@pytest.mark.parametrize(("name", "where", "channels", "reduction"), CUTS)
def test_it_gives_what_the_whole_network_has_there(name: str, where: str, channels: int, reduction: int) -> None:
    torch.manual_seed(0)
    whole, cut = FrameBackbone(name).eval(), FrameBackbone(name, cut=where).eval()
    for part in whole.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean)  # type: ignore[arg-type]
    state = whole.body.state_dict()
    assert cut.body.state_dict().keys() < state.keys()
    cut.body.load_state_dict({key: state[key] for key in cut.body.state_dict()})
    seen: list[Tensor] = []
    whole.body.get_submodule(where).register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    frames = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        whole(frames)
        features, maps = cut(frames), cut.maps(frames)
    if name == "basic_cnn":
        assert maps.shape == (2, channels, 4, 4)
    else:
        assert maps.shape == (2, channels, 96 // reduction, 96 // reduction)
        assert cut.map_shape(96) == maps.shape[1:]
    assert cut.num_features == cut.num_map_channels == channels
    torch.testing.assert_close(maps, seen[0], rtol=0, atol=0)
    torch.testing.assert_close(features, seen[0].mean(dim=(2, 3)))


def test_tokens_of_a_vision_transformer_are_averaged() -> None:
    cut = FrameBackbone("timm/vit_tiny_patch16_224", cut="blocks.1").eval()
    assert cut.num_features == 192
    with torch.inference_mode():
        assert cut(torch.randn(2, 3, 224, 224)).shape == (2, 192)


def test_every_parameter_of_a_cut_network_is_trained() -> None:
    cut = FrameBackbone("resnet18", cut="layer2").train()
    torch.autograd.backward(cut(torch.randn(2, 3, 64, 64)).square().sum())
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_a_cut_network_is_in_training_when_it_is_trained() -> None:
    """Stochastic depth and dropout read the mode when they run: it may not be fixed when the network is cut."""
    cut = FrameBackbone("efficientnet_b0", cut="features.3")
    frames = torch.randn(16, 3, 64, 64)
    cut.eval()
    assert torch.equal(cut(frames), cut(frames))
    cut.train()
    for part in cut.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    torch.manual_seed(0)
    assert not torch.equal(cut(frames), cut(frames))
    assert not torch.equal(cut.maps(frames), cut.maps(frames))


def test_maps_of_a_whole_network_follow_its_mode() -> None:
    backbone = FrameBackbone("efficientnet_b0").train()
    frames = torch.randn(4, 3, 32, 32)
    backbone.maps(frames)
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone.maps(frames).mean(dim=(2, 3)), backbone(frames))


def test_frozen_it_answers_as_before() -> None:
    torch.manual_seed(0)
    cut = FrameBackbone("mobilenet_v2", cut="features.13").eval()
    frames = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        features, maps = cut(frames), cut.maps(frames)
    cut.freeze()
    torch.testing.assert_close(cut(frames), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut.maps(frames), maps, rtol=1e-4, atol=1e-5)


def test_published_weights_fit_a_cut_network() -> None:
    published = get_model("mobilenet_v2", weights=None).state_dict()
    own = FrameBackbone("mobilenet_v2", cut="features.13").body.state_dict()
    assert all(published[key].shape == own[key].shape for key in own)


def test_lists_of_blocks_stay_lists() -> None:
    body = FrameBackbone("mobilenet_v2", cut="features.13").body
    features = body.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    assert len(features) == 14


def test_a_store_tells_cuts_apart() -> None:
    """Even where both hold the same weights."""
    names = {FrameBackbone("resnet18", cut=where).name for where in ("bn1", "relu", "maxpool")}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("mobilenet_v2", "features.99", r"mobilenet_v2 has no module 'features\.99'; the nearest are features\.\d"),
        ("resnet18", "layer5", r"resnet18 has no module 'layer5'; the nearest are layer\d, layer\d"),
        ("resnet18", "", r"resnet18 has no module ''; the nearest are .*layer1"),
        ("resnet18", "zzz", r"the nearest are conv1, bn1"),
        ("resnet18", "layer1.0.bn9", r"the nearest are layer1\.0\.bn\d"),
        ("googlenet", "aux1", r"googlenet"),
    ],
)
def test_where_a_network_cannot_be_cut(name: str, where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.backbone_cut: .*{message}") as caught:
        FrameBackbone(name, cut=where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "num_features"), [("basic_cnn", 512), ("flat_cnn", 86_528), ("wide_cnn", 256)])
def test_small_networks_take_frames_of_any_size(name: str, num_features: int) -> None:
    backbone = FrameBackbone(name).eval()
    assert backbone.num_features == num_features
    for size_px in (64, 100, 224):
        assert backbone(torch.randn(1, 3, size_px, size_px)).shape == (1, num_features)


@pytest.mark.parametrize(("name", "grid"), [("basic_cnn", 12), ("flat_cnn", 26)])
def test_at_224_px_the_grid_is_the_map(name: str, grid: int) -> None:
    assert FrameBackbone(name).map_shape(224)[1:] == (grid, grid)


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v3_small", "timm/mobilenetv3_small_050", "resnet18"])
def test_for_maps_alone_nothing_is_kept_behind_them(name: str) -> None:
    torch.manual_seed(0)
    whole, backbone = FrameBackbone(name).eval(), FrameBackbone(name, maps=True).eval()
    state = whole.body.state_dict()
    assert backbone.body.state_dict().keys() <= state.keys()
    backbone.body.load_state_dict({key: state[key] for key in backbone.body.state_dict()})
    frames = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.maps(frames), whole.maps(frames))
        torch.testing.assert_close(backbone(frames), whole.maps(frames).mean(dim=(2, 3)))
    assert backbone.num_features == backbone.num_map_channels == backbone(frames).shape[1]
    torch.autograd.backward(backbone.train().maps(frames).square().sum())
    assert all(parameter.grad is not None for parameter in backbone.parameters())
