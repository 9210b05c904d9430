"""Image networks of two libraries, and our own, as frame backbones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD, FrameBackbone
from kinema.models.layers.int8 import observe
from kinema.types import ConfigError, DataError

NETWORKS = {
    "tiny": (128, 32),
    "mobilenet_v2": (1280, 64),
    "resnet18": (512, 64),
    "efficientnet_b0": (1280, 64),
    "shufflenet_v2_x0_5": (1024, 64),
    "mobilenet_v3_small": (1024, 64),  # its classifier has a hidden layer, which stays
    "googlenet": (1024, 64),  # has classifiers on the way, in training
    "regnet_y_400mf": (440, 64),
    "torchvision/resnet18": (512, 64),
    "timm/resnet18": (512, 64),
    "resnet10t": (512, 64),
    "mobilenetv3_small_050": (1024, 64),  # wider behind its last convolution than its feature map
    "lcnet_050": (1280, 64),
    "vit_tiny_patch16_224": (192, 224),
    "test_resnet.r160_in1k": (96, 64),
}


@pytest.mark.parametrize(("name", "num_features", "size_px"), [(name, *facts) for name, facts in NETWORKS.items()])
def test_features_in_both_modes(name: str, num_features: int, size_px: int) -> None:
    backbone = FrameBackbone(name)
    assert backbone.num_features == num_features
    frames = torch.randn(2, 3, size_px, size_px)
    assert backbone.train()(frames).shape == (2, num_features)
    with torch.inference_mode():
        assert backbone.eval()(frames).shape == (2, num_features)


@pytest.mark.parametrize(("name", "num_features"), [("vit_b_16", 768), ("swin_t", 768), ("convnext_tiny", 768)])
def test_features_of_large_networks(name: str, num_features: int) -> None:
    with torch.device("meta"):
        backbone = FrameBackbone(name)
        assert backbone(torch.randn(2, 3, 224, 224)).shape == (2, num_features)
    assert backbone.num_features == num_features


def test_libraries_of_a_name() -> None:
    assert FrameBackbone("resnet18").library == "torchvision"
    assert FrameBackbone("torchvision/resnet18").library == "torchvision"
    assert FrameBackbone("timm/resnet18").library == "timm"
    assert FrameBackbone("resnet10t").library == "timm"
    assert FrameBackbone("tiny").library == "kinema"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", r"^model\.backbone: no image network 'resnet_18'; did you mean 'resnet18'\?$"),
        ("torchvision/resnet10t", r"^model\.backbone: no image network 'torchvision/resnet10t'"),
        ("timm/tiny", r"^model\.backbone: no image network 'timm/tiny'"),
        ("squeezenet1_0", r"^model\.backbone: 'squeezenet1_0' does not end in one linear layer"),
        ("r2plus1d_18", r"^model\.backbone: no image network 'r2plus1d_18'"),
        ("", r"^model\.backbone: no image network ''"),
    ],
)
def test_what_is_no_backbone_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrameBackbone(name)


def test_the_classifier_is_gone_and_its_keys_are_torchvisions() -> None:
    body = FrameBackbone("mobilenet_v3_small").body
    whole = get_model("mobilenet_v3_small", weights=None)
    expected = {key for key in whole.state_dict() if not key.startswith("classifier.3.")}
    assert set(body.state_dict()) == expected


def test_features_are_what_the_classifier_would_have_seen() -> None:
    torch.manual_seed(0)
    whole = get_model("resnet18", weights=None).eval()
    backbone = FrameBackbone("resnet18").eval()
    backbone.body.load_state_dict(whole.state_dict(), strict=False)
    frames = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(whole.fc(backbone(frames)), whole(frames), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_v2_l", "inception_v3"])
def test_normalisation_is_that_of_torchvisions_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of efficientnet_v2_l alone torchvision's pixels are scaled differently; building it takes seconds.
    monkeypatch.setattr("kinema.models.layers.backbone._build", lambda _: ("torchvision", torch.nn.Identity(), 1, None))
    backbone = FrameBackbone(name)
    preset = get_model_weights(name).DEFAULT.transforms()
    assert (backbone.mean, backbone.std) == (tuple(preset.mean), tuple(preset.std))


def test_normalisation_is_that_of_timms_weights() -> None:
    vit = FrameBackbone("vit_tiny_patch16_224")
    assert (vit.mean, vit.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tiny = FrameBackbone("tiny")
    assert (tiny.mean, tiny.std) == (IMAGENET_MEAN, IMAGENET_STD)


# Published weights


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision keeps what it has downloaded, empty, without a network to fill it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", _no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _no_network(*_: object, **__: object) -> object:
    raise OSError("no network in tests")


def _file_name(name: str) -> str:
    return str(get_model_weights(name).DEFAULT.url).rpartition("/")[2]


def test_published_weights_are_taken_from_torchvisions_folder(checkpoints: Path) -> None:
    torch.manual_seed(1)
    published = get_model("mobilenet_v2", weights=None).state_dict()
    torch.save(published, checkpoints / _file_name("mobilenet_v2"))
    found = FrameBackbone("mobilenet_v2").published_weights()
    assert found.keys() == published.keys()
    assert all(torch.equal(found[key], published[key]) for key in published)


def test_published_weights_that_cannot_be_fetched(checkpoints: Path) -> None:
    with pytest.raises(
        DataError, match=r"the published weights of 'resnet18' cannot be fetched .*init\.weights=FILE"
    ) as caught:
        FrameBackbone("resnet18").published_weights()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02}q\x00."])
def test_a_broken_file_in_torchvisions_folder(checkpoints: Path, content: bytes) -> None:
    (checkpoints / _file_name("resnet18")).write_bytes(content)
    with pytest.raises(DataError, match="the published weights of 'resnet18' cannot be fetched") as caught:
        FrameBackbone("resnet18").published_weights()
    assert "\n" not in str(caught.value)


class _Planted:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.system, ("touch planted",))


def test_code_in_torchvisions_folder_is_not_run(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Planted()}, checkpoints / _file_name("resnet18"))
    with pytest.raises(DataError, match="cannot be fetched"):
        FrameBackbone("resnet18").published_weights()
    assert not (tmp_path / "planted").exists()


def test_timms_published_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without this the Hub's client tries for three quarters of a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="the published weights of 'timm/resnet18' cannot be fetched") as caught:
        FrameBackbone("timm/resnet18").published_weights()
    assert "\n" not in str(caught.value)


def test_nothing_is_published_for_our_own() -> None:
    with pytest.raises(ConfigError, match=r"^init\.weights: nothing is published for 'tiny'"):
        FrameBackbone("tiny").published_weights()


def test_every_image_network_of_torchvision_has_published_weights() -> None:
    zoo = torchvision.models.list_models(module=torchvision.models)
    assert len(zoo) >= 80
    assert all(hasattr(get_model_weights(name), "DEFAULT") for name in zoo)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("tiny", 64), ("mobilenet_v2", 1280), ("resnet18", 512), ("efficientnet_b0", 1280), ("timm/resnet18d", 512)],
)
def test_maps_are_what_is_averaged(name: str, channels: int) -> None:
    backbone = randomised(name)
    frames = torch.randn(2, 3, 96, 64)
    backbone.freeze()
    with torch.no_grad():
        maps = backbone.maps(frames)
        assert maps.shape == (2, channels, *((6, 4) if name == "tiny" else (3, 2)))
        features = backbone(frames)
        pooled = backbone.body.project(backbone.body.grid(maps)) if name == "tiny" else maps.mean(dim=(2, 3))  # type: ignore[operator]
    torch.testing.assert_close(pooled, features, rtol=1e-4, atol=1e-5)


def test_maps_of_a_backbone_that_trains_have_a_gradient() -> None:
    backbone = FrameBackbone("mobilenet_v2").train()
    torch.autograd.backward(backbone.maps(torch.randn(2, 3, 64, 64)).sum())
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert backbone.body.training


@pytest.mark.parametrize("name", ["vit_b_16", "timm/vit_tiny_patch16_224"])
def test_a_network_without_maps_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"has no feature maps; take a convolutional network"):
        FrameBackbone(name).maps(torch.randn(1, 3, 224, 224))


def randomised(name: str) -> FrameBackbone:
    """A backbone whose batch norm has statistics, as if it had been trained."""
    torch.manual_seed(0)
    backbone = FrameBackbone(name).eval()
    for part in backbone.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.1)
            assert part.running_var is not None
            part.running_var.uniform_(0.5, 2)
    return backbone


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2", "resnet18", "timm/efficientnet_b0"])
def test_a_frozen_backbone_answers_as_before(name: str) -> None:
    backbone = randomised(name)
    frames = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(frames)
    names = list(backbone.state_dict())
    backbone.freeze()
    for settings in ({}, {"folds": False}, {"micro_batch": 3}):
        for key, value in settings.items():
            setattr(backbone, key, value)
        torch.testing.assert_close(backbone(frames), expected, rtol=1e-4, atol=1e-4)
    assert list(backbone.state_dict()) == names


def test_a_frozen_backbone_follows_its_weights() -> None:
    backbone, other = randomised("resnet18"), FrameBackbone("resnet18").eval()
    frames = torch.randn(2, 3, 64, 64)
    backbone.freeze()
    before = backbone(frames)
    backbone.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(backbone(frames), other(frames), rtol=1e-4, atol=1e-4)
        next(backbone.parameters()).zero_()
    assert not torch.equal(backbone(frames), before)
    assert backbone.double()(frames.double()).dtype == torch.float64


def test_arithmetic_of_a_frozen_backbone() -> None:
    backbone = randomised("resnet18")
    backbone.freeze()
    frames = torch.randn(2, 3, 64, 64)
    exact = backbone(frames)
    backbone.arithmetic = "bf16"
    rounded = backbone(frames)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("name", "of_maps"), [("mobilenet_v2", False), ("mobilenet_v2", True), ("timm/resnet10t", False), ("tiny", False)]
)
def test_int8_is_near_and_the_same_for_the_same_frames(name: str, of_maps: bool) -> None:
    backbone = randomised(name)
    backbone.freeze()
    frames = torch.randn(8, 3, 64, 64)

    def run() -> Tensor:
        return backbone.maps(frames) if of_maps else backbone(frames)

    exact = run()
    backbone.observe([frames[:4], frames[4:]], of_maps=of_maps)
    ranges = backbone.ranges[of_maps]
    assert ranges
    assert torch.equal(run(), exact)  # not before it is asked for
    backbone.arithmetic = "int8"
    rounded = run()
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert nn.functional.cosine_similarity(rounded.flatten(1), exact.flatten(1)).min() > 0.9
    assert torch.equal(run(), rounded)
    backbone.observe([frames * (1 + 1e-6)], of_maps=of_maps)
    assert backbone.ranges[of_maps] == ranges


def test_int8_needs_a_network_that_can_be_traced() -> None:
    class Branching(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            return frames.mean((2, 3)) if frames.sum() > 0 else frames.amax((2, 3))

    with pytest.raises(ConfigError, match=r"tiny cannot compute in int8.*take bf16 or fp32"):
        observe(Branching(), [torch.zeros(1, 3, 8, 8)], name="tiny")


def test_a_frozen_backbone_answers_the_same_under_autocast() -> None:
    backbone = randomised("mobilenet_v2")
    backbone.freeze()
    frames = torch.randn(2, 3, 64, 64)
    expected = backbone(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(backbone(frames), expected)
