"""Probing many files: order, cache, processes and interruption."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.videos import numbered_frames, write_video

from kinema.data import file_index, probing
from kinema.data.decoding import Video, probe
from kinema.data.probing import cache_folder, probe_all
from kinema.types import DataError

FIELDS = [name for name in Video.__slots__ if name not in ("times_s", "packets")]


def same(a: Any, b: Any) -> bool:
    """Whether two results say the same, to the bit."""
    if isinstance(a, DataError) or isinstance(b, DataError):
        return type(a) is type(b) and str(a) == str(b)
    facts = all(getattr(a, name) == getattr(b, name) for name in FIELDS)
    packets = [video.packets and video.packets.load().to_bytes() for video in (a, b)]
    times = a.times_s.dtype == b.times_s.dtype and np.array_equal(a.times_s, b.times_s)
    return facts and times and packets[0] == packets[1]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    empty = folder / "empty.mp4"
    empty.touch()
    frames = numbered_frames(7)
    return [
        write_video(folder / "regular.mp4", frames, fps=29.97),
        write_video(folder / "variable.mkv", frames, fps=25, times_s=[1, 1.1, 1.15, 2, 2.3, 2.31, 4]),
        write_video(folder / "avi.avi", frames, fps=25, codec="mpeg4", options={"bf": "2"}),
        write_video(folder / "one.mp4", frames[:1], fps=30),
        empty,
    ]


@pytest.fixture
def files(originals: list[Path], tmp_path: Path) -> list[Path]:
    """30 files, of which every fifth is empty."""
    return [Path(shutil.copy(originals[i % 5], tmp_path / f"{i:02d}{originals[i % 5].suffix}")) for i in range(30)]


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were opened from now on, in this process."""
    opened: list[Path] = []

    def counted(path: Path, *, fps: float | None = None) -> Video:
        opened.append(path)
        return probe(path, fps=fps)

    monkeypatch.setattr(probing, "probe", counted)
    return opened


class Counter:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.unit = ""
        self.done = 0

    @contextmanager
    def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Counter]:
        self.total, self.unit, self.done = total, unit, done
        yield self

    def advance(self, num: int = 1, **facts: str) -> None:
        self.done += num


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_those_of_probe_in_the_order_given(files: list[Path], tmp_path: Path, workers: int) -> None:
    asked = [*reversed(files), files[3], tmp_path / "missing.avi"]
    counter = Counter()
    for _ in range(2):  # the second time from the cache
        counter = Counter()
        results = probe_all(asked, workers=workers, index=tmp_path / "cache", reporter=counter)
        assert list(results) == [*reversed(files), tmp_path / "missing.avi"]
        assert (counter.total, counter.done, counter.unit) == (31, 31, "videos")
        assert sum(isinstance(result, DataError) for result in results.values()) == 7
        for path, result in results.items():
            try:
                expected: Video | DataError = probe(path)
            except DataError as error:
                expected = error
            assert same(result, expected), path
    assert not multiprocessing.active_children()


def test_second_run_opens_nothing(files: list[Path], tmp_path: Path, no_probe: list[Path]) -> None:
    first = probe_all(files, workers=2, index=tmp_path / "cache")
    assert no_probe == []  # that was done by other processes
    second = probe_all(files, workers=1, index=tmp_path / "cache")
    assert no_probe == []
    assert all(same(first[path], second[path]) for path in files)


def test_default_cache_and_relative_paths(
    files: list[Path], tmp_path: Path, no_probe: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KINEMA_INDEX")
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "own"))
    probe_all(files[:5], workers=1)
    assert len(no_probe) == 5
    assert (tmp_path / "own" / "kinema-index.sqlite").is_file()
    monkeypatch.chdir(tmp_path)
    results = probe_all([Path(path.name) for path in files[:5]])
    assert len(no_probe) == 5
    assert [str(result) for result in results.values() if isinstance(result, DataError)] == ["04.mp4: empty (0 bytes)"]
    assert [result.path for result in results.values() if isinstance(result, Video)] == [
        Path(path.name) for path in files[:4]
    ]


def test_changed_file_is_probed_again(files: list[Path], tmp_path: Path, no_probe: list[Path]) -> None:
    folder = tmp_path / "cache"
    probe_all(files[:3], index=folder)
    no_probe.clear()
    shutil.copy(files[3], files[0])
    os.utime(files[1], ns=(1, 1))
    results = probe_all(files[:3], index=folder)
    assert no_probe == files[:2]
    result = results[files[0]]
    assert isinstance(result, Video)
    assert len(result.times_s) == 1


def test_other_version_is_probed_again(
    files: list[Path], tmp_path: Path, no_probe: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_all(files[:3], index=tmp_path)
    monkeypatch.setattr(probing, "_VERSION", "another")
    no_probe.clear()
    probe_all(files[:3], index=tmp_path)
    assert no_probe == files[:3]


def test_missing_files_are_not_remembered(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "late.mp4"
    assert isinstance(probe_all([path], index=tmp_path)[path], DataError)
    shutil.copy(files[0], path)
    assert isinstance(probe_all([path], index=tmp_path)[path], Video)


def test_regular_times_are_stored_as_a_step(files: list[Path], tmp_path: Path) -> None:
    probe_all(files[:5], index=tmp_path)
    with closing(sqlite3.connect(tmp_path / "kinema-index.sqlite")) as connection:
        rows = connection.execute(
            "SELECT step_numerator, step_denominator, length(times_s) FROM videos_1 ORDER BY path"
        ).fetchall()
    assert rows == [(100, 2997, None), (None, None, 7 * 8), (1, 25, None), (0, 1, None), (None, None, None)]


def spoil_text(cache: Path) -> None:
    (cache / "kinema-index.sqlite").write_text("not a database, but long enough to look at " * 100)


def spoil_columns(cache: Path) -> None:
    with closing(sqlite3.connect(cache / "kinema-index.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE videos_1 (other INTEGER)")


def spoil_folder(cache: Path) -> None:
    cache.rmdir()
    cache.write_text("a file where the folder should be")


def spoil_file(cache: Path) -> None:
    (cache / "kinema-index.sqlite").mkdir()


@pytest.mark.parametrize("spoil", [spoil_text, spoil_columns, spoil_folder, spoil_file])
def test_broken_cache_is_done_without(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    spoil(cache)
    with caplog.at_level(logging.WARNING):
        results = probe_all(files[:5], index=cache)
    assert sum(isinstance(result, Video) for result in results.values()) == 4
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["index of probed videos not used"]


def test_spoilt_rows_are_probed_again(files: list[Path], tmp_path: Path, no_probe: list[Path]) -> None:
    first = probe_all(files[:3], index=tmp_path)
    for change in ("times_s = x'00'", "times_s = NULL, step_numerator = NULL", "num_frames = 3, times_s = x''"):
        with closing(sqlite3.connect(tmp_path / "kinema-index.sqlite")) as connection, connection:
            connection.execute(f"UPDATE videos_1 SET {change}")
        no_probe.clear()
        again = probe_all(files[:3], index=tmp_path)
        assert no_probe == files[:3]
        assert all(same(first[path], again[path]) for path in files[:3])


def test_locked_cache_is_done_without(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "_LOCK_TIMEOUT_S", 0.1)
    probe_all(files[:1], index=tmp_path)
    with closing(sqlite3.connect(tmp_path / "kinema-index.sqlite")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert isinstance(probe_all(files[:2], index=tmp_path)[files[1]], Video)
    assert "locked" in caplog.text


def test_two_runs_at_once(files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = "import sys; from pathlib import Path; from kinema.data.probing import probe_all\n"
    script += "print(len(probe_all(map(Path, sys.argv[2:]), index=Path(sys.argv[1]))))"
    command = [sys.executable, "-c", script, str(tmp_path), *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        assert len(probe_all(files, index=tmp_path)) == 30
        assert other.communicate(timeout=60) == ("30\n", "")
    assert caplog.text == ""


def test_process_that_dies(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_probe: list[Path]
) -> None:
    def deadly(path: Path, *, fps: float | None) -> Video:
        if path in (files[0], files[12], files[13]):
            os.kill(os.getpid(), signal.SIGKILL)
        return probe(path, fps=fps)

    with monkeypatch.context() as context:
        context.setattr(probing, "probe", deadly)
        results = probe_all(files, workers=2, index=tmp_path)
    died = [path for path, result in results.items() if "died" in str(result)]
    assert died == [files[0], files[12], files[13]]
    assert sum(isinstance(result, Video) for result in results.values()) == 21
    probe_all(files, workers=1, index=tmp_path)
    assert no_probe == died  # it may not have been the file's fault
    assert not multiprocessing.active_children()


def test_mistake_of_ours_in_a_process_is_raised(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(path: Path, *, fps: float | None) -> Video:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(probing, "probe", wrong)
    with pytest.raises(RuntimeError, match="a mistake") as caught:
        probe_all(files, workers=2)
    assert any("in wrong" in note for note in caught.value.__notes__)
    assert not multiprocessing.active_children()


# No main guard. Says which processes it has, then how many videos are done.
SCRIPT = """
import multiprocessing, signal, sys, time
from contextlib import contextmanager
from pathlib import Path
from kinema.data import file_index, probing

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it, as a shell's & does

original = probing.probe
def slow(path, *, fps):
    time.sleep(0.05)
    return original(path, fps=fps)
probing.probe = slow

class Reporter:
    num = 0
    @contextmanager
    def track(self, description, *, total, unit, done):
        yield self
    def advance(self, num=1, **facts):
        self.num += num
        if self.num == 4:
            print(*[process.pid for process in multiprocessing.active_children()], flush=True)

probing.probe_all(map(Path, sys.argv[2:]), workers=2, index=Path(sys.argv[1]), reporter=Reporter())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted(files: list[Path], tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "cache"), *map(str, files)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        children = [int(word) for word in run.stdout.readline().split()]
        assert len(children) == 2
        if how == signal.SIGINT:
            os.killpg(run.pid, how)  # as Ctrl-C does
        else:
            run.kill()
        stderr = run.stderr.read()
        run.wait(timeout=10)
    deadline_s = time.monotonic() + 5
    while (alive := [pid for pid in children if is_running(pid)]) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert alive == []
    if how == signal.SIGINT:
        assert stderr.count("Traceback") == 1  # the script's own; its processes are silent
        assert "KeyboardInterrupt" in stderr
        with closing(sqlite3.connect(tmp_path / "cache" / "kinema-index.sqlite")) as connection:
            (num_saved,) = connection.execute("SELECT count(*) FROM videos_1").fetchone()
        assert 4 <= num_saved < 30


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_saves_in_batches(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = probing._Store.save

    def counted(self: Any, keys: Any, results: Any) -> Any:
        saved.append(len(results))
        return save(self, keys, results)

    monkeypatch.setattr(probing._Store, "save", counted)
    monkeypatch.setattr(probing, "_SAVE_EVERY", 8)
    probe_all(files, workers=2, index=tmp_path)
    assert saved == [8, 8, 8, 6]


def test_in_a_process_that_may_have_no_children(files: list[Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=probe_all, args=(files,), kwargs={"workers": 2, "index": tmp_path}, daemon=True)
    process.start()
    process.join(timeout=30)
    assert process.exitcode == 0


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("KINEMA_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "kinema"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "kinema"


def test_nothing_to_probe(tmp_path: Path) -> None:
    assert probe_all([], index=tmp_path) == {}
