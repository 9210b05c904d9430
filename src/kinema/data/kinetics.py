"""Kinetics-400, -600 and -700: what their data-set functions share.

Clips are found by their name, `<YouTube id>_<start>_<end>` or `<YouTube id>`, wherever they lie below the root: with
or without folders for splits and classes. Lists say what they are. Only where a split has no list do folders say it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kinema.data.kinetics_files import File, Files, Finder, best_file, find_kinetics_files
from kinema.data.kinetics_lists import (
    Listed,
    chosen_classes,
    find_kinetics_lists,
    kinetics_classes,
    read_kinetics_list,
    spelling,
)
from kinema.data.listing import coverage_note, existing_folder, shortened, some_there, sort_out
from kinema.types import SPLITS, Clip, ConfigError, DataError, Dataset, Split

_SPLIT_FOLDERS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
_TIMES = re.compile(r"_\d{1,7}_\d{1,7}$")


def kinetics(
    root: Path | None,
    version: int,
    *,
    annotations: str | None,
    videos: Literal["trimmed", "full"],
    classes: str | list[str] | None,
) -> Dataset:
    """One version of Kinetics.

    Args:
        root: `data.root`.
        version: Number of classes, which tells the versions apart.
        annotations: `data.annotations`.
        videos: `data.videos`.
        classes: `data.classes`.

    Raises:
        ConfigError: A setting is impossible.
        DataError: Neither lists nor folders say what the clips are, or no clip is there.
    """
    root = existing_folder(root)
    lists = find_kinetics_lists(root, annotations, version)
    read = {split: read_kinetics_list(file, split) for split, file in lists.files.items()}
    rows = {split: _without_repeats(members) for split, members in read.items()}
    num_repeats = sum(map(len, read.values())) - sum(map(len, rows.values()))
    files = find_kinetics_files(root, version)
    folders = {} if videos == "full" else files.in_folders([split for split in SPLITS if split not in rows])
    if not rows and videos == "full":
        raise ConfigError(f"data.videos: full takes times from the official lists, and none is in {root}")
    if not rows and not folders:
        raise DataError(
            f"{root}: holds neither a list of Kinetics-{version} (train.csv, kinetics-{version}_val.csv, ...) nor "
            "videos in train/<class>/; data.annotations names the folder of the lists"
        )
    official = kinetics_classes((row for members in rows.values() for row in members), lists.label_map)
    known = official or tuple(sorted({label for clips in folders.values() for _, label in clips if label}))
    chosen = known if classes is None else chosen_classes(classes, known, root)
    maker = _Maker(root, known, chosen, is_full=videos == "full")
    finder = Finder(files, rows, known, is_full=videos == "full")
    listed: dict[Split, list[Clip]] = {}
    for split in SPLITS:
        if split in rows:
            listed[split] = [maker.of_row(row, split, finder) for row in rows[split] if maker.is_chosen(row.label)]
        elif split in folders:
            listed[split] = maker.of_folder(folders[split], split, files)
    splits, absent = sort_out(listed, lambda clip: clip.clip_id in maker.there)
    num_listed = sum(map(len, listed.values()))
    of = "" if classes is None else " of the classes in data.classes"
    notes = [*coverage_note(splits, absent, noun="clips")]
    if folders:
        notes.append(f"without an official list, so that folders say what the clips are: {', '.join(folders)}")
    if num_repeats:
        notes.append(
            f"rows that list the same times of a video as an earlier row of their list, left out: {num_repeats}"
        )
    if official and len(official) != version:
        notes.append(f"the lists name {len(official)} of {version} classes")
    if classes is not None:
        notes.append(f"data.classes: {len(chosen)} of {len(known)} classes, {maker.num_others} clips are of others")
    dataset = Dataset(
        published=True,
        classes={"action": chosen},
        splits=splits,
        group_name="YouTube video",
        absent=absent,
        notes=(*notes, *maker.notes(finder)),
    )
    return some_there(dataset, f"{root}: none of the {num_listed} listed clips{of} is there")


@dataclass(slots=True)
class _Maker:
    """Turns rows and files into clips, and counts what has to be said about them.

    Attributes:
        root: `data.root`.
        known: All classes.
        chosen: Those that are asked for, in the order of their labels.
        is_full: Files are whole videos.
        there: Names of the clips whose file is there.
        num_others: Clips of classes that are not asked for, or that are not known to be of one that is.
    """

    root: Path
    known: tuple[str, ...]
    chosen: tuple[str, ...]
    is_full: bool
    there: set[str] = field(default_factory=set)
    num_others: int = 0
    _num_replacements: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _strange: Counter[str] = field(default_factory=Counter)  # folders that are no class
    _labels: dict[str | None, dict[str, int]] = field(default_factory=dict)  # shared by all clips of a class

    def __post_init__(self) -> None:
        self._labels = {None: {}, **{name: {"action": label} for label, name in enumerate(self.chosen)}}

    def is_chosen(self, label: str | None) -> bool:
        """Whether clips of a class are asked for. Of unlabelled ones that is known only where all are."""
        is_chosen = label in self._labels and (label is not None or len(self.chosen) == len(self.known))
        self.num_others += not is_chosen
        return is_chosen

    def of_row(self, row: Listed, split: Split, finder: Finder) -> Clip:
        """The clip of a row of the lists."""
        name = f"{row.youtube_id}_{int(row.start_s):06d}_{int(row.stop_s):06d}"
        file = finder.find(row, split)
        if file is None:
            folder = self.root / _SPLIT_FOLDERS[split] / (row.label or "")
            video = folder / f"{row.youtube_id if self.is_full else name}.mp4"
        else:
            video = file.path
        return Clip(
            clip_id=self._clip_id(name, file),
            video=video,
            start_s=row.start_s if self.is_full else 0.0,
            stop_s=row.stop_s if self.is_full else None,
            labels=self._labels[row.label],
            group=row.youtube_id,
            attributes=row.others,
        )

    def of_folder(self, found: list[tuple[str, str | None]], split: Split, files: Files) -> list[Clip]:
        """The clips of a split that has no list."""
        names = {spelling(name): name for name in self.known}
        clips = []
        for stem, folder in found:
            label = names.get(spelling(folder)) if folder is not None else None
            if label is None and (folder is not None or split != "test"):
                self._strange[folder or "no folder"] += 1
            elif self.is_chosen(label):
                file = best_file((file for file in files.named[stem] if _may_be(file, split, folder)), split)
                assert file is not None
                clips.append(
                    Clip(
                        clip_id=self._clip_id(stem, file),
                        video=file.path,
                        labels=self._labels[label],
                        group=_TIMES.sub("", stem),
                    )
                )
        return clips

    def notes(self, finder: Finder) -> list[str]:
        """What was counted."""
        notes = []
        if self._num_replacements:
            notes.append(f"clips taken from the folder of replacements: {self._num_replacements}")
        if finder.num_untimed:
            notes.append(
                f"files without times in their names, taken for trimmed clips: {finder.num_untimed} "
                "(set data.videos=full if they are whole videos)"
            )
        if finder.num_ambiguous:
            notes.append(
                "clips left out because their video is listed several times and no file name tells which: "
                f"{finder.num_ambiguous}"
            )
        if finder.num_elsewhere:
            notes.append(
                "clips whose only file has no times in its name and lies in a folder of another split or class, so "
                f"that they count as absent: {finder.num_elsewhere}"
            )
        if self._strange:
            num, names = self._strange.total(), shortened(self._strange)
            notes.append(f"videos left out because their folder is no class: {num} ({names})")
        return notes

    def _clip_id(self, name: str, file: File | None) -> str:
        self._seen[name] += 1
        clip_id = name if self._seen[name] == 1 else f"{name}~{self._seen[name]}"
        if file is not None:
            self.there.add(clip_id)
            self._num_replacements += file.place.is_replacement
        return clip_id


def _without_repeats(rows: list[Listed]) -> list[Listed]:
    first: dict[tuple[str, float, float], Listed] = {}
    for row in rows:
        first.setdefault((row.youtube_id, row.start_s, row.stop_s), row)
    return list(first.values())


def _may_be(file: File, split: Split, folder: str | None) -> bool:
    return file.place.is_replacement or (file.place.split == split and file.place.label == folder)
