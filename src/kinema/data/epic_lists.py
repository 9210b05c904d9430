"""The annotations of EPIC-KITCHENS, as published: CSV files with a header.

They are read row by row, and of a row only what a clip needs is kept: the training list alone has 67,217.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from kinema.types import DataError

_TIMESTAMP = re.compile(r"(\d+):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A row of a list of actions.

    Attributes:
        clip_id: `narration_id` or `uid`.
        participant: "P01".
        video_id: "P01_01".
        start_s: From the beginning of the video.
        stop_s: The same.
        narration: What the participant said, in English; empty in a test list.
        verb: Class index, None in a test list.
        noun: The same.
    """

    clip_id: str
    participant: str
    video_id: str
    start_s: float
    stop_s: float
    narration: str
    verb: int | None
    noun: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """Verbs or nouns.

    Attributes:
        path: The file.
        names: In the order of their indices.
        categories: The category of each, empty where the file has none.
    """

    path: Path
    names: tuple[str, ...]
    categories: tuple[str, ...]

    @property
    def category_names(self) -> tuple[str, ...]:
        """Each category once, in alphabetical order."""
        return tuple(sorted(set(self.categories)))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """A row of the table of videos."""

    fps: float
    duration_s: float


def read_segments(path: Path, *, id_column: str, verbs: ClassList | None, nouns: ClassList | None) -> Iterator[Segment]:
    """The rows of a list of actions. Columns may be in any order, and there may be others.

    Args:
        path: The CSV file.
        id_column: `narration_id` (EPIC-KITCHENS-100) or `uid` (-55).
        verbs: Verb classes; None for a list without labels.
        nouns: Noun classes; None for a list without labels.

    Raises:
        DataError: A column is missing, or a cell is not what it should be; the message names file, row and column.
    """
    columns = [id_column, "participant_id", "video_id", "start_timestamp", "stop_timestamp"]
    labelled = verbs is not None and nouns is not None
    if labelled:
        columns += ["narration", "verb_class", "noun_class"]
    for number, (clip_id, participant, video_id, start, stop, *rest) in read_rows(path, columns):
        start_s = _seconds(path, number, "start_timestamp", start)
        stop_s = _seconds(path, number, "stop_timestamp", stop)
        if not clip_id or stop_s <= start_s:
            what = f"column {id_column!r}: is empty" if not clip_id else f"stops at {stop}, not after its start {start}"
            raise DataError(f"{path}: row {number}, {what}")
        narration, verb, noun = rest if rest else ("", "", "")
        yield Segment(
            clip_id=clip_id,
            participant=intern(participant),
            video_id=intern(video_id),
            start_s=start_s,
            stop_s=stop_s,
            narration=intern(narration),
            verb=None if verbs is None else _class(path, number, "verb_class", verb, verbs),
            noun=None if nouns is None else _class(path, number, "noun_class", noun, nouns),
        )


def read_classes(path: Path, *, id_column: str, key_column: str, category_column: str | None) -> ClassList:
    """A list of classes.

    Raises:
        DataError: A column is missing, or the indices are not 0, 1, 2, ...
    """
    columns = [id_column, key_column, *([] if category_column is None else [category_column])]
    names: list[str] = []
    categories: list[str] = []
    for number, (index, name, *category) in read_rows(path, columns):
        if index != str(len(names)) or not name or name in names:
            raise DataError(
                f"{path}: row {number}: expected class {len(names)} with a new name, found {index!r} {name!r}"
            )
        names.append(name)
        categories += category
    if not names:
        raise DataError(f"{path}: holds no class")
    return ClassList(path=path, names=tuple(names), categories=tuple(categories))


def read_class_indices(path: Path, column: str, classes: ClassList) -> frozenset[int]:
    """A column of class indices, such as a list of tail classes.

    Raises:
        DataError: The column is missing, or a cell is not the index of a class.
    """
    return frozenset(_class(path, number, column, cell, classes) for number, (cell,) in read_rows(path, [column]))


def read_videos(path: Path, *, id_column: str) -> dict[str, VideoFacts]:
    """The table of videos, by name.

    Raises:
        DataError: A column is missing, or a cell holds no number above 0.
    """
    videos = {}
    for number, (video_id, fps, duration) in read_rows(path, [id_column, "fps", "duration"]):
        facts = VideoFacts(
            fps=_positive(path, number, "fps", fps), duration_s=_positive(path, number, "duration", duration)
        )
        videos[video_id] = facts
    return videos


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(Number as a spreadsheet counts, the cells of these columns) of each row behind the header.

    Raises:
        DataError: The file cannot be read, is not CSV, or lacks one of the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(f"{path}: has no column {missing[0]!r} (it has {', '.join(header) or 'none'})")
            places = [header.index(name) for name in columns]
            for number, cells in enumerate(reader, start=2):
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{path}: row {number} has {len(cells)} fields and the header {len(header)}")
                yield number, tuple(cells[place].strip() for place in places)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it belongs to the official annotations") from None
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def missing_lists(folder: Path, names: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on files that are not in a folder.

    Args:
        folder: The annotations.
        names: File -> what there is not without it.
    """
    return tuple(f"{name} is not in {folder}: {lost}" for name, lost in names.items() if not (folder / name).is_file())


def refuse_pickles(folder: Path, list_name: str, *, source: str) -> None:
    """Say so where a list is there as a pickle only.

    Raises:
        DataError: It is. Opening a pickle may run any program that is in it.
    """
    pickle = (folder / list_name).with_suffix(".pkl")
    if pickle.is_file() and not (folder / list_name).is_file():
        raise DataError(f"{pickle}: pickles are not opened, as they can run programs; get {list_name} from {source}")


def _seconds(path: Path, number: int, column: str, text: str) -> float:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise DataError(f"{path}: row {number}, column {column!r}: expected HH:MM:SS.ss, found {text!r}")
    hours, minutes, seconds, decimals = match.groups("")
    # One division of whole numbers: the time at which a frame comes on display has to come out as exactly that.
    whole = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
    scale: int = 10 ** len(decimals)
    return (whole * scale + int(decimals or 0)) / scale


def _class(path: Path, number: int, column: str, text: str, classes: ClassList) -> int:
    index = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= index < len(classes.names):
        raise DataError(
            f"{path}: row {number}, column {column!r}: {text!r} is not one of the classes 0 to "
            f"{len(classes.names) - 1} in {classes.path.name}"
        )
    return index


def _positive(path: Path, number: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise DataError(f"{path}: row {number}, column {column!r}: expected a number above 0, found {text!r}")
    return value
