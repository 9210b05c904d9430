"""`kinema data prepare --features`, as it is typed, and training on what it made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands import Kinema
from tests.videos import numbered_frames, write_video

from kinema.data.shards import Store


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "clips"
    for number in range(6):
        path = root / ("jump", "run")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(8, first=10 * number), fps=10, codec="mpeg4")
    return root


@pytest.fixture
def recipe(tmp_path: Path, root: Path) -> Path:
    values: dict[str, Any] = {
        "data": {"name": "folder", "root": str(root)},
        "clips": {"num_frames": 3, "size_px": 32, "workers": 0, "batch_size": 3, "augmentation": {"views": 2}},
        "model": {"name": "frame_average", "backbone": "tiny"},
        "init": {"freeze": "backbone"},
        "trainer": {"epochs": 1, "accelerator": "cpu"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


def test_features_are_stored_by_shards_and_trained_on(kinema: Kinema, root: Path, recipe: Path) -> None:
    command = ("data", "prepare", "folder", root, "--out", "f", "--features", recipe, "--workers", 0)
    first = kinema(*command, "--shard", "1/2", "--json", "-").json
    second = kinema(*command, "--shard", "2/2", "--json", "-").json
    assert (first["new"], second["new"]) == (6, 6)  # two versions of six clips
    assert len(list(Store.open(Path("f")).keys())) == 12
    assert kinema(*command, "--shard", "2/2", "--json", "-").json["new"] == 0
    assert kinema("data", "check", "f").code == 0
    done = kinema("train", recipe, "clips.store=f", "output=run")
    assert done.code == 0, done
    said = done.out + done.err
    assert "clips are read as features of the frozen backbone, from " in said
    assert len(list(Store.open(Path("f")).keys())) == 12


def test_what_cannot_be_stored(kinema: Kinema, root: Path, recipe: Path) -> None:
    start = ("data", "prepare", "folder", root, "--out", "f", "--workers", 0, "--features")
    assert "--weights: say which weights tiny has" in kinema(*start, "tiny").error()
    assert "init.freeze" in kinema(*start, recipe, "init.freeze=null").error()
    assert "--views 8" in kinema(*start, recipe, "clips.augmentation.views=null").error()
    assert "none.pt" in kinema(*start, "mobilenet_v2", "--weights", "none.pt").error()
    assert "resnet_99" in kinema(*start, "resnet_99", "--weights", "none.pt").error()
    assert not Path("f").exists()


def test_other_settings_need_another_store(kinema: Kinema, root: Path, recipe: Path) -> None:
    start = ("data", "prepare", "folder", root, "--out", "f", "--workers", 0, "--features", recipe)
    assert kinema(*start).code == 0
    before = sorted(Store.open(Path("f")).keys())
    assert kinema(*start, "--dtype", "fp32").error()
    assert kinema(*start, "clips.num_frames=2").error()
    assert kinema(*start, "--maps").error()
    assert sorted(Store.open(Path("f")).keys()) == before
