"""The list of videos that are not to be used: read, kept up to date, honoured."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.videos import numbered_frames, write_video

from kinema import registry
from kinema.config import section_model
from kinema.data import probing
from kinema.data.decoding import Video, probe
from kinema.data.load_dataset import load_dataset
from kinema.data.quarantine import CHECK, Entry, default_file, read_entries, updated, write_entries
from kinema.data.usable import probe_splits
from kinema.sections import DataSection
from kinema.types import ConfigError, DataError


def section(name: str, **values: Any) -> DataSection:
    model = section_model(registry.entry("dataset", name, key="data.name"))
    checked = model.model_validate({"name": name, **values})
    assert isinstance(checked, DataSection)
    return checked


def entry(path: str, size_bytes: int | None = None, reason: str = "bad", found_by: str = CHECK) -> Entry:
    return Entry(path=path, size_bytes=size_bytes, reason=reason, found_by=found_by)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four files of 1 to 4 bytes in a folder per class."""
    for number, name in enumerate(("run/a.mp4", "run/b.mp4", "jump/c.mp4", "jump/d.mp4"), start=1):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    return tmp_path / "clips"


def test_a_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    entries = [
        entry("run/a, b.mp4", 12, 'says "no", twice'),
        entry("/elsewhere/ü.mp4", None, "blurred", "me"),
        entry("x.mp4", 0, "over\ntwo lines"),
    ]
    write_entries(tmp_path / "list.csv", entries)
    found = read_entries(tmp_path / "list.csv")
    assert found[:2] == entries[:2]
    assert found[2].reason == "over two lines"
    with (tmp_path / "list.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["path", "size_bytes", "reason", "found_by"]


def test_a_list_by_hand_needs_only_paths(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    assert read_entries(tmp_path / "list.csv") == [entry("a.mp4", None, "no reason given", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,size_bytes\na.mp4,1\nb.mp4,large\n", "row 3, column 'size_bytes': 'large' is not a number of bytes"),
        ("path,reason\n,bad\n", "row 2, column 'path': is empty"),
        ("path,reason\na.mp4,bad,worse\n", "row 2"),
        ("file,reason\na.mp4,bad\n", "no column 'path'"),
    ],
)
def test_a_broken_list_is_named_with_its_row(root: Path, text: str, message: str) -> None:
    default_file(root).write_text(text)
    with pytest.raises(DataError) as error:
        load_dataset(section("folder", root=root), seed=0)
    assert str(error.value).startswith(f"{default_file(root)}: ")
    assert message in str(error.value)


def test_a_data_set_knows_its_quarantine(root: Path) -> None:
    write_entries(default_file(root), [entry("run/a.mp4", 1, "no frame decodes"), entry("./jump/../jump/c.mp4")])
    found = load_dataset(section("folder", root=root), seed=0)
    assert found.quarantine == {root / "run/a.mp4": "no frame decodes", root / "jump/c.mp4": "bad"}
    assert len(found.splits["train"]) == 4  # listed all the same, so that they are counted
    assert found.notes == ()


def test_a_file_that_was_replaced_is_out_of_quarantine(root: Path) -> None:
    write_entries(default_file(root), [entry("run/a.mp4", 77), entry("run/gone.mp4"), entry("run/b.mp4", 2)])
    found = load_dataset(section("folder", root=root), seed=0)
    assert list(found.quarantine) == [root / "run/b.mp4"]
    assert found.notes == (f"{default_file(root)}: 2 of 3 entries do not count: their file is gone or was replaced",)


def test_a_list_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    write_entries(tmp_path / "mine.csv", [entry("run/a.mp4")])
    found = load_dataset(section("folder", root=root, quarantine=tmp_path / "mine.csv"), seed=0)
    assert list(found.quarantine) == [root / "run/a.mp4"]
    with pytest.raises(ConfigError, match=r"^data\.quarantine: .*absent\.csv: no such file"):
        load_dataset(section("folder", root=root, quarantine=tmp_path / "absent.csv"), seed=0)


def test_the_list_of_a_table_lies_beside_it_and_is_no_table(root: Path) -> None:
    (root / "clips.csv").write_text("path,label\nrun/a.mp4,run\njump/c.mp4,jump\n")
    assert default_file(root / "clips.csv") == default_file(root)
    write_entries(default_file(root), [entry("run/a.mp4")])
    for place in (root, root / "clips.csv"):
        assert list(load_dataset(section("table", root=place), seed=0).quarantine) == [root / "run/a.mp4"]


def test_a_folder_of_frames_can_be_in_quarantine(root: Path) -> None:
    frames = root / "run" / "frames"
    frames.mkdir()
    (frames / "1.jpg").write_bytes(b"12345")
    (frames / "2.jpg").write_bytes(b"678")
    (update,) = updated([], {frames: "bad"}, root).entries
    assert update == entry("run/frames", 8)
    assert updated([update], {}, root).entries == (update,)
    (frames / "2.jpg").unlink()
    assert updated([update], {}, root).entries == ()


def test_clips_in_quarantine_are_skipped_without_opening_their_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "run" / name, numbered_frames(5), fps=10)
    write_entries(default_file(tmp_path), [entry("run/a.mp4", reason="upside down", found_by="me")])
    opened: list[Path] = []

    def counted(path: Path, **settings: Any) -> Video:
        opened.append(path)
        return probe(path, **settings)

    monkeypatch.setattr(probing, "probe", counted)
    dataset = load_dataset(section("folder", root=tmp_path), seed=0)
    clips, _, skipped = probe_splits(dataset, ["train"], workers=0)
    assert [clip.clip_id for clip in clips["train"]] == ["run/b.mp4"]
    assert skipped["train"] == {"run/a.mp4": f"{tmp_path / 'run/a.mp4'}: in quarantine: upside down"}
    assert opened == [tmp_path / "run/b.mp4"]


def test_a_check_adds_and_takes_away(root: Path) -> None:
    before = [
        entry("run/a.mp4", 1, "was bad"),  # fine now
        entry("run/b.mp4", 99, "was bad"),  # replaced, and bad again
        entry("jump/gone.mp4", 5),
        entry("jump/d.mp4", 4),  # not checked this time
    ]
    reasons = {root / "run/a.mp4": None, root / "run/b.mp4": "cut short", root / "jump/c.mp4": "no frame of it decodes"}
    update = updated(before, reasons, root)
    assert update.entries == (
        before[3],
        entry("run/b.mp4", 2, "cut short"),
        entry("jump/c.mp4", 3, "no frame of it decodes"),
    )
    assert (update.num_added, update.num_removed) == (1, 2)
    again = updated(update.entries, reasons, root)
    assert (again.entries, again.num_added, again.num_removed) == (update.entries, 0, 0)


def test_what_somebody_entered_stays(root: Path) -> None:
    own = [entry("run/a.mp4", 1, "wrong label", "me"), entry("run/b.mp4", 77, "old", ""), entry("x.mp4", None, "?", "")]
    update = updated(own, {root / "run/a.mp4": None, root / "run/b.mp4": "cut short"}, root)
    # The second does not count for the file that is there, so that this file needs an entry of its own.
    assert update.entries == (*own, entry("run/b.mp4", 2, "cut short"))
    assert updated(own, {root / "run/a.mp4": "no frame of it decodes"}, root).entries == tuple(own)


def test_a_video_that_vanished_is_not_listed(root: Path) -> None:
    assert updated([], {root / "run/gone.mp4": "no such file"}, root).entries == ()


def test_a_video_elsewhere_is_listed_with_its_whole_path(root: Path, tmp_path: Path) -> None:
    video = tmp_path / "other.mp4"
    video.write_bytes(b"x")
    (found,) = updated([], {video: "bad"}, root).entries
    assert found.path == str(video)


def test_a_full_disk_costs_nothing_of_the_list(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = default_file(root)
    write_entries(file, [entry("run/a.mp4", found_by="me")])
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_entries(file, [])
    assert file.read_bytes() == before
    assert [path.name for path in root.iterdir() if path.is_file()] == [file.name]
