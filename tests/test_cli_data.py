"""`kinema data list` and `kinema data check`, as they are called."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.commands import Kinema
from tests.videos import numbered_frames, write_video

from kinema.cli.data_section import data_section
from kinema.data.quarantine import FILE_NAME, read_entries
from kinema.types import ConfigError

CLASSES = "1 Archery\n2 YoYo\n"
VIDEOS = {
    "trainlist01.txt": ["Archery/v_Archery_g08_c01.avi 1", "YoYo/v_YoYo_g08_c01.avi 2", "YoYo/v_YoYo_g09_c01.avi 2"],
    "testlist01.txt": ["Archery/v_Archery_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi"],
    "trainlist02.txt": ["Archery/v_Archery_g01_c01.avi 1"],
    "testlist02.txt": ["Archery/v_Archery_g08_c01.avi", "YoYo/v_YoYo_g08_c01.avi"],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCF101 of five videos: one is not there, one is no video, one test video is a copy of a training video."""
    root = tmp_path_factory.mktemp("original") / "ucf"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text(CLASSES)
    for name, lines in VIDEOS.items():
        (lists / name).write_text("\n".join(lines) + "\n")
    for number, name in enumerate(("Archery/v_Archery_g08_c01", "YoYo/v_YoYo_g08_c01", "YoYo/v_YoYo_g01_c01")):
        path = root / "UCF-101" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(6, first=10 * number), fps=25, codec="mpeg4")
    videos = root / "UCF-101"
    shutil.copy(videos / "Archery/v_Archery_g08_c01.avi", videos / "Archery/v_Archery_g01_c01.avi")
    (videos / "YoYo/v_YoYo_g08_c01.avi").write_text("not a video")
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "ucf"))


# What a command line means


def test_a_section_is_that_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = data_section("ucf101", Path("ucf"), ["data.fold=2", "data.validation=0.1"], Path("lists"))
    assert (section.root, section.validation) == (tmp_path / "ucf", 0.1)
    assert section.arguments() == {"fold": 2, "annotations": str(tmp_path / "lists")}


@pytest.mark.parametrize(
    ("name", "overrides", "annotations", "message"),
    [
        ("ucf", [], None, "NAME: there is no dataset 'ucf'; did you mean 'ucf101'?"),
        ("ucf101", ["fold=2"], None, "'fold=2': expected data.key=value"),
        ("ucf101", ["clips.workers=2"], None, "'clips.workers=2': expected data.key=value"),
        ("ucf101", ["data.foldd=2"], None, "data.foldd: unknown key; did you mean 'fold'?"),
        ("ucf101", ["data.root=x"], None, "data.root: is given already, as place"),
        ("ucf101", ["data.name=x"], None, "data.name: is given already, as ucf101"),
        ("folder", [], Path("lists"), "--annotations: folder has no separate annotations"),
    ],
)
def test_an_impossible_section_is_one_line(
    name: str, overrides: list[str], annotations: Path | None, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        data_section(name, Path("place"), overrides, annotations)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


# list


def test_clips_are_rows_with_tabs(kinema: Kinema, root: Path) -> None:
    found = kinema("data", "list", "ucf101", root)
    header, *rows = [line.split("\t") for line in found.out.splitlines()]
    assert header == ["clip_id", "split", "action", "group", "video"]
    video = root / "UCF-101" / "Archery" / "v_Archery_g08_c01.avi"
    assert rows[0] == ["Archery/v_Archery_g08_c01", "train", "Archery", "Archery/g08", str(video)]
    assert [row[:3] for row in rows[1:]] == [
        ["YoYo/v_YoYo_g08_c01", "train", "YoYo"],
        ["Archery/v_Archery_g01_c01", "test", "Archery"],
        ["YoYo/v_YoYo_g01_c01", "test", "YoYo"],
    ]
    assert "4 of 5 listed videos are there" in found.err
    assert found.err.endswith("4 clips: train 2, test 2\n")


def test_all_says_which_are_there(kinema: Kinema, root: Path) -> None:
    rows = kinema("data", "list", "ucf101", root, "--all", "--json", "-").json
    assert {row["clip_id"]: row["present"] for row in rows} == {
        "Archery/v_Archery_g08_c01": True,
        "YoYo/v_YoYo_g08_c01": True,
        "YoYo/v_YoYo_g09_c01": False,
        "Archery/v_Archery_g01_c01": True,
        "YoYo/v_YoYo_g01_c01": True,
    }
    found = kinema("data", "list", "ucf101", root, "--all")
    assert [line.split("\t")[-1] for line in found.out.splitlines()] == ["present", "yes", "yes", "no", "yes", "yes"]


def test_json_rows_hold_everything(kinema: Kinema, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").write_text(
        "path,verb,noun,start_s,stop_s,group,camera\na.mp4,open,box,0.5,2,r1,\u00fcber\na.mp4,shut,box,,,r1,2\n"
    )
    (tmp_path / FILE_NAME).write_text("path,reason\na.mp4,blurred\n")
    found = kinema("data", "list", "table", tmp_path, "--json", "-")
    assert found.json == [
        {
            "clip_id": "a.mp4#0.5-2",
            "split": "train",
            "labels": {"verb": "open", "noun": "box"},
            "start_s": 0.5,
            "stop_s": 2.0,
            "group": "r1",
            "video": str(tmp_path / "a.mp4"),
            "attributes": {"camera": "\u00fcber"},
            "quarantine": "blurred",
        },
        {
            "clip_id": "a.mp4",
            "split": "train",
            "labels": {"verb": "shut", "noun": "box"},
            "start_s": 0.0,
            "stop_s": None,
            "group": "r1",
            "video": str(tmp_path / "a.mp4"),
            "attributes": {"camera": "2"},
            "quarantine": "blurred",
        },
    ]
    assert kinema("data", "list", "table", tmp_path, "--json", "rows.json").out == ""
    assert json.loads(Path("rows.json").read_text()) == found.json
    header = kinema("data", "list", "table", tmp_path).out.splitlines()[0].split("\t")
    assert header == ["clip_id", "split", "verb", "noun", "start_s", "stop_s", "group", "quarantine", "video", "camera"]


def test_in_a_terminal_columns_are_aligned(kinema: Kinema, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    header, *rows = kinema("data", "list", "ucf101", root).out.splitlines()
    assert "\t" not in header
    assert {row.index(" Archery") for row in rows if "Archery/" in row} == {header.index(" action")}


def test_splits_and_other_settings(kinema: Kinema, root: Path) -> None:
    def ids(*arguments: object) -> list[str]:
        return [row["clip_id"] for row in kinema("data", "list", "ucf101", root, *arguments, "--json", "-").json]

    assert ids("--split", "test") == ["Archery/v_Archery_g01_c01", "YoYo/v_YoYo_g01_c01"]
    assert ids("data.fold=2", "--split", "train") == ["Archery/v_Archery_g01_c01"]
    assert ids("data.validation=0.5", "--split", "validation")
    error = kinema("data", "list", "ucf101", root, "--split", "validation").error()
    assert error == f"--split: {root} has no validation split; it has train, test"


def test_annotations_may_lie_elsewhere(kinema: Kinema, root: Path) -> None:
    (root / "ucfTrainTestlist").rename("lists")
    assert "trainlist01.txt is not in" in kinema("data", "list", "ucf101", root).error()
    assert kinema("data", "list", "ucf101", root, "--annotations", "lists").code == 0


def test_clips_without_training_clips_are_listed(kinema: Kinema, root: Path) -> None:
    for name in ("Archery/v_Archery_g08_c01.avi", "YoYo/v_YoYo_g08_c01.avi"):
        (root / "UCF-101" / name).unlink()
    for settings in ([], ["data.validation=0.2"], ["data.fraction=0.5"]):
        rows = kinema("data", "list", "ucf101", root, *settings, "--json", "-").json
        assert [row["split"] for row in rows] == ["test", "test"]
    rows = kinema("data", "list", "ucf101", root, "--all", "--split", "train", "--json", "-").json
    assert [row["present"] for row in rows] == [False, False, False]
    assert kinema("data", "check", "ucf101", root).code == 0


def test_what_is_only_listed_can_be_listed(kinema: Kinema, root: Path) -> None:
    shutil.rmtree(root / "UCF-101")
    rows = kinema("data", "list", "ucf101", root, "--all", "--json", "-").json
    assert [(row["split"], row["present"]) for row in rows] == [("train", False)] * 3 + [("test", False)] * 2
    assert {row["video"] for row in rows} >= {str(root / "Archery" / "v_Archery_g08_c01.avi")}
    error = kinema("data", "list", "ucf101", root).error()
    assert error.startswith(f"{root}: none of the 5 videos in ")
    found = kinema("data", "check", "ucf101", root, "--json", "-")
    assert (found.code, len(found.json["findings"]["absent"])) == (0, 5)
    assert found.json["splits"]["test"]["present"] == 0


# check


def test_check_reports_and_writes_the_quarantine(kinema: Kinema, root: Path) -> None:
    found = kinema("data", "check", "ucf101", root, "--json", "facts.json")
    assert (found.code, found.err) == (0, "")
    facts = json.loads(Path("facts.json").read_text())
    counts = {"listed": 3, "present": 2, "readable": 1, "unlabelled": 0, "files": 2}
    assert facts["splits"]["train"] == counts
    assert facts["files"] == {"checked": 4, "new": 4}
    assert {kind: len(items) for kind, items in facts["findings"].items() if items} == {
        "absent": 1,
        "unreadable": 1,
        "copies_across_splits": 1,
    }
    assert facts["quarantine"] == {"file": str(root / FILE_NAME), "entries": 1, "added": 1, "removed": 0}
    (entry,) = read_entries(root / FILE_NAME)
    assert (entry.path, entry.size_bytes) == ("UCF-101/YoYo/v_YoYo_g08_c01.avi", 11)
    words = " ".join(found.out.split())
    for part in (
        "UCF-101/YoYo/v_YoYo_g08_c01.avi: not a video that FFmpeg can read",
        "files with the same content in different splits 1",
        "- download unreadable files again, or do without them",
        f"quarantine: {root / FILE_NAME}: 1 files (1 new, 0 taken away); training does not use them",
    ):
        assert part in words
    again = kinema("data", "check", "ucf101", root, "--json", "-").json
    assert again == {
        **facts,
        "files": {"checked": 4, "new": 0},
        "quarantine": {**facts["quarantine"], "added": 0},
    }


def test_training_honours_what_was_found(kinema: Kinema, root: Path) -> None:
    recipe = ["ucf101/frame_average", f"data.root={root}", "model.backbone=tiny", "init.weights=null"]
    recipe += ["init.freeze=none", "clips.size_px=32", "clips.resize_px=null", "data.validation=0"]
    recipe += ["trainer.patience=null", "--dry-run"]
    kinema("data", "check", "ucf101", root)
    entries = (root / FILE_NAME).read_text()
    (root / FILE_NAME).write_text(f"{entries}UCF-101/Archery/v_Archery_g08_c01.avi,,blurred,me\n")
    error = kinema("train", *recipe).error()
    assert error.startswith("none of the 2 train clips can be read")
    assert "Archery_g08_c01.avi: in quarantine: blurred" in error
    (root / FILE_NAME).write_text(entries)
    facts = kinema("train", *recipe, "clips.batch_size=1", "--json", "-")
    assert facts.json["clips"]["train"] == 1, facts.err
    assert list(facts.json["skipped"].values()) == [1]


def test_a_mended_file_leaves_the_quarantine(kinema: Kinema, root: Path) -> None:
    kinema("data", "check", "ucf101", root)
    bad = root / "UCF-101/YoYo/v_YoYo_g08_c01.avi"
    shutil.copy(root / "UCF-101/YoYo/v_YoYo_g01_c01.avi", bad)
    facts = kinema("data", "check", "ucf101", root, "--json", "-").json
    assert facts["files"] == {"checked": 4, "new": 1}
    assert facts["quarantine"] == {"file": str(root / FILE_NAME), "entries": 0, "added": 0, "removed": 1}
    assert read_entries(root / FILE_NAME) == []


def test_nothing_wrong_writes_nothing(kinema: Kinema, root: Path) -> None:
    (root / "UCF-101/YoYo/v_YoYo_g08_c01.avi").unlink()
    before = sorted(root.rglob("*"))
    found = kinema("data", "check", "ucf101", root, "data.fold=2", "--strict")
    assert found.code == 1  # one clip is absent
    (root / "ucfTrainTestlist" / "testlist02.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n")
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    (root / "ucfTrainTestlist" / "trainlist02.txt").write_text(
        "Archery/v_Archery_g01_c01.avi 1\nYoYo/v_YoYo_g01_c01.avi 2\n"
    )
    (root / "ucfTrainTestlist" / "testlist02.txt").write_text("")
    found = kinema("data", "check", "ucf101", root, "data.fold=2", "--strict")
    assert (found.code, "nothing is wrong" in found.out) == (0, True)
    assert sorted(root.rglob("*")) == before


def test_deep_decodes_more(kinema: Kinema, root: Path) -> None:
    kinema("data", "check", "ucf101", root, "--workers", 0)
    facts = kinema("data", "check", "ucf101", root, "--deep", "--workers", 0, "--json", "-").json
    assert (facts["deep"], facts["files"]) == (True, {"checked": 4, "new": 3})
    assert kinema("data", "check", "ucf101", root, "--json", "-").json["files"]["new"] == 0


def test_min_frames(kinema: Kinema, root: Path) -> None:
    facts = kinema("data", "check", "ucf101", root, "--min-frames", 7, "--json", "-").json
    assert [item["num_frames"] for item in facts["findings"]["too_short"]] == [6, 6, 6]


def test_the_list_elsewhere(kinema: Kinema, root: Path) -> None:
    assert kinema("data", "check", "ucf101", root, "--quarantine", "mine.csv").code == 0
    assert len(read_entries(Path("mine.csv"))) == 1
    assert not (root / FILE_NAME).exists()
    rows = kinema("data", "list", "ucf101", root, "data.quarantine=mine.csv", "--json", "-").json
    assert [row["clip_id"] for row in rows if "quarantine" in row] == ["YoYo/v_YoYo_g08_c01"]
    error = kinema("data", "check", "ucf101", root, "--quarantine", "nowhere/mine.csv").error()
    assert error == f"--quarantine: nowhere/mine.csv: there is no folder {Path.cwd() / 'nowhere'}"
    assert kinema("data", "check", "ucf101", root, "--quarantine", ".").error().endswith("is a folder; give a file")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_root_that_cannot_be_written(
    kinema: Kinema, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from kinema.data import quarantine

    def refused(path: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(quarantine, "write_atomically", refused)
    found = kinema("data", "check", "ucf101", root, "--json", "facts.json")
    assert found.error() == (
        f"{root / FILE_NAME}: the list of unusable files cannot be written: {os.strerror(number)}; "
        "say where with --quarantine FILE, and train with data.quarantine=FILE"
    )
    assert len(json.loads(Path("facts.json").read_text())["findings"]["unreadable"]) == 1
    assert "files that do not decode" in found.out


def test_a_broken_list_is_one_line(kinema: Kinema, root: Path) -> None:
    (root / FILE_NAME).write_text("path,size_bytes\na.avi,1\nb.avi,one\n")
    for command in (["data", "check", "ucf101", root], ["data", "list", "ucf101", root]):
        error = kinema(*command).error()
        assert error == f"{root / FILE_NAME}: row 3, column 'size_bytes': 'one' is not a number of bytes"


def test_ctrl_c_ends_as_everywhere(kinema: Kinema, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kinema.data.checking.read_frames", interrupted)
    found = kinema("data", "check", "ucf101", root, "--workers", 0)
    assert (found.code, found.err.splitlines()[-1]) == (130, "stopped")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
def test_names_that_are_not_text(kinema: Kinema, tmp_path: Path) -> None:
    for number, name in enumerate((b"k\xe4se.mp4", b"k\xe4lte.mp4")):
        folder = tmp_path / "clips" / f"class{number}"
        folder.mkdir(parents=True)
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("not a video")
    (row, _) = kinema("data", "list", "folder", tmp_path / "clips", "--json", "-").json
    assert os.fsencode(row["clip_id"]) == b"class0/k\xe4se.mp4"
    assert "class0/k" in kinema("data", "list", "folder", tmp_path / "clips").out
    found = kinema("data", "check", "folder", tmp_path / "clips", "--json", "facts.json")
    assert (found.code, len(json.loads(Path("facts.json").read_text())["findings"]["unreadable"])) == (0, 2)
    assert kinema("data", "check", "folder", tmp_path / "clips").code == 0


def test_without_a_command_it_helps(kinema: Kinema) -> None:
    found = kinema("data")
    assert (found.code, found.err) == (0, "")
    assert all(f"\n  {command} " in found.out for command in ("list", "check", "stats", "download"))


@pytest.mark.parametrize(
    ("name", "folder", "numbers"),
    [
        ("epic_kitchens_100", "epic_kitchens_100", {"validation": 9668, "test": 13092}),
        ("epic_kitchens_55", "epic_kitchens_55", {"train": 28472, "test": 8047 + 2929}),
        ("kinetics400", "kinetics", {"validation": 19906}),
        ("kinetics600", "kinetics", {"validation": 30000}),
        ("ucf101", "ucf101", {"train": 9537, "test": 3783}),
        ("hmdb51", "hmdb51", {"train": 3570, "test": 1530}),
    ],
)
def test_official_lists_are_listed_whole(
    kinema: Kinema, data_root: Path, name: str, folder: str, numbers: dict[str, int]
) -> None:
    rows = kinema("data", "list", name, data_root / folder, "--all", "--json", "-").json
    assert Counter(row["split"] for row in rows) == numbers
    assert len({row["clip_id"] for row in rows}) == len(rows)
    assert all(isinstance(row["present"], bool) for row in rows)


def test_real_clips_are_fine(kinema: Kinema, data_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    facts = kinema("data", "check", "ucf101", data_root / "ucf101", "--quarantine", "mine.csv", "--json", "-").json
    assert facts["findings"]["unreadable"] == facts["findings"]["empty"] == facts["findings"]["too_short"] == []
    assert facts["files"]["checked"] > 0
    assert facts["splits"]["train"]["listed"] == 9537
    assert not Path("mine.csv").exists()
