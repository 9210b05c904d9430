from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tests.data.datasets.epic_tree import touch, write_lists

from kinema.data.datasets.epic_kitchens_100 import epic_kitchens_100, read_class_lists
from kinema.data.epic import Vocabulary
from kinema.data.epic_lists import read_classes, read_rows
from kinema.data.load_dataset import load_dataset
from kinema.evaluation.baselines import baselines, class_counts, commonest
from kinema.evaluation.predictions import Predictions
from kinema.sections import DataSection
from kinema.types import Clip, ConfigError, DataError, Dataset

ALL_VIDEOS = ["P01_01", "P01_11", "P02_02", "P03_101", "P18_09", "P33_101", "P01_102"]
DOWNLOADED = [f"{name[:3]}/videos/{name}.MP4" for name in ALL_VIDEOS]


def make(root: Path, paths: list[str], *, lists: str = "epic-kitchens-100-annotations") -> Path:
    write_lists(root / lists)
    return touch(root, paths)


def test_a_whole_download(tmp_path: Path) -> None:
    found = epic_kitchens_100(make(tmp_path, DOWNLOADED))
    assert found.classes == {"verb": ("take", "put", "let-go"), "noun": ("tap", "pan:dust")}
    assert found.num_listed == {"train": 5, "validation": 2, "test": 2}
    assert not found.absent
    assert found.group_name == "participant"
    assert found.tail == {"verb": {2}, "noun": {1}}
    assert found.unseen_groups == {"P18", "P33"}
    assert found.notes == ("read from video files (7)",)
    clip = found.splits["train"][1]
    assert clip == Clip(
        clip_id="P01_01_1",
        video=tmp_path / "P01" / "videos" / "P01_01.MP4",
        start_s=1.0,
        stop_s=2.5,
        labels={"verb": 1, "noun": 0},
        group="P01",
        attributes={"participant_id": "P01", "video_id": "P01_01", "narration": "do, then P01_01_1"},
    )
    assert [clip.labels for clip in found.splits["test"]] == [{}, {}]


def test_a_segment_that_ends_behind_its_video_ends_with_it(tmp_path: Path) -> None:
    clips = {clip.clip_id: clip for clip in epic_kitchens_100(make(tmp_path, DOWNLOADED)).splits["train"]}
    assert (clips["P03_101_0"].stop_s, clips["P03_101_1"].stop_s) == (1.5, 2.25)


def test_half_a_download_is_used_and_the_rest_is_counted(tmp_path: Path) -> None:
    make(tmp_path, ["P01/videos/P01_01.MP4", "P01/videos/P01_11.MP4", "P02/rgb_frames/P02_02.tar"])
    (tmp_path / "P03" / "rgb_frames" / "P03_101").mkdir(parents=True)  # begun, and empty
    found = epic_kitchens_100(tmp_path)
    assert [clip.clip_id for clip in found.splits["train"]] == ["P01_01_0", "P01_01_1"]
    assert found.num_listed == {"train": 5, "validation": 2, "test": 2}
    assert found.absent["train"][0].video == tmp_path / "P02" / "videos" / "P02_02.MP4"
    assert found.notes == (
        "3 of 9 listed segments are there, 6 are absent (train 2 of 5, validation 1 of 2, test 0 of 2)",
        "read from video files (2)",
        f"archives of frames that are not unpacked: 1, such as {tmp_path / 'P02' / 'rgb_frames' / 'P02_02.tar'}",
    )


@pytest.mark.parametrize(
    "layout",
    [
        "EPIC-KITCHENS/{p}/videos/{v}.MP4",
        "videos/{v}.mp4",
        "videos/{p}/{v}.MP4",
        "videos/train/{p}/{v}.MP4",
        "EPIC_KITCHENS_2018/videos/test/{p}/{v}.MP4",
        "{p}/{v}.mkv",
        "{v}.MP4",
        "EPIC-KITCHENS/{p}/rgb_frames/{v}/",
        "rgb_frames/{v}/",
        "rgb/{p}/{v}/",
        "frames_rgb_flow/rgb/train/{p}/{v}/",
    ],
)
def test_every_layout_is_found(tmp_path: Path, layout: str) -> None:
    paths = [layout.format(p=name[:3], v=name) for name in ALL_VIDEOS]
    found = epic_kitchens_100(make(tmp_path, paths))
    assert not found.absent
    videos = {clip.attributes["video_id"]: clip.video for clips in found.splits.values() for clip in clips}
    assert videos == {name: tmp_path / path for name, path in zip(ALL_VIDEOS, paths, strict=True)}


@pytest.mark.parametrize("lists", ["annotations", ".", "epic-kitchens-100-annotations-master", "../annotations", "my"])
def test_lists_may_lie_elsewhere(tmp_path: Path, lists: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    make(root, DOWNLOADED, lists=lists)
    found = epic_kitchens_100(root, annotations="my" if lists == "my" else None)
    assert found.num_listed == {"train": 5, "validation": 2, "test": 2}
    assert epic_kitchens_100(root, annotations=str((root / lists).resolve())) == found


def test_frames_are_at_the_published_rate_of_their_year(tmp_path: Path) -> None:
    make(tmp_path, [f"{name[:3]}/rgb_frames/{name}/" for name in ALL_VIDEOS])
    touch(tmp_path, ["P01/videos/P01_01.MP4", "P01/flow_frames/P01_01/", "P03/flow_frames/P03_101/"])

    def rates(**arguments: Any) -> tuple[dict[str, float | None], tuple[str, ...]]:
        found = epic_kitchens_100(tmp_path, **arguments)
        return {clip.clip_id: clip.fps for clip in found.splits["train"]}, found.notes

    expected = {"P01_01_0": None, "P01_01_1": None, "P02_02_0": 60.0, "P03_101_0": 50.0, "P03_101_1": 50.0}
    note = "read from video files (1) and folders of frames (6), taken to be at the published rate"
    of_flow = "optical flow is there of 2 of 7 videos"
    assert rates() == (expected, (note, of_flow))
    expected |= {"P01_01_0": 60.0, "P01_01_1": 60.0}
    note = "read from folders of frames (7), taken to be at the published rate"
    assert rates(source="frames") == (expected, (note, of_flow))
    native, (note, _) = rates(source="frames", frame_rate="native")
    assert (native["P01_01_0"], native["P02_02_0"]) == (59.9400599400599, 50.0)
    assert note.endswith("taken to be at the rate of the videos")
    assert epic_kitchens_100(tmp_path, source="videos").num_listed == {"train": 5, "validation": 2, "test": 2}
    clips = epic_kitchens_100(tmp_path).splits["train"]
    of_p01, of_p02, of_p03 = (
        str(tmp_path / name[:3] / "flow_frames" / name) for name in ("P01_01", "P02_02", "P03_101")
    )
    # Where there is none, where it would be.
    assert [clip.attributes["flow"] for clip in clips] == [of_p01, of_p01, of_p02, of_p03, of_p03]
    assert [clip.attributes.get("flow_fps") for clip in clips] == ["30", "30", None, "50", "50"]
    (tmp_path / "epic-kitchens-100-annotations" / "EPIC_100_video_info.csv").unlink()
    with pytest.raises(DataError, match="the rate of the frames of P01_01 is not known"):
        epic_kitchens_100(tmp_path, source="frames", frame_rate="native")


def test_every_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, [f"{name[:3]}/rgb_frames/{name}/" for name in ALL_VIDEOS])
    touch(tmp_path, ["P01/masks/P01_01/", "object_detection_images/P01/P01_01/"])
    (tmp_path / "videos").symlink_to(tmp_path)
    read: list[str] = []
    real = os.scandir

    def counted(path: Path | str) -> Any:
        read.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert not epic_kitchens_100(tmp_path).absent
    folders = {name for clip_name in ALL_VIDEOS for name in (clip_name[:3], f"{clip_name[:3]}/rgb_frames")}
    folders |= {f"{name[:3]}/rgb_frames/{name}" for name in ALL_VIDEOS}
    assert sorted(read) == sorted([str(tmp_path), *(str(tmp_path / name) for name in folders)])


def test_tasks(tmp_path: Path) -> None:
    make(tmp_path, DOWNLOADED)
    categories = epic_kitchens_100(tmp_path, tasks=("verb_category", "noun_category"))
    assert categories.classes == {"verb_category": ("leave", "retrieve"), "noun_category": ("appliances", "other")}
    assert [clip.labels["verb_category"] for clip in categories.splits["train"]] == [1, 0, 1, 0, 1]
    assert categories.tail == {}
    verbs = epic_kitchens_100(tmp_path, tasks=("verb",))
    assert [clip.labels for clip in verbs.splits["validation"]] == [{"verb": 1}, {"verb": 0}]
    assert verbs.tail == {"verb": {2}}
    actions = epic_kitchens_100(tmp_path, tasks=("action",))
    names = ("take tap", "take pan:dust", "put tap", "put pan:dust", "let-go tap")
    assert actions.classes == {"action": names}
    assert [names[clip.labels["action"]] for clip in actions.splits["validation"]] == ["put pan:dust", "take tap"]
    assert actions.tail == {"action": {1, 3, 4}}
    for tasks in ((), ("verb", "verb")):
        with pytest.raises(ConfigError, match=r"^data\.tasks: expected at least one task, and none twice"):
            epic_kitchens_100(tmp_path, tasks=tasks)
    (tmp_path / "epic-kitchens-100-annotations" / "EPIC_100_train.csv").unlink()
    with pytest.raises(DataError, match="actions are those of the training and the validation list"):
        epic_kitchens_100(tmp_path, tasks=("action",))


def test_any_set_of_participants(tmp_path: Path) -> None:
    make(tmp_path, DOWNLOADED)
    found = epic_kitchens_100(tmp_path, participants=["P01", "P18"])
    assert found.num_listed == {"train": 2, "validation": 2, "test": 1}
    assert found.notes[0] == "data.participants: 2 of 5 participants are used"
    with pytest.raises(ConfigError, match=r"^data\.participants: no participant is called 'P1'; did you mean 'P"):
        epic_kitchens_100(tmp_path, participants=["P1"])
    with pytest.raises(ConfigError, match=r"^data\.participants: is empty"):
        epic_kitchens_100(tmp_path, participants=[])


def test_a_fraction_and_a_validation_split_are_cut_by_participant(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "annotations")
    names = [f"P{number:02d}" for number in range(1, 10)]
    touch(tmp_path, [f"{name}/videos/{name}_01.MP4" for name in names])
    header, row, *_ = (lists / "EPIC_100_train.csv").read_text().splitlines()
    rows = [row.replace("P01", name).replace("_01_0,", f"_01_{k},") for name in names for k in range(4)]
    (lists / "EPIC_100_train.csv").write_text("\n".join([header, *rows]))
    third = load_dataset(DataSection(name="epic_kitchens_100", root=tmp_path, fraction=1 / 3), seed=0)
    assert len(third.splits["train"]) == 12
    assert len({clip.group for clip in third.splits["train"]}) == 3
    assert any("3 of 9 groups by participant" in note for note in third.notes)
    (lists / "EPIC_100_validation.csv").unlink()
    cut = load_dataset(DataSection(name="epic_kitchens_100", root=tmp_path, validation=0.3), seed=0)
    groups = [{clip.group for clip in cut.splits[split]} for split in ("train", "validation")]
    assert not groups[0] & groups[1]
    assert (len(groups[0]), len(groups[1])) == (6, 3)


def test_without_lists_or_videos_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"EPIC_100_train\.csv is not in .*epic-kitchens-100-annotations.*annotations$"):
        epic_kitchens_100(tmp_path)
    with pytest.raises(ConfigError, match=r"^data\.annotations: .*nowhere is not a folder"):
        epic_kitchens_100(tmp_path, annotations="nowhere")
    lists = write_lists(tmp_path / "annotations")
    touch(tmp_path, ["P01/rgb_frames/P01_01.tar"])
    with pytest.raises(DataError) as error:
        epic_kitchens_100(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: the videos of all 9 segments listed in {lists} are absent, such as "
        f"{tmp_path / 'P01' / 'videos' / 'P01_01.MP4'}; archives of frames that are not unpacked: 1, such as "
        f"{tmp_path / 'P01' / 'rgb_frames' / 'P01_01.tar'}; unpack each into a folder of its name"
    )
    touch(tmp_path, DOWNLOADED)
    (tmp_path / "P01" / "rgb_frames" / "P01_01.tar").unlink()
    (lists / "EPIC_100_tail_nouns.csv").unlink()
    (lists / "EPIC_100_test_timestamps.csv").unlink()
    assert epic_kitchens_100(tmp_path).notes == (
        "read from video files (5)",
        f"EPIC_100_test_timestamps.csv is not in {lists}: no test clips",
        f"EPIC_100_tail_nouns.csv is not in {lists}: no tail nouns",
    )
    (lists / "EPIC_100_verb_classes.csv").unlink()
    with pytest.raises(DataError, match=r"EPIC_100_verb_classes\.csv: no such file; it belongs to the official"):
        epic_kitchens_100(tmp_path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    lists = write_lists(make(tmp_path, DOWNLOADED) / "annotations")
    shutil.rmtree(tmp_path / "epic-kitchens-100-annotations")
    (lists / "EPIC_100_train.csv").rename(lists / "EPIC_100_train.pkl")
    with pytest.raises(DataError, match=r"train\.pkl: pickles are not opened, .*; get EPIC_100_train\.csv from github"):
        epic_kitchens_100(tmp_path)


def test_columns_in_another_order_and_further_ones_do_no_harm(tmp_path: Path) -> None:
    expected = epic_kitchens_100(make(tmp_path, DOWNLOADED, lists="annotations"))
    path = tmp_path / "annotations" / "EPIC_100_train.csv"
    columns = ["noun_class", "verb_class", "narration", "stop_timestamp", "start_timestamp", "video_id"]
    columns += ["participant_id", "narration_id"]
    rows = [(f'"{cells[2]}"', cells) for _, cells in read_rows(path, columns)]
    text = "\n".join(",".join(["7", *cells[:2], narration, *cells[3:]]) for narration, cells in rows)
    path.write_text("uid," + ",".join(columns) + "\n" + text + "\n\n", encoding="utf-8-sig")
    assert epic_kitchens_100(tmp_path) == expected


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "train",
            ",x,1,",
            ",x,3,",
            "row 3, column 'verb_class': '3' is not one of the classes 0 to 2 in EPIC_100_verb",
        ),
        ("train", ",x,1,", ",x,-1,", "row 3, column 'verb_class': '-1' is not one of"),
        (
            "train",
            ",y,1,",
            ",y,tap,",
            "row 6, column 'noun_class': 'tap' is not one of the classes 0 to 1 in EPIC_100_n",
        ),
        (
            "train",
            "00:00:01.00",
            "00:00:61.00",
            "row 3, column 'start_timestamp': expected HH:MM:SS.ss, found '00:00:61",
        ),
        ("test_timestamps", "00:00:01.50", "1.5", "row 2, column 'stop_timestamp': expected HH:MM:SS.ss, found '1.5'"),
        ("validation", "00:00:01.50", "00:00:00.00", "row 2, stops at 00:00:00.00, not after its start 00:00:00.00"),
        ("validation", "P18_09_0,P", ",P", "row 3, column 'narration_id': is empty"),
        ("train", ",verb_class", ",verb_klass", "has no column 'verb_class' (it has narration_id, participant_id"),
        ("train", "P02_02_0,", "P02_02_0,,", "row 4 has 16 fields and the header 15"),
        ("verb_classes", "1,put", "5,put", "row 3: expected class 1 with a new name, found '5' 'put'"),
        ("verb_classes", "1,put", "1,take", "row 3: expected class 1 with a new name, found '1' 'take'"),
        ("tail_verbs", "2", "97", "row 2, column 'verb': '97' is not one of the classes 0 to 2"),
        ("video_info", ",59.9400599400599,", ",0,", "row 2, column 'fps': expected a number above 0, found '0'"),
        ("video_info", ",100.0,", ",long,", "row 2, column 'duration': expected a number above 0, found 'long'"),
    ],
)
def test_broken_lists_are_refused(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    place = make(tmp_path, DOWNLOADED, lists="annotations") / "annotations" / f"EPIC_100_{file}.csv"
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        epic_kitchens_100(tmp_path)
    assert str(error.value).startswith(f"{place}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf8_or_not_csv_is_refused(tmp_path: Path) -> None:
    place = make(tmp_path, DOWNLOADED, lists="annotations") / "annotations" / "EPIC_100_train.csv"
    text = place.read_bytes()
    for spoilt, message in {text + b"\xff": "is not UTF-8 text", text + b'"open': "is not CSV: "}.items():
        place.write_bytes(spoilt)
        with pytest.raises(DataError, match=message):
            epic_kitchens_100(tmp_path)


@pytest.fixture(scope="module")
def official(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The official lists, beside a download of one video."""
    root = touch(tmp_path_factory.mktemp("epic"), ["P01/videos/P01_11.MP4"])
    tasks: tuple[Literal["verb", "noun", "verb_category"], ...] = ("verb", "noun", "verb_category")
    return epic_kitchens_100(root, tasks=(*tasks, "noun_category"), annotations=str(data_root / "epic_kitchens_100"))


def test_official_lists(official: Dataset, data_root: Path) -> None:
    assert official.num_listed == {"validation": 9668, "test": 13_092}
    sizes = {task: len(names) for task, names in official.classes.items()}
    assert sizes == {"verb": 97, "noun": 300, "verb_category": 13, "noun_category": 21}
    assert {task: len(classes) for task, classes in official.tail.items()} == {"verb": 86, "noun": 228}
    assert official.unseen_groups == {"P18", "P32", "P33", "P34", "P36"}
    assert {clip.attributes["video_id"] for clip in official.splits["validation"]} == {"P01_11"}
    assert official.notes[0] == (
        "148 of 22760 listed segments are there, 22612 are absent (validation 148 of 9668, test 0 of 13092)"
    )
    validation = [*official.splits["validation"], *official.absent["validation"]]
    assert len({clip.clip_id for clip in validation}) == 9668
    assert len({clip.group for clip in validation}) == 32
    used = {task: len({clip.labels[task] for clip in validation}) for task in ("verb", "noun")}
    assert used == {"verb": 78, "noun": 211}
    assert len({(clip.labels["verb"], clip.labels["noun"]) for clip in validation}) == 1352
    assert all(clip.labels == {} for clip in official.absent["test"])
    second = read_classes(
        data_root / "epic_kitchens_100" / "EPIC_100_noun_classes_v2.csv",
        id_column="id",
        key_column="key",
        category_column="category",
    )
    assert len(second.names) == 305
    assert second.names[:300] == official.classes["noun"]


def test_the_commonest_class_of_validation_and_that_of_training(official: Dataset, data_root: Path) -> None:
    """The training list itself is too large to be in the test data; a published list of all its segments stands in."""
    verbs, nouns = read_class_lists(data_root / "epic_kitchens_100")
    vocabulary = Vocabulary(tuple(official.classes), verbs=verbs, nouns=nouns, pairs=())
    assert vocabulary.classes == official.classes
    lines = (data_root / "epic_kitchens_100" / "rulstm_training.csv").read_text().splitlines()
    train = []
    for line in lines:
        clip_id, video, _, _, verb, noun, _ = line.split(",")
        train.append(Clip(clip_id=clip_id, video=Path(video), labels=vocabulary.labels(int(verb), int(noun))))
    validation = [*official.splits["validation"], *official.absent["validation"]]
    assert (len(train), len(validation)) == (67_217, 9668)

    shares = {task: max(counts) / 9668 for task, counts in class_counts(validation, official.classes).items()}
    expected = {"verb": 0.20035, "noun": 0.04448, "verb_category": 0.25403, "noun_category": 0.12722}
    assert shares == pytest.approx(expected, abs=5e-6)
    predictions = Predictions(
        classes=official.classes,
        clips=validation,
        logits={},
        labels={task: np.array([clip.labels[task] for clip in validation]) for task in official.classes},
        skipped={},
    )
    common = commonest(train, official.classes)
    assert {task: official.classes[task][common[task]] for task in official.classes} == {
        "verb": "take",
        "noun": "tap",
        "verb_category": "retrieve",
        "noun_category": "appliances",
    }
    majority = {task: found["majority"] for task, found in baselines(predictions, common).items()}
    expected = {"verb": 0.20035, "noun": 0.03930, "verb_category": 0.23066, "noun_category": 0.12722, "joint": 0.02079}
    assert majority == pytest.approx(expected, abs=5e-6)
    assert len({tuple(clip.labels.values()) for clip in train}) == 3568
