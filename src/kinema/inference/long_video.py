"""A video file as a stream of pictures: every frame in order, decoded once, in memory that does not grow with it.

Times and orientation are what `kinema.data.decoding.probe` finds, which decodes some files in full for that. Two things
only show when all of a file has been read, and are done here as it goes on: timestamps that do not ascend are made to
(`_Clock`; `probe` numbers such frames by the frame rate), and what is damaged is passed over and said at the end.
"""

from __future__ import annotations

import logging
import queue
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinema.data.containers import Reading, check_file, opened
from kinema.data.frame_table import is_by_order, is_indexed, orientation_of
from kinema.data.images import is_image
from kinema.data.truncation import check_complete, is_short
from kinema.inference.live_types import Picture
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_AHEAD = 16
"""Pictures that are decoded before they are asked for. They are of full size."""

_EARLIER_S = 2.0
"""A key frame at least so long before what is wanted: behind it nothing leans on what was not read."""

_LATE_S = 1.0
"""A timestamp that lies less before the last is that of a frame out of order, whatever the container."""

_ROWS = 8
"""Of a picture's mark every so many rows count."""


class LongVideo:
    """A video file to be read from its beginning to its end.

    Args:
        path: The file.

    Attributes:
        fps: Frames per second, as its header says.
        header_s: How long it is, as its header says; None where it does not.
        can_seek: Its packets tell when they are displayed, so that reading may begin elsewhere than at the beginning.
        first_pts: Timestamp of the first frame, once that was read.
        damaged: Something so far did not decode in full.

    Raises:
        DataError: It is no video file that FFmpeg reads, or was cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise DataError(f"{path}: a folder; give a video file")
        check_file(path)
        if is_image(path):
            raise DataError(f"{path}: a still image; give a video file")
        check_complete(path)
        with opened(path) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else 25.0
            self.header_s = _header_s(container, stream)
            self.can_seek = is_indexed(container, stream)
        self.first_pts: int | None = None
        self.damaged = False

    def pictures(self, start_s: float = 0.0, *, seek: bool = False) -> Generator[Picture]:
        """Frames in the order of display, decoded in a thread, a few ahead.

        Args:
            start_s: The first that come on display from here on.
            seek: Begin at a key frame before it; else all before is decoded and passed over.
        """
        with closing(_ahead(self._read(start_s, seek=seek), _AHEAD)) as found:
            yield from found

    def is_found_again(self, marks: Mapping[float, int], start_s: float) -> bool:
        """Whether pictures that are sought from `start_s` on are those that were seen there before.

        Args:
            marks: When they came on display -> what they are told by.
            start_s: Not after the first.
        """
        if not (self.can_seek and self.first_pts is not None):
            return False
        wanted = sorted(marks)
        with suppress(av.FFmpegError), closing(self._read(start_s, seek=True)) as pictures:
            for time_s in wanted:
                picture = next(pictures, None)
                if picture is None or picture.time_s != time_s or mark_of(picture) != marks[time_s]:
                    return False
            return True
        return False

    def _read(self, start_s: float, *, seek: bool) -> Generator[Picture]:
        with opened(self.path) as (container, stream):
            reading = Reading(container, stream)
            if seek and stream.time_base is not None:
                ticks = int((start_s - _EARLIER_S) / stream.time_base)
                container.seek((self.first_pts or 0) + max(0, ticks), stream=stream)
            last_s = 0.0
            for picture in self._timed(reading, container, stream):
                last_s = picture.stop_s
                if picture.time_s < start_s:
                    reading.damaged = False  # known before, or for want of what was not read
                    continue
                self.damaged |= reading.damaged
                yield picture
            self.damaged |= reading.damaged or _ends_early(last_s, container, stream)

    def _timed(self, reading: Reading, container: InputContainer, stream: VideoStream) -> Iterator[Picture]:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        step_s = float(1 / rate)
        tick_s = stream.time_base
        by_order = is_by_order(container, stream)
        orientation = None
        clock = _Clock(step_s, may_jump=not self.can_seek)
        for number, frame in enumerate(reading.frames()):
            if orientation is None:
                orientation, _ = orientation_of(frame)
                if self.first_pts is None:
                    self.first_pts = None if by_order else frame.pts
                by_order |= self.first_pts is None or tick_s is None
            if by_order or tick_s is None or self.first_pts is None:
                time_s: float | None = number * rate.denominator / rate.numerator
            elif frame.pts is None:
                time_s = None
            else:
                # One division of exact integers, as `kinema.data.frame_table` has it.
                time_s = (frame.pts - self.first_pts) * tick_s.numerator / tick_s.denominator
            time_s = clock.next(time_s)
            if time_s is None:
                reading.damaged = True
                continue
            yield Picture(image=frame, time_s=time_s, duration_s=step_s, orientation=orientation)
        if clock.num_late or clock.num_jumps:
            _LOG.warning(
                "%s: %d frames came after later ones and were passed over; %d times time jumped back and is counted on",
                self.path,
                clock.num_late,
                clock.num_jumps,
            )


class _Clock:
    """Makes times ascend. A frame that comes too late, as behind damage, is passed over; where time jumps back in a
    stream, as where recordings were joined, it is counted on from there."""

    def __init__(self, step_s: float, *, may_jump: bool) -> None:
        self._may_jump = may_jump
        self.num_late = self.num_jumps = 0
        self._step_s = step_s
        self._last_s: float | None = None
        self._offset_s = 0.0

    def next(self, time_s: float | None) -> float | None:
        """When a frame is on display; None where it is too late. Without a timestamp it follows the one before."""
        last_s = self._last_s
        if time_s is None:
            time_s = 0.0 if last_s is None else last_s + self._step_s
        elif self._offset_s:
            time_s += self._offset_s
        if last_s is not None and time_s <= last_s:
            if not self._may_jump or last_s - time_s < _LATE_S:
                self.num_late += 1
                return None
            self.num_jumps += 1
            self._offset_s += last_s + self._step_s - time_s
            time_s = last_s + self._step_s
        self._last_s = time_s
        return time_s


def mark_of(picture: Picture) -> int:
    """A number that tells decoded pictures apart; nearly always."""
    assert isinstance(picture.image, VideoFrame)
    plane = picture.image.planes[0]
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8)[: plane.height * plane.line_size]
    seen = rows.reshape(plane.height, plane.line_size)[::_ROWS, : plane.width]
    return zlib.crc32(seen.tobytes())


def _header_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _ends_early(last_s: float, container: InputContainer, stream: VideoStream) -> bool:
    try:
        return is_short(last_s, container, stream)
    except DataError:  # by far; what there is has been seen already
        return True


class _End:
    """After the last one."""


def _ahead(items: Generator[T], size: int) -> Generator[T]:
    """The same, made by a thread that waits where so many are not asked for yet."""
    made: queue.Queue[T | BaseException | _End] = queue.Queue(size)
    unwanted = threading.Event()

    def put(item: T | BaseException | _End) -> bool:
        while not unwanted.is_set():
            try:
                made.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            with closing(items):
                if all(put(item) for item in items):
                    put(_End())
        except BaseException as error:  # noqa: BLE001 - raised again where they are asked for
            put(error)

    thread = threading.Thread(target=run, name="kinema-decoder", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        unwanted.set()
        thread.join()
