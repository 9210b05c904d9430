"""A contact sheet: some frames of each class, so that one sees what a data set shows."""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from kinema.data.decoding import Video, read_frames
from kinema.progress import SILENT, Reporter
from kinema.report.figures import data_uri
from kinema.report.markup import Markup, counted, element, join
from kinema.types import SPLITS, Clip, DataError, Heads, Split

log = logging.getLogger(__name__)

MAX_CLASSES = 60
"""On a sheet, of all tasks together."""
NUM_FRAMES = 4
"""Of a class, each of another clip."""

_SIZE_PX = 160
_QUALITY = 72
_MAX_DECODED = 16
"""Frames of one video that are in memory at a time, in full size."""

Row = tuple[Clip, Video, float, float]
"""A clip, its video, and its start and end inside it, seconds."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Frames of the classes of a task.

    Attributes:
        chosen: Class index -> clips of which the middle frame is shown, the commonest class first.
        num_left_out: Classes that have clips but no room.
        num_empty: Classes without a usable clip.
    """

    chosen: Mapping[int, Sequence[Row]]
    num_left_out: int
    num_empty: int


def choose(usable: Mapping[Split, Sequence[Row]], classes: Heads) -> dict[str, Sheet]:
    """Task -> which frames to show.

    Of a class, clips of the first split that has any, training before validation before test, evenly spread over it.
    Where there is not room for all classes, those shown are evenly spread from the commonest to the rarest.
    """
    room = max(MAX_CLASSES // max(len(classes), 1), 1)
    sheets = {}
    for task, names in classes.items():
        rows: dict[int, list[Row]] = {}
        for split in SPLITS:
            of_split: dict[int, list[Row]] = defaultdict(list)
            for row in usable.get(split, ()):
                if task in row[0].labels:
                    of_split[row[0].labels[task]].append(row)
            rows = of_split | rows
        ordered = sorted(rows, key=lambda label: (-len(rows[label]), label))
        shown = _evenly(ordered, room)
        sheets[task] = Sheet(
            chosen={label: _evenly(rows[label], NUM_FRAMES) for label in shown},
            num_left_out=len(ordered) - len(shown),
            num_empty=len(names) - len(ordered),
        )
    return sheets


def middle_frames(rows: Iterable[Row], *, workers: int = 2, reporter: Reporter = SILENT) -> dict[str, bytes | None]:
    """Clip id -> the frame in the middle of the clip as a small JPEG, or None where it does not decode.

    Args:
        rows: Clips; each is read once.
        workers: Threads.
        reporter: Shown how many are done.
    """
    unique = list({row[0].clip_id: row for row in rows}.values())
    by_video: dict[Any, list[Row]] = defaultdict(list)
    for row in unique:
        by_video[row[1].path].append(row)
    batches = [of[i : i + _MAX_DECODED] for of in by_video.values() for i in range(0, len(of), _MAX_DECODED)]
    found: dict[str, bytes | None] = {}
    with (
        reporter.track("Reading sample frames", total=len(unique), unit="frames") as task,
        ThreadPoolExecutor(max(workers, 1)) as pool,
    ):
        for batch in pool.map(_read, batches):
            found |= batch
            task.advance(len(batch))
    return found


def sheet_record(sheet: Sheet, names: Sequence[str], pictures: Mapping[str, bytes | None]) -> dict[str, Any]:
    """What a sheet shows, as JSON has it."""
    clips = {names[label]: [row[0].clip_id for row in rows] for label, rows in sheet.chosen.items()}
    shown = [clip_id for of_class in clips.values() for clip_id in of_class]
    return {
        "num_classes_shown": len(sheet.chosen),
        "num_classes_left_out": sheet.num_left_out,
        "num_classes_empty": sheet.num_empty,
        "num_frames": sum(pictures[clip_id] is not None for clip_id in shown),
        "num_undecodable": sum(pictures[clip_id] is None for clip_id in shown),
        "clips": clips,
    }


def sheet_section(record: Mapping[str, Any], pictures: Mapping[str, bytes | None], *, title: str | None) -> Markup:
    """Frames of each class with its name.

    Args:
        record: From `sheet_record`.
        pictures: From `middle_frames`.
        title: Of the task, where there are several.
    """
    heading = element("h3", title) if title is not None else None
    if not record["clips"]:
        return join(heading, element("p", "No clip with a label can be read.", class_="empty"))
    facts = [counted(record["num_classes_shown"], "class") + " shown"]
    if record["num_classes_left_out"]:
        facts.append(
            f"{record['num_classes_left_out']:,} more are not; those shown are spread evenly from the commonest to the "
            "rarest"
        )
    if record["num_classes_empty"]:
        facts.append(f"{counted(record['num_classes_empty'], 'class')} without a usable clip")
    if record["num_undecodable"]:
        facts.append(f"{counted(record['num_undecodable'], 'frame')} that cannot be decoded")
    figures = [
        element(
            "figure",
            element("figcaption", name),
            element("div", [_picture(clip_id, pictures[clip_id]) for clip_id in clips], class_="frames"),
            class_="sheet",
        )
        for name, clips in record["clips"].items()
    ]
    note = f"{'; '.join(facts)}. The middle frame of up to {NUM_FRAMES} clips of each class."
    return join(heading, element("p", note, class_="note"), element("div", figures, class_="sheets"))


def _picture(clip_id: str, content: bytes | None) -> Markup:
    if content is None:
        return element("div", "not decodable", class_="missing", title=clip_id)
    return element("img", src=data_uri("image/jpeg", content), alt=f"Clip {clip_id}", title=clip_id, loading="lazy")


def _read(rows: Sequence[Row]) -> dict[str, bytes | None]:
    """Of clips of one video."""
    video = rows[0][1]
    indices = [int(video.frames_at((start_s + stop_s) / 2)) for _, _, start_s, stop_s in rows]
    try:
        frames: Sequence[Any] = read_frames(video, indices)
    except (DataError, OSError) as error:
        if len(rows) > 1:  # one that does not decode does not hide the others
            return {clip_id: content for row in rows for clip_id, content in _read([row]).items()}
        log.warning("no picture of %s: %s", rows[0][0].clip_id, error)
        return {rows[0][0].clip_id: None}
    return {row[0].clip_id: _jpeg(frame) for row, frame in zip(rows, frames, strict=True)}


def _jpeg(frame: np.ndarray) -> bytes:
    image = Image.fromarray(frame)
    image.thumbnail((_SIZE_PX, _SIZE_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def _evenly(items: Sequence[Any], num: int) -> list[Any]:
    if len(items) <= num:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, num).round().astype(int)]
