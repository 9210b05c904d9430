"""Where pictures come from: what every source is, and files as sources. Cameras and addresses are in
`kinema.inference.live_sources`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from av.video.frame import VideoFrame

from kinema.data.containers import Reading, check_file, codec_name, opened
from kinema.data.frame_table import orientation_of
from kinema.data.images import is_image
from kinema.data.video import UPRIGHT, Orientation
from kinema.inference.live_types import Picture
from kinema.types import DataError

_USUAL_RATE = 25
_SLIP_S = 0.5
"""A recording that is played may be so late before its clock is set back: its pictures do not come fast enough."""


class LostError(DataError):
    """What was there gives no more pictures. It may come back."""


class BrokenPictureError(DataError):
    """A picture could not be decoded. The next may be sound."""


class Feed(Protocol):
    """A source that is open. It belongs to one thread."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of its pictures, upright, as far as is known before the first."""

    @property
    def fps(self) -> float | None:
        """Pictures per second, if it says so."""

    @property
    def skipped(self) -> int:
        """Pictures that came too late to be worth decoding."""

    def read(self) -> Picture | None:
        """The next picture, as soon as it is there; None at the end, and when it is to stop.

        Raises:
            BrokenPictureError: It did not decode.
            LostError: There are no more for now.
        """

    def close(self) -> None:
        """Let go of it."""


class Source(Protocol):
    """Something that gives pictures."""

    @property
    def name(self) -> str:
        """As people are told of it."""

    @property
    def is_live(self) -> bool:
        """It cannot be played again, and may come back when it is lost."""

    @property
    def waits(self) -> bool:
        """Its pictures wait until they are looked at."""

    def open(self, stop: threading.Event) -> Feed:
        """Begin, or begin again.

        Args:
            stop: What is waited for is not waited for any longer when this is set.

        Raises:
            DataError: It is not there, or gives no pictures; the message says what to do.
        """


class Pace:
    """Plays a recording as fast as it was made."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._began_s: float | None = None

    def wait(self, time_s: float) -> float:
        """Wait until a picture is due.

        Args:
            time_s: Of the picture, in the recording.

        Returns:
            When that was, by `time.monotonic`.
        """
        now_s = time.monotonic()
        if self._began_s is None or now_s - self._began_s - time_s > _SLIP_S:
            self._began_s = now_s - time_s
        due_s = self._began_s + time_s
        left_s = due_s - now_s
        while left_s > 0 and not self._stop.wait(left_s):
            left_s = due_s - time.monotonic()
        return due_s


class FileSource:
    """A video file, decoded from its beginning to its end.

    Args:
        path: The file.
        realtime: Give its pictures when they are due, as a camera would; else as fast as they are looked at, and drop
            none.
    """

    is_live = False

    def __init__(self, path: Path, *, realtime: bool = False) -> None:
        self.path = path
        self.realtime = realtime

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def waits(self) -> bool:
        return not self.realtime

    def open(self, stop: threading.Event) -> Feed:
        if self.path.is_dir():
            raise DataError(f"{self.path}: a folder; give a video file, an address or the number of a camera")
        check_file(self.path)
        if is_image(self.path):
            raise DataError(f"{self.path}: a still image, which there is nothing to watch in; use kinema predict")
        return _FileFeed(self.path, stop, realtime=self.realtime)


class _FileFeed:
    skipped = 0

    def __init__(self, path: Path, stop: threading.Event, *, realtime: bool) -> None:
        self._stack = ExitStack()
        self._pace = Pace(stop) if realtime else None
        self._stop = stop
        with ExitStack() as stack:
            container, stream = stack.enter_context(opened(path))
            self._reading = Reading(container, stream)
            self._frames: Iterator[VideoFrame] = self._reading.frames()
            self._first = next(self._frames, None)
            if self._first is None:
                raise DataError(f"{path}: no frame of it decodes")
            self._stack = stack.pop_all()
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self._times = FrameTimes(
            # As `kinema.data.decoding` has it. Of frames out of order in AVI, times of display are a guess of FFmpeg's
            # that does not ascend.
            by_order=container.format.name == "avi"
            and (codec_name(stream) == "mpeg4" or stream.codec_context.has_b_frames),
            tick_s=stream.time_base,
            frame_s=1 / Fraction(rate or _USUAL_RATE),
        )
        self._orientation: Orientation = orientation_of(self._first)[0]
        size_px = self._first.width, self._first.height
        self.size_px = size_px[::-1] if self._orientation.transposed else size_px

    def read(self) -> Picture | None:
        frame = self._first or next(self._frames, None)
        self._first = None
        if frame is None or self._stop.is_set():
            return None
        time_s, duration_s = self._times.of(frame)
        captured_s = time.monotonic() if self._pace is None else self._pace.wait(time_s)
        if self._stop.is_set():
            return None
        picture = Picture(image=frame, time_s=time_s, duration_s=duration_s, captured_s=captured_s)
        return picture if self._orientation == UPRIGHT else replace(picture, orientation=self._orientation)

    def close(self) -> None:
        self._stack.close()


class FrameTimes:
    """When frames are on display, as they come out of a sequential decode. Of a sound file what `probe` says of it.

    Args:
        by_order: Timestamps are not to be trusted.
        tick_s: Their unit.
        frame_s: Time from a frame to the next where timestamps do not say.
    """

    def __init__(self, *, by_order: bool, tick_s: Fraction | None, frame_s: Fraction) -> None:
        self._tick_s = None if by_order else tick_s
        self._frame_s = frame_s
        self._first_pts: int | None = None
        self._last_pts: int | None = None
        self._num = 0  # frames since times are by order
        self._from_s = 0.0

    def of(self, frame: VideoFrame) -> tuple[float, float]:
        """When the next frame comes on display, and for how long."""
        pts = frame.pts
        if self._tick_s is not None and (pts is None or (self._last_pts is not None and pts <= self._last_pts)):
            # From here on by order: what was said of frames before cannot be taken back.
            if self._first_pts is not None and self._last_pts is not None:
                self._from_s = float((self._last_pts - self._first_pts) * self._tick_s + self._frame_s)
            self._tick_s = None
        if self._tick_s is None:
            time_s = self._from_s + self._num * self._frame_s.numerator / self._frame_s.denominator
            self._num += 1
            return time_s, float(self._frame_s)
        assert pts is not None
        self._first_pts = pts if self._first_pts is None else self._first_pts
        self._last_pts = pts
        ticks = pts - self._first_pts
        duration_s = float((frame.duration or 0) * self._tick_s) or float(self._frame_s)
        return ticks * self._tick_s.numerator / self._tick_s.denominator, duration_s
