"""The list of videos that are there and not to be used. `kinema data check` writes it, people may add to it, training
and evaluation leave out what it names without opening it.

It is a CSV file with a row per video: `path` (relative to the root of the data set), `size_bytes`, `reason`,
`found_by`. An entry with a size counts only for a file of that size: one that was downloaded again is another file.
Entries that are not `found_by` the check are somebody's own and stay as they are.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kinema.data.csv_table import Row, Table, read_csv
from kinema.files import write_atomically
from kinema.types import Clip, DataError, Dataset

FILE_NAME = "kinema-quarantine.csv"
CHECK = "kinema data check"
"""Who entries are found by that the check may take away again."""

_COLUMNS = ("path", "size_bytes", "reason", "found_by")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A video that is not to be used.

    Attributes:
        path: Relative to the root of the data set, or absolute.
        size_bytes: Of the file that is meant; None for whatever is there.
        reason: Why.
        found_by: `CHECK`, or anything else.
    """

    path: str
    size_bytes: int | None
    reason: str
    found_by: str = CHECK


def default_file(root: Path) -> Path:
    """Where the list of a data set is looked for: in its folder, or beside the file that it is."""
    return (root.parent if root.is_file() else root) / FILE_NAME


def read_entries(file: Path) -> list[Entry]:
    """Entries of a list, in its order.

    Raises:
        DataError: It cannot be read, or a row is not as it has to be; the message names file and row.
    """
    table = read_csv(file)
    if "path" not in table.columns:
        raise DataError(f"{file}: no column 'path' (columns: {', '.join(table.columns)})")
    return [_entry(table, row) for row in table.rows]


def _entry(table: Table, row: Row) -> Entry:
    size = row.values.get("size_bytes", "")
    if not row.values["path"]:
        raise DataError(f"{table.at(row, 'path')}: is empty")
    if size and not size.isdecimal():
        raise DataError(f"{table.at(row, 'size_bytes')}: {size!r} is not a number of bytes")
    return Entry(
        path=row.values["path"],
        size_bytes=int(size) if size else None,
        reason=row.values.get("reason") or "no reason given",
        found_by=row.values.get("found_by", ""),
    )


def write_entries(file: Path, entries: Iterable[Entry]) -> None:
    """Write a list, whole or not at all.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in entries:
        size = "" if entry.size_bytes is None else entry.size_bytes
        writer.writerow([entry.path, size, " ".join(entry.reason.split()), entry.found_by])
    # A name that is not text in any encoding cannot be listed; it must not cost the rest of the list.
    write_atomically(file, text.getvalue().encode(errors="backslashreplace"))


def video_of(entry: Entry, root: Path) -> Path:
    """The video that an entry of a list for `root` names."""
    return Path(os.path.normpath((root.parent if root.is_file() else root) / entry.path))


def size_bytes(video: Path) -> int | None:
    """Size of a file, or of all files in a folder of frames; None where it is not there."""
    try:
        if not video.is_dir():
            return video.stat().st_size
        with os.scandir(video) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:
        return None


def counts(entry: Entry, root: Path) -> bool:
    """Whether an entry names the file that is there."""
    size = size_bytes(video_of(entry, root))
    return size is not None and entry.size_bytes in (None, size)


def with_quarantine(dataset: Dataset, root: Path, file: Path) -> Dataset:
    """A data set that knows which of its videos are in quarantine.

    Args:
        dataset: Any.
        root: What its paths are relative to.
        file: The list.

    Raises:
        DataError: The list cannot be read.
    """
    entries = read_entries(file)
    counted = [entry for entry in entries if counts(entry, root)]
    reasons = {video_of(entry, root): entry.reason for entry in counted}
    videos = _found({path.name for path in reasons}, dataset.splits.values())
    found = {video: reasons[path] for video, path in videos.items() if path in reasons}
    num_stale = len(entries) - len(counted)
    note = f"{file}: {num_stale} of {len(entries)} entries do not count: their file is gone or was replaced"
    return replace(dataset, quarantine=found, notes=(*dataset.notes, note) if num_stale else dataset.notes)


def _found(names: set[str], splits: Iterable[Sequence[Clip]]) -> dict[Path, Path]:
    """Videos with one of these names, as the data set has them -> without `..` in them."""
    videos = {clip.video for clips in splits for clip in clips if clip.video.name in names}
    return {video: Path(os.path.normpath(video)) for video in videos}


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a check changes in a list.

    Attributes:
        entries: The new list.
        num_added: Entries that were not there before.
        num_removed: Entries of earlier checks whose file is fine now, was replaced or is gone.
    """

    entries: tuple[Entry, ...]
    num_added: int
    num_removed: int


def updated(before: Sequence[Entry], reasons: Mapping[Path, str | None], root: Path) -> Update:
    """The list after a check.

    Args:
        before: The list as it was. Somebody's own entries stay; so do those of files that were not checked this time,
            as long as the file is the same.
        reasons: Checked video -> why it is not to be used, or None where it is fine.
        root: What paths of entries are relative to.
    """
    place = root.parent if root.is_file() else root
    checked = {Path(os.path.normpath(video)) for video in reasons}
    kept = [
        entry
        for entry in before
        if entry.found_by != CHECK or (video_of(entry, root) not in checked and counts(entry, root))
    ]
    own = {video_of(entry, root) for entry in kept if counts(entry, root)}
    found = [
        Entry(path=_relative(video, place), size_bytes=size, reason=reason)
        for video, reason in reasons.items()
        if reason is not None and Path(os.path.normpath(video)) not in own and (size := size_bytes(video)) is not None
    ]
    places = {entry.path for entry in before if entry.found_by == CHECK}
    num_again = sum(entry.path in places for entry in found)
    num_dropped = len(before) - len(kept)
    return Update(entries=(*kept, *found), num_added=len(found) - num_again, num_removed=num_dropped - num_again)


def _relative(video: Path, place: Path) -> str:
    return video.relative_to(place).as_posix() if video.is_relative_to(place) else str(video)
