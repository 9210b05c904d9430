"""HMDB51: 6,766 clips of 51 classes, cut from films and web videos, in three official splits.

Kuehne, Jhuang, Garrote, Poggio and Serre, "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011,
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from kinema.data.listing import coverage_note, existing_folder, list_files, some_there, sort_out
from kinema.data.official_lists import find_lists, numbered_lines
from kinema.registry import register_dataset
from kinema.types import Clip, DataError, Dataset, Split

_FOLDER = "testTrainMulti_7030_splits"
_LIST = re.compile(r"(?P<class>[^.].*)_test_split(?P<fold>[123])\.txt")
# Behind the class: visible body parts, camera motion, number of people, viewpoint, quality, number of the clip.
_TAGS = r"_[a-z]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+"
_UNUSED = "0"
_SPLITS: dict[str, Split] = {"1": "train", "2": "test"}


@register_dataset
def hmdb51(
    root: Path | None,
    *,
    fold: Literal[1, 2, 3] = 1,
    group: Literal["source", "film"] = "source",
    annotations: str | None = None,
) -> Dataset:
    """HMDB51 in its official layout, with its official lists.

    Videos are looked for below `root/hmdb51_org`, or below `root` itself, in a folder per class or in one. The lists
    (`brush_hair_test_split1.txt`, ...) are looked for in `root/testTrainMulti_7030_splits`, in `root`, beside it
    and in `root/annotations`. Videos that are listed but not there are counted and left out; those that a split does
    not use are counted. The class list is always the whole one. There is no official validation split.

    Args:
        root: The folder.
        fold: Which of the three official splits.
        group: What must stay in one split where kinema cuts one. `source`: clips of one class out of one film or web
            video, the unit that the official splits never divide. `film`: clips out of one film or web video,
            whatever their class; parts of a film count as one. It divides more strictly than the official splits do.
        annotations: Folder with the lists, if it is another; a relative path starts at `root`.

    Raises:
        ConfigError: `root` is missing, or `annotations` is not there.
        DataError: The lists are not found or not as published, or no listed video is there.
    """
    root = existing_folder(root)
    lists = _lists(root, annotations, fold)
    classes = tuple(sorted(lists))
    videos = root / "hmdb51_org" if (root / "hmdb51_org").is_dir() else root
    present = _Videos(list_files(videos).videos)
    listed: dict[Split, list[Clip]] = {"train": [], "test": []}
    num_unused = 0
    for label, (name, file) in enumerate(sorted(lists.items())):
        for number, video, use in _listed(file):
            if use == _UNUSED:
                num_unused += 1
                continue
            match = re.fullmatch(rf"(?P<source>.+)_{re.escape(name)}{_TAGS}", PurePosixPath(video).stem)
            if match is None:
                raise DataError(f"{file}: line {number}: expected <source>_{name}_<tags>_<number>.avi, found {video!r}")
            listed[_SPLITS[use]].append(
                Clip(
                    clip_id=f"{name}/{PurePosixPath(video).stem}",
                    video=present.find(video) or videos / name / video,
                    labels={"action": label},
                    group=_film(match["source"]) if group == "film" else f"{name}/{match['source']}",
                )
            )
    splits, absent = sort_out(listed, lambda clip: clip.video in present)
    dataset = Dataset(
        classes={"action": classes},
        splits=splits,
        group_name=group,
        absent=absent,
        notes=(
            *coverage_note(splits, absent, noun="videos"),
            *([f"listed videos that split {fold} does not use: {num_unused}"] if num_unused else []),
        ),
    )
    return some_there(dataset, f"{root}: none of the {sum(map(len, listed.values()))} listed videos is there")


def _lists(root: Path, annotations: str | None, fold: int) -> dict[str, Path]:
    """Class -> its list. What classes there are, the lists of all folds say."""

    def lists_in(place: Path, folds: str) -> dict[str, Path]:
        matches = ((_LIST.fullmatch(path.name), path) for path in place.iterdir())
        return {match["class"]: path for match, path in matches if match and match["fold"] in folds}

    places = [root / _FOLDER, root, root.parent / _FOLDER, root / "annotations", root / "annotations" / _FOLDER]
    place = find_lists(root, annotations, places=places, holds=lambda place: bool(lists_in(place, str(fold))))
    if place is None:
        where = root / annotations if annotations else f"{root}, {root / _FOLDER}, {places[2]} or {places[3]}"
        raise DataError(
            f"{root}: no list <class>_test_split{fold}.txt is in {where}; unpack test_train_splits.rar there or name "
            "the folder of the lists in data.annotations"
        )
    lists = lists_in(place, str(fold))
    for name, other in sorted(lists_in(place, "123").items()):
        if name not in lists:
            raise DataError(
                f"{place / f'{name}_test_split{fold}.txt'}: no such file, but {other.name} is beside it; unpack "
                "test_train_splits.rar again"
            )
    return lists


def _listed(file: Path) -> list[tuple[int, str, str]]:
    """(line number, file name, use) of each line."""
    listed = []
    for number, line in numbered_lines(file):
        name, _, use = line.rpartition(" ")
        name = name.rstrip()
        if use not in (_UNUSED, *_SPLITS) or not name.endswith(".avi"):
            raise DataError(f"{file}: line {number}: expected '<video>.avi' and 0, 1 or 2, found {line!r}")
        listed.append((number, name, use))
    return listed


def _film(source: str) -> str:
    """`return_of_the_king` of `Return_of_the_King_7`: what stands before numbers and marks at the end."""
    return re.sub(r"[\W\d_]+$", "", source).casefold() or source


class _Videos:
    """The videos that are there, by the name that the lists have for them.

    Names of videos are unique in the whole data set. Archivers and file systems store accents in two ways, and a
    transcoded copy (.mp4, ...) does where there is no .avi.
    """

    def __init__(self, videos: Iterable[Path]) -> None:
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        for path in videos:
            name = unicodedata.normalize("NFC", path.name)
            self._by_name.setdefault(name, path)
            self._by_stem.setdefault(PurePosixPath(name).stem, path)
        self._there = {*self._by_name.values(), *self._by_stem.values()}

    def __contains__(self, path: Path) -> bool:
        return path in self._there

    def find(self, name: str) -> Path | None:
        name = unicodedata.normalize("NFC", name)
        return self._by_name.get(name) or self._by_stem.get(PurePosixPath(name).stem)
