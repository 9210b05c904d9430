"""`init.weights: published`, loaded by each library from where it keeps and fetches what it publishes. The files there
are made up, and no other machine is asked."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.loopback import Site, serving, whole
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from kinema.models.build import build_model, initialise
from kinema.sections import InitSection
from kinema.types import DataError, InputShape

HEADS = {"action": ("open", "close", "push")}
COMMIT = "0" * 40


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    shape = InputShape(num_frames=4, channels=3, height_px=32, width_px=32)
    return build_model(name, arguments, heads=HEADS, inputs={"rgb": shape})


def random(network: nn.Module) -> nn.Module:
    """No tensor is what a new network of the same kind has."""
    torch.manual_seed(9)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + 0.1)
    return network.eval()


def content(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


class Planted:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.system, ("touch planted",))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache of the Hugging Face Hub, as `HF_HOME` names one, without a network behind it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def publish(hub: Path, repository: str) -> Path:
    """The folder where files of a repository are, in the layout of the Hub's own client."""
    place = hub / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    folder = place / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


# timm


def of_timm(name: str) -> tuple[Any, str]:
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    return random(timm.create_model(name, pretrained=False)), config.hf_hub_id


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_of_timm(hub: Path, file: str) -> None:
    network, repository = of_timm("mobilenetv3_small_050")
    state, path = network.state_dict(), publish(hub, repository) / file
    path.write_bytes(safetensors.torch.save(state) if path.suffix == ".safetensors" else content(state))
    model = build("frame_average", backbone="timm/mobilenetv3_small_050")
    done = initialise(model, InitSection(weights="published"))
    loaded = model.backbone.body.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    assert done.summary.startswith(f"{len(loaded)} of the backbone's {len(loaded)} tensors from published")
    assert (done.mean, done.std) == (network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    frames = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(frames), pre_logits=True)
        torch.testing.assert_close(model.eval().backbone(frames), expected)


def test_of_timm_for_a_cut_network_and_with_its_own_normalisation(hub: Path) -> None:
    network, repository = of_timm("test_resnet.r160_in1k")
    safetensors.torch.save_file(network.state_dict(), publish(hub, repository) / "model.safetensors")
    model = build("cnn_conv_lstm", backbone="timm/test_resnet.r160_in1k", backbone_cut="layer2", channels=4)
    done = initialise(model, InitSection(weights="published", freeze="backbone"))
    loaded, state = model.backbone.body.state_dict(), network.state_dict()
    assert 0 < len(loaded) < len(state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    assert done.mean == network.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)


def test_code_in_what_timm_would_load_is_not_run(hub: Path) -> None:
    network, repository = of_timm("mobilenetv3_small_050")
    planted = {**network.state_dict(), "conv_stem.weight": Planted()}
    (publish(hub, repository) / "pytorch_model.bin").write_bytes(content(planted))
    with pytest.raises(DataError, match="the published weights of 'timm/mobilenetv3_small_050' cannot be fetched"):
        initialise(build("frame_average", backbone="timm/mobilenetv3_small_050"), InitSection(weights="published"))
    assert not Path("planted").exists()


# torchvision


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        yield made


@pytest.mark.parametrize(
    ("name", "reference", "arguments"),
    [
        ("frame_average", "mobilenet_v3_small", {"backbone": "mobilenet_v3_small"}),
        ("mc3_18", "mc3_18", {"num_blocks": 2}),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_torchvision_fetches_and_checks_its_hash(
    name: str,
    reference: str,
    arguments: dict[str, Any],
    is_whole: bool,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state: dict[str, Tensor] = random(get_model(reference, weights=None)).state_dict()
    file = content(state)
    digest = hashlib.sha256(file if is_whole else file + b"more").hexdigest()[:8]
    site.pages[f"/weights-{digest}.pth"] = whole(file)
    monkeypatch.setattr(get_model_weights(reference).DEFAULT.value, "url", f"{site.url}/weights-{digest}.pth")
    model = build(name, **arguments)
    kept = tmp_path / "hub" / "checkpoints" / f"weights-{digest}.pth"
    if not is_whole:
        with pytest.raises(DataError, match=f"published weights of '{reference}' cannot be fetched .invalid hash"):
            initialise(model, InitSection(weights="published"))
        assert not kept.exists()
        return
    initialise(model, InitSection(weights="published"))
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.body.state_dict().items())
    assert kept.read_bytes() == file
    initialise(build(name, **arguments), InitSection(weights="published"))
    assert len(site.asked) == 1


# transformers

DEFAULTS = {
    "videomae": "MCG-NJU/videomae-base-finetuned-kinetics",
    "timesformer": "facebook/timesformer-base-finetuned-k400",
    "vivit": "google/vivit-b-16x2-kinetics400",
    "vjepa2": "facebook/vjepa2-vitl-fpc16-256-ssv2",
}
SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 2}


def of_transformers(architecture: str) -> Any:
    """The library's own classifier of seven classes, of the size that `build` makes."""
    import transformers

    config = build("video_transformer", architecture=architecture, **SMALL).backbone.body.config
    config.num_labels = 7
    classifiers: Any = transformers.AutoModelForVideoClassification
    return random(classifiers.from_config(config))


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_of_transformers(hub: Path, architecture: str) -> None:
    network = of_transformers(architecture)
    network.save_pretrained(publish(hub, DEFAULTS[architecture]))
    model = build("video_transformer", architecture=architecture, **SMALL)
    done = initialise(model, InitSection(weights="published", freeze="backbone"))
    state, loaded = network.state_dict(), model.backbone.body.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    assert done.summary.startswith(f"{len(loaded)} of the backbone's {len(loaded)} tensors from published")
    clips = torch.rand(1, 4, 3, 32, 32)
    with torch.inference_mode():
        features = model.eval().backbone(clips.transpose(1, 2))
        torch.testing.assert_close(network.classifier(features), network(clips).logits, rtol=0, atol=1e-5)


def test_of_transformers_where_there_is_only_the_older_kind_of_file(hub: Path) -> None:
    network = of_transformers("videomae")
    folder = publish(hub, DEFAULTS["videomae"])
    network.config.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(content(network.state_dict()))
    model = build("video_transformer", **SMALL)
    initialise(model, InitSection(weights="published"))
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.body.state_dict().items())


def test_code_in_what_transformers_would_load_is_not_run(hub: Path) -> None:
    network = of_transformers("videomae")
    folder = publish(hub, DEFAULTS["videomae"])
    network.config.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(content({**network.state_dict(), "fc_norm.weight": Planted()}))
    with pytest.raises(DataError, match=r"the published weights of .* cannot be fetched") as caught:
        initialise(build("video_transformer", **SMALL), InitSection(weights="published"))
    assert "\n" not in str(caught.value)
    assert not Path("planted").exists()
