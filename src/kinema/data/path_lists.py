"""Lists of `path label` lines without a header, as mmaction2 (`.txt`) and SlowFast (`.csv`) write them.

    some/video.mp4 12            a video and its label; a comma or a tab may stand in place of the space
    some/folder 163 12           a folder of frames, how many frames, label
    some/folder 40 163 12        the same, from frame 40 on (counted from 0)

A clip of a folder ends where its line says, so that a folder with fewer frames shows in times outside of the video.

https://mmaction2.readthedocs.io/en/latest/user_guides/prepare_dataset.html,
https://github.com/facebookresearch/SlowFast/blob/main/slowfast/datasets/DATASET.md
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kinema.data.csv_table import Row, Table, read_text
from kinema.data.images import IMAGE_SUFFIXES
from kinema.data.listing import VIDEO_SUFFIXES, group_in, group_pattern
from kinema.types import ConfigError, DataError

_LINE = re.compile(r"(?P<path>.+?)(?P<numbers>(?:(?:\s+|\s*,\s*)\d+)+)")
_COLUMNS = ("path", "label", "start_s", "stop_s", "total_frames")


class _Line(NamedTuple):
    path: str
    numbers: list[str]


def is_file_name(path: str) -> bool:
    """Whether a path is that of a video or an image, by its suffix, and not that of a folder of frames."""
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def is_path_list(file: Path) -> bool:
    """Whether a file is such a list, by its first line that is not empty.

    Raises:
        DataError: It cannot be read.
    """
    first = next((line for line in read_text(file).splitlines() if line.strip()), "")
    line = _parse(first)
    return line is not None and (is_file_name(line.path) or len(line.numbers) in (2, 3))


def read_path_list(file: Path, *, fps: float | None, group: str | None) -> Table:
    """A list as a table with the columns `path`, `label`, and what its lines say beside.

    Args:
        file: The list.
        fps: Rate of folders of frames.
        group: Regular expression for a column `group`, as in `data.name: folder`.

    Raises:
        ConfigError: A folder of frames is listed and `fps` is not given, or `group` finds nothing.
        DataError: The file cannot be read, is empty, or a line is none of these.
    """
    pattern = None if group is None else group_pattern(group)
    rows = []
    for number, text in enumerate(read_text(file).splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{file}: line {number}"
        line = _parse(text)
        if line is None:
            raise DataError(f"{where}: expected 'path label', the label an integer from 0, found {text.strip()!r}")
        values = {"path": line.path, **_meaning(line, where, fps)}
        if pattern is not None:
            values["group"] = group_in(line.path, pattern) or ""
        rows.append(Row(number, values, file))
    if not rows:
        raise DataError(f"{file}: is empty; expected 'path label' in each line")
    if pattern is not None and not any(row.values["group"] for row in rows):
        raise ConfigError(f"data.group: {group!r} is found in no path of {file}")
    columns = [column for column in _COLUMNS if any(row.values.get(column) for row in rows)]
    columns += [] if pattern is None else ["group"]
    complete = [Row(row.number, {name: row.values.get(name, "") for name in columns}, file) for row in rows]
    return Table(file, tuple(columns), tuple(complete), is_list=True)


def _parse(text: str) -> _Line | None:
    match = _LINE.fullmatch(text.strip())
    if match is None:
        return None
    path = match["path"].strip()
    if len(path) > 1 and path[0] == path[-1] == '"':
        path = path[1:-1]
    return _Line(path, re.findall(r"\d+", match["numbers"]))


def _meaning(line: _Line, where: str, fps: float | None) -> dict[str, str]:
    label = str(int(line.numbers[-1]))
    if is_file_name(line.path):
        if len(line.numbers) > 1:
            raise DataError(f"{where}: several numbers follow a video; lists of several labels a clip cannot be used")
        return {"label": label}
    if len(line.numbers) not in (2, 3):
        raise DataError(
            f"{where}: {line.path!r} does not end like a video, and for a folder of frames, their number and the label "
            "are expected behind it"
        )
    if fps is None:
        raise ConfigError(f"data.fps: missing; {where} lists a folder of frames, and nothing says how many a second")
    total = int(line.numbers[-2])
    if total == 0:
        raise DataError(f"{where}: a folder of 0 frames")
    first = int(line.numbers[0]) if len(line.numbers) == 3 else 0
    return {
        "label": label,
        "total_frames": str(total),
        "start_s": repr(first / fps),
        "stop_s": repr((first + total) / fps),
    }
