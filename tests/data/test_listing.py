from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.data.listing import (
    Presence,
    coverage_note,
    existing_folder,
    existing_root,
    hint,
    list_files,
    natural_key,
    shortened,
    sort_out,
    split_of,
    subfolders,
    walk,
)
from kinema.types import Clip, ConfigError, DataError


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted(["clip10", "Clip2", "b", "clip1", "10", "9a"], key=natural_key) == [
        "9a", "10", "b", "clip1", "Clip2", "clip10",
    ]  # fmt: skip


@given(st.lists(st.text(max_size=8), unique=True), st.randoms())
def test_any_names_have_one_natural_order(names: list[str], random: Random) -> None:
    ordered = sorted(names, key=natural_key)
    random.shuffle(names)
    assert sorted(names, key=natural_key) == ordered


def test_split_names_are_read_in_any_case() -> None:
    assert [split_of(name) for name in ("Training", "VAL", " valid ", "testing", "walk")] == [
        "train", "validation", "validation", "test", None,
    ]  # fmt: skip


def test_root_has_to_be_given_and_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: missing; "):
        existing_root(None)
    with pytest.raises(DataError, match=r"absent: no such file or folder"):
        existing_root(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert existing_root(tmp_path / "file") == tmp_path / "file"
    with pytest.raises(DataError, match="is a file"):
        existing_folder(tmp_path / "file")


def test_files_are_found_at_any_depth_without_hidden_ones_and_without_circles(tmp_path: Path) -> None:
    for name in ("b10.MP4", "b2.avi", "deep/er/a.webm", ".hidden.mp4", ".cache/c.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "circle").symlink_to(tmp_path, target_is_directory=True)
    found = list_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.videos] == [
        "b2.avi",
        "b10.MP4",
        "deep/er/a.webm",
    ]
    assert (found.num_others, found.first_other) == (1, "notes.txt")


def test_the_order_of_a_walk_does_not_depend_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.mp4", "b/1.mp4", "a/3.mp4", "c.mp4", "B.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [(tmp_path, ["B.mp4", "c.mp4"]), (tmp_path / "a", ["3.mp4"]), (tmp_path / "b", ["1.mp4", "2.mp4"])]
    for is_reversed in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(os, "walk", walk_in_order(is_reversed=is_reversed))
            assert list(walk(tmp_path)) == expected


def walk_in_order(*, is_reversed: bool) -> Callable[..., Iterator[tuple[str, list[str], list[str]]]]:
    """`os.walk` on a disk that lists its folders forwards or backwards."""
    original = os.walk

    def walked(*arguments: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in original(*arguments, **options):
            folders.sort(reverse=is_reversed)
            names.sort(reverse=is_reversed)
            yield place, folders, names

    return walked


def test_the_folder_that_macos_puts_into_archives_is_passed_over(tmp_path: Path) -> None:
    for name in ("__MACOSX", "b", ".hidden"):
        (tmp_path / name).mkdir()
    assert subfolders(tmp_path) == [tmp_path / "b"]


def test_presence_reads_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/3.mp4/inside"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    read: list[Path] = []
    scandir = os.scandir

    def counted(folder: Path) -> object:
        read.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    presence = Presence()
    wanted = [tmp_path / folder / f"{number}.mp4" for number in range(5) for folder in ("a", "b", "absent")]
    there = [path.relative_to(tmp_path).as_posix() for path in wanted if path in presence]
    assert there == ["a/1.mp4", "b/1.mp4", "a/2.mp4"]  # a folder called 3.mp4 is no video
    assert sorted(read) == [tmp_path / "a", tmp_path / "absent", tmp_path / "b"]


def test_coverage_is_said_only_where_something_is_absent() -> None:
    clips = tuple(Clip(clip_id=str(number), video=Path("a.mp4")) for number in range(3))
    assert coverage_note({"train": clips}, {}, noun="videos") == ()
    assert coverage_note({"train": clips}, {"train": clips[:2], "test": clips[1:]}, noun="videos") == (
        "3 of 7 listed videos are there, 4 are absent (train 3 of 5, test 0 of 2)",
    )


def test_clips_are_sorted_out_by_split() -> None:
    clips = tuple(Clip(clip_id=str(number), video=Path("a.mp4")) for number in range(4))
    there, absent = sort_out(
        {"train": clips[:2], "validation": (), "test": clips[2:]}, lambda clip: clip.clip_id in ("0", "2", "3")
    )
    assert there == {"train": clips[:1], "test": clips[2:]}
    assert absent == {"train": clips[1:2]}


def test_hints_stay_readable() -> None:
    assert hint("jmp", ["jump", "run"]) == "; did you mean 'jump'? (known: jump, run)"
    many = [f"class{number}" for number in range(100)]
    assert hint("clas99", many) == "; did you mean 'class99'?"
    assert hint("zzz", many) == ""
    assert shortened(many).endswith("class10, class11 and 88 more")
