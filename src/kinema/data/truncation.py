"""Whether there is less of a video than its container says: a download or a copy that was cut short.

FFmpeg plays what is there without a word, and an action of which the end is missing is not the action that its label
names. Only containers that say how long they are can be judged: AVI, MP4 and MOV, Matroska and WebM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from kinema.data.machine import data_error
from kinema.types import DataError

_SLACK_BYTES = 16
"""Some programs count a header or a padding byte too many. No frame is lost in so little."""

_BOXES = frozenset(
    b"ftyp moov mdat free skip wide pnot styp sidx ssix moof mfra meta uuid udta pdin prft emsg imda".split()
)
"""What may stand at the top of MP4 and MOV."""

_EBML = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")


def check_complete(path: Path) -> None:
    """Refuse a file that is shorter than its container says.

    Raises:
        DataError: It is, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            num_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            promised = _promised_bytes(file, num_bytes)
    except OSError as error:
        raise data_error(f"{path}: cannot be read ({error.strerror})", error) from None
    if promised is not None and promised > num_bytes + _SLACK_BYTES:
        raise DataError(
            f"{path}: cut short, {num_bytes:,} of at least {promised:,} bytes are there; fetch or copy it again"
        )


def is_short(duration_s: float, container: InputContainer, stream: VideoStream) -> bool:
    """Whether much less of a video decodes than its header promises: a part of it was never written, as in a download
    that reserved its room and stopped. Some files promise a few frames too many; that is not much.

    Args:
        duration_s: Of what decodes.
        container: The opened file.
        stream: Its video.

    Raises:
        DataError: Less than half of what is promised decodes.
    """
    if container.format.name == "avi":  # its header counts frames that were dropped while it was recorded
        return False
    if stream.duration and stream.time_base:
        promised_s = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:  # with sound, that may be what is longer
        # In Matroska, as FFmpeg writes it, up to the end from 0 on, wherever the video begins.
        promised_s = (container.duration - max(container.start_time or 0, 0)) / av.time_base
    else:
        return False
    if promised_s - duration_s <= max(0.1 * promised_s, 0.5):
        return False
    if duration_s < 0.5 * promised_s:
        name = container.name.removeprefix("file:")
        raise DataError(f"{name}: only {duration_s:.1f} of {promised_s:.1f} s decode; fetch or copy it again")
    return True


def _promised_bytes(file: BinaryIO, num_bytes: int) -> int | None:
    """How long the file should be at least, or None where it does not say."""
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"AVI ":
        return _riff(file, num_bytes)
    if start[4:8] in _BOXES:
        return _boxes(file, num_bytes)
    if start[:4] == _EBML:
        return _segment(file)
    return None


def _riff(file: BinaryIO, num_bytes: int) -> int | None:
    """AVI: one RIFF chunk after the other (OpenDML), each with its size behind its name, little-endian."""
    end = 0
    while end < num_bytes:
        file.seek(end)
        header = file.read(8)
        if header[:4] != b"RIFF" or len(header) < 8:
            break  # something else behind the video
        size = int.from_bytes(header[4:], "little")
        if size in (0, 0xFFFFFFFF):  # never filled in, as by a recorder that was switched off
            return None
        end += 8 + size + size % 2
    return end


def _boxes(file: BinaryIO, num_bytes: int) -> int | None:
    """MP4 and MOV (ISO/IEC 14496-12, 4.2): boxes with their size in front, big-endian; 1: it follows in 64 bits, 0: up
    to the end of the file."""
    end = 0
    while end < num_bytes:
        file.seek(end)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if len(header) >= 16 and size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8 or header[4:8] not in _BOXES:
            break  # up to the end, or something else behind the video
        end += size
    return end


def _segment(file: BinaryIO) -> int | None:
    """Matroska and WebM (RFC 8794): the EBML header, then a segment, which may be of unknown size."""
    file.seek(4)
    header_bytes = _vint(file)
    if header_bytes is None:
        return None
    file.seek(header_bytes, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    segment_bytes = _vint(file)
    return None if segment_bytes is None else file.tell() + segment_bytes


def _vint(file: BinaryIO) -> int | None:
    """An integer whose leading zeros say how long it is; None if all its bits are ones, which means unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << (7 * length)) - 1)
    return None if value == (1 << (7 * length)) - 1 else value
