from __future__ import annotations

from pathlib import Path

import pytest

from kinema.data.datasets.folder import folder
from kinema.types import ConfigError, DataError


def make(root: Path, *names: str) -> Path:
    """Empty files; a name that ends in / is a folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def test_a_folder_per_class_is_for_training(tmp_path: Path) -> None:
    make(tmp_path, "run/b.mkv", "run/deep/a.MP4", "jump/clip10.avi", "jump/clip2.avi", ".git/x.avi", "jump/.x.avi")
    found = folder(tmp_path)
    assert found.classes == {"action": ("jump", "run")}
    assert list(found.splits) == ["train"]
    clips = found.splits["train"]
    assert [clip.clip_id for clip in clips] == ["jump/clip2.avi", "jump/clip10.avi", "run/b.mkv", "run/deep/a.MP4"]
    assert [clip.labels["action"] for clip in clips] == [0, 0, 1, 1]
    assert [clip.video for clip in clips] == [tmp_path / clip.clip_id for clip in clips]
    assert {(clip.start_s, clip.stop_s, clip.group) for clip in clips} == {(0.0, None, None)}
    assert found.num_listed == {"train": 4}
    assert found.notes == ()


def test_a_folder_per_split(tmp_path: Path) -> None:
    make(tmp_path, "Testing/b/1.avi", "Train/a/1.avi", "Train/b/1.avi", "val/a/2.avi", "readme.txt")
    found = folder(tmp_path)
    assert {split: [clip.clip_id for clip in clips] for split, clips in found.splits.items()} == {
        "train": ["Train/a/1.avi", "Train/b/1.avi"],
        "validation": ["val/a/2.avi"],
        "test": ["Testing/b/1.avi"],
    }
    assert list(found.splits) == ["train", "validation", "test"]
    assert found.splits["test"][0].labels == {"action": 1}
    assert found.num_listed == {"train": 2, "validation": 1, "test": 1}


def test_classes_sort_naturally(tmp_path: Path) -> None:
    make(tmp_path, "class10/1.avi", "class9/1.avi", "Class1/1.avi")
    assert folder(tmp_path).classes["action"] == ("Class1", "class9", "class10")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.avi", "train/a/notes.txt", "train/a/1.srt", "train/stray.mp4")
    assert folder(tmp_path).notes == (
        "files in class folders that are not videos, left out: 2",
        f"videos in no class folder, left out: 1, such as {tmp_path / 'train' / 'stray.mp4'}",
    )


def test_what_macos_puts_into_archives_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.mp4", "val/a/2.mp4", "__MACOSX/train/a/._1.mp4", "train/__MACOSX/a/._1.mp4")
    found = folder(tmp_path)
    assert found.classes == {"action": ("a",)}
    assert found.num_listed == {"train": 1, "validation": 1}
    assert found.notes == ()


def test_groups_from_paths(tmp_path: Path) -> None:
    make(tmp_path, "a/day1_x.avi", "a/day2_y.avi", "b/day1_z.avi", "b/other.avi")
    found = folder(tmp_path, group=r"(day\d)_")
    assert [clip.group for clip in found.splits["train"]] == ["day1", "day2", "day1", None]
    assert found.group_name == "group"
    assert [clip.group for clip in folder(tmp_path, group="day1").splits["train"]] == ["day1", None, "day1", None]
    with pytest.raises(ConfigError, match=r"^data\.group: 'evening' is found in the path of no video"):
        folder(tmp_path, group="evening")
    with pytest.raises(ConfigError, match=r"^data\.group: '\(' is not a regular expression"):
        folder(tmp_path, group="(")


@pytest.mark.parametrize(
    ("names", "place", "message"),
    [
        (["a/1.avi", "b/"], "b", "the class folder is empty; put videos into it or remove it"),
        (["train/a/1.avi", "test/a/"], "test/a", "the class folder is empty"),
        (["a/1.txt", "a/2.txt"], "a", "holds no video, only 2 other files such as 1.txt (videos end in .3gp .avi"),
        (
            ["train/jump/1.avi", "val/jumpp/1.avi"],
            "val/jumpp",
            "class 'jumpp' of the validation split is unknown in ",
        ),
        (["train/jump/1.avi", "val/jumpp/1.avi"], "val/jumpp", "did you mean 'jump'?"),
        (["train/a/1.avi", "walk/1.avi"], "", "holds split folders (train) beside others (walk)"),
        (["train/a/1.avi", "Training/a/1.avi"], "", "both 'train' and 'Training' mean the train split"),
        (["train/1.avi", "train/2.avi"], "train", "holds 2 videos but no folder; put the videos of each class"),
        (["notes.txt"], "", "holds no folder; put the videos of each class"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, names: list[str], place: str, message: str) -> None:
    make(tmp_path, *names)
    with pytest.raises(DataError) as error:
        folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / place}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_root_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: missing"):
        folder(None)
    with pytest.raises(DataError, match="no such file or folder"):
        folder(tmp_path / "absent")


def test_test_clips_alone_are_enough_for_an_evaluation(tmp_path: Path) -> None:
    for name in ("test/jump/a.mp4", "test/hop/b.mp4", "val/jump/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = folder(tmp_path)
    assert found.classes == {"action": ("hop", "jump")}
    assert {split: [clip.labels["action"] for clip in clips] for split, clips in found.splits.items()} == {
        "validation": [1],
        "test": [0, 1],
    }
