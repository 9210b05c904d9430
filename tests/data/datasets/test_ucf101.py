from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from kinema.data.datasets.ucf101 import ucf101
from kinema.types import ConfigError, DataError

CLASSES = "1 Archery\r\n2 HandstandPushups\r\n3 YoYo\r\n"
TRAIN = [
    "Archery/v_Archery_g08_c01.avi 1",
    "Archery/v_Archery_g08_c02.avi 1",
    "HandstandPushups/v_HandStandPushups_g08_c01.avi 2",
]
TEST = ["Archery/v_Archery_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi"]
PRESENT = [
    "Archery/v_Archery_g08_c01.avi",
    "HandStandPushups/v_HandstandPushups_g08_c01.avi",  # the case is neither that of the list
    "Archery/v_Archery_g01_c01.avi",
    "Archery/v_Archery_g25_c01.avi",  # in neither list
]


def make(root: Path, *, lists: str = "ucfTrainTestlist", videos: str = "UCF-101") -> Path:
    for name in PRESENT:
        (root / videos / name).parent.mkdir(parents=True, exist_ok=True)
        (root / videos / name).touch()
    (root / lists).mkdir(parents=True, exist_ok=True)
    (root / lists / "classInd.txt").write_text(CLASSES)
    (root / lists / "trainlist02.txt").write_text("\r\n".join(TRAIN) + "\r\n")
    (root / lists / "testlist02.txt").write_text("\r\n".join(TEST) + "\r\n")
    return root


def test_what_is_there_is_used_and_the_rest_is_counted(tmp_path: Path) -> None:
    found = ucf101(make(tmp_path), fold=2)
    assert found.classes == {"action": ("Archery", "HandstandPushups", "YoYo")}
    assert [(clip.clip_id, clip.labels["action"], clip.group) for clip in found.splits["train"]] == [
        ("Archery/v_Archery_g08_c01", 0, "Archery/g08"),
        ("HandstandPushups/v_HandStandPushups_g08_c01", 1, "HandstandPushups/g08"),
    ]
    assert [clip.video for clip in found.splits["train"]] == [tmp_path / "UCF-101" / name for name in PRESENT[:2]]
    assert [clip.clip_id for clip in found.splits["test"]] == ["Archery/v_Archery_g01_c01"]
    assert found.num_listed == {"train": 3, "test": 2}
    assert found.group_name == "group"
    assert found.notes == (
        "3 of 5 listed videos are there, 2 are absent (train 2 of 3, test 1 of 2)",
        "2 of 3 classes have training clips",
    )


def test_other_layouts_give_the_same(tmp_path: Path) -> None:
    expected = [clip.clip_id for clip in ucf101(make(tmp_path / "official"), fold=2).splits["train"]]
    roots = {
        "the folder of videos": tmp_path / "official" / "UCF-101",
        "lists and classes in root": make(tmp_path / "bare", lists=".", videos="."),
    }
    flat = make(tmp_path / "flat", videos="elsewhere")
    for video in (flat / "elsewhere").glob("*/*"):
        video.rename(flat / video.name)
    roots["videos in root"] = flat
    for layout, root in roots.items():
        assert [clip.clip_id for clip in ucf101(root, fold=2).splits["train"]] == expected, layout
    apart = make(tmp_path / "apart", lists="lists")
    assert [clip.clip_id for clip in ucf101(apart, fold=2, annotations="lists").splits["train"]] == expected
    given = str(apart / "lists")
    assert [clip.clip_id for clip in ucf101(apart, fold=2, annotations=given).splits["train"]] == expected


def test_a_transcoded_copy_stands_in_for_an_absent_original(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("v_Archery_g08_c01.mp4", "v_Archery_g08_c02.mp4"):
        (tmp_path / "UCF-101" / "Archery" / name).touch()
    clips = ucf101(tmp_path, fold=2).splits["train"]
    assert [clip.video.name for clip in clips[:2]] == ["v_Archery_g08_c01.avi", "v_Archery_g08_c02.mp4"]


def test_without_lists_or_videos_it_says_what_is_missing(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=r"trainlist01\.txt is not in .*ucfTrainTestlist or .* data\.annotations$"):
        ucf101(tmp_path, fold=1)
    with pytest.raises(ConfigError, match=r"^data\.annotations: .*nowhere is not a folder"):
        ucf101(tmp_path, fold=2, annotations="nowhere")
    for video in (tmp_path / "UCF-101").glob("*/*"):
        video.unlink()
    with pytest.raises(DataError, match=r"none of the 5 videos in .* is there"):
        ucf101(tmp_path, fold=2)
    (tmp_path / "ucfTrainTestlist" / "testlist02.txt").unlink()
    with pytest.raises(DataError, match=r"testlist02\.txt: no such file"):
        ucf101(tmp_path, fold=2)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "trainlist02.txt",
            "Archery/v_Archery_g08_c01.avi 2\n",
            "line 1: class Archery is 1 in classInd.txt, not 2",
        ),
        ("trainlist02.txt", "\nArchery v_Archery_g08\n", "line 2: expected <Class>/v_<Class>_gNN_cMM.avi, found "),
        (
            "testlist02.txt",
            "Archry/v_Archry_g08_c01.avi\n",
            "class 'Archry' is not in classInd.txt; did you mean 'A",
        ),
        ("classInd.txt", "1 Archery\n3 YoYo\n", "line 2: expected '2 <class>', found '3 YoYo'"),
        ("classInd.txt", "\n", "holds no class"),
    ],
)
def test_broken_lists_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    place = make(tmp_path) / "ucfTrainTestlist" / file
    place.write_text(text)
    with pytest.raises(DataError) as error:
        ucf101(tmp_path, fold=2)
    assert str(error.value).startswith(f"{place}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fold", "num_train", "num_test", "present"),
    [(1, 9537, 3783, (19, 23)), (2, 9586, 3734, (36, 6)), (3, 9624, 3696, (34, 8))],
)
def test_official_lists(
    data_root: Path, fold: Literal[1, 2, 3], num_train: int, num_test: int, present: tuple[int, int]
) -> None:
    found = ucf101(data_root / "ucf101", fold=fold)
    assert len(found.classes["action"]) == 101
    assert found.num_listed == {"train": num_train, "test": num_test}
    assert (len(found.splits["train"]), len(found.splits["test"])) == present
    assert found.notes[0] == (
        f"42 of 13320 listed videos are there, 13278 are absent "
        f"(train {present[0]} of {num_train}, test {present[1]} of {num_test})"
    )
    train, test = ({clip.group for clip in found.splits[split]} for split in ("train", "test"))
    assert not train & test
