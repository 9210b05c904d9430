"""The index of a data set: where it lies, that it moves with the data, and what happens where it cannot be written."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.videos import numbered_frames, write_video

from kinema.config import resolve
from kinema.data import file_index, probing
from kinema.data.checking import check_videos
from kinema.data.decoding import probe
from kinema.data.file_index import INDEX_NAME, Blob, Index, Key, Table
from kinema.data.load_dataset import load_dataset
from kinema.data.probing import probe_all
from kinema.data.usable import probe_splits
from kinema.data.video import Video

TABLE = Table(name="things", columns={"number": "INTEGER"}, of="things")
WITH_BLOBS = Table(name="things", columns={"number": "INTEGER", "content": "INTEGER"}, of="things", blobs="bytes")


@pytest.fixture(autouse=True)
def _beside_the_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KINEMA_INDEX")
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("original") / "clip.mp4", numbered_frames(5), fps=25)


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A folder for each of two classes, with two videos in each."""
    for name in ("jump/a.mp4", "jump/b.mp4", "run/c.mp4", "run/d.mp4"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(original, tmp_path / "data" / name)
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were probed from now on."""
    names: list[str] = []

    def noted(path: Path, *, fps: float | None = None) -> Video:
        names.append(path.name)
        return probe(path, fps=fps)

    monkeypatch.setattr(probing, "probe", noted)
    return names


def videos_in(root: Path) -> list[Path]:
    return sorted(root.rglob("*.mp4"))


def names_in(index: Path, table: str = "videos_1") -> list[bytes]:
    with closing(sqlite3.connect(index)) as connection:
        return [name for (name,) in connection.execute(f"SELECT path FROM {table} ORDER BY path")]


def test_it_lies_in_the_root_and_moves_with_the_data(root: Path, tmp_path: Path, opened: list[str]) -> None:
    check_videos(videos_in(root), workers=0, root=root)
    assert opened == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    for table in ("videos_1", "checks_1"):
        assert names_in(root / INDEX_NAME, table) == [b"jump/a.mp4", b"jump/b.mp4", b"run/c.mp4", b"run/d.mp4"]
    assert not (tmp_path / "cache").exists()
    moved = Path(shutil.move(root, tmp_path / "elsewhere"))
    opened.clear()
    found = check_videos(videos_in(moved), workers=0, root=moved)
    assert opened == []
    assert {result.video.path for result in found.values() if result.video} == set(videos_in(moved))
    assert not any(result.fresh for result in found.values())


def test_only_files_that_changed_are_opened_again(root: Path, opened: list[str]) -> None:
    probe_all(videos_in(root), workers=0, root=root)
    opened.clear()
    os.utime(root / "jump" / "b.mp4", ns=(1, 1))
    shutil.copy(root / "jump" / "a.mp4", root / "run" / "new.mp4")
    probe_all(videos_in(root), workers=0, root=root)
    assert opened == ["b.mp4", "new.mp4"]


def test_a_root_that_is_a_file_means_its_folder(root: Path) -> None:
    table = root / "clips.csv"
    table.write_text("path,label\njump/a.mp4,jump\n")
    probe_all([root / "jump" / "a.mp4"], workers=0, root=table)
    assert names_in(root / INDEX_NAME) == [b"jump/a.mp4"]


def test_relative_paths_and_roots_are_the_same_files(
    root: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    probe_all([Path("data/jump/a.mp4")], workers=0, root=Path("data"))
    probe_all([root / "jump" / "a.mp4"], workers=0, root=root)
    assert opened == ["a.mp4"]


def test_files_outside_the_root_are_kept_in_the_cache_folder(root: Path, tmp_path: Path, opened: list[str]) -> None:
    outside = [root / "run" / "c.mp4", root / "jump" / ".." / "run" / "d.mp4"]
    for _ in range(2):
        probe_all([root / "jump" / "a.mp4", *outside], workers=0, root=root / "jump")
    assert opened == ["a.mp4", "c.mp4", "d.mp4"]
    assert names_in(root / "jump" / INDEX_NAME) == [b"a.mp4"]
    assert names_in(tmp_path / "cache" / INDEX_NAME) == sorted(map(os.fsencode, outside))


def test_another_folder_can_be_given(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setenv("KINEMA_INDEX", str(tmp_path / "own"))
    for _ in range(2):
        probe_all(videos_in(root), workers=0, root=root)
    assert len(opened) == 4
    assert not (root / INDEX_NAME).exists()
    assert names_in(tmp_path / "own" / INDEX_NAME) == [os.fsencode(path) for path in videos_in(root)]


def forbid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk does that is mounted read-only. (The rights of a folder do not hinder root.)"""
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: not (mode & os.W_OK and Path(path).is_relative_to(folder)) and access(path, mode),
    )


def test_a_root_that_cannot_be_written_is_no_trouble(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    forbid(root, monkeypatch)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            probe_all(videos_in(root), workers=0, root=root)
    assert len(opened) == 4
    assert not (root / INDEX_NAME).exists()
    assert len(names_in(tmp_path / "cache" / INDEX_NAME)) == 4
    assert {record.levelno for record in caplog.records if "cannot be written" in record.message} == {logging.DEBUG}
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_an_index_that_came_with_data_which_cannot_be_written_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    probe_all(videos_in(root)[:3], workers=0, root=root)
    before = (root / INDEX_NAME).read_bytes()
    opened.clear()
    forbid(root, monkeypatch)
    for _ in range(2):
        probe_all(videos_in(root), workers=0, root=root)
    assert opened == ["d.mp4"]
    assert (root / INDEX_NAME).read_bytes() == before
    assert names_in(tmp_path / "cache" / INDEX_NAME) == [os.fsencode(root / "run" / "d.mp4")]


def test_where_locks_fail_the_cache_folder_is_taken_with_one_warning(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_index, "_LOCK_TIMEOUT_S", 0.05)
    probe_all(videos_in(root)[:1], workers=0, root=root)
    with closing(sqlite3.connect(root / INDEX_NAME)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        found = probe_all(videos_in(root), workers=0, root=root)
    assert all(isinstance(result, Video) for result in found.values())
    assert [record.getMessage() for record in caplog.records] == [
        f"{root / INDEX_NAME}: index of probed videos not used: database is locked"
    ]
    assert len(names_in(tmp_path / "cache" / INDEX_NAME)) == 4


def test_it_is_no_file_of_the_data_set(root: Path) -> None:
    plain = resolve({"data": {"name": "folder", "root": str(root)}, "model": {"name": "frame_average"}}).data
    before = load_dataset(plain, seed=0)
    probe_splits(before, ["train"], workers=0)
    assert (root / INDEX_NAME).is_file()
    shutil.copy(root / INDEX_NAME, root / "jump")  # that class folder was a root of its own before
    again = load_dataset(plain, seed=0)
    assert (again.splits, again.notes) == (before.splits, before.notes)
    (root / "clips.csv").write_text("path,label\njump/a.mp4,jump\nrun/c.mp4,run\n")
    of_table = resolve({"data": {"name": "table", "root": str(root)}, "model": {"name": "frame_average"}}).data
    assert len(load_dataset(of_table, seed=0).splits["train"]) == 2


def test_a_root_that_is_itself_a_folder_of_frames_is_not_written_into(root: Path, tmp_path: Path) -> None:
    frames = root / "jump"
    assert Index(root=frames).save(TABLE, [(frames, Key(0, 0, "1"), (3,))]) == {frames: None}
    assert not (frames / INDEX_NAME).exists()
    assert Index(root=frames).load(TABLE, {frames: Key(0, 0, "1")}) == {frames: (3,)}


def test_versions_stand_beside_each_other_and_go_when_the_file_changes(tmp_path: Path) -> None:
    path, index = tmp_path / "a.mp4", Index(root=tmp_path)
    index.save(TABLE, [(path, Key(1, 1, "old"), (1,)), (path, Key(1, 1, "new"), (2,))])
    assert index.load(TABLE, {path: Key(1, 1, "old")}) == {path: (1,)}
    assert index.load(TABLE, {path: Key(1, 1, "new")}) == {path: (2,)}
    assert index.load(TABLE, {path: Key(1, 2, "new")}) == {}
    index.save(TABLE, [(path, Key(1, 2, "new"), (3,))])
    assert index.load(TABLE, {path: Key(1, 1, "old")}) == {}
    assert names_in(tmp_path / INDEX_NAME, "things") == [b"a.mp4"]


def test_bytes_are_not_read_with_the_row_and_go_with_it(tmp_path: Path) -> None:
    path, other, index = tmp_path / "a.mp4", tmp_path / "b.mp4", Index(root=tmp_path)
    saved = index.save(WITH_BLOBS, [(path, Key(1, 1, "1"), (1, b"packets")), (other, Key(1, 1, "1"), (2, None))])
    blob = saved[path]
    assert blob is not None
    assert saved == {path: blob, other: None}
    assert index.load(WITH_BLOBS, {path: Key(1, 1, "1"), other: Key(1, 1, "1")}) == {path: (1, blob), other: (2, None)}
    assert blob.file == tmp_path / INDEX_NAME
    assert contents(blob) == [b"packets"]
    index.save(WITH_BLOBS, [(path, Key(1, 2, "1"), (1, b"others"))])
    assert contents(blob) == []
    (now,) = index.load(WITH_BLOBS, {path: Key(1, 2, "1")}).values()
    assert contents(now[1]) == [b"others"]


def contents(blob: Blob) -> list[bytes]:
    with closing(sqlite3.connect(blob.file)) as connection:
        return [row[0] for row in connection.execute("SELECT content FROM bytes WHERE number = ?", (blob.number,))]
