"""Writing the generated data set: always the same, and whole or not at all."""

from __future__ import annotations

import errno
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kinema.data import motion_scenes
from kinema.data.datasets.motion import motion
from kinema.data.motion_scenes import Plan
from kinema.types import DataError, Dataset

OTHER_PROCESS = """
import sys
from pathlib import Path
from kinema.data.datasets.motion import motion
assert "torch" not in sys.modules
print(len(motion(Path(sys.argv[1]), num_train_backgrounds=int(sys.argv[2]),
                 num_validation_backgrounds=0, num_test_backgrounds=0).splits["train"]))
"""


def tiny(root: Path, *, seed: int = 0, num_train_backgrounds: int = 1) -> Dataset:
    return motion(
        root,
        num_train_backgrounds=num_train_backgrounds,
        num_validation_backgrounds=0,
        num_test_backgrounds=0,
        seed=seed,
    )


def test_the_same_seed_writes_the_same(tmp_path: Path) -> None:
    plan = Plan(num_backgrounds={"train": 1, "validation": 1, "test": 1}, size_px=48, seed=7)
    first = motion_scenes.write(plan, tmp_path / "first", workers=1)
    again = motion_scenes.write(plan, tmp_path / "again", workers=3)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 31
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes(), file


def test_another_seed_writes_other_videos_beside(tmp_path: Path) -> None:
    zero, one = tiny(tmp_path, seed=0).splits["train"], tiny(tmp_path, seed=1).splits["train"]
    assert [clip.clip_id for clip in zero] == [clip.clip_id for clip in one]
    assert zero[0].video != one[0].video
    assert zero[0].video.read_bytes() != one[0].video.read_bytes()


def test_a_scene_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = tiny(tmp_path).splits["train"], tiny(tmp_path, num_train_backgrounds=2).splits["train"]
    assert [clip.video.read_bytes() for clip in few] == [clip.video.read_bytes() for clip in many[: len(few)]]


def test_it_is_written_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kinema")
    first = tiny(tmp_path)
    folder = first.splits["train"][0].video.parent.parent
    assert caplog.messages == [f"writing 10 videos to {folder}"]
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert tiny(tmp_path) == first
    assert len(caplog.messages) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), "12"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        deadline_s = time.monotonic() + 30
        while len(list(tmp_path.rglob("*.mp4"))) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left_behind,) = tmp_path.iterdir()
    assert left_behind.name.startswith(".")

    assert len(tiny(tmp_path, num_train_backgrounds=12).splits["train"]) == 120
    (folder,) = tmp_path.iterdir()  # and what the killed process left is gone
    assert folder.name == left_behind.name[1:].rsplit(".", 1)[0]
    assert len(list(folder.rglob("*.mp4"))) == 120


def test_two_processes_at_the_same_time(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), "4"]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["40\n", "40\n"]
    assert [process.returncode for process in processes] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.rglob("*.mp4"))) == 40


def test_without_locks_the_second_to_finish_takes_what_the_first_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(num_backgrounds={"train": 1, "validation": 0, "test": 0}, size_px=48, seed=0)
    folder = tmp_path / plan.folder_name
    record = motion_scenes._record
    is_first = True

    def record_while_another_finishes(*arguments: object) -> object:
        nonlocal is_first
        if is_first:
            is_first = False
            motion_scenes._write_all(plan, folder, 1)
        return record(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(motion_scenes, "_record", record_while_another_finishes)
    assert motion_scenes.write(plan, tmp_path, workers=1) == folder
    assert list(tmp_path.iterdir()) == [folder]
    assert len(list(folder.rglob("*.mp4"))) == 10


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, write_bytes = tmp_path / "root", Path.write_bytes
    num_written = 0

    def fill_up(path: Path, data: bytes) -> int:
        nonlocal num_written
        num_written += 1
        if num_written > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(DataError, match=r"^[^\n]*root: .*No space left on device; [^\n]*data\.root$"):
        tiny(root)
    assert num_written > 3
    assert list(root.iterdir()) == []
    monkeypatch.undo()
    assert len(tiny(root).splits["train"]) == 10


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"^[^\n]*file[^\n]*: the motion videos cannot be written: [^\n]+$"):
            tiny(root)


def test_videos_that_have_gone_are_named(tmp_path: Path) -> None:
    clip = tiny(tmp_path).splits["train"][3]
    clip.video.unlink()
    with pytest.raises(DataError, match=rf"{clip.video.name}: is no longer there; delete .* to have it written again"):
        tiny(tmp_path)
    clips_file = clip.video.parent.parent / "clips.csv"
    clips_file.write_text("path,split\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"clips\.csv: "):
        tiny(tmp_path)
