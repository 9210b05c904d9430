"""What data-set functions share: which files are videos, which are there, in what order, and how to say so.

Nothing here opens a video, and nothing looks at a file by itself: a folder is read once, so that a hundred
thousand clips are listed in seconds on a network disk too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from kinema.registry import suggest
from kinema.types import SPLITS, Clip, ConfigError, DataError, Split

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


@dataclass(frozen=True, slots=True)
class Listing:
    """Files below a folder, at any depth, without hidden ones.

    Attributes:
        videos: Files with a suffix of `VIDEO_SUFFIXES`, in natural order.
        num_others: Number of all other files.
        first_other: Name of one of them.
    """

    videos: tuple[Path, ...]
    num_others: int
    first_other: str | None


def list_files(folder: Path) -> Listing:
    """Look through a folder and all folders in it. Links are followed, each folder is entered once.

    Raises:
        DataError: A folder cannot be read.
    """
    videos: list[tuple[str, Path]] = []
    others: list[str] = []
    entered = {folder.resolve()}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        here = Path(place)
        kept = []
        for name in folders:
            target = (here / name).resolve()
            if not name.startswith(".") and target not in entered:
                entered.add(target)
                kept.append(name)
        folders[:] = kept
        for name in names:
            if name.startswith("."):
                continue
            path = here / name
            if path.suffix.lower() in VIDEO_SUFFIXES:
                videos.append((path.relative_to(folder).as_posix(), path))
            else:
                others.append(name)
    videos.sort(key=lambda video: natural_key(video[0]))
    return Listing(tuple(path for _, path in videos), len(others), min(others, default=None))


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, in natural order, without hidden ones.

    Raises:
        DataError: The folder cannot be read.
    """
    return [folder / name for name in sorted(_names(folder, os.DirEntry.is_dir), key=natural_key) if name[0] != "."]


def videos_directly_in(folder: Path) -> list[Path]:
    """Videos in a folder itself, in natural order, without hidden ones.

    Raises:
        DataError: The folder cannot be read.
    """
    names = sorted(_names(folder, os.DirEntry.is_file), key=natural_key)
    return [folder / name for name in names if name[0] != "." and Path(name).suffix.lower() in VIDEO_SUFFIXES]


@dataclass(slots=True)
class Presence:
    """Answers whether files are there; each folder is read once, whatever the number of files asked for."""

    _files: dict[Path, frozenset[str]] = field(default_factory=dict)

    def __contains__(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._files:
            self._files[folder] = frozenset(_names(folder, os.DirEntry.is_file, missing_ok=True))
        return path.name in self._files[folder]


def coverage_note(
    num_listed: Mapping[Split, int], splits: Mapping[Split, tuple[Clip, ...]], *, noun: str
) -> str | None:
    """One line that says how many of the listed clips are there, or None when all are.

    Args:
        num_listed: Split -> number of clips in the annotations.
        splits: Split -> clips that are there.
        noun: What is counted, in the plural.
    """
    present = {split: len(splits.get(split, ())) for split in num_listed}
    listed_in_all, present_in_all = sum(num_listed.values()), sum(present.values())
    if present_in_all == listed_in_all:
        return None
    each = ", ".join(f"{split} {present[split]} of {num_listed[split]}" for split in SPLITS if split in num_listed)
    return (
        f"{present_in_all} of {listed_in_all} listed {noun} are there, "
        f"{listed_in_all - present_in_all} are absent ({each})"
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
