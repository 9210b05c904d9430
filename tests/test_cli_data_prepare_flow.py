"""`kinema data prepare --flow`, and recipes that read motion, on the command line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.commands import Kinema
from tests.videos import write_video

from kinema.data.decoding import probe
from kinema.data.reading import read_clip
from kinema.data.shards import Store
from kinema.data.sources import clip_reader
from kinema.preprocessing import make_preprocessing
from kinema.sections import ClipsSection
from kinema.types import Clip

SECTION: dict[str, Any] = {"num_frames": 4, "size_px": 32, "motion": {"bound_px": 8}}
RECIPE: dict[str, Any] = {
    "data": {"name": "folder", "root": "elsewhere", "modality": "flow"},
    "clips": {**SECTION, "workers": 0, "batch_size": 4, "augmentation": {"views": 2, "preset": "none", "flip": 0.5}},
    "model": {"name": "cnn_conv1d", "backbone": "tiny"},
    "trainer": {"epochs": 1},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A square that goes to the left or to the right, and one still image."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "clips"
    rng = np.random.default_rng(0)
    for number in range(6):
        path = root / ("left", "right")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = []
        patch = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        for step in range(12):
            frame = np.full((48, 64, 3), 90, dtype=np.uint8)
            left = 4 + 3 * (step if number % 2 else 11 - step)
            frame[16:32, left : left + 16] = patch
            frames.append(frame)
        write_video(path, frames, fps=30)
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RECIPE))
    return path


def test_flow_is_stored_once_and_read(kinema: Kinema, root: Path) -> None:
    command = ("data", "prepare", "folder", root, "--out", "stores/flow", "--flow", "dis", "--bound", 8, "--size", 32)
    answer = kinema(*command, "--num-frames", 4, "--workers", 0, "--json", "-")
    assert answer.code == 0
    record = answer.json
    assert (record["new"], record["bytes"]) == (6, 6 * 4 * 2 * 32 * 32)
    again = kinema(*command, "--num-frames", 4, "--workers", 0, "--json", "-").json
    assert (again["before"], again["new"]) == (6, 0)
    motion = Store.open(Path("stores/flow"), kind="frames").settings["motion"]
    assert (motion["modality"], motion["method"], motion["bound_px"], motion["stack"]) == ("flow", "dis", 8, 1)
    other = kinema(*command[:-3], 4, *command[-2:], "--num-frames", 4, "--workers", 0)
    assert "was made with motion" in other.error()

    videos = {path: probe(path) for path in sorted(root.rglob("*.mp4"))}
    clips = [Clip(clip_id=path.stem, video=path) for path in videos]
    section = ClipsSection.model_validate({**SECTION, "store": Path("stores/flow")})
    wanted = make_preprocessing(section, "flow", mean=(0.5,) * 3, std=(0.5,) * 3)
    reader = clip_reader(section, clips, videos, {"flow": wanted}, root=root)
    assert reader.store is not None
    for index, clip in enumerate(clips):
        out = np.empty((4, 2, 32, 32), dtype=np.uint8)
        assert reader.store.read(index, 0, out) is not None
        assert np.array_equal(out, read_clip(clip, videos[clip.video], wanted).numpy())
        assert out[:, 0].min() < 120 or out[:, 0].max() > 136


def test_a_recipe_of_flow_takes_its_store(kinema: Kinema, root: Path, recipe: Path) -> None:
    """Random versions too; and it trains, is evaluated and used."""
    stored = kinema("data", "prepare", "folder", root, "--out", "s", "--frames", "--recipe", recipe, "--workers", 0)
    assert stored.code == 0, stored.err
    answer = kinema("train", recipe, f"data.root={root}", "data.validation=0.34", "output=run", "clips.store=s")
    assert answer.code == 0, answer.err
    assert "train: all read from frames stored in" in answer.out
    config = json.loads(Path("run/weights/config.json").read_text())
    assert config["preprocessing"]["flow"]["motion"]["bound_px"] == 8
    evaluated = kinema("evaluate", "run", "--split", "validation", "--json", "-")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json["num_clips"] == 2
    in_order = kinema("evaluate", "run", "--split", "validation", "--time-test", "--json", "-")
    assert in_order.code == 0, in_order.err
    assert in_order.json["moving"] == ["flow"]
    assert in_order.json["time"].keys() == {"reversed", "shuffled", "still"}
    refused = kinema("evaluate", "run", "data.modality=rgb")
    assert "data.modality: belongs to the weights" in refused.error()
    said = kinema("predict", "run/weights", root / "left" / "0.mp4", "--json", "-")
    assert said.code == 0, said.err


def test_a_recipe_of_flow_is_for_other_data_as_well(kinema: Kinema, root: Path, recipe: Path) -> None:
    """What is seen of a clip is the recipe's, whichever data set is named."""
    rows = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.mp4"))]
    (root / "clips.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    stored = kinema("data", "prepare", "table", root, "--out", "s", "--frames", "--recipe", recipe, "--workers", 0)
    assert stored.code == 0, stored.err
    motion = Store.open(Path("s"), kind="frames").settings["motion"]
    assert (motion["modality"], motion["bound_px"]) == ("flow", 8)


def test_a_store_of_something_else_is_not_taken_for_it(kinema: Kinema, root: Path, recipe: Path) -> None:
    """Fields of motion are no frames, sparse frames have no motion, and fields cannot be cut again."""
    prepare = ("data", "prepare", "folder", root, "--num-frames", 4, "--size", 32, "--workers", 0)
    assert kinema(*prepare, "--flow", "dis", "--bound", 8, "--out", "flow").code == 0
    assert kinema(*prepare, "--frames", "--out", "frames").code == 0
    train = ("train", recipe, f"data.root={root}", "output=run")
    rgb = ("data.modality=rgb", "clips.motion={}")
    assert (
        "flow holds fields of motion, and what this recipe reads, frames"
        in kinema(*train, *rgb, "clips.store=flow").error()
    )
    assert (
        "frames holds frames, and what this recipe reads, other fields" in kinema(*train, "clips.store=frames").error()
    )
    other = kinema(*train, "clips.motion.bound_px=4", "clips.store=flow").error()
    assert "flow holds fields of motion, and what this recipe reads, other fields of motion" in other


def test_long_stacks_are_found_again(kinema: Kinema, root: Path, recipe: Path) -> None:
    """Of more bytes than a block of frames has."""
    more = ("clips.num_frames=11", "clips.size_px=224", "clips.motion.stack=30", "clips.augmentation=none")
    prepare = ("data", "prepare", "folder", root, "--frames", "--recipe", recipe, "--out", "s", "--workers", 0)
    assert kinema(*prepare, *more).code == 0
    assert len(Store.open(Path("s"))) == 6
    answer = kinema("train", recipe, f"data.root={root}", "output=run", "clips.store=s", *more)
    assert answer.code == 0, answer.err
    assert "train: all read from frames stored in" in answer.out


def test_pictures_are_left_out_by_name(kinema: Kinema, root: Path, recipe: Path) -> None:
    frames = [np.zeros((48, 64, 3), dtype=np.uint8)]
    write_video(root / "left" / "one.mp4", frames, fps=30)
    answer = kinema("train", recipe, f"data.root={root}", "output=run")
    assert answer.code == 0, answer.err
    assert "one.mp4" in answer.out
    assert "1 training clips could not be read and were left out: left/one.mp4" in answer.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--flow", "dis", "--frames"), "give one of --frames, --flow, --transcode and --features"),
        (("--flow", "dis", "--rate", 2), "--rate: has a meaning with --frames only"),
        (("--flow", "dis", "--pixels", "rgb"), "--pixels: has a meaning with --frames only"),
        (("--frames", "--bound", 4), "--bound: has a meaning with --flow only"),
        (("--flow", "dis", "--size", 33), "33 is odd"),
    ],
)
def test_options_that_say_nothing_are_refused(kinema: Kinema, root: Path, options: Any, message: str) -> None:
    assert message in kinema("data", "prepare", "folder", root, "--out", "s", *options, "--workers", 0).error()


def test_killed_and_continued(root: Path, tmp_path: Path) -> None:
    """What was stored is not computed again, and nothing is there twice."""
    store = tmp_path / "store"
    command = [sys.executable, "-m", "kinema.cli.main", "data", "prepare", "folder", str(root), "--out", str(store)]
    command += ["--flow", "tvl1", "--size", "112", "--num-frames", "4", "--workers", "0", "--json", "-"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while process.poll() is None and not sum(path.stat().st_size for path in store.glob("*.bin")):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_kept = len(Store.open(store))
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    record = json.loads(done.stdout)
    assert (record["before"], record["new"]) == (num_kept, 6 - num_kept)
    found = Store.open(store, kind="frames")
    assert len(found) == 6
    assert found.damaged() == []


def test_another_opencv_does_not_go_on_with_a_store(
    kinema: Kinema, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has stored is read as it is; two versions are not mixed."""
    import cv2

    method = ("--flow", "dis", "--bound", 8, "--size", 32, "--num-frames", 4)
    command = ("data", "prepare", "folder", root, "--out", "s", *method, "--workers", 0)
    assert kinema(*command, "--shard", "1/2").code == 0
    assert Store.open(Path("s")).settings["flow_by"] == f"opencv {cv2.__version__}"
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "__version__", "3.4.1")
        refused = kinema(*command, "--shard", "2/2").error()
        assert "was made with flow_by = " in refused
        assert "not 'opencv 3.4.1'; a store has one of each setting: give another folder" in refused
    assert kinema(*command, "--shard", "2/2").code == 0
    assert len(Store.open(Path("s"))) == 6


AWKWARD = (
    "av1_video.mkv",
    "h264_10bits.mp4",
    "nasa_13013_rotated.mp4",
    "portrait_h264.mp4",
    "test_non_zero_start.mp4",
    "testsrc2_mpeg4.avi",
    "testsrc2_odd_width_vp9.mp4",
)


def test_awkward_videos_go_all_the_way(
    kinema: Kinema, data_root: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 bits, turned, portrait, of odd width, from another time than 0 and of a rate that varies: flow of each is
    stored, read as it would be computed, trained on and predicted from."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "awkward"
    for number, name in enumerate(AWKWARD):
        path = root / ("a", "b")[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data_root / "edge_cases" / name, path)
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    frames = [np.repeat(np.tile(np.roll(ramp, 3 * step), (64, 1))[..., None], 3, axis=2) for step in range(12)]
    times_s = [0, 0.1, 0.15, 0.5, 0.6, 0.62, 0.7, 1.0, 1.1, 1.5, 1.6, 2.0]
    write_video(root / "b" / "variable.mkv", frames, fps=25, times_s=times_s)
    stored = kinema(
        "data", "prepare", "folder", root, "--out", "s", "--frames", "--recipe", recipe, "--workers", 0, "--json", "-"
    )
    assert stored.code == 0, stored.err
    assert stored.json["failed"] == {}
    assert stored.json["new"] == 8

    videos = {path: probe(path) for path in sorted(root.rglob("*.*")) if path.is_file()}
    clips = [Clip(clip_id=path.name, video=path) for path in videos]
    section = ClipsSection.model_validate({**SECTION, "store": Path("s")})
    wanted = make_preprocessing(section, "flow", mean=(0.5,) * 3, std=(0.5,) * 3)
    reader = clip_reader(section, clips, videos, {"flow": wanted}, root=root)
    assert reader.store is not None
    moved = set()
    for index, clip in enumerate(clips):
        out = np.empty((4, 2, 32, 32), dtype=np.uint8)
        assert reader.store.read(index, 0, out) is not None, clip.clip_id
        assert np.array_equal(out, read_clip(clip, videos[clip.video], wanted).numpy()), clip.clip_id
        moved |= {clip.clip_id} if (out != 128).any() else set()
    assert {"variable.mkv", "testsrc2_mpeg4.avi"} <= moved

    run = kinema("train", recipe, f"data.root={root}", "output=run", "clips.store=s")
    assert run.code == 0, run.err
    assert "train: all read from frames stored in" in run.out
    for path in videos:
        said = kinema("predict", "run/weights", path, "--json", "-")
        assert said.code == 0, said.err
