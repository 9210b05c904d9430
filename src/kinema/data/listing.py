"""What data-set functions share: which files are videos, which are there, in what order, and how to say so.

Nothing here opens a video, and nothing looks at a file by itself: a folder is read once, so that a hundred
thousand clips are listed in seconds on a network disk too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from kinema.data.file_index import INDEX_NAME
from kinema.registry import suggest
from kinema.types import SPLITS, Clip, ConfigError, DataError, Dataset, NothingThereError, Split

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)

_SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_MOST_NAMES_IN_A_MESSAGE = 12
_MACOS_FOLDER = "__MACOSX"  # what macOS puts into archives beside the content
_DIGITS = re.compile(r"(\d+)")


def existing_root(root: Path | None) -> Path:
    """The place that `data.root` names, for a data set that has to be there already.

    Raises:
        ConfigError: It is not given.
        DataError: There is nothing of that name.
    """
    if root is None:
        raise ConfigError("data.root: missing; give the folder of the data set")
    root = root.expanduser()
    if not root.exists():
        raise DataError(f"{root}: no such file or folder; data.root has to name the place of the data set")
    return root


def existing_folder(root: Path | None) -> Path:
    """Like `existing_root`, for a data set that is a folder.

    Raises:
        ConfigError: It is not given.
        DataError: It is not there, or it is a file.
    """
    root = existing_root(root)
    if not root.is_dir():
        raise DataError(f"{root}: is a file; data.root has to name the folder of the data set")
    return root


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts `clip2` before `clip10` and does not tell `Jump` from `jump`, except to break a tie."""
    # Splitting at digits gives text at even and numbers at odd places, so that like is compared with like.
    parts: list[str | int] = [*_DIGITS.split(text.casefold())]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, text


def split_of(name: str) -> Split | None:
    """The split that a folder name or a cell of a `split` column means (`val`, `Training`, ...), or None."""
    return _SPLIT_NAMES.get(name.strip().casefold())


def split_names() -> tuple[str, ...]:
    """All words that `split_of` knows."""
    return tuple(_SPLIT_NAMES)


def hint(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, with the known names where they are few enough to be read in one line."""
    names = list(known)
    if len(names) <= _MOST_NAMES_IN_A_MESSAGE:
        return suggest(word, names)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def shortened(values: Iterable[str]) -> str:
    """Values in natural order, separated by commas, the first dozen of them."""
    names = sorted(values, key=natural_key)
    more = len(names) - _MOST_NAMES_IN_A_MESSAGE
    return ", ".join(names[:_MOST_NAMES_IN_A_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def group_pattern(group: str) -> re.Pattern[str]:
    """`data.group` where it is a regular expression.

    Raises:
        ConfigError: It is none.
    """
    try:
        return re.compile(group)
    except re.error as error:
        raise ConfigError(f"data.group: {group!r} is not a regular expression: {error}") from None


def group_in(path: str, pattern: re.Pattern[str]) -> str | None:
    """What the pattern, or its first parenthesis, finds in a path, or None where that is nothing."""
    match = pattern.search(path)
    return (match.group(1 if pattern.groups else 0) or None) if match else None


@dataclass(frozen=True, slots=True)
class Listing:
    """Files below a folder, at any depth, without hidden ones.

    Attributes:
        videos: Files with a suffix of `VIDEO_SUFFIXES`, in natural order.
        num_others: Number of all other files, without an index of ours.
        first_other: Name of one of them.
    """

    videos: tuple[Path, ...]
    num_others: int
    first_other: str | None


def walk(folder: Path, *, enter: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all folders in it, each with the names of its files, without hidden ones, in an order that does not
    depend on the disk. Links are followed, each folder is entered once.

    Args:
        folder: Where to start.
        enter: Whether to look into a folder of this name.

    Raises:
        DataError: A folder cannot be read.
    """
    entered = {folder.resolve()}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        here = Path(place)
        kept = []
        for name in sorted(folders):
            if not name.startswith(".") and enter(name) and (target := (here / name).resolve()) not in entered:
                entered.add(target)
                kept.append(name)
        folders[:] = kept
        yield here, sorted(name for name in names if not name.startswith("."))


def list_files(folder: Path) -> Listing:
    """Look through a folder and all folders in it. Links are followed, each folder is entered once.

    Raises:
        DataError: A folder cannot be read.
    """
    videos: list[tuple[str, Path]] = []
    others: list[str] = []
    for here, names in walk(folder):
        for name in names:
            path = here / name
            if path.suffix.lower() in VIDEO_SUFFIXES:
                videos.append((path.relative_to(folder).as_posix(), path))
            elif not name.startswith(INDEX_NAME):  # nor the journal that lies beside it while it is written
                others.append(name)
    videos.sort(key=lambda video: natural_key(video[0]))
    return Listing(tuple(path for _, path in videos), len(others), min(others, default=None))


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, in natural order, without hidden ones and the one that macOS makes in archives.

    Raises:
        DataError: The folder cannot be read.
    """
    names = sorted(_names(folder, os.DirEntry.is_dir), key=natural_key)
    return [folder / name for name in names if name[0] != "." and name != _MACOS_FOLDER]


def videos_directly_in(folder: Path) -> list[Path]:
    """Videos in a folder itself, in natural order, without hidden ones.

    Raises:
        DataError: The folder cannot be read.
    """
    names = sorted(_names(folder, os.DirEntry.is_file), key=natural_key)
    return [folder / name for name in names if name[0] != "." and Path(name).suffix.lower() in VIDEO_SUFFIXES]


@dataclass(slots=True)
class Presence:
    """Answers whether files are there; each folder is read once, whatever the number of files asked for.

    Attributes:
        folders: Asked for folders instead of files.
    """

    folders: bool = False
    _found: dict[Path, frozenset[str]] = field(default_factory=dict)

    def __contains__(self, path: Path) -> bool:
        place = path.parent
        if place not in self._found:
            kind = os.DirEntry.is_dir if self.folders else os.DirEntry.is_file
            self._found[place] = frozenset(_names(place, kind, missing_ok=True))
        return path.name in self._found[place]


def sort_out(
    listed: Mapping[Split, Iterable[Clip]], is_there: Callable[[Clip], bool]
) -> tuple[dict[Split, tuple[Clip, ...]], dict[Split, tuple[Clip, ...]]]:
    """Clips that are there and clips that are not, by split, without splits that have none."""
    there: dict[Split, list[Clip]] = {}
    absent: dict[Split, list[Clip]] = {}
    for split, clips in listed.items():
        for clip in clips:
            (there if is_there(clip) else absent).setdefault(split, []).append(clip)
    return (
        {split: tuple(clips) for split, clips in there.items()},
        {split: tuple(clips) for split, clips in absent.items()},
    )


def some_there(dataset: Dataset, problem: str) -> Dataset:
    """The data set, if any of its clips is there.

    Args:
        dataset: What a data-set function has found.
        problem: What is wrong otherwise.

    Raises:
        NothingThereError: No clip is there. What is listed comes with it.
    """
    if not dataset.splits:
        raise NothingThereError(problem, dataset)
    return dataset


def coverage_note(
    splits: Mapping[Split, tuple[Clip, ...]], absent: Mapping[Split, tuple[Clip, ...]], *, noun: str
) -> tuple[str, ...]:
    """One line that says how many of the listed clips are there, or none when all are.

    Args:
        splits: Split -> clips that are there.
        absent: Split -> clips that are listed but not there.
        noun: What is counted, in the plural.
    """
    num_absent = sum(map(len, absent.values()))
    if not num_absent:
        return ()
    present = {split: len(splits.get(split, ())) for split in SPLITS if split in splits or split in absent}
    listed = {split: num + len(absent.get(split, ())) for split, num in present.items()}
    each = ", ".join(f"{split} {present[split]} of {listed[split]}" for split in present)
    return (
        f"{sum(present.values())} of {sum(listed.values())} listed {noun} are there, {num_absent} are absent ({each})",
    )


def _names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool], *, missing_ok: bool = False) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if wanted(entry)]
    except (FileNotFoundError, NotADirectoryError) as error:
        if missing_ok:
            return []
        _unreadable(error)
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None
