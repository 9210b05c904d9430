"""UCF101: 13,320 clips of 101 classes, in three official folds.

Soomro, Zamir and Shah, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", 2012,
https://www.crcv.ucf.edu/data/UCF101.php
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from kinema.data.listing import coverage_note, existing_folder, hint, list_files
from kinema.registry import register_dataset
from kinema.types import Clip, ConfigError, DataError, Dataset, Split

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
    present = _present(root)
    files: dict[Split, Path] = {
        "train": lists / f"trainlist{fold:02d}.txt",
        "test": lists / f"testlist{fold:02d}.txt",
    }
    num_listed: dict[Split, int] = {}
    splits: dict[Split, tuple[Clip, ...]] = {}
    for split, file in files.items():
        listed = _listed(file, classes)
        num_listed[split] = len(listed)
        # The lists say HandstandPushups/v_HandStandPushups_g01_c01.avi, and copies of the data differ in the case
        # of that S. Names of videos are unique in the whole data set, so the class folder need not be looked at.
        clips = tuple(
            Clip(clip_id=clip_id, video=present[stem], labels={"action": label}, group=group)
            for clip_id, stem, label, group in listed
            if stem in present
        )
        if clips:
            splits[split] = clips
    if not splits:
        raise DataError(f"{root}: none of the {sum(num_listed.values())} videos in {lists} is there")
    note = coverage_note(num_listed, splits, noun="videos")
    num_trained = len({clip.labels["action"] for clip in splits.get("train", ())})
    return Dataset(
        classes={"action": classes},
        splits=splits,
        group_name="group",
        num_listed=num_listed,
        notes=(
            *([] if note is None else [note]),
            *([] if num_trained == len(classes) else [f"{num_trained} of {len(classes)} classes have training clips"]),
        ),
    )


def _lists_folder(root: Path, annotations: str | None, wanted: str) -> Path:
    if annotations is not None:
        given = root / Path(annotations).expanduser()
        if not given.is_dir():
            raise ConfigError(f"data.annotations: {given} is not a folder")
        places = [given]
    else:
        places = [root / "ucfTrainTestlist", root, root.parent / "ucfTrainTestlist"]
    for place in places:
        if (place / wanted).is_file():
            return place
    raise DataError(
        f"{root}: {wanted} is not in {' or '.join(str(place) for place in places)}; "
        "unpack UCF101TrainTestSplits-RecognitionTask.zip there or name its folder in data.annotations"
    )


def _present(root: Path) -> dict[str, Path]:
    """Name without suffix, in lower case -> video. A transcoded copy (.mp4, ...) does where there is no .avi."""
    inside = root / "UCF-101"
    videos = list_files(inside if inside.is_dir() else root).videos
    return {path.stem.casefold(): path for path in sorted(videos, key=lambda path: path.suffix.lower() == ".avi")}


def _classes(file: Path) -> tuple[str, ...]:
    names: list[str] = []
    for number, line in _lines(file):
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
    for number, line in _lines(file):
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


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; it belongs to the official lists") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
