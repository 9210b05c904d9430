from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from kinema.data.datasets.hmdb51 import hmdb51
from kinema.data.splits import cut_validation
from kinema.types import Clip, ConfigError, DataError, Dataset

ODD = "#437_(Hair)_[NEW]_&_Crème;_UPDATED!!!!_brush_hair_u_nm_np1_ba_goo_0.avi"
LISTS = {
    "wave": {
        "King_7_wave_u_cm_np1_fr_med_0.avi": 1,
        "King_7_wave_u_cm_np10_fr_med_1.avi": 1,
        "King_3_wave_f_nm_np1_le_bad_0.avi": 2,
        "Other_wave_h_nm_np1_ri_goo_0.avi": 0,
    },
    "brush_hair": {
        ODD: 1,
        "King_7_brush_hair_u_cm_np1_fr_med_0.avi": 2,
        "April_09_brush_hair_u_nm_np1_ba_goo_1.avi": 2,
    },
}
PRESENT = [
    f"brush_hair/{ODD}",
    "wave/King_7_wave_u_cm_np1_fr_med_0.avi",
    "wave/King_3_wave_f_nm_np1_le_bad_0.avi",
    "wave/Other_wave_h_nm_np1_ri_goo_0.avi",
    "wave/Nobody_wave_h_nm_np1_ri_goo_0.avi",  # in no list
]


def make(root: Path, *, lists: str = "testTrainMulti_7030_splits", videos: str = "hmdb51_org", fold: int = 2) -> Path:
    for name in PRESENT:
        (root / videos / name).parent.mkdir(parents=True, exist_ok=True)
        (root / videos / name).touch()
    (root / lists).mkdir(parents=True, exist_ok=True)
    for label, uses in LISTS.items():
        text = "".join(f"{name} {use} \n" for name, use in uses.items())
        (root / lists / f"{label}_test_split{fold}.txt").write_text(text, encoding="utf-8")
    return root


def ids(found: Dataset) -> dict[str, list[str]]:
    return {split: [clip.clip_id for clip in clips] for split, clips in found.splits.items()}


TRAIN = [f"brush_hair/{ODD[:-4]}", "wave/King_7_wave_u_cm_np1_fr_med_0"]


def test_what_is_there_is_used_and_the_rest_is_counted(tmp_path: Path) -> None:
    found = hmdb51(make(tmp_path), fold=2)
    assert found.classes == {"action": ("brush_hair", "wave")}
    assert ids(found) == {"train": TRAIN, "test": ["wave/King_3_wave_f_nm_np1_le_bad_0"]}
    assert found.splits["train"][1] == Clip(
        clip_id=TRAIN[1],
        video=tmp_path / "hmdb51_org" / PRESENT[1],
        labels={"action": 1},
        group="wave/King_7",
    )
    assert found.absent["train"][0].video == tmp_path / "hmdb51_org/wave/King_7_wave_u_cm_np10_fr_med_1.avi"
    assert found.num_listed == {"train": 3, "test": 3}
    assert found.notes == (
        "3 of 6 listed videos are there, 3 are absent (train 2 of 3, test 1 of 3)",
        "listed videos that split 2 does not use: 1",
    )


def test_other_layouts_give_the_same(tmp_path: Path) -> None:
    roots = {
        "class folders in root": make(tmp_path / "bare", videos="."),
        "everything in root": make(tmp_path / "flat", lists=".", videos="."),
        "lists in annotations": make(tmp_path / "annotated", lists="annotations"),
        "a folder in the class folder": make(tmp_path / "deep", videos="hmdb51_org/wave"),
        "the folder of videos, lists beside it": make(tmp_path / "beside") / "hmdb51_org",
    }
    for layout, root in roots.items():
        assert ids(hmdb51(root, fold=2))["train"] == TRAIN, layout
    apart = make(tmp_path / "apart", lists="mine/lists")
    for given in ("mine/lists", str(apart / "mine/lists")):
        assert ids(hmdb51(apart, fold=2, annotations=given))["train"] == TRAIN


def test_accents_may_be_stored_either_way(tmp_path: Path) -> None:
    make(tmp_path)
    video = tmp_path / "hmdb51_org" / "brush_hair" / ODD
    decomposed = video.with_name(unicodedata.normalize("NFD", ODD))
    assert decomposed.name != video.name
    video.rename(decomposed)
    assert hmdb51(tmp_path, fold=2).splits["train"][0].video == decomposed


def test_a_transcoded_copy_stands_in_for_an_absent_original(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("King_7_wave_u_cm_np1_fr_med_0.mp4", "King_7_wave_u_cm_np10_fr_med_1.mp4"):
        (tmp_path / "hmdb51_org" / "wave" / name).touch()
    assert [clip.video.name for clip in hmdb51(tmp_path, fold=2).splits["train"][1:]] == [
        "King_7_wave_u_cm_np1_fr_med_0.avi",
        "King_7_wave_u_cm_np10_fr_med_1.mp4",
    ]


def test_films_are_groups_across_classes_and_parts(tmp_path: Path) -> None:
    found = hmdb51(make(tmp_path), fold=2, group="film")
    clips = [clip for split in (found.splits, found.absent) for clips in split.values() for clip in clips]
    assert {clip.group for clip in clips if "King" in clip.clip_id} == {"king"}
    assert {clip.group for clip in clips if "April" in clip.clip_id} == {"april"}
    assert found.group_name == "film"


@pytest.mark.parametrize("line", ["King_7_wave_u_cm_np1_fr_med_0.avi 3", "King_7_wave_u_cm_np1_fr_med_0 1", "x.avi 1"])
def test_broken_lists_are_refused(tmp_path: Path, line: str) -> None:
    file = make(tmp_path) / "testTrainMulti_7030_splits" / "wave_test_split2.txt"
    file.write_text(f"\n{line}\n")
    with pytest.raises(DataError) as error:
        hmdb51(tmp_path, fold=2)
    assert str(error.value).startswith(f"{file}: line 2: expected ")


def test_a_class_whose_list_is_missing_is_not_forgotten(tmp_path: Path) -> None:
    make(make(tmp_path, fold=1), fold=2)
    file = tmp_path / "testTrainMulti_7030_splits" / "brush_hair_test_split2.txt"
    file.unlink()
    with pytest.raises(DataError) as error:
        hmdb51(tmp_path, fold=2)
    assert str(error.value) == (
        f"{file}: no such file, but brush_hair_test_split1.txt is beside it; unpack test_train_splits.rar again"
    )
    assert len(hmdb51(tmp_path, fold=1).classes["action"]) == 2


def test_files_that_macos_puts_beside_the_lists_are_no_lists(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "testTrainMulti_7030_splits" / "._wave_test_split2.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "testTrainMulti_7030_splits" / "._wave_test_split1.txt").write_bytes(b"\0\5\x16\7")
    assert hmdb51(tmp_path, fold=2).classes == {"action": ("brush_hair", "wave")}


def test_without_lists_or_videos_it_says_what_is_missing(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=r"no list <class>_test_split1\.txt is in .*; unpack .* data\.annotations$"):
        hmdb51(tmp_path, fold=1)
    with pytest.raises(ConfigError, match=r"^data\.annotations: .*nowhere is not a folder"):
        hmdb51(tmp_path, fold=2, annotations="nowhere")
    for video in (tmp_path / "hmdb51_org").glob("*/*"):
        video.unlink()
    with pytest.raises(DataError, match="none of the 6 listed videos is there"):
        hmdb51(tmp_path, fold=2)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_official_lists(data_root: Path, fold: Literal[1, 2, 3]) -> None:
    found = hmdb51(data_root / "hmdb51", fold=fold)
    assert len(found.classes["action"]) == 51
    assert found.num_listed == {"train": 3570, "test": 1530}
    assert found.notes[1] == f"listed videos that split {fold} does not use: 1666"
    assert sum(map(len, found.splits.values())) == 1
    groups = groups_by_split(found)
    assert not groups["train"] & groups["test"]
    films = groups_by_split(hmdb51(data_root / "hmdb51", fold=fold, group="film"))
    assert len(films["train"] & films["test"]) == {1: 122, 2: 135, 3: 131}[fold]


def test_a_cut_of_the_official_training_list_divides_no_source(data_root: Path) -> None:
    found = hmdb51(data_root / "hmdb51", fold=1)
    listed = Dataset(classes=found.classes, splits={"train": found.absent["train"]}, group_name=found.group_name)
    groups = groups_by_split(cut_validation(listed, 0.1, seed=0))
    assert len(groups["validation"]) > 51
    assert not groups["train"] & groups["validation"]


def groups_by_split(found: Dataset) -> dict[str, set[str | None]]:
    clips = {split: (*found.splits.get(split, ()), *found.absent.get(split, ())) for split in found.num_listed}
    return {split: {clip.group for clip in members} for split, members in clips.items()}
