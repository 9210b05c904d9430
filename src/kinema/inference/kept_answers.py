"""Answers about a long video, in a file that only grows: what is whole in it counts, however the program ended.

    kinema answers 1                         a line
    length, checksum, content                of every record: 8 bytes, 4 bytes, safetensors

The first record says what the answers are of. Each further one holds those of one part of the video. What follows the
last record that is whole is cut off when work goes on.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float32, Float64, Int64

from kinema.types import DataError

_FIRST = b"kinema answers 1\n"
_HEAD = struct.Struct("<QI")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Answers of one part of a video, N of them.

    Attributes:
        number: Which.
        num_frames: Frames up to its end.
        stop_s: When the last of them goes from display.
        damaged: Something up to there did not decode in full.
        is_last: The video ends here.
        first_pts: Timestamp of the video's first frame, where it has one.
        times_s: Up to where the video was seen.
        whole: As much was seen as the short window holds.
        scores: NaN where the weights have no threshold.
        probabilities: Task -> (N, K).
        mark_times_s: M pictures that the next part looks at too: when they come on display.
        marks: What they are told by.
    """

    number: int
    num_frames: int
    stop_s: float
    damaged: bool
    is_last: bool
    first_pts: int | None
    times_s: Float64[np.ndarray, "N"]
    whole: Bool[np.ndarray, "N"]
    scores: Float64[np.ndarray, "N"]
    probabilities: Mapping[str, Float32[np.ndarray, "N _K"]]
    mark_times_s: Float64[np.ndarray, "M"]
    marks: Int64[np.ndarray, "M"]


class KeptAnswers:
    """Answers in a file.

    Args:
        path: The file.
        of: What they are answers of, of JSON types: what one may go on with. Written where there is no file.

    Attributes:
        last: The last part that is whole, if there is one.

    Raises:
        DataError: The file is another one, or of something else.
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self.path = path
        self.last: Part | None = None
        self._end = 0
        beginning = [_FIRST, *_record({}, {"of": json.dumps(dict(of), sort_keys=True)})]
        if path.exists() and not _is_part(path, b"".join(beginning)):
            self._check(of)
        else:
            path.unlink(missing_ok=True)
            self._write(beginning)

    @property
    def is_finished(self) -> bool:
        return self.last is not None and self.last.is_last

    def add(self, part: Part) -> None:
        """Write a part; when this returns it is on the disk."""
        tensors = {
            "times_s": part.times_s,
            "whole": part.whole,
            "scores": part.scores,
            "mark_times_s": part.mark_times_s,
            "marks": part.marks,
            **{f"of {task}": np.ascontiguousarray(values) for task, values in part.probabilities.items()},
        }
        names = ("number", "num_frames", "stop_s", "damaged", "is_last", "first_pts")
        self._write(_record(tensors, {"facts": json.dumps({name: getattr(part, name) for name in names})}))
        self.last = part

    def parts(self) -> Iterator[Part]:
        """What is there, in order, one part in memory at a time."""
        with self.path.open("rb") as file:
            file.seek(len(_FIRST))
            _next_record(file)
            while file.tell() < self._end:
                content = _next_record(file)
                if content is None:  # somebody has changed it
                    raise DataError(f"{self.path}: has been changed; remove it and begin again")
                yield _part(content)

    def _check(self, of: Mapping[str, Any]) -> None:
        with self.path.open("rb") as file:
            content = _next_record(file) if file.read(len(_FIRST)) == _FIRST else None
            if content is None:
                raise DataError(f"{self.path}: not answers of kinema; remove it, or name another folder")
            known, wanted = json.loads(_metadata(content)["of"]), json.loads(json.dumps(dict(of)))
            others = [name for name in wanted if known.get(name) != wanted[name]]
            if others or known.keys() != wanted.keys():
                raise DataError(
                    f"{self.path.parent}: holds answers of other {' and '.join(others) or 'things'}; name another "
                    "folder by --out, or remove this one"
                )
            self._end = file.tell()
            last = None
            while (content := _next_record(file)) is not None:
                self._end, last = file.tell(), content
            self.last = None if last is None else _part(last)
        with self.path.open("r+b") as file:
            file.truncate(self._end)

    def _write(self, pieces: list[bytes]) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(pieces))
            file.flush()
            os.fsync(file.fileno())
            self._end = file.tell()


def _is_part(path: Path, beginning: bytes) -> bool:
    """Whether a file holds the first bytes of this, and no more: it was being made."""
    return path.stat().st_size < len(beginning) and beginning.startswith(path.read_bytes())


def _record(tensors: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> list[bytes]:
    content = safetensors.numpy.save(dict(tensors), dict(facts))
    return [_HEAD.pack(len(content), zlib.crc32(content)), content]


def _next_record(file: BinaryIO) -> bytes | None:
    """The content of the next record; None where there is none that is whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack(head)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if length > left:
        return None
    content = file.read(length)
    return content if len(content) == length and zlib.crc32(content) == checksum else None


def _metadata(content: bytes) -> dict[str, Any]:
    """Of safetensors: 8 bytes that say how long the JSON is that follows."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, Any] = header["__metadata__"]
    return found


def _part(content: bytes) -> Part:
    tensors = safetensors.numpy.load(content)
    of_tasks = {name.removeprefix("of "): tensors.pop(name) for name in list(tensors) if name.startswith("of ")}
    values: dict[str, Any] = {**json.loads(_metadata(content)["facts"]), **tensors}
    return Part(**values, probabilities=of_tasks)
