"""`kinema data prepare --features`, and what takes the store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.commands import Kinema
from tests.videos import numbered_frames, write_video

from kinema.data.shards import Store
from kinema.models.layers.backbone import FrameBackbone

NUM = {"train": 8, "validation": 4, "test": 4}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KINEMA_INDEX", str(tmp_path / "index"))
    number = 0
    for split, num in NUM.items():
        for clip in range(num):
            path = tmp_path / "clips" / split / ("jump", "run")[clip % 2] / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, numbered_frames(6, first=20 * number), fps=10)
            number += 1
    return tmp_path / "clips"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(FrameBackbone("tiny").body.state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.fixture
def recipe(tmp_path: Path, root: Path, weights: Path) -> Path:
    values: dict[str, Any] = {
        "data": {"name": "folder", "root": str(root)},
        "clips": {"num_frames": 3, "size_px": 32, "batch_size": 4, "workers": 0, "augmentation": {"views": 2}},
        "model": {"name": "frame_average", "backbone": "tiny"},
        "init": {"weights": str(weights), "mean": [0.5] * 3, "std": [0.5] * 3, "freeze": "backbone"},
        "trainer": {"epochs": 2, "accelerator": "cpu"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


def prepare(root: Path, what: object, *more: object, out: object = "s") -> tuple[object, ...]:
    return ("data", "prepare", "folder", root, "--features", what, "--out", out, "--workers", 0, *more)


def test_training_and_evaluation_take_the_store_of_a_recipe(kinema: Kinema, root: Path, recipe: Path) -> None:
    record = kinema(*prepare(root, recipe, "--json", "-")).json
    assert record["new"] == 2 * NUM["train"] + NUM["validation"] + NUM["test"]
    trained = kinema("train", recipe, "output=run")
    assert trained.code == 0, trained.err
    store = Path("s").absolute()
    for split in ("train", "validation"):
        assert f"{split}: read as features of the frozen backbone, in fp16, from {store}" in trained.out
    assert not (root.parent / "cache" / "features").exists()
    found = {}
    for name, settings in {"named": [f"clips.store={store}"], "auto": [], "none": ["clips.store=none"]}.items():
        answer = kinema("evaluate", "run", *settings, "--json", f"{name}.json")
        assert answer.code == 0, answer.err
        assert ("test: read as features" in answer.out) == (name != "none")
        found[name] = json.loads(Path(f"{name}.json").read_text())["tasks"]["action"]
    assert found["named"] == found["auto"]
    assert found["named"]["loss"] == pytest.approx(found["none"]["loss"], rel=5e-3)


def test_frames_that_nobody_needs_are_not_said_to_be_read(kinema: Kinema, root: Path, recipe: Path) -> None:
    frames = kinema("data", "prepare", "folder", root, "--frames", "--recipe", recipe, "--out", "f", "--workers", 0)
    assert frames.code == 0, frames.err
    computed = kinema("train", recipe, "output=computed")
    assert f"train: all read from frames stored in {Path('f').absolute()}" in computed.out
    known = kinema("train", recipe, "output=known")
    assert "train: read as features" in known.out
    assert "train: all read from frames" not in known.out  # "training", measured without augmentation, is


def test_a_store_of_something_else_is_refused_by_evaluation(kinema: Kinema, root: Path, recipe: Path) -> None:
    assert kinema("train", recipe, "output=run", "trainer.epochs=1", "clips.store=none").code == 0
    assert kinema(*prepare(root, recipe, "clips.num_frames=4", "--split", "test")).code == 0
    assert "num_frames is 4 there and 3 here" in kinema("evaluate", "run", "clips.store=s").error()
    assert kinema(*prepare(root, recipe, "--split", "validation", out="some")).code == 0
    assert (
        "some does not hold the features of all 4 test clips" in kinema("evaluate", "run", "clips.store=some").error()
    )


def test_a_store_that_is_named_is_not_written_to(kinema: Kinema, root: Path, recipe: Path) -> None:
    assert kinema(*prepare(root, recipe, "--split", "train")).code == 0

    def state() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in Path("s").iterdir()}

    before = state()
    for name, computed in (("one", True), ("two", False)):
        answer = kinema("train", recipe, f"output={name}", "clips.store=s", "trainer.epochs=1")
        assert answer.code == 0, answer.err
        assert ("s lacks features of 4 clips" in answer.out) == computed  # the second time they are in the cache
    assert state() == before


def test_a_bare_backbone_and_maps(kinema: Kinema, root: Path, weights: Path, recipe: Path) -> None:
    size = ("--size", 32, "--num-frames", 3)
    record = kinema(*prepare(root, "tiny", "--weights", weights, *size, "--dtype", "fp32", "--json", "-")).json
    assert record["new"] == sum(NUM.values())
    assert record["bytes"] == sum(NUM.values()) * 3 * 128 * 4
    maps = prepare(root, "tiny", "--weights", weights, *size, "--maps", "--split", "test", out="maps")
    assert kinema(*maps).code == 0
    assert Store.open(Path("maps")).settings["shape"] == [3, 64, 2, 2]
    answer = kinema("train", recipe, "output=run", "clips.store=maps")
    assert "maps holds feature maps, which this model does not take; prepare it without --maps" in answer.error()


def test_views_and_shards_are_read_as_one(kinema: Kinema, root: Path, recipe: Path) -> None:
    changed = ("clips.augmentation.views=null", "--split", "train")
    assert "with --views 8" in kinema(*prepare(root, recipe, *changed)).error()
    num_new = []
    for number in (1, 2):
        answer = kinema(*prepare(root, recipe, *changed, "--views", 3, "--shard", f"{number}/2", "--json", "-"))
        num_new.append(answer.json["new"])
        assert f"s: {num_new[-1]} clips will take about" in answer.err
    assert num_new == [12, 12]
    store = Store.open(Path("s"))
    assert len(store) == 24
    assert store.damaged() == []


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("no_such_network", ["--weights", "published"], "no image network 'no_such_network'"),
        ("tiny", [], "--weights: say which weights tiny has"),
        ("tiny", ["--weights", "gone.pt"], "gone.pt"),
        ("tiny", ["--weights", "published"], "nothing is published for 'tiny'"),
    ],
)
def test_what_is_wrong_is_one_line(kinema: Kinema, root: Path, what: str, options: list[str], message: str) -> None:
    assert message in kinema(*prepare(root, what, *options)).error()
    assert not Path("s").exists()


def test_no_room(kinema: Kinema, root: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinema.preparation.room.shutil.disk_usage", lambda _path: SimpleNamespace(free=10_000))
    assert "s: 24 clips take about 18.4 kB and 10 kB are free there" in kinema(*prepare(root, recipe)).error()
    assert not Path("s").exists()
    # Half of it fits: a job looks at its own part.
    assert kinema(*prepare(root, recipe, "--shard", "1/2")).code == 0


@pytest.mark.slow
def test_killed_and_continued(root: Path, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    asked = prepare(root, recipe, "--views", 300, out=folder)
    command = [sys.executable, "-m", "kinema.cli.main", *map(str, asked)]
    num_clips = 300 * NUM["train"] + NUM["validation"] + NUM["test"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while process.poll() is None and not sum(path.stat().st_size for path in folder.glob("*.idx")):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_kept = len(Store.open(folder))
    assert 0 < num_kept < num_clips
    done = subprocess.run([*command, "--json", "-"], env=os.environ, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert (record["before"], record["new"]) == (num_kept, num_clips - num_kept)
    store = Store.open(folder)
    assert (len(store), store.damaged()) == (num_clips, [])
    assert (folder / "1-of-1.idx").stat().st_size == num_clips * 64
