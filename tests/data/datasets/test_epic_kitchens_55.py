from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from tests.data.datasets.epic_tree import touch

from kinema.data.datasets.epic_kitchens_55 import epic_kitchens_55
from kinema.data.load_dataset import load_dataset
from kinema.sections import DataSection
from kinema.types import Clip, ConfigError, DataError

TIMES = "uid,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame"
LISTS = {
    "train_action_labels": "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    "0,P01,P01_01,open door,00:00:00.14,00:00:03.37,8,202,open,1,door,2,['door'],[2]\n"
    "7,P02,P02_03,take pan,01:02:04.37,01:02:06.17,262,370,take,0,pan,1,['pan'],[1]\n"
    "9,P03,P03_02,take door,00:00:04.37,00:00:06.17,262,370,take,0,door,2,['door'],[2]\n",
    "test_s1_timestamps": f"{TIMES}\n1924,P01,P01_11,00:00:00.00,00:00:01.89,1,113\n",
    "test_s2_timestamps": f"{TIMES}\n15582,P09,P09_01,00:00:01.97,00:00:03.09,118,185\n",
    "verb_classes": "verb_id,class_key,verbs\n0,take,['take']\n1,open,['open']\n2,let-go,['let']\n",
    "noun_classes": "noun_id,class_key,nouns\n0,Nothing,['Nothing']\n1,pan,['pan']\n2,door,['door']\n",
    "many_shot_verbs": "verb_class,verb\n0,take\n",
    "many_shot_nouns": "noun_class,noun\n2,door\n1,pan\n",
    "video_info": "video,resolution,duration,fps\nP01_01,1920x1080,1652.15,59.9400599400599\n",
}
VIDEOS = [f"videos/{split}/{name[:3]}/{name}.MP4" for split, name in [("train", "P01_01"), ("train", "P02_03")]]
VIDEOS += ["videos/train/P03/P03_02.MP4", "videos/test/P01/P01_11.MP4", "videos/test/P09/P09_01.MP4"]


def make(root: Path, paths: list[str]) -> Path:
    (root / "annotations").mkdir(parents=True)
    for name, text in LISTS.items():
        (root / "annotations" / f"EPIC_{name}.csv").write_text(text)
    return touch(root, paths)


def test_a_whole_download(tmp_path: Path) -> None:
    found = epic_kitchens_55(make(tmp_path, VIDEOS))
    assert found.classes == {"verb": ("take", "open", "let-go"), "noun": ("Nothing", "pan", "door")}
    assert found.num_listed == {"train": 3, "test": 2}
    assert found.splits["train"][1] == Clip(
        clip_id="7",
        video=tmp_path / "videos" / "train" / "P02" / "P02_03.MP4",
        start_s=3724.37,
        stop_s=3726.17,
        labels={"verb": 0, "noun": 1},
        group="P02",
        attributes={"participant_id": "P02", "video_id": "P02_03", "narration": "take pan"},
    )
    assert [(clip.clip_id, clip.labels) for clip in found.splits["test"]] == [("1924", {}), ("15582", {})]
    assert found.tail == {"verb": {1, 2}, "noun": {0}}
    assert found.unseen_groups == {"P09"}
    assert found.group_name == "participant"
    assert found.notes == ("read from video files (5)",)


@pytest.mark.parametrize(("test", "clips"), [("s1", ["1924"]), ("s2", ["15582"]), ("both", ["1924", "15582"])])
def test_either_test_list_or_both(tmp_path: Path, test: Literal["s1", "s2", "both"], clips: list[str]) -> None:
    found = epic_kitchens_55(make(tmp_path, VIDEOS), test=test)
    assert [clip.clip_id for clip in found.splits["test"]] == clips


def test_frames_of_the_published_archives(tmp_path: Path) -> None:
    paths = [f"frames_rgb_flow/rgb/train/{name[:3]}/{name}/" for name in ("P01_01", "P02_03", "P03_02")]
    paths += ["frames_rgb_flow/flow/train/P01/P01_01/u/"]
    found = epic_kitchens_55(make(tmp_path, paths))
    clips = found.splits["train"]
    assert [(clip.video, clip.fps) for clip in clips] == [(tmp_path / path, 60.0) for path in paths[:3]]
    assert clips[0].attributes["flow"] == str(tmp_path / paths[3]).removesuffix("/u")
    assert [clip.attributes.get("flow_fps") for clip in clips] == ["30", None, None]
    assert found.notes[0] == "3 of 5 listed segments are there, 2 are absent (train 3 of 3, test 0 of 2)"


def test_actions_are_the_pairs_of_training(tmp_path: Path) -> None:
    found = epic_kitchens_55(make(tmp_path, VIDEOS), tasks=("verb", "action"))
    assert found.classes["action"] == ("take pan", "take door", "open door")
    assert [clip.labels for clip in found.splits["train"]] == [
        {"verb": 1, "action": 2},
        {"verb": 0, "action": 0},
        {"verb": 0, "action": 1},
    ]
    assert found.tail == {"verb": {1, 2}, "action": {2}}
    (tmp_path / "annotations" / "EPIC_train_action_labels.csv").unlink()
    with pytest.raises(DataError, match=r"actions are those of the training list, EPIC_train_action_labels\.csv"):
        epic_kitchens_55(tmp_path, tasks=("action",))


def test_a_validation_split_is_cut_by_participant(tmp_path: Path) -> None:
    section = DataSection(name="epic_kitchens_55", root=make(tmp_path, VIDEOS), validation=0.34)
    found = load_dataset(section, seed=0)
    groups = [{clip.group for clip in found.splits[split]} for split in ("train", "validation")]
    assert groups[0] | groups[1] == {"P01", "P02", "P03"}
    assert not groups[0] & groups[1]
    assert len(groups[1]) == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    make(tmp_path, VIDEOS)
    lists = tmp_path / "annotations"
    for name in ("test_s2_timestamps", "many_shot_verbs"):
        (lists / f"EPIC_{name}.csv").unlink()
    found = epic_kitchens_55(tmp_path)
    assert found.tail == {"noun": {0}}
    assert not found.unseen_groups
    assert found.notes[1:] == (
        f"EPIC_test_s2_timestamps.csv is not in {lists}: no test clips of unseen kitchens, and no unseen participants",
        f"EPIC_many_shot_verbs.csv is not in {lists}: no tail verbs",
    )
    with pytest.raises(ConfigError, match=r"^data\.participants: no participant is called 'P9'"):
        epic_kitchens_55(tmp_path, participants=["P9"])
    (lists / "EPIC_train_action_labels.csv").rename(lists / "EPIC_train_action_labels.pkl")
    with pytest.raises(DataError, match=r"EPIC_train_action_labels\.pkl: pickles are not opened"):
        epic_kitchens_55(tmp_path)


def test_a_class_that_is_not_in_the_list_is_named(tmp_path: Path) -> None:
    make(tmp_path, VIDEOS)
    place = tmp_path / "annotations" / "EPIC_train_action_labels.csv"
    place.write_text(place.read_text().replace(",door,2,", ",door,352,"))
    with pytest.raises(DataError) as error:
        epic_kitchens_55(tmp_path)
    assert str(error.value) == (
        f"{place}: row 2, column 'noun_class': '352' is not one of the classes 0 to 2 in EPIC_noun_classes.csv"
    )


def test_official_lists(data_root: Path, tmp_path: Path) -> None:
    root = touch(tmp_path, ["videos/train/P01/P01_01.MP4"])
    found = epic_kitchens_55(root, annotations=str(data_root / "epic_kitchens_55"))
    assert found.num_listed == {"train": 28_472, "test": 8047 + 2929}
    assert (len(found.classes["verb"]), len(found.classes["noun"])) == (125, 352)
    assert found.unseen_groups == {"P09", "P11", "P18", "P32"}
    train = [*found.splits["train"], *found.absent["train"]]
    assert not found.unseen_groups & {clip.group for clip in train}
    for task, num_tail in {"verb": 125 - 26, "noun": 352 - 71}.items():
        assert len(found.tail[task]) == num_tail
        counts = [0] * len(found.classes[task])
        for clip in train:
            counts[clip.labels[task]] += 1
        assert found.tail[task] == {index for index, num in enumerate(counts) if num <= 100}
