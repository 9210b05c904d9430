"""Checking files: what is found, what is kept, what is not done twice."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.videos import numbered_frames, write_video

from kinema.data import checking, probing
from kinema.data.checking import Checked, check_videos
from kinema.data.decoding import count_frames, probe, read_frames
from kinema.data.findings import KINDS, findings
from kinema.data.probing import probe_all
from kinema.data.video import Video
from kinema.types import Clip, Dataset, Split


class Opened:
    """Files that were probed, and files that were decoded, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probed: list[str] = []
        self.decoded: list[str] = []

        def probe_counted(path: Path, **settings: Any) -> Video:
            self.probed.append(path.name)
            return probe(path, **settings)

        def read_counted(video: Video, indices: Any) -> Any:
            self.decoded.append(video.path.name)
            return read_frames(video, indices)

        def count_counted(video: Video) -> tuple[int, bool]:
            self.decoded.append(video.path.name)
            return count_frames(video)

        monkeypatch.setattr(probing, "probe", probe_counted)
        monkeypatch.setattr(checking, "read_frames", read_counted)
        monkeypatch.setattr(checking, "count_frames", count_counted)

    def taken(self) -> tuple[list[str], list[str]]:
        """What was opened since the last time this was asked."""
        answer = sorted(self.probed), sorted(self.decoded)
        self.probed.clear()
        self.decoded.clear()
        return answer


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good video, a copy of it, another, an empty file, text, a hole in the middle, a hole in the first frame."""
    folder = tmp_path_factory.mktemp("originals")
    # Without filtering and with key frames only, damage stays in its frame.
    options = {"g": "1", "bf": "0", "crf": "10"}
    write_video(folder / "good.mp4", numbered_frames(40), fps=10, options=options)
    shutil.copy(folder / "good.mp4", folder / "copy.mp4")
    write_video(folder / "other.avi", numbered_frames(12), fps=10, codec="mpeg4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    # What is wrong inside of pictures shows only when they are decoded.
    source = write_video(folder / "hole.webm", numbered_frames(40), fps=10, codec="libvpx-vp9", options={"g": "0"})
    content = source.read_bytes()
    packets = _packets(source)
    for name, number in (("hole.webm", 20), ("first.webm", -1)):
        broken = bytearray(content)
        position, size = packets[number]
        stop = content.index(content[position + 4 : position + size][-8:], position) + 8
        broken[position + 24 : stop] = b"\xff" * (stop - position - 24)
        (folder / name).write_bytes(broken)
    return folder


def _packets(path: Path) -> list[tuple[int, int]]:
    """Where each packet lies in a file, and how long it is."""
    import av

    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "files")


def paths(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def errors(found: dict[Path, Checked]) -> dict[str, str]:
    return {path.name: result.error for path, result in found.items() if result.error is not None}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_does_not_decode_is_found(
    folder: Path, tmp_path: Path, deep: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinema.data.processes._POOL_FROM", 2)
    asked = [*reversed(paths(folder)), folder / "good.mp4", folder / "gone.mp4"]
    found = check_videos(asked, deep=deep, workers=workers, index=tmp_path / "cache")
    assert list(found) == list(dict.fromkeys(asked))
    wrong = errors(found)
    expected = {"empty.mp4", "text.mp4", "gone.mp4", "first.webm"} | ({"hole.webm"} if deep else set())
    assert wrong.keys() == expected
    assert wrong["empty.mp4"] == "empty (0 bytes)"
    assert wrong["first.webm"] == "1 of 40 frames do not decode" if deep else "does not decode" in wrong["first.webm"]
    assert found[folder / "good.mp4"].content == found[folder / "copy.mp4"].content
    assert found[folder / "good.mp4"].content != found[folder / "other.avi"].content
    assert all(result.fresh for result in found.values())
    assert not multiprocessing.active_children()


def test_a_second_check_does_only_what_is_new_or_changed(folder: Path, tmp_path: Path, opened: Opened) -> None:
    first = check_videos(paths(folder), workers=0, index=tmp_path)
    assert opened.taken() == (
        ["copy.mp4", "empty.mp4", "first.webm", "good.mp4", "hole.webm", "other.avi", "text.mp4"],
        ["copy.mp4", "first.webm", "good.mp4", "hole.webm", "other.avi"],
    )
    second = check_videos(paths(folder), workers=0, index=tmp_path)
    assert opened.taken() == ([], [])
    assert not any(result.fresh for result in second.values())
    assert [(r.error, r.content, r.damaged) for r in second.values()] == [
        (r.error, r.content, r.damaged) for r in first.values()
    ]
    shutil.copy(folder / "good.mp4", folder / "text.mp4")
    shutil.copy(folder / "good.mp4", folder / "new.mp4")
    third = check_videos(paths(folder), workers=0, index=tmp_path)
    assert opened.taken() == (["new.mp4", "text.mp4"], ["new.mp4", "text.mp4"])
    assert {path.name for path, result in third.items() if result.fresh} == {"new.mp4", "text.mp4"}


def test_training_does_not_probe_what_was_checked(folder: Path, tmp_path: Path, opened: Opened) -> None:
    check_videos(paths(folder), workers=0, index=tmp_path)
    opened.taken()
    assert len(probe_all(paths(folder), index=tmp_path)) == 7
    assert opened.taken() == ([], [])


def test_a_deep_check_does_for_both_and_a_shallow_one_does_not(folder: Path, tmp_path: Path, opened: Opened) -> None:
    asked = [folder / "good.mp4", folder / "first.webm"]
    check_videos(asked, workers=0, index=tmp_path)
    assert opened.taken()[1] == ["first.webm", "good.mp4"]
    check_videos(asked, deep=True, workers=0, index=tmp_path)
    assert opened.taken() == ([], ["good.mp4"])  # the other is known not to decode
    check_videos(asked, workers=0, index=tmp_path)
    check_videos(asked, deep=True, workers=0, index=tmp_path)
    assert opened.taken() == ([], [])


def test_another_version_checks_again(
    folder: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_videos([folder / "good.mp4"], workers=0, index=tmp_path)
    monkeypatch.setattr(checking, "_VERSION", "another")
    opened.taken()
    check_videos([folder / "good.mp4"], workers=0, index=tmp_path)
    assert opened.taken() == ([], ["good.mp4"])


def test_a_file_that_kills_the_process_is_an_error_of_that_file(
    folder: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinema.data.processes._POOL_FROM", 2)

    def deadly(video: Video, indices: Any) -> Any:
        if video.path.name == "copy.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        return read_frames(video, indices)

    with monkeypatch.context() as context:
        context.setattr(checking, "read_frames", deadly)
        found = check_videos(paths(folder), workers=2, index=tmp_path)
    assert errors(found)["copy.mp4"] == "the process that decoded it died; out of memory, or a crash"
    assert found[folder / "good.mp4"].error is None
    assert check_videos(paths(folder), workers=0, index=tmp_path)[folder / "copy.mp4"].error is None
    assert opened.taken() == ([], ["copy.mp4"])  # it may not have been the file's fault


class Stopping:
    """A reporter that is interrupted once two videos are decoded."""

    def __init__(self) -> None:
        self.units: list[tuple[str, int | None, int]] = []
        self.num = 0

    @contextmanager
    def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Stopping]:
        self.units.append((description, total, done))
        yield self

    def advance(self, num: int = 1, **facts: str) -> None:
        self.num += self.units[-1][0].startswith("Decoding")
        if self.num == 2:
            raise KeyboardInterrupt


def test_what_was_done_before_an_interruption_is_kept(folder: Path, tmp_path: Path, opened: Opened) -> None:
    reporter = Stopping()
    with pytest.raises(KeyboardInterrupt):
        check_videos(paths(folder), workers=0, index=tmp_path, reporter=reporter)
    assert opened.taken()[1] == ["copy.mp4", "first.webm"]
    reporter.num = 3
    check_videos(paths(folder), workers=0, index=tmp_path, reporter=reporter)
    assert opened.taken() == ([], ["good.mp4", "hole.webm", "other.avi"])
    assert reporter.units == [
        ("Probing videos", 7, 0),
        ("Decoding first and last frames", 5, 0),
        ("Probing videos", 7, 7),
        ("Decoding first and last frames", 5, 2),
    ]


def test_a_broken_cache_is_done_without(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kinema-index.sqlite").write_text("not a database, but long enough to look at " * 100)
    assert len(errors(check_videos(paths(folder), workers=0, index=tmp_path))) == 3


def test_an_older_cache_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "kinema-index.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE probes (path BLOB PRIMARY KEY, other INTEGER)")
    check_videos([folder / "good.mp4"], workers=0, index=tmp_path)
    assert not check_videos([folder / "good.mp4"], workers=0, index=tmp_path)[folder / "good.mp4"].fresh


def test_images_and_folders_of_frames_are_checked(tmp_path: Path, opened: Opened) -> None:
    still, frames = tmp_path / "still.jpg", tmp_path / "frames"
    frames.mkdir()
    for number, image in enumerate(numbered_frames(5), start=1):
        Image.fromarray(image).save(frames / f"frame_{number:010d}.jpg")
    Image.fromarray(image).save(still)
    for deep in (False, True):
        found = check_videos([still, frames], fps={frames: 50.0}, deep=deep, workers=0, index=tmp_path / "cache")
        assert errors(found) == {}
        assert all(result.fresh for result in found.values())
    assert opened.taken() == (["frames", "still.jpg"], ["frames", "frames", "still.jpg", "still.jpg"])
    assert not any(
        r.fresh for r in check_videos([still, frames], fps={frames: 50.0}, index=tmp_path / "cache").values()
    )
    (frames / "frame_0000000003.jpg").write_bytes(b"no image")
    shallow = check_videos([frames], fps={frames: 50.0}, workers=0, index=tmp_path / "another")
    deep_found = check_videos([frames], fps={frames: 50.0}, deep=True, workers=0, index=tmp_path / "another")
    assert errors(shallow) == {}
    assert errors(deep_found).keys() == {"frames"}


# What is wrong with a data set


def clip(
    path: Path, clip_id: str = "", group: str | None = None, *, start_s: float = 0.0, stop_s: float | None = None
) -> Clip:
    clip_id = clip_id or path.name
    return Clip(clip_id=clip_id, video=path, labels={"action": 0}, group=group, start_s=start_s, stop_s=stop_s)


def found_in(dataset: Dataset, cache: Path, *, min_frames: int = 2) -> dict[str, list[dict[str, Any]]]:
    videos = [clip.video for clips in dataset.splits.values() for clip in clips]
    return findings(dataset, check_videos(videos, workers=0, index=cache), min_frames=min_frames)


def test_findings_are_by_kind_and_name_what_they_are_about(folder: Path, tmp_path: Path) -> None:
    good, copy, other = (folder / name for name in ("good.mp4", "copy.mp4", "other.avi"))
    splits: dict[Split, tuple[Clip, ...]] = {
        "train": (clip(good, group="g1"), clip(folder / "empty.mp4"), clip(good, "late", start_s=3.0, stop_s=9.0)),
        "validation": (clip(folder / "text.mp4"), clip(other, group="g1"), clip(other, "brief", stop_s=0.05)),
        "test": (clip(copy, group="g2"), clip(good, "again", stop_s=1.0)),
    }
    gone = clip(folder / "gone.mp4")
    dataset = Dataset(classes={"action": ("a", "b")}, splits=splits, absent={"test": (gone,)})
    found = found_in(dataset, tmp_path)
    assert tuple(found) == KINDS
    assert found["absent"] == [{"clip_id": "gone.mp4", "split": "test", "video": str(gone.video)}]
    assert found["empty"] == [{"video": str(folder / "empty.mp4"), "splits": ["train"], "reason": "empty (0 bytes)"}]
    assert [item["video"] for item in found["unreadable"]] == [str(folder / "text.mp4")]
    (late,) = found["times_outside"]
    assert (late["clip_id"], late["split"]) == ("late", "train")
    assert "from 3 to 9 s, but the video is 4.000 s long" in late["reason"]
    assert found["too_short"] == [{"clip_id": "brief", "split": "validation", "video": str(other), "num_frames": 1}]
    assert found["copies_across_splits"] == [{"videos": [str(good), str(copy)], "splits": ["train", "test"]}]
    assert found["groups_across_splits"] == [{"group": "g1", "splits": ["train", "validation"]}]
    assert found["videos_across_splits"] == [{"video": str(good), "splits": ["train", "test"]}]
    assert found["classes_without_training_clips"] == [{"task": "action", "class": "b"}]
    assert found["copies_within_splits"] == found["damaged"] == []


def test_copies_in_one_split_are_another_kind(folder: Path, tmp_path: Path) -> None:
    clips = (clip(folder / "good.mp4"), clip(folder / "copy.mp4"))
    found = found_in(Dataset(classes={"action": ("a",)}, splits={"train": clips}), tmp_path)
    assert [len(found[kind]) for kind in ("copies_across_splits", "copies_within_splits")] == [0, 1]
    assert sum(map(len, found.values())) == 1


@pytest.mark.parametrize(("stop_s", "num_frames"), [(0.1, 1), (0.11, 2), (0.2, 2), (0.25, 3), (4.0, 40)])
def test_frames_of_a_clip_are_those_on_display_in_it(
    folder: Path, tmp_path: Path, stop_s: float, num_frames: int
) -> None:
    dataset = Dataset(classes={"action": ("a",)}, splits={"train": (clip(folder / "good.mp4", stop_s=stop_s),)})
    assert found_in(dataset, tmp_path, min_frames=num_frames)["too_short"] == []
    (short,) = found_in(dataset, tmp_path, min_frames=num_frames + 1)["too_short"]
    assert short["num_frames"] == num_frames


def test_a_still_image_is_not_too_short(tmp_path: Path) -> None:
    still = tmp_path / "still.png"
    Image.fromarray(numbered_frames(1)[0]).save(still)
    dataset = Dataset(classes={"action": ("a",)}, splits={"train": (clip(still),)})
    assert not any(found_in(dataset, tmp_path / "cache").values())


def test_a_data_set_without_training_clips_has_no_untrained_classes(folder: Path, tmp_path: Path) -> None:
    dataset = Dataset(classes={"action": ("a", "b")}, splits={"validation": (clip(folder / "good.mp4"),)})
    assert not any(found_in(dataset, tmp_path).values())


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from kinema.data import checking

signal.signal(signal.SIGINT, signal.default_int_handler)
original = checking.read_frames
def slow(video, indices):
    os.write(1, b"decoding\\n")  # in one piece: print may write the line end apart
    time.sleep(0.1)
    return original(video, indices)
checking.read_frames = slow
checking.check_videos(map(Path, sys.argv[2:]), workers=2, index=Path(sys.argv[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
def test_ctrl_c_in_the_middle_of_processes(originals: Path, tmp_path: Path, opened: Opened) -> None:
    files = [Path(shutil.copy(originals / "other.avi", tmp_path / f"{i:02d}.avi")) for i in range(40)]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "cache"), *map(str, files)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        for _ in range(8):
            assert run.stdout.readline() == "decoding\n"
        os.killpg(run.pid, signal.SIGINT)
        stderr = run.stderr.read()
        run.wait(timeout=10)
    assert stderr.count("Traceback") == 1  # the script's own; its processes are silent
    check_videos(files, workers=0, index=tmp_path / "cache")
    probed, decoded = opened.taken()
    assert probed == []
    assert 0 < len(decoded) <= 40 - 6  # at most two were on their way
