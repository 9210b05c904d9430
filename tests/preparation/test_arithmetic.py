"""Which arithmetic the features of a frozen backbone are stored in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.commands import Kinema
from tests.videos import numbered_frames, write_video
from torch import Tensor

from kinema.data.shards import Store
from kinema.models.layers.backbone import FrameBackbone


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
