"""`kinema data prepare`, and `kinema data check` of what it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.commands import Kinema
from tests.videos import numbered_frames, write_video

from kinema.data.decoders import described
from kinema.data.shards import Store


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clips in a folder per class, one of which is no video."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "clips"
    for number in range(6):
        path = root / ("jump", "run")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(8, first=10 * number), fps=10, codec="mpeg4")
    (root / "run" / "broken.avi").write_text("not a video")
    return root


RECIPE: dict[str, Any] = {
    "data": {"name": "folder", "root": "elsewhere"},
    "clips": {"num_frames": 3, "size_px": 32, "pixels": "rgb", "augmentation": {"views": 2}},
    "model": {"name": "frame_average"},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RECIPE))
    return path


def test_frames_are_stored_once(kinema: Kinema, root: Path) -> None:
    command = ("data", "prepare", "folder", root, "--out", "stores/f", "--frames", "--pixels", "rgb", "--size", 32)
    answer = kinema(*command, "--num-frames", 4, "--workers", 0, "--json", "-")
    assert answer.code == 0
    assert "6 clips stored, 73.7 kB" in answer.err
    assert answer.err.index("stores/f: 6 clips will take about 73.7 kB; ") < answer.err.index("clips stored")
    assert "warning: 1 clips cannot be read and are left out:" in answer.err
    record = answer.json
    assert (record["asked"], record["before"], record["new"], record["bytes"]) == (6, 0, 6, 6 * 4 * 3 * 32 * 32)
    ((name, reason),) = record["failed"].items()
    assert "broken" in name
    assert "not a video" in reason
    settings = Store.open(Path("stores/f"), kind="frames").settings
    assert settings == {
        "pixels": "rgb",
        "size_px": 32,
        "resize_px": 32,
        "fit": "crop",
        "num_frames": 4,
        "decoder": described("pyav"),
    }
    again = kinema(*command, "--num-frames", 4, "--workers", 0, "--json", "-").json
    assert (again["before"], again["new"]) == (6, 0)
    window = kinema(*command, "--num-frames", 4, "--window", 0.5, "--workers", 0)
    assert "was made with window_s = None, not 0.5" in window.error()
    other = kinema(*command, "--num-frames", 5, "--workers", 0)
    assert "was made with num_frames = 4, not 5" in other.error()


@pytest.fixture
def damage(kinema: Kinema, tmp_path: Path) -> Callable[..., Path]:
    """A data set of three videos that have been probed; damages what is in some of them, unnoticed by the index."""
    root = tmp_path / "mp4"
    (root / "a").mkdir(parents=True)
    for number in range(3):
        write_video(root / "a" / f"{number}.mp4", numbered_frames(8, first=10 * number), fps=10)
    prepare = ("data", "prepare", "folder", root, "--workers", 0)
    assert kinema(*prepare, "--out", "probed", "--frames", "--size", 32).code == 0

    def wipe(*numbers: int) -> Path:
        for number in numbers:
            path = root / "a" / f"{number}.mp4"
            stat, content = path.stat(), bytearray(path.read_bytes())
            start = content.index(b"mdat") + 4
            stop = start - 8 + int.from_bytes(content[start - 8 : start - 4])
            content[start:stop] = bytes(stop - start)
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return root

    return wipe


@pytest.mark.parametrize("kind", ["--frames", "--transcode"])
def test_what_does_not_decode_is_stored_as_such(kinema: Kinema, damage: Callable[..., Path], kind: str) -> None:
    root = damage(1)
    command = ("data", "prepare", "folder", root, "--out", "s", kind, "--short-side", 32, "--workers", 0, "--json", "-")
    answer = kinema(*command)
    assert (answer.code, answer.json["new"], len(answer.json["failed"])) == (0, 2, 1)
    assert "cannot be read and are left out:" in answer.err
    size = Path("s/1-of-1.idx").stat().st_size
    again = kinema(*command)
    assert (again.code, again.json["before"], again.json["new"]) == (0, 2, 0)
    assert again.json["failed"] == answer.json["failed"]
    assert Path("s/1-of-1.idx").stat().st_size == size == 3 * 64
    checked = kinema("data", "check", "s", "--json", "-")
    assert (checked.code, len(checked.json["failed"]), checked.json["damaged"]) == (0, 1, [])


@pytest.mark.parametrize("kind", ["--frames", "--transcode"])
def test_a_store_of_nothing_is_an_error(kinema: Kinema, damage: Callable[..., Path], kind: str) -> None:
    root = damage(0, 1, 2)
    command = ("data", "prepare", "folder", root, "--out", "s", kind, "--short-side", 32, "--workers", 0)
    for _ in range(2):
        assert "s: nothing is stored: none of the " in kinema(*command).error()


def test_a_recipe_says_what_is_stored(kinema: Kinema, root: Path, recipe: Path) -> None:
    command = ("data", "prepare", "folder", root, "--out", "s", "--frames", "--recipe", recipe, "--workers", 0)
    split = "data.validation=0.34"
    record = kinema(*command, split, "--json", "-").json
    assert record["data"]["root"] == str(root)
    assert record["new"] == 6 + 2 * record["clips"]["train"]
    assert kinema(*command, split, "--views", 3, "--json", "-").json["new"] == record["clips"]["train"]
    for option, value in (("--size", 32), ("--num-frames", 7), ("--rate", 5), ("--window", 2)):
        assert f"{option}: the recipe says that" in kinema(*command, option, value).error()


def test_in_shards_and_checked(kinema: Kinema, root: Path) -> None:
    for number in (1, 2):
        command = ("data", "prepare", "folder", root, "--out", "s", "--frames", "--short-side", 32, "--rate", 5)
        answer = kinema(*command, "--pixels", "jpeg", "--shard", f"{number}/2", "--workers", 0, "--json", "-")
        assert answer.json["new"] == 3
        if number == 1:
            half = kinema("data", "check", "s", "--json", "-")
            assert (half.code, half.json["absent_parts"]) == (0, ["2/2"])
            assert "parts that no job has stored yet: 2/2" in half.err
    for option in ("--deep", "--strict"):
        assert f"{option}: of a store all checksums are compared" in kinema("data", "check", "s", option).error()
    whole = kinema("data", "check", "s", "--json", "-")
    assert (whole.code, whole.json["entries"], whole.json["damaged"]) == (0, 6, [])
    assert whole.json["absent_parts"] == []
    assert "nothing is wrong" in whole.err
    data = Path("s/2-of-2.bin")
    content = bytearray(data.read_bytes())
    content[70] ^= 1
    data.write_bytes(content)
    found = kinema("data", "check", "s", "--json", "found.json")
    assert found.code == 2
    assert "1 of 6 entries are damaged; delete the store and prepare it again" in found.out
    (name,) = json.loads(Path("found.json").read_text())["damaged"]
    assert f"damaged: {name}" in found.out
    Path("s/store.json").write_text('{"version": 7}')
    assert "a store of version 7, and this kinema reads version 1" in kinema("data", "check", "s").error()


def test_transcoding(kinema: Kinema, root: Path) -> None:
    command = ("data", "prepare", "folder", root, "--out", "t", "--transcode", "--short-side", 32, "--workers", 0)
    record = kinema(*command, "--json", "-").json
    assert record["new"] == 6
    assert record["bytes"] == sum(path.stat().st_size for path in Path("t/videos").iterdir())
    assert kinema(*command, "--json", "-").json["before"] == 6
    assert kinema("data", "check", "t").code == 0
    next(Path("t/videos").iterdir()).write_bytes(b"")
    assert kinema("data", "check", "t").code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "s"], "give one of --frames, --flow, --transcode and --features"),
        (["--out", "s", "--frames", "--transcode"], "give one of --frames, --flow, --transcode and --features"),
        (["--frames"], "--out: say where the store is to be"),
        (["--out", "s", "--frames", "--shard", "3/2"], "--shard: '3/2': expected I/N"),
        (["--out", "s", "--frames", "--size", "64", "--short-side", "64"], "--short-side keeps them whole"),
        (["--out", "s", "--frames", "--num-frames", "4", "--rate", "2"], "--num-frames and --rate: give one"),
        (["--out", "s", "--frames", "--window", "2", "--rate", "2"], "--window and --rate: all frames of a clip"),
        (["--out", "s", "--transcode", "--window", "2"], "--window: has a meaning with --frames only"),
        (["--out", "s", "--frames", "--views", "4"], "--views: has a meaning with --recipe only"),
        (["--out", "s", "--frames", "--quality", "80"], "--quality: has a meaning with --pixels jpeg only"),
        (["--out", "s", "--frames", "--size", "33", "--pixels", "i420"], "--size: 33 is odd"),
        (["--out", "s", "--frames", "--size", "64", "--resize", "32"], "--resize: 32 has no meaning"),
        (["--out", "s", "--frames", "--maps"], "--maps: has a meaning with --features only"),
        (["--out", "s", "--frames", "--dtype", "fp32"], "--dtype: has a meaning with --features only"),
        (["--out", "s", "--transcode", "--weights", "published"], "--weights: has a meaning with --features only"),
        (["--out", "s", "--frames", "--crf", "0"], "--crf: has a meaning with --transcode only"),
        (["--out", "s", "--frames", "--key-every", "12"], "--key-every: has a meaning with --transcode only"),
        (["--out", "s", "--transcode", "--size", "64"], "--size: has a meaning with --frames only"),
        (["--out", "s", "--frames", "--split", "test"], "--split: there is no test split; there are train"),
    ],
)
def test_what_makes_no_sense_is_one_line(kinema: Kinema, root: Path, options: list[str], message: str) -> None:
    assert message in kinema("data", "prepare", "folder", root, "--workers", 0, *options).error()
    assert not Path("s").exists()


def test_check_of_what_is_neither(kinema: Kinema) -> None:
    assert "give a data set and its ROOT, or the folder of a store" in kinema("data", "check", "ucf101").error()
    Path("empty").mkdir()
    assert "not a store" in kinema("data", "check", "empty").error()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_continued(root: Path, tmp_path: Path, how: signal.Signals) -> None:
    for number in range(60):
        path = root / "jump" / f"more{number}.avi"
        path.write_bytes((root / "jump" / "0.avi").read_bytes())
    folder = tmp_path / "s"
    command = [sys.executable, "-m", "kinema.cli.main", "data", "prepare", "folder", str(root), "--out", str(folder)]
    command += ["--frames", "--size", "256", "--pixels", "rgb", "--workers", "2"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while process.poll() is None and not sum(path.stat().st_size for path in folder.glob("*.bin")):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    process.send_signal(how)
    process.wait()
    num_kept = len(Store.open(folder))
    done = subprocess.run([*command, "--json", "-"], env=os.environ, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert (record["before"], record["new"]) == (num_kept, 66 - num_kept)
    store = Store.open(folder)
    assert len(store) == 66
    assert store.damaged() == []
    assert (folder / "1-of-1.idx").stat().st_size == 66 * 64
