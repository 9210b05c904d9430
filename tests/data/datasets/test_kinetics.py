from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kinema.data.class_maps import read_class_map
from kinema.data.datasets.kinetics400 import kinetics400
from kinema.data.datasets.kinetics600 import kinetics600
from kinema.data.datasets.kinetics700 import kinetics700
from kinema.data.kinetics_lists import spelling
from kinema.types import Clip, ConfigError, DataError, Dataset

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
TRAIN = """abseiling,-a_bcdefghi,10,20,train,0
"passing American football (in game)",AAAAAAAAAAA,0,10,train,1
"massaging person's head",BBBBBBBBBBB,7,17,train,0
"""
VALIDATION = "abseiling,CCCCCCCCCCC,123,133,val,0\ntraining dog,DDDDDDDDDDD,3,13,val,0\n"
CLASSES = ("abseiling", "massaging person's head", "passing American football (in game)", "training dog")
ABSEILING = "-a_bcdefghi_000010_000020"


def make(root: Path, videos: Iterable[str], **lists: str) -> Path:
    """Empty files, and lists: `train="..."` is `train.csv`, of rows below the usual header."""
    for video in videos:
        (root / video).parent.mkdir(parents=True, exist_ok=True)
        (root / video).touch()
    for name, text in (lists or {"train": HEADER + TRAIN, "val": HEADER + VALIDATION}).items():
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.csv").write_text(text, encoding="utf-8")
    return root


def places(found: Dataset, root: Path) -> dict[str, list[str]]:
    return {split: [clip.video.relative_to(root).as_posix() for clip in clips] for split, clips in found.splits.items()}


def test_what_is_there_is_used_and_the_rest_is_counted(tmp_path: Path) -> None:
    make(tmp_path, [f"train/abseiling/{ABSEILING}.mp4", "val/training dog/DDDDDDDDDDD_000003_000013.mp4", "readme.md"])
    found = kinetics400(tmp_path)
    assert found.classes == {"action": CLASSES}
    assert found.splits["train"] == (
        Clip(
            clip_id=ABSEILING,
            video=tmp_path / f"train/abseiling/{ABSEILING}.mp4",
            labels={"action": 0},
            group="-a_bcdefghi",
            attributes={"is_cc": "0"},
        ),
    )
    assert [clip.labels for clip in found.splits["validation"]] == [{"action": 3}]
    assert [clip.video.relative_to(tmp_path).as_posix() for clip in found.absent["train"]] == [
        "train/passing American football (in game)/AAAAAAAAAAA_000000_000010.mp4",
        "train/massaging person's head/BBBBBBBBBBB_000007_000017.mp4",
    ]
    assert found.num_listed == {"train": 3, "validation": 2}
    assert found.group_name == "YouTube video"
    assert found.notes == (
        "2 of 5 listed clips are there, 3 are absent (train 1 of 3, validation 1 of 2)",
        "the lists name 4 of 400 classes",
    )


@pytest.mark.parametrize(
    "video",
    [
        f"train/{ABSEILING}.mp4",
        f"k400/train/{ABSEILING}.mp4",
        f"videos_train/abseiling/{ABSEILING}.mkv",
        f"train_256/abseiling/{ABSEILING}.webm",
        f"compress/train_256/abseiling/{ABSEILING}.MP4",
        "train/abseiling/-a_bcdefghi_10_20.mp4",
        f"{ABSEILING}.mp4",
        "videos/train/abseiling/-a_bcdefghi.mp4",
        "train/-a_bcdefghi.mp4",
    ],
)
def test_names_and_layouts(tmp_path: Path, video: str) -> None:
    assert places(kinetics400(make(tmp_path, [video])), tmp_path) == {"train": [video]}


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "validate.csv"),
        ("annotations/train.csv", "annotations/val.csv"),
        ("kinetics-400_train.csv", "kinetics-400_val.csv"),
        ("kinetics400/train.csv", "kinetics400/validate.csv"),
        ("k400/annotations/train.csv", "k400/annotations/val.csv"),
        ("annotations/kinetics_train.csv", "annotations/kinetics_val.csv"),
    ],
)
def test_names_of_lists(tmp_path: Path, names: tuple[str, str]) -> None:
    make(tmp_path, [f"videos/{ABSEILING}.mp4"], other="x")
    for name, text in zip(names, (TRAIN, VALIDATION), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(HEADER + text)
    assert kinetics400(tmp_path).num_listed == {"train": 3, "validation": 2}
    apart = make(tmp_path / "apart", [f"{ABSEILING}.mp4"], other="x")
    lists = str((tmp_path / names[0]).parent)
    assert kinetics400(apart, annotations=lists).num_listed == {"train": 3, "validation": 2}


def test_lists_and_videos_of_other_versions_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, [f"k400/train/{ABSEILING}.mp4", f"k600/train/{ABSEILING}.mp4", f"k700-2020/{ABSEILING}.mp4"])
    (tmp_path / "kinetics-600_train.csv").write_text(HEADER + TRAIN)
    (tmp_path / "k700-2020" / "annotations").mkdir()
    (tmp_path / "k700-2020" / "annotations" / "train.csv").write_text(HEADER + TRAIN)
    assert places(kinetics400(tmp_path), tmp_path) == {"train": [f"k400/train/{ABSEILING}.mp4"]}
    assert places(kinetics600(tmp_path), tmp_path) == {"train": [f"k600/train/{ABSEILING}.mp4"]}
    (tmp_path / "train.csv").unlink()
    (tmp_path / "val.csv").unlink()
    assert places(kinetics700(tmp_path), tmp_path) == {"train": [f"k700-2020/{ABSEILING}.mp4"]}


def test_whole_videos_have_their_times_in_the_list(tmp_path: Path) -> None:
    lists = HEADER + TRAIN + "training dog,-a_bcdefghi,30,40,train,0\n"
    make(tmp_path, ["train/-a_bcdefghi.mp4", "AAAAAAAAAAA_000000_000010.mp4"], train=lists)
    clips = kinetics400(tmp_path, videos="full").splits["train"]
    assert [(clip.clip_id, clip.start_s, clip.stop_s, clip.labels["action"]) for clip in clips] == [
        (ABSEILING, 10.0, 20.0, 0),
        ("-a_bcdefghi_000030_000040", 30.0, 40.0, 3),
    ]
    assert {clip.video for clip in clips} == {tmp_path / "train/-a_bcdefghi.mp4"}
    assert {clip.group for clip in clips} == {"-a_bcdefghi"}
    (tmp_path / "train.csv").unlink()
    with pytest.raises(ConfigError, match=r"^data\.videos: full takes times from the official lists, and none is in"):
        kinetics400(tmp_path, videos="full")


def test_a_file_without_times_is_never_taken_for_another_clip_of_its_video(tmp_path: Path) -> None:
    """Where a video is listed several times, only its folders can say which clip a file is."""
    train = HEADER + TRAIN + "training dog,-a_bcdefghi,30,40,train,0\n"
    val = HEADER + VALIDATION + "abseiling,AAAAAAAAAAA,50,60,val,0\n"
    make(
        tmp_path,
        [
            "train/training_dog/-a_bcdefghi.mp4",  # two of one split: the class tells
            "val/x/AAAAAAAAAAA.mp4",  # one in each of two splits: the split tells
            "train/x/BBBBBBBBBBB.mp4",
            "DDDDDDDDDDD.mp4",  # listed once: nothing has to tell
        ],
        train=train,
        val=val,
    )
    found = kinetics400(tmp_path)
    assert places(found, tmp_path) == {
        "train": ["train/x/BBBBBBBBBBB.mp4", "train/training_dog/-a_bcdefghi.mp4"],
        "validation": ["DDDDDDDDDDD.mp4", "val/x/AAAAAAAAAAA.mp4"],
    }
    assert found.splits["train"][1].clip_id == "-a_bcdefghi_000030_000040"
    assert found.notes[2:] == (
        "files without times in their names, taken for trimmed clips: 4 (set data.videos=full if they are whole "
        "videos)",
        "clips left out because their video is listed several times and no file name tells which: 2",
    )


@pytest.mark.parametrize(
    ("video", "is_used"),
    [
        ("train/massaging_persons_head/AAAAAAAAAAA.mp4", False),  # another class
        ("massaging persons head/AAAAAAAAAAA.mp4", False),
        ("val/passing_American_football_in_game/AAAAAAAAAAA.mp4", False),  # another split
        ("val/AAAAAAAAAAA.mp4", False),
        ("train/passing_American_football_in_game/AAAAAAAAAAA.mp4", True),
        ("passing_American_football_in_game/AAAAAAAAAAA.mp4", True),
        ("train/part_0/AAAAAAAAAAA.mp4", True),  # names no class
        ("AAAAAAAAAAA.mp4", True),
    ],
)
def test_a_file_without_times_is_not_taken_out_of_folders_of_others(tmp_path: Path, video: str, is_used: bool) -> None:
    found = kinetics400(make(tmp_path, [video, f"train/{ABSEILING}.mp4"]))
    assert (tmp_path / video in {clip.video for clip in found.splits["train"]}) == is_used
    assert len(found.absent["train"]) == (1 if is_used else 2)
    said = (
        "clips whose only file has no times in its name and lies in a folder of another split or class, so that they "
        "count as absent: 1"
    )
    assert (said in found.notes) != is_used
    whole = kinetics400(tmp_path, videos="full")
    assert tmp_path / video in {clip.video for clip in whole.splits["train"]}


def test_a_row_that_a_list_has_twice_is_used_once(tmp_path: Path) -> None:
    rows = TRAIN + "training dog,-a_bcdefghi,10,20,train,0\nabseiling,-a_bcdefghi,10.0,20,train,0\n"
    make(tmp_path, [f"train/{ABSEILING}.mp4", "train/-a_bcdefghi.mp4"], train=HEADER + rows, val=HEADER + VALIDATION)
    found = kinetics400(tmp_path)
    assert [(clip.clip_id, clip.labels) for clip in found.splits["train"]] == [(ABSEILING, {"action": 0})]
    assert found.num_listed == {"train": 3, "validation": 2}
    assert "rows that list the same times of a video as an earlier row of their list, left out: 2" in found.notes


def test_without_lists_the_order_does_not_depend_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = ["train/a/X.mp4", "train/a/Z.mp4", "train/b/W.mp4", "train/b/Y.mp4"]
    make(tmp_path, [*videos, "val/a/Y.mp4"], other="x")
    walk = os.walk

    def walk_backwards(*arguments: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in walk(*arguments, **options):
            names.sort(reverse=True)
            yield place, folders, names

    monkeypatch.setattr(os, "walk", walk_backwards)
    assert places(kinetics400(tmp_path), tmp_path)["train"] == videos


def test_replacements_stand_in_for_corrupt_videos(tmp_path: Path) -> None:
    replacement = f"replacement/replacement_for_corrupted_k400/{ABSEILING}.mp4"
    found = kinetics400(make(tmp_path, [f"train/abseiling/{ABSEILING}.mp4", replacement]))
    assert places(found, tmp_path) == {"train": [replacement]}
    assert "clips taken from the folder of replacements: 1" in found.notes


def test_an_unlabelled_test_list(tmp_path: Path) -> None:
    text = "youtube_id,time_start,time_end,split\nEEEEEEEEEEE,1,11,test\n"
    make(tmp_path, ["test/EEEEEEEEEEE_000001_000011.mp4"], train=HEADER + TRAIN, test=text)
    assert [clip.labels for clip in kinetics600(tmp_path).splits["test"]] == [{}]
    (tmp_path / "test.csv").write_text(HEADER + "abseiling,EEEEEEEEEEE,1,11,test,0\n")
    assert [clip.labels for clip in kinetics600(tmp_path).splits["test"]] == [{"action": 0}]


def test_classes_are_chosen_by_name_or_by_file(tmp_path: Path) -> None:
    videos = ["CCCCCCCCCCC_000123_000133.mp4", "AAAAAAAAAAA_000000_000010.mp4", "EEEEEEEEEEE_000001_000011.mp4"]
    unlabelled = "youtube_id,time_start,time_end\nEEEEEEEEEEE,1,11\n"
    make(tmp_path, videos, train=HEADER + TRAIN, val=HEADER + VALIDATION, test=unlabelled)
    (tmp_path / "mine.txt").write_text("# a remark\npassing_american_football_in_game\n\nabseiling\n")
    chosen = ("abseiling", "passing American football (in game)")
    for given in ("mine.txt", str(tmp_path / "mine.txt"), [chosen[1], "Abseiling"]):
        found = kinetics400(tmp_path, classes=given)
        assert found.classes == {"action": chosen}
        assert [clip.labels for clips in found.splits.values() for clip in clips] == [{"action": 1}, {"action": 0}]
        assert found.num_listed == {"train": 2, "validation": 1}
        assert "data.classes: 2 of 4 classes, 3 clips are of others" in found.notes


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["absailing"], "data.classes: there is no class 'absailing'; did you mean 'abseiling'?"),
        (["abseiling", "Abseiling"], "data.classes: class 'abseiling' is named twice"),
        ([], "data.classes: names no class"),
        ("nowhere.txt", "data.classes: nowhere.txt: no such file, nor a shipped list (kinetics400_15"),
        ("kinetics400_15", "data.classes: kinetics400_15: there is no class 'brushing teeth'"),
    ],
)
def test_what_is_wrong_in_classes_is_said(tmp_path: Path, classes: str | list[str], message: str) -> None:
    make(tmp_path, [f"{ABSEILING}.mp4"])
    with pytest.raises(ConfigError) as error:
        kinetics400(tmp_path, classes=classes)
    assert str(error.value).startswith(message)


def test_without_lists_folders_say_what_the_videos_are(tmp_path: Path) -> None:
    videos = [
        f"train/abseiling/{ABSEILING}.mp4",
        "train/training_dog/XYZ.mp4",
        "val/training_dog/CCCCCCCCCCC_000123_000133.mp4",
        "test/EEEEEEEEEEE_000001_000011.mp4",
    ]
    found = kinetics400(make(tmp_path, videos, other="x"))
    assert found.classes == {"action": ("abseiling", "training_dog")}
    assert places(found, tmp_path) == {"train": videos[:2], "validation": videos[2:3], "test": videos[3:]}
    assert [clip.labels for clips in found.splits.values() for clip in clips] == [
        {"action": 0},
        {"action": 1},
        {"action": 1},
        {},
    ]
    assert [clip.group for clip in found.splits["train"]] == ["-a_bcdefghi", "XYZ"]
    said = "without an official list, so that folders say what the clips are: train, validation, test"
    assert found.notes == (said,)


def test_a_split_without_a_list_uses_its_folders_and_the_classes_of_the_other_lists(tmp_path: Path) -> None:
    videos = ["train/massaging_persons_head/XYZ.mp4", "train/what/ABC.mp4", "train/DEF.mp4", "val/CCCCCCCCCCC.mp4"]
    make(tmp_path, videos, **{"kinetics-400_val": HEADER + VALIDATION})
    (tmp_path / "kinetics_label_map_k400.txt").write_text("\n".join(CLASSES) + "\n")
    found = kinetics400(tmp_path)
    assert found.classes == {"action": CLASSES}
    assert places(found, tmp_path) == {"train": videos[:1], "validation": videos[3:]}
    assert found.splits["train"][0].labels == {"action": 1}
    assert "videos left out because their folder is no class: 2 (no folder, what)" in found.notes
    (tmp_path / "kinetics_label_map_k400.txt").write_text("abseiling\n")
    with pytest.raises(DataError, match=r"label_map_k400\.txt: does not have the class 'training dog' of the lists"):
        kinetics400(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 1\n", "no column 'youtube_id' in its first line; lists of 'path label' lines are read by data.name=t"),
        ("youtube_id,time_start,time_end\nx,1,2\n", "no column 'label' in its first line"),
        (HEADER + "abseiling,x,1,11,train\n", "line 2: has 5 fields and the first line 6"),
        (HEADER + ",x,1,11,train,0\n", "line 2: the label is empty"),
        (HEADER + "abseiling,x,1,11,val,0\n", "line 2: belongs to the split 'val', but the file is named for train"),
        (HEADER + "abseiling,x,one,11,train,0\n", "line 2: 'one' and '11' are not times in seconds"),
        (HEADER + "abseiling,x,11,1,train,0\n", "line 2: the clip cannot last from 11 to 1 s"),
    ],
)
def test_broken_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    make(tmp_path, [f"{ABSEILING}.mp4"], train=text)
    with pytest.raises(DataError) as error:
        kinetics400(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'train.csv'}: ")
    assert message in str(error.value)


def test_without_lists_or_videos_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither a list of Kinetics-400 \(train\.csv, .* nor videos in train/"):
        kinetics400(tmp_path)
    make(tmp_path, [])
    with pytest.raises(DataError, match="none of the 5 listed clips is there"):
        kinetics400(tmp_path)
    (tmp_path / "validate.csv").write_text(HEADER)
    with pytest.raises(DataError, match=r"both val\.csv and validate\.csv may be the list of the validation split"):
        kinetics400(tmp_path)
    (tmp_path / "lists").mkdir()
    with pytest.raises(DataError, match=r"lists: holds no list of Kinetics-400"):
        kinetics400(tmp_path, annotations="lists")
    with pytest.raises(ConfigError, match=r"^data\.annotations: .*nowhere is not a folder"):
        kinetics400(tmp_path, annotations="nowhere")


def test_official_lists(data_root: Path, tmp_path: Path) -> None:
    lists = str(data_root / "kinetics")
    make(tmp_path, ["val/0wR5jVB-WPk_000417_000427.mp4", "val/yq_M1PMw2hY_000038_000048.mp4"], other="x")
    found = kinetics400(tmp_path, annotations=lists)
    assert found.num_listed == {"validation": 19906}
    assert len(found.classes["action"]) == 400
    assert found.classes["action"][found.splits["validation"][0].labels["action"]] == "abseiling"
    assert found.notes[0].startswith("2 of 19906 listed clips are there, 19904 are absent (validation 2 of 19906)")
    other = kinetics600(tmp_path, annotations=lists)
    assert other.num_listed == {"validation": 30000}
    assert len(other.classes["action"]) == 600
    assert other.splits["validation"][0].group == "yq_M1PMw2hY"
    for names in (found.classes["action"], other.classes["action"]):
        assert len({spelling(name) for name in names}) == len(names)


def test_shipped_class_lists_are_official(data_root: Path, tmp_path: Path) -> None:
    known = (data_root / "kinetics" / "kinetics_label_map_k400.txt").read_text().splitlines()
    val = (data_root / "kinetics" / "kinetics-400_val.csv").read_text().splitlines()
    video = next(line.split(",")[1] for line in val if line.startswith('"washing dishes"'))
    make(tmp_path, [f"val/{video}.mp4"], other="x")
    found = kinetics400(tmp_path, annotations=str(data_root / "kinetics"), classes="kinetics400_15")
    assert len(found.classes["action"]) == 15
    assert set(found.classes["action"]) <= set(known)
    assert found.splits["validation"][0].labels == {"action": 14}
    assert set(read_class_map("kinetics_to_stanford40")) < set(found.classes["action"])
    assert set(found.classes["action"]) - set(read_class_map("kinetics_to_stanford40")) == {"drinking", "smoking"}
