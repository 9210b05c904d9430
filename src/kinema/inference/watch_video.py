"""What was watched as a video, with what was said of it drawn into its pictures."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from kinema.inference.watch_drawing import Rgb, annotated, fitted, lines_of, state_line
from kinema.inference.watch_figures import Figures
from kinema.inference.watching import Seen
from kinema.types import Heads, UserError

_TICK_S = Fraction(1, 30_000)  # MPEG-4 takes no shorter ones
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_OPTIONS = {"libx264": {"preset": "superfast", "tune": "zerolatency", "crf": "23", "threads": "1"}}
_KEY_EVERY = 60
_RATE = 30  # that encoders are told; pictures have times of their own
_WAITING = 8
# Pieces that are whole as they are written: what is kept in memory does not grow, and of a machine that fails all but
# the last seconds are there.
_IN_PIECES = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


class VideoSaver:
    """Writes a video in a thread of its own. Under its own name it is there when it is whole.

    Args:
        path: An MP4 file.
        heads: Task -> class names.
        figures: Of the watch.
        waits: Every picture is saved, however long that takes; else pictures that there is no time for are left out.

    Attributes:
        left_out: Pictures that there was no time for.
        problem: Why nothing more is written; None where all is well.
        is_written: There is a whole file, now that it is closed.

    Raises:
        UserError: The file cannot be written.
    """

    def __init__(self, path: Path, heads: Heads, figures: Figures, *, waits: bool) -> None:
        self.path = path
        self.left_out = 0
        self.problem: str | None = None
        self.is_written = False
        self._heads, self._figures, self._waits = heads, figures, waits
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        if path.suffix.lower() != ".mp4":
            raise UserError(f"--save: {path}: give a name that ends in .mp4")
        if path.is_dir():
            raise UserError(f"--save: {path} is a folder; give a file")
        try:
            self._temporary.touch()
        except OSError as error:
            raise UserError(f"--save: {path} cannot be written: {error.strerror}") from None
        self._seen: queue.Queue[Seen | None] = queue.Queue(_WAITING)
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._first_s: float | None = None
        self._last_tick = -1
        self._rgb = Rgb()
        self._thread = threading.Thread(target=self._work, name="kinema-save", daemon=True)
        self._thread.start()

    def put(self, seen: Seen) -> None:
        """Save a picture, if there is time."""
        if self.problem is not None:
            return
        if self._waits:
            self._seen.put(seen)
            return
        try:
            self._seen.put_nowait(seen)
        except queue.Full:
            self.left_out += 1

    def close(self) -> None:
        """Finish the file. Without pictures there is none."""
        self._seen.put(None)
        self._thread.join()
        try:
            if self.problem is None and self._stream is not None:
                self._temporary.replace(self.path)
                self.is_written = True
        except OSError as error:
            self.problem = error.strerror
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _work(self) -> None:
        try:
            while (seen := self._seen.get()) is not None:
                self._write(seen)
        except Exception as error:  # noqa: BLE001 - told of by who asks for `problem`; nobody is to wait for ever
            self.problem = _in_a_line(error)
            while self._seen.get() is not None:  # so that nobody waits for room
                pass
        try:
            if self._container is not None and self._stream is not None:
                if self.problem is None:
                    self._container.mux(self._stream.encode())
                self._container.close()
        except Exception as error:  # noqa: BLE001 - likewise
            self.problem = self.problem or _in_a_line(error)

    def _write(self, seen: Seen) -> None:
        rate, delay_ms = self._figures.now()
        state = state_line(rate, None if self._waits else delay_ms, self._figures.dropped)
        image = annotated(self._rgb(seen.picture), lines_of(seen.decision, self._heads), state)
        if self._stream is None:
            self._begin(image)
        assert self._stream is not None
        assert self._container is not None
        self._first_s = seen.picture.time_s if self._first_s is None else self._first_s
        frame = VideoFrame.from_ndarray(self._to_size(image), format="rgb24").reformat(format="yuv420p", threads=1)
        tick = max(round((seen.picture.time_s - self._first_s) / _TICK_S), self._last_tick + 1)
        frame.pts, frame.time_base = tick, _TICK_S
        self._last_tick = tick
        self._container.mux(self._stream.encode(frame))

    def _begin(self, image: NDArray[np.uint8]) -> None:
        name = next((each for each in _ENCODERS if each in av.codecs_available), None)
        if name is None:
            raise ValueError(f"this FFmpeg has none of the encoders {', '.join(_ENCODERS)}")
        container = av.open(f"file:{self._temporary}", "w", format="mp4", options=_IN_PIECES)
        stream = container.add_stream(name, rate=_RATE, options=_OPTIONS.get(name, {}))
        assert isinstance(stream, VideoStream)
        height_px, width_px = image.shape[:2]
        stream.width, stream.height, stream.pix_fmt = max(2, width_px // 2 * 2), max(2, height_px // 2 * 2), "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = _TICK_S
        context.gop_size = _KEY_EVERY
        # Tagged, as players otherwise take large frames for BT.709.
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 6, 6, 6, 1
        self._container, self._stream = container, stream

    def _to_size(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """In the size of the first, with black beside it where its shape is another."""
        assert self._stream is not None
        width_px, height_px = self._stream.width, self._stream.height
        if 0 <= image.shape[0] - height_px <= 1 and 0 <= image.shape[1] - width_px <= 1:
            return np.ascontiguousarray(image[:height_px, :width_px])
        size = fitted((image.shape[1], image.shape[0]), (width_px, height_px))
        sheet = Image.new("RGB", (width_px, height_px))
        scaled = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        sheet.paste(scaled, ((width_px - size[0]) // 2, (height_px - size[1]) // 2))
        return np.asarray(sheet)


def _in_a_line(error: Exception) -> str:
    words = getattr(error, "strerror", None) or " ".join(str(error).split())
    if isinstance(error, (av.FFmpegError, OSError, ValueError)) and words:
        return str(words)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
