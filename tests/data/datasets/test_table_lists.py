"""`data.name: table` with the lists of other toolkits: lines of `path label`, a file per split, folders of frames."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kinema.data.datasets.table import table
from kinema.data.decoding import probe
from kinema.data.sampling import clip_interval_s
from kinema.data.splits import cut_validation
from kinema.types import Clip, ConfigError, DataError, Dataset

TRAIN = "abseiling/a.mp4 0\nair_drumming/b.mp4 2\n"
VALIDATION = "abseiling/c.mp4 0\n"


def make(root: Path, files: dict[str, str], *, videos: tuple[str, ...] = ()) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for name in videos:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def places(found: Dataset, root: Path) -> dict[str, list[str]]:
    return {split: [clip.video.relative_to(root).as_posix() for clip in clips] for split, clips in found.splits.items()}


VIDEOS = ("abseiling/a.mp4", "air_drumming/b.mp4", "abseiling/c.mp4")


def test_lists_of_mmaction2(tmp_path: Path) -> None:
    """As its script for Kinetics leaves them: a folder of videos for each split, lists beside them."""
    make(
        tmp_path,
        {
            "kinetics400_train_list_videos.txt": TRAIN,
            "kinetics400_val_list_videos.txt": VALIDATION,
            "label_map.txt": "abseiling\nair drumming\nanswering questions\n",
        },
        videos=("videos_train/abseiling/a.mp4", "videos_train/air_drumming/b.mp4", "videos_val/abseiling/c.mp4"),
    )
    found = table(tmp_path)
    assert found.classes == {"action": ("0", "1", "2")}
    assert places(found, tmp_path) == {
        "train": ["videos_train/abseiling/a.mp4", "videos_train/air_drumming/b.mp4"],
        "validation": ["videos_val/abseiling/c.mp4"],
    }
    assert found.splits["train"][1] == Clip(
        clip_id="air_drumming/b.mp4", video=tmp_path / "videos_train/air_drumming/b.mp4", labels={"action": 2}
    )
    assert found.notes == ("1 of 3 classes are not in the lists, such as '1'",)
    named = table(tmp_path, classes="label_map.txt")
    assert named.classes == {"action": ("abseiling", "air drumming", "answering questions")}
    assert named.splits["train"][1].labels == {"action": 2}


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_lists_of_slowfast(tmp_path: Path, separator: str) -> None:
    files = {
        "train.csv": TRAIN.replace(" ", separator),
        "val.csv": VALIDATION.replace(" ", separator),
        "test.csv": VALIDATION.replace(" ", separator),
    }
    found = table(make(tmp_path, files, videos=VIDEOS))
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert len({clip.clip_id for clips in found.splits.values() for clip in clips}) == 4
    assert found.notes[0] == "rows that list the same stretch of a video as an earlier row: 1"


def test_paths_may_hold_spaces_commas_and_quotes(tmp_path: Path) -> None:
    videos = ("riding a bike/x 1.mp4", "a, b.mp4", "50 m/c.mp4")
    text = 'riding a bike/x 1.mp4 0\n"a, b.mp4",1\n\n50 m/c.mp4 2\n'
    assert places(table(make(tmp_path, {"list.txt": text}, videos=videos)), tmp_path) == {"train": list(videos)}


def test_files_are_named_for_splits(tmp_path: Path) -> None:
    files = {"lists/a.txt": TRAIN, "b.txt": VALIDATION, "c.txt": VALIDATION}
    make(tmp_path, files, videos=tuple(f"{place}/{video}" for place in ("x", "y") for video in VIDEOS))
    csv = {"train": "lists/a.txt", "val": "b.txt"}
    both = table(tmp_path, csv=csv, prefix={"train": "../x", "validation": "y"})
    assert [clip.video.resolve().relative_to(tmp_path).parts[0] for clip in both.splits["train"]] == ["x", "x"]
    assert places(both, tmp_path)["validation"] == ["y/abseiling/c.mp4"]
    assert table(tmp_path, csv="b.txt", prefix=str(tmp_path / "y")).num_listed == {"train": 1}
    assert table(tmp_path / "b.txt", prefix="y").num_listed == {"train": 1}
    with pytest.raises(
        ConfigError, match=r"^data\.csv: missing; .* holds 2 lists, name one, or one for each split \(b"
    ):
        table(tmp_path)


def test_tables_with_a_header_may_be_a_file_per_split_too(tmp_path: Path) -> None:
    make(tmp_path, {"train.csv": "path,label,day\na.mp4,x,1\n", "val.csv": "path,day,label\nb.mp4,2,x\n"})
    make(tmp_path, {}, videos=("a.mp4", "b.mp4"))
    found = table(tmp_path, group="day")
    assert found.classes == {"action": ("x",)}
    assert [clip.group for clips in found.splits.values() for clip in clips] == ["1", "2"]
    make(tmp_path, {"val.csv": "path,label\nb.mp4,x\n"})
    with pytest.raises(ConfigError, match=r"^data\.csv: .*train\.csv and .*val\.csv do not have the same columns"):
        table(tmp_path)
    make(tmp_path, dict.fromkeys(("train.csv", "val.csv"), "path,label,split\na.mp4,x,train\n"))
    with pytest.raises(
        ConfigError, match=r"^data\.csv: .*train\.csv has a column 'split', so it cannot be the file of"
    ):
        table(tmp_path)


def test_folders_of_frames(tmp_path: Path) -> None:
    files = {"train_list_rawframes.txt": "v/one 163 1\nv/two 40 50 0\nv/three 10 1\n"}
    make(tmp_path, files, videos=("rawframes/v/one/img_00001.jpg", "rawframes/v/two/img_00001.jpg"))
    found = table(tmp_path, fps=25)
    assert found.splits["train"] == (
        Clip(
            clip_id="v/one#0-6.52",
            video=tmp_path / "rawframes/v/one",
            stop_s=6.52,
            labels={"action": 1},
            fps=25,
            attributes={"total_frames": "163"},
        ),
        Clip(
            clip_id="v/two#1.6-3.6",
            video=tmp_path / "rawframes/v/two",
            start_s=1.6,
            stop_s=3.6,
            labels={"action": 0},
            fps=25,
            attributes={"total_frames": "50"},
        ),
    )
    assert [clip.video.name for clip in found.absent["train"]] == ["three"]
    with pytest.raises(ConfigError, match=r"^data\.fps: missing; .*rawframes\.txt: line 1 lists a folder of frames"):
        table(tmp_path)
    with pytest.raises(ConfigError, match=r"^data\.fps: 0 is not a frame rate"):
        table(tmp_path, fps=0)


@pytest.mark.parametrize(("num_frames", "is_complete"), [(29, False), (30, True), (31, True)])
def test_a_folder_with_fewer_frames_than_its_list_says_has_clips_that_end_outside(
    tmp_path: Path, num_frames: int, is_complete: bool
) -> None:
    make(tmp_path, {"train.txt": "one 30 0\n"})
    (tmp_path / "one").mkdir()
    for number in range(num_frames):
        Image.new("RGB", (16, 16)).save(tmp_path / "one" / f"img_{number + 1:05d}.jpg")
    for fps in (25.0, 29.97002997002997):
        (clip,) = table(tmp_path, fps=fps).splits["train"]
        video = probe(clip.video, fps=clip.fps)
        with (
            nullcontext()
            if is_complete
            else pytest.raises(DataError, match=r"is annotated from 0 to .* s, but the video is")
        ):
            clip_interval_s(clip, video)


def test_a_table_with_a_header_may_list_folders_of_frames(tmp_path: Path) -> None:
    make(tmp_path, {"clips.csv": "path,label\none,x\na.mp4,x\n"}, videos=("one/1.jpg", "a.mp4"))
    assert [(clip.video.name, clip.fps) for clip in table(tmp_path, fps=30).splits["train"]] == [
        ("one", 30),
        ("a.mp4", None),
    ]
    (tmp_path / "clips.csv").write_text("path,label\na.mp4,x\n")
    assert table(tmp_path, fps=30).notes == ("data.fps is not used: no row is a folder of frames",)


def test_a_pattern_groups_the_clips_of_a_list(tmp_path: Path) -> None:
    names = [f"Biking/v_Biking_g{group:02}_c{clip:02}.avi" for group in range(4) for clip in range(3)]
    make(tmp_path, {"list.txt": "".join(f"{name} 0\n" for name in names)}, videos=tuple(names))
    found = table(tmp_path, group=r"g(\d+)_")
    assert (found.group_name, {clip.group for clip in found.splits["train"]}) == ("group", {"00", "01", "02", "03"})
    cut = cut_validation(found, 0.25, seed=0)
    assert len({clip.group for clip in cut.splits["validation"]}) == 1
    assert len(cut.splits["validation"]) == 3
    with pytest.raises(ConfigError, match=r"^data\.group: 'day' is found in no path of .*list\.txt"):
        table(tmp_path, group="day")
    with pytest.raises(ConfigError, match=r"^data\.group: '\(' is not a regular expression"):
        table(tmp_path, group="(")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abseiling/a.mp4", "expected 'path label', the label an integer from 0, found 'abseiling/a.mp4'"),
        ("abseiling/a.mp4 abseiling", "expected 'path label', the label an integer from 0"),
        ("abseiling/a.mp4 -1", "expected 'path label', the label an integer from 0"),
        ("abseiling/a.mp4 1 2", "several numbers follow a video"),
        ("abseiling/a 1", "'abseiling/a' does not end like a video"),
        ("abseiling/a 1 2 3 4", "'abseiling/a' does not end like a video"),
        ("abseiling/a 0 3", "a folder of 0 frames"),
    ],
)
def test_what_is_wrong_in_a_line_is_said(tmp_path: Path, line: str, message: str) -> None:
    make(tmp_path, {"train.txt": TRAIN + "\n" + line + "\n"}, videos=VIDEOS)
    with pytest.raises(DataError) as error:
        table(tmp_path, fps=25)
    assert str(error.value).startswith(f"{tmp_path / 'train.txt'}: line 4: {message}")


def test_a_label_that_is_no_class_names_its_file_and_line(tmp_path: Path) -> None:
    files = {"train.txt": TRAIN, "val.txt": "\nabseiling/c.mp4 7\n", "classes.txt": "a\nb\nc\n"}
    make(tmp_path, files, videos=VIDEOS)
    with pytest.raises(DataError, match=r"val\.txt: row 2, column 'label': label '7' of the validation split is unkn"):
        table(tmp_path, classes="classes.txt")
    make(tmp_path, {"val.txt": "abseiling/c.mp4 123456789\n"})
    with pytest.raises(DataError, match=r"val\.txt: row 1, column 'label': 123456789 is too large for the number of a"):
        table(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"csv": {"trian": "train.txt"}}, "data.csv: 'trian' is not a split; did you mean 'train'?"),
        ({"csv": {"val": "val.txt", "valid": "val.txt"}}, "data.csv: 'valid' comes twice"),
        ({"csv": {"train": "tarin.txt"}}, "data.csv.train: {root}/tarin.txt: no such file"),
        ({"csv": {}}, "data.csv: names no file"),
        ({"prefix": "nowhere"}, "data.prefix: {root}/nowhere: no such folder"),
        ({"prefix": {"train": "nowhere"}}, "data.prefix.train: {root}/nowhere: no such folder"),
        ({"prefix": {"test": "."}}, "data.prefix: 'test' is not a split that data.csv names a file for"),
        ({"group": ["a", "b"]}, "data.group: {root}/train.txt has no column 'a'"),
        ({"classes": {"lable": "train.txt"}}, "data.csv: missing"),
    ],
)
def test_what_is_wrong_in_a_setting_names_its_key(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    make(tmp_path, {"train.txt": TRAIN, "val.txt": VALIDATION}, videos=VIDEOS)
    if "classes" in arguments:
        make(tmp_path, {"other.txt": TRAIN, "more.txt": TRAIN})
    with pytest.raises(ConfigError) as error:
        table(tmp_path, **arguments)
    assert str(error.value).startswith(message.format(root=tmp_path))


def test_a_list_of_another_split_alone_has_no_training_clips(tmp_path: Path) -> None:
    make(tmp_path, {"ucf101_val_split_1_videos.txt": VALIDATION}, videos=VIDEOS)
    assert list(table(tmp_path).splits) == ["validation"]
    make(tmp_path, {"ucf101_val_split_1_videos.txt": "", "clips.txt": "nothing"})
    with pytest.raises(DataError, match="holds no CSV file and no list of 'path label' lines"):
        table(tmp_path)


def test_a_real_list(data_root: Path, tmp_path: Path) -> None:
    """UCF101's own lists are of this form."""
    ucf101 = data_root / "ucf101"
    lists = ucf101 / "ucfTrainTestlist"
    csv = {"train": str(lists / "trainlist01.txt")}
    found = table(ucf101, csv=csv, prefix=str(ucf101 / "UCF-101"), group=r"v_\w+_g\d+")
    assert found.num_listed == {"train": 9537}
    assert len(found.splits["train"]) == 19
    assert len(found.classes["action"]) == 102  # they number from 1, and that is said
    assert "1 of 102 classes are not in the lists, such as '0'" in found.notes
