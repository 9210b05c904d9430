"""What happens when in a video, as somebody wrote it down: a CSV file with a row per action."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kinema.data.csv_table import Row, Table, read_csv
from kinema.registry import suggest
from kinema.types import DataError, Heads


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueSegment:
    """An action of a video.

    Attributes:
        start_s: From the first displayed frame.
        stop_s: Where it ends.
        labels: Task -> class; a task without one is absent: for it nothing happens.
    """

    start_s: float
    stop_s: float
    labels: Mapping[str, str]


def read_segments(path: Path, heads: Heads, *, background: Mapping[str, str] | None = None) -> list[TrueSegment]:
    """Read `start_s`, `stop_s` and a column per task (`label` will do where there is one); other columns are not read.

    Args:
        path: The file.
        heads: Task -> class names: no other labels are there.
        background: Task -> class that stands for nothing. It means what an empty label means.

    Returns:
        In the order of time.

    Raises:
        DataError: It cannot be read, columns are missing, or a row is impossible: its times are no seconds, its label
            no class, or it overlaps another; one action at a time is what is scored.
    """
    table = read_csv(path)
    columns = {task: _column(table, task, only=len(heads) == 1) for task in heads}
    for name in ("start_s", "stop_s"):
        if name not in table.columns:
            raise DataError(f"{path}: no column {name!r} (columns: {', '.join(table.columns)})")
    nothing = background or {}
    read = []
    for row in table.rows:
        start_s, stop_s = (_time(table, row, name) for name in ("start_s", "stop_s"))
        if stop_s <= start_s:
            raise DataError(f"{table.at(row, 'stop_s')}: the action stops at {stop_s:g} s but starts at {start_s:g} s")
        labels = {}
        for task, column in columns.items():
            name = row.values[column]
            if name and name not in heads[task]:
                raise DataError(f"{table.at(row, column)}: {name!r} is no class of {task}{suggest(name, heads[task])}")
            if name and name != nothing.get(task):
                labels[task] = name
        read.append((row, TrueSegment(start_s=start_s, stop_s=stop_s, labels=labels)))
    read.sort(key=lambda pair: pair[1].start_s)
    for (before, one), (row, other) in pairwise(read):
        if other.start_s < one.stop_s - 1e-6:
            raise DataError(
                f"{table.at(row, 'start_s')}: begins at {other.start_s:g} s, before that of row {before.number} ends "
                f"({one.stop_s:g} s); one action at a time is scored"
            )
    return [segment for _, segment in read if segment.labels]


def _column(table: Table, task: str, *, only: bool) -> str:
    for name in (task, "label") if only else (task,):
        if name in table.columns:
            return name
    wanted = f"{task!r} or 'label'" if only else f"{task!r}"
    raise DataError(f"{table.path}: no column {wanted} (columns: {', '.join(table.columns)})")


def _time(table: Table, row: Row, column: str) -> float:
    text = row.values[column]
    try:
        time_s = float(text)
    except ValueError:
        time_s = math.nan
    if not math.isfinite(time_s) or time_s < 0:
        raise DataError(f"{table.at(row, column)}: {text!r} is not a number of seconds from 0")
    return time_s
