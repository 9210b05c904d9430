"""Which arithmetic the features of a frozen backbone are stored in."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import save_file
from tests.commands import Kinema
from tests.videos import numbered_frames, write_video
from torch import Tensor

from kinema.data.loading import ClipReader
from kinema.data.shards import Store
from kinema.models.layers.backbone import Arithmetic, FrameBackbone
from kinema.preparation.feature_store import FeatureFormat
from kinema.training.callbacks import read_checkpoint
from kinema.training.run_folder import Run
from kinema.types import Preprocessing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve clips of two classes."""
    root = tmp_path / "clips"
    for number in range(12):
        path = root / ("jump", "run")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(8, first=10 * number), fps=10)
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """With a frozen backbone."""
    torch.manual_seed(0)
    state = {name: tensor.contiguous() for name, tensor in FrameBackbone("tiny").body.state_dict().items()}
    save_file(state, tmp_path / "tiny.safetensors")
    settings: dict[str, Any] = {
        "data": {"name": "folder", "root": "elsewhere"},
        "clips": {"num_frames": 3, "size_px": 32, "augmentation": {"views": 1}, "workers": 0},
        "model": {"name": "frame_average", "backbone": "tiny"},
        "init": {
            "weights": str(tmp_path / "tiny.safetensors"),
            "freeze": "backbone",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
        "trainer": {"epochs": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings))
    return path


def values(store: Store) -> Tensor:
    return torch.stack([torch.from_numpy(store.get(key).copy()).view(torch.float16).float() for key in sorted(store)])


def test_features_are_prepared_in_the_arithmetic_of_the_recipe(kinema: Kinema, root: Path, recipe: Path) -> None:
    command = ("data", "prepare", "folder", root, "--features", recipe, "--workers", 0)
    stores = {}
    for arithmetic in ("fp32", "bf16", "auto"):
        done = kinema(*command, "--out", arithmetic, f"trainer.runtime.features={arithmetic}")
        assert done.code == 0, done.err
        stores[arithmetic] = Store.open(Path(arithmetic))
    assert [store.settings["arithmetic"] for store in stores.values()] == ["fp32", "bf16", "fp32"]
    exact, rounded = (values(stores[name]) for name in ("fp32", "bf16"))
    assert len(exact) == 12
    difference = float((exact - rounded).abs().max())
    assert 1e-3 < difference / float(exact.abs().max()) < 0.1


def test_a_store_is_of_one_arithmetic(kinema: Kinema, root: Path, recipe: Path) -> None:
    command = ("data", "prepare", "folder", root, "--features", recipe, "--workers", 0, "--out", "s")
    assert kinema(*command).code == 0
    refusal = kinema(*command, "trainer.runtime.features=bf16").error()
    assert "was made with arithmetic = 'fp32', not 'bf16'" in refusal
    train = ("train", recipe, f"data.root={root}", "clips.store=s")
    assert "arithmetic is fp32 there and bf16 here" in kinema(*train, "trainer.runtime.features=bf16").error()
    assert kinema(*train, "output=run").code == 0


def test_auto_is_decided_on_training_clips(
    kinema: Kinema, root: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinema.models.runtime.has_bf16", lambda _device: (True, "this processor"))
    store = ("data", "prepare", "folder", root, "--features", recipe, "--workers", 0, "--out", "s")
    command = (*store, "trainer.runtime.features=auto", "data.validation=0.5")
    assert kinema(*command, "--split", "train").code == 0
    assert Store.open(Path("s")).settings["arithmetic"] == "fp32"  # six clips are too few
    refusal = kinema(*command, "--split", "validation").error()
    assert refusal.startswith("trainer.runtime.features: auto is decided on training clips")


def test_int8_is_what_was_asked_for_and_says_what_it_changes(kinema: Kinema, root: Path, recipe: Path) -> None:
    """A store in int8 is found again by training, and a resumed run computes as it did."""
    settings = ("trainer.runtime.features=int8", "data.validation=0.5")
    store = ("data", "prepare", "folder", root, "--features", recipe, "--workers", 0)
    exact = kinema(*store, "--out", "exact", "data.validation=0.5")
    done = kinema(*store, "--out", "int8", *settings)
    assert exact.code == done.code == 0, done.err
    assert "features in int8, as was asked for: on 6 training clips" in done.out
    arithmetic = Store.open(Path("int8")).settings["arithmetic"]
    assert arithmetic.startswith("int8 ")
    full, rounded = (values(Store.open(Path(name))) for name in ("exact", "int8"))
    assert 1e-3 < float((full - rounded).abs().max() / full.abs().max()) < 0.3
    train = ("train", recipe, f"data.root={root}", *settings)
    trained = kinema(*train, "clips.store=int8", "output=run")
    assert trained.code == 0, trained.err
    assert "train: read as features of the frozen backbone, in fp16, from" in trained.out
    state = read_checkpoint(Run(Path("run")).last_checkpoint)["epoch_state"]
    assert (state["arithmetic"], list(state["ranges"])) == ("int8", [False])
    other = kinema(*store, "--out", "int8", "data.validation=0.5").error()
    assert f"was made with arithmetic = '{arithmetic}', not 'fp32'" in other
    refusal = kinema(*store, "--out", "other", *settings, "--split", "validation").error()
    assert refusal.startswith("trainer.runtime.features: int8 rounds in ranges that are seen on training clips")


def form(arithmetic: Arithmetic = "fp32", decoder: str = "pyav") -> FeatureFormat:
    torch.manual_seed(0)
    backbone = FrameBackbone("tiny")
    backbone.freeze()
    backbone.arithmetic = arithmetic
    squares = Preprocessing(num_frames=3, size_px=32, resize_px=32, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    return FeatureFormat.of(backbone, ClipReader([], {}, {"rgb": squares}, augmentation=None, seed=0, decoder=decoder))


def test_fp32_is_the_same_everywhere_and_less_is_not() -> None:
    assert form().facts["device"] is None
    rounded = form("bf16")
    assert rounded.facts["device"] == "cpu"
    difference = rounded.difference({**rounded.facts, "device": "cuda"})
    assert difference == "device is cuda there and cpu here"


def test_another_major_version_of_ffmpeg_may_give_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "library_versions", {"libavcodec": (62, 3, 100), "libswscale": (9, 1, 100)})
    before = form()
    assert before.decoder == "pyav, libavcodec 62, libswscale 9"
    monkeypatch.setattr(av, "library_versions", {"libavcodec": (62, 28, 102), "libswscale": (9, 5, 102)})
    assert form().difference(before.facts) is None
    monkeypatch.setattr(av, "library_versions", {"libavcodec": (63, 0, 100), "libswscale": (9, 5, 102)})
    assert form().difference(before.facts) == (
        "decoder is pyav, libavcodec 62, libswscale 9 there and pyav, libavcodec 63, libswscale 9 here"
    )


@pytest.mark.parametrize(("name", "own"), [("opencv", "opencv 4.12"), ("torchcodec", "torchcodec 0.17")])
def test_other_decoders_bring_their_own_ffmpeg(name: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"opencv-contrib-python-headless": "4.12.0.88", "torchcodec": "0.17.1"}

    def version(distribution: str) -> str:
        if distribution not in versions:
            raise PackageNotFoundError(distribution)
        return versions[distribution]

    monkeypatch.setattr("importlib.metadata.version", version)
    assert form(decoder=name).decoder.startswith(f"{own}, libswscale ")


def test_a_gpu_does_not_round_what_is_to_be_fp32() -> None:
    cudnn: Any = torch.backends.cudnn
    precision = cudnn.conv
    before, seen = precision.fp32_precision, []

    class Spy(torch.nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            seen.append(precision.fp32_precision)
            return frames.mean(dim=(2, 3))

    backbone = FrameBackbone("tiny")
    backbone.body = Spy()
    frames = torch.zeros(1, 3, 8, 8)
    backbone(frames)
    backbone.freeze()
    backbone.folds = False
    backbone(frames)
    assert seen == [before, "ieee"]
    assert precision.fp32_precision == before
