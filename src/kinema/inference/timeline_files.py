"""A timeline as files that other programs read: a table, JSON, and subtitles."""

from __future__ import annotations

import csv
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema.files import write_atomically, write_json
from kinema.inference.live_types import Segment
from kinema.types import Heads
from kinema.wording import percent

CSV_NAME, JSON_NAME, SUBTITLES_NAME = "segments.csv", "segments.json", "subtitles.vtt"


def write_files(
    folder: Path, segments: Sequence[Segment], heads: Heads, *, video: Path, record: Mapping[str, Any]
) -> None:
    """Write all three.

    Args:
        folder: Where.
        segments: What was found.
        heads: Task -> class names.
        video: The video's file.
        record: What the JSON says beside the segments.

    Raises:
        OSError: A file cannot be written.
    """
    write_atomically(folder / CSV_NAME, as_csv(segments, heads, _path_from(folder, video)).encode())
    write_atomically(folder / SUBTITLES_NAME, as_subtitles(segments).encode())
    rows = [
        {
            "start_s": round(one.start_s, 3),
            "stop_s": round(one.stop_s, 3),
            "labels": dict(one.labels),
            "confidence": round(one.confidence, 4),
        }
        for one in segments
    ]
    write_json(folder / JSON_NAME, _without_nan({**record, "segments": rows}))


def as_csv(segments: Sequence[Segment], heads: Heads, path: str) -> str:
    """A row per segment, as `data.name=table` and `--truth` read it; one task is called `label` there."""
    columns = {task: "label" if len(heads) == 1 else task for task in heads}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "start_s", "stop_s", *columns.values(), "confidence"])
    for one in segments:
        labels = [one.labels[task] for task in columns]
        table.writerow([path, f"{one.start_s:.3f}", f"{one.stop_s:.3f}", *labels, f"{one.confidence:.4f}"])
    return text.getvalue()


def as_subtitles(segments: Sequence[Segment]) -> str:
    """WebVTT: https://www.w3.org/TR/webvtt1/"""
    cues = [
        f"{number}\n{_stamp(one.start_s)} --> {_stamp(one.stop_s)}\n"
        f"{html.escape(' '.join(one.label.split()), quote=False)} ({percent(one.confidence)})\n"
        for number, one in enumerate(segments, start=1)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _without_nan(value: Any) -> Any:
    """JSON has none."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _path_from(folder: Path, video: Path) -> str:
    try:
        return os.path.relpath(video, folder)
    except ValueError:  # on another disk, where disks have letters
        return str(video.absolute())


def _stamp(time_s: float) -> str:
    ms = round(1000 * time_s)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
