"""Finding the videos of Kinetics by their names, in the layouts that downloads of them come in."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kinema.data.kinetics_lists import Listed, kinetics_split, spelling
from kinema.data.listing import VIDEO_SUFFIXES, walk
from kinema.types import Split

_TIMED = re.compile(r"(?P<id>.+)_(?P<start>\d{1,7})_(?P<stop>\d{1,7})")
_VERSION = re.compile(r"(?:k|kinetics)[-_ ]?(?P<version>\d{3})(?!\d)", re.IGNORECASE)
_OTHER_CONTENT = re.compile(r"rawframes|(?:rgb_?)?frames|flow(?:s|_.*)?$|annotations|.*_targz$", re.IGNORECASE)


class Place(NamedTuple):
    """A folder with videos: where it is, and what the names of the folders say."""

    folder: Path
    split: Split | None
    label: str | None
    is_replacement: bool


class File(NamedTuple):
    """A video. `path` is put together when it is asked for, as most are not."""

    place: Place
    name: str

    @property
    def path(self) -> Path:
        return self.place.folder / self.name


class Files:
    """All videos below a root.

    Attributes:
        named: Name without suffix -> files.
    """

    def __init__(self) -> None:
        self.named: dict[str, list[File]] = defaultdict(list)
        self._timed: dict[tuple[str, int, int], list[File]] | None = None

    def timed(self, youtube_id: str, start: int, stop: int) -> list[File]:
        """Files called `<id>_<start>_<stop>`, with whatever number of zeros."""
        found = self.named.get(f"{youtube_id}_{start:06d}_{stop:06d}")
        if found:
            return found
        if self._timed is None:
            self._timed = defaultdict(list)
            for stem, files in self.named.items():
                match = _TIMED.fullmatch(stem)
                if match is not None:
                    self._timed[match["id"], int(match["start"]), int(match["stop"])] += files
        return self._timed.get((youtube_id, start, stop), [])

    def in_folders(self, splits: Iterable[Split]) -> dict[Split, list[tuple[str, str | None]]]:
        """Split -> (name without suffix, class folder) of the videos in the folders of these splits, by class and
        name."""
        found: dict[Split, dict[tuple[str, str | None], None]] = {split: {} for split in splits}
        if found:
            for stem, files in self.named.items():
                for file in files:
                    if file.place.split in found and not file.place.is_replacement:
                        found[file.place.split][stem, file.place.label] = None
        return {
            split: sorted(clips, key=lambda clip: (clip[1] or "", clip[0])) for split, clips in found.items() if clips
        }


def find_kinetics_files(root: Path, version: int) -> Files:
    """Look through all folders but those of other versions of Kinetics and of things that are no videos.

    Raises:
        DataError: A folder cannot be read.
    """

    def enter(name: str) -> bool:
        match = _VERSION.match(name)
        return (match is None or match["version"] == str(version)) and not _OTHER_CONTENT.match(name)

    found = Files()
    for folder, names in walk(root, enter=enter):
        place = _place(folder, folder.relative_to(root).parts)
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if dot + suffix.lower() in VIDEO_SUFFIXES:
                found.named[stem].append(File(place, name))
    return found


def _place(folder: Path, parts: tuple[str, ...]) -> Place:
    """`videos_train/abseiling` is of the training split and of the class abseiling."""
    is_replacement = any(part.lower().startswith("replacement") for part in parts)
    for number, part in enumerate(parts):
        # There is a class called 'training dog': in a longer name, only the short words mean a split.
        words = [word for word in re.split(r"[^a-z]+", part.lower()) if word in ("train", "val", "test", "validation")]
        split = kinetics_split(part) or (kinetics_split(words[0]) if words else None)
        if split is not None:
            return Place(folder, split, next(iter(parts[number + 1 :]), None), is_replacement)
    return Place(folder, None, parts[-1] if parts else None, is_replacement)


def best_file(files: Iterable[File], split: Split) -> File | None:
    """The one to use of several: a replacement (of a video that was corrupt in the first release) before others, in
    the folder of the split before elsewhere, MP4 before other formats."""
    files = list(files)
    if len(files) == 1:
        return files[0]
    return min(
        files,
        key=lambda file: (
            not file.place.is_replacement,
            file.place.split != split,
            not file.name.lower().endswith(".mp4"),
        ),
        default=None,
    )


class Finder:
    """Finds the file of a row of the lists.

    Attributes:
        num_untimed: Rows whose file has no times in its name and was taken for the trimmed clip.
        num_ambiguous: Rows for which there are such files, and nothing says of which row they are.
        num_elsewhere: Rows for which there are such files only in folders of another split or class.
    """

    def __init__(
        self, files: Files, rows: Mapping[Split, list[Listed]], classes: Iterable[str], *, is_full: bool
    ) -> None:
        self.num_untimed = 0
        self.num_ambiguous = 0
        self.num_elsewhere = 0
        self._classes = {spelling(name) for name in classes}
        self._files = files
        self._is_full = is_full
        times = Counter(row.youtube_id for members in rows.values() for row in members)
        self._repeated = {youtube_id for youtube_id, num in times.items() if num > 1}
        repeated = [(split, row) for split in rows for row in rows[split] if row.youtube_id in self._repeated]
        self._in_split = Counter((split, row.youtube_id) for split, row in repeated)
        self._in_class = Counter((split, row.youtube_id, row.label) for split, row in repeated)

    def find(self, row: Listed, split: Split) -> File | None:
        """The file of a row, or None where there is none."""
        named = self._files.named.get(row.youtube_id, [])
        if self._is_full:
            return best_file(named, split)
        timed = self._files.timed(row.youtube_id, int(row.start_s), int(row.stop_s))
        if timed or not named:
            return best_file(timed, split)
        is_repeated = row.youtube_id in self._repeated
        mine = [file for file in named if self._may_be(file, row, split)]
        mine = self._of_row(row, split, mine) if is_repeated else mine
        self.num_untimed += bool(mine)
        self.num_ambiguous += not mine and is_repeated
        self.num_elsewhere += not mine and not is_repeated
        return best_file(mine, split)

    def _may_be(self, file: File, row: Listed, split: Split) -> bool:
        """Whether the folders of a file name neither another split nor another class."""
        label = spelling(file.place.label or "")
        is_other_class = row.label is not None and label in self._classes and label != spelling(row.label)
        return file.place.split in (None, split) and not is_other_class

    def _of_row(self, row: Listed, split: Split, named: list[File]) -> list[File]:
        """Which of several clips of a video a file is can only be seen from the folders that it lies in."""
        mine = [file for file in named if file.place.split == split]
        if self._in_split[split, row.youtube_id] == 1:
            return mine
        if row.label is None or self._in_class[split, row.youtube_id, row.label] > 1:
            return []
        return [file for file in mine if spelling(file.place.label or "") == spelling(row.label)]
