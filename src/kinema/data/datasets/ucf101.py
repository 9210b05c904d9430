"""UCF101: 13,320 clips of 101 classes, in three official folds.

Soomro, Zamir and Shah, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", 2012,
https://www.crcv.ucf.edu/data/UCF101.php
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from kinema.data.listing import coverage_note, existing_folder, hint, list_files, some_there, sort_out
from kinema.data.official_lists import find_lists, numbered_lines
from kinema.registry import register_dataset
from kinema.types import Clip, DataError, Dataset, Split

_LISTED = re.compile(r"(?P<class>[^/\s]+)/(?P<stem>v_[^/\s]+_g(?P<group>\d+)_c\d+)\.avi(?:\s+(?P<number>\d+))?")


@register_dataset
def ucf101(root: Path | None, *, fold: Literal[1, 2, 3] = 1, annotations: str | None = None) -> Dataset:
    """UCF101 in its official layout, with its official lists.

    Videos are looked for in `root/UCF-101`, or in `root` itself, in a folder per class or in one. The lists
    (`classInd.txt`, `trainlist01.txt`, `testlist01.txt`, ...) are looked for in `root/ucfTrainTestlist`, in `root`
    and beside it. Videos that are listed but not there are counted and left out. The class list is always the
    whole one, so that weights from different parts of the data can be compared. There is no official validation
    split.

    Args:
        root: The folder.
        fold: Which of the three official train and test lists.
        annotations: Folder with the lists, if it is another; a relative path starts at `root`.

    Raises:
        ConfigError: `root` is missing, or `annotations` is not there.
        DataError: The lists are not found or not as published, or no listed video is there.
    """
    root = existing_folder(root)
    lists = _lists_folder(root, annotations, f"trainlist{fold:02d}.txt")
    classes = _classes(lists / "classInd.txt")
    files: dict[Split, Path] = {
        "train": lists / f"trainlist{fold:02d}.txt",
        "test": lists / f"testlist{fold:02d}.txt",
    }
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    present = _present(videos)
    # The lists say HandstandPushups/v_HandStandPushups_g01_c01.avi, and copies of the data differ in the case of that
    # S. Names of videos are unique in the whole data set, so the class folder need not be looked at.
    listed = {
        split: [
            Clip(
                clip_id=clip_id,
                video=present.get(stem, videos / f"{clip_id}.avi"),
                labels={"action": label},
                group=group,
            )
            for clip_id, stem, label, group in _listed(file, classes)
        ]
        for split, file in files.items()
    }
    splits, absent = sort_out(listed, lambda clip: clip.video.stem.casefold() in present)
    num_listed = sum(map(len, listed.values()))
    num_trained = len({clip.labels["action"] for clip in splits.get("train", ())})
    dataset = Dataset(
        classes={"action": classes},
        splits=splits,
        group_name="group",
        absent=absent,
        notes=(
            *coverage_note(splits, absent, noun="videos"),
            *([] if num_trained == len(classes) else [f"{num_trained} of {len(classes)} classes have training clips"]),
        ),
    )
    return some_there(dataset, f"{root}: none of the {num_listed} videos in {lists} is there")


def _lists_folder(root: Path, annotations: str | None, wanted: str) -> Path:
    places = [root / "ucfTrainTestlist", root, root.parent / "ucfTrainTestlist"]
    place = find_lists(root, annotations, places=places, holds=lambda place: (place / wanted).is_file())
    if place is None:
        where = str(root / annotations) if annotations else " or ".join(map(str, places))
        raise DataError(
            f"{root}: {wanted} is not in {where}; "
            "unpack UCF101TrainTestSplits-RecognitionTask.zip there or name its folder in data.annotations"
        )
    return place


def _present(folder: Path) -> dict[str, Path]:
    """Name without suffix, in lower case -> video. A transcoded copy (.mp4, ...) does where there is no .avi."""
    videos = list_files(folder).videos
    return {path.stem.casefold(): path for path in sorted(videos, key=lambda path: path.suffix.lower() == ".avi")}


def _classes(file: Path) -> tuple[str, ...]:
    names: list[str] = []
    for number, line in numbered_lines(file):
        index, _, name = line.partition(" ")
        if index != str(len(names) + 1) or not name.strip():
            raise DataError(f"{file}: line {number}: expected '{len(names) + 1} <class>', found {line!r}")
        names.append(name.strip())
    if not names:
        raise DataError(f"{file}: holds no class")
    return tuple(names)


def _listed(file: Path, classes: tuple[str, ...]) -> list[tuple[str, str, int, str]]:
    """(clip_id, name without suffix in lower case, label, group) of each line."""
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    listed = []
    for number, line in numbered_lines(file):
        match = _LISTED.fullmatch(line)
        if match is None:
            raise DataError(f"{file}: line {number}: expected <Class>/v_<Class>_gNN_cMM.avi, found {line!r}")
        name = match["class"]
        label = labels.get(name.casefold())
        if label is None:
            raise DataError(f"{file}: line {number}: class {name!r} is not in classInd.txt{hint(name, classes)}")
        if match["number"] not in (None, str(label + 1)):
            raise DataError(
                f"{file}: line {number}: class {name} is {label + 1} in classInd.txt, not {match['number']}"
            )
        # g01 of one class and g01 of another have nothing in common: groups are numbered anew in each class.
        group = f"{classes[label]}/g{match['group']}"
        listed.append((f"{classes[label]}/{match['stem']}", match["stem"].casefold(), label, group))
    return listed
