"""Cameras and streams as sources: read as they come, without anything that holds pictures back.

A picture is late when what lies between camera and decoder (a network, the buffers of a socket) has held it for longer
than the quickest one. That is seen from the stream's own timestamps. What is late by more than `LATE_S` is not decoded,
but for key frames, until the stream is caught up with: so that a decoder that is too slow, or a network that was, does
not leave a delay that stays for ever.
"""

from __future__ import annotations

import errno
import re
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinema.data.frame_table import orientation_of
from kinema.data.video import Orientation
from kinema.inference.cameras import camera_place
from kinema.inference.live_types import Picture
from kinema.inference.sources import BrokenPictureError, Feed, FileSource, LostError, Pace, Source
from kinema.types import DataError

OPEN_S = 10.0
"""How long a source may take to begin."""
SILENT_S = 5.0
"""How long a source may give nothing before it counts as lost."""
LATE_S = 0.5

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "tcp", "udp", "srt")

_DRIFT = 2e-4
"""Clocks of cameras and computers differ by less than that; what grows faster is a delay."""
_JUMP_S = 10.0
"""Timestamps that are further off have begun anew."""
_KEY_S = 5.0
"""For so long a key frame is waited for at the beginning; some streams have none."""
_LEAST_STEP_S = 1e-3
_RATES = (1.0, 240.0)  # what is told beyond is no rate of pictures
_USUAL_S = 1 / 30
_SPACINGS = 15
"""Of so many, where nothing says a rate, the median is how long a picture is seen: a late one is none of them."""

# By what is written, not by what an address has to be: what is mistyped is shown most often, in what says so. Passwords
# may have any sign in them, so they end at the last @; but behind a port it is a path that goes on.
_PASSWORD = re.compile(r"(://(?!\[[^\]@]*\](?:[:/?#]|$))[^/?#:]*:)(?!\d{1,5}(?:[/?#]|$)).*@", re.DOTALL)
_SECRET = re.compile(r"([\w.%-]*(?:pas|pwd|token|secret|api_?key|auth)[\w.%-]*=)[^&]*", re.IGNORECASE)

# Their demuxers make timestamps up.
_UNTIMED = frozenset({"mpjpeg", "mjpeg", "image2pipe", "jpeg_pipe", "h264", "hevc", "m4v", "rawvideo"})

_NON_BLOCK = {"fflags": "+4"}  # AVFMT_FLAG_NONBLOCK, which has no name among options: a camera that hangs is noticed


def source_of(text: str, *, realtime: bool = False) -> Source:
    """What a command line names.

    Args:
        text: The number of a camera, its device, an address, or a file.
        realtime: Play a file as fast as it was made.

    Raises:
        DataError: It is an address of an unknown kind.

    Example:
        >>> source_of("0").name
        'camera 0'
        >>> source_of("rtsp://user:secret@10.0.0.7/stream").name
        'rtsp://user:***@10.0.0.7/stream'
    """
    if text.isascii() and text.isdigit():
        return CameraSource(int(text))
    if text.startswith("/dev/video") and text.removeprefix("/dev/video").isdigit():
        return CameraSource(int(text.removeprefix("/dev/video")))
    scheme, separator, _ = text.partition("://")
    if separator and not Path(text).exists():
        if scheme.lower() not in SCHEMES:
            known = f"no kind of address that is known; known: {', '.join(SCHEMES)}"
            raise DataError(f"{without_password(text)}: {scheme} is {known}")
        return StreamSource(text, realtime=realtime)
    return FileSource(Path(text), realtime=realtime)


def without_password(address: str) -> str:
    """An address to show, be it a right one or not; rather too little of it is shown than a password.

    Example:
        >>> without_password("rstp://user:secret@10.0.0.7/a?token=12&b=c")
        'rstp://user:***@10.0.0.7/a?token=***&b=c'
    """
    return _PASSWORD.sub(r"\1***@", _SECRET.sub(r"\1***", address), count=1)


class _Live:
    """What cameras and streams share: times go on where the source was lost and came back."""

    is_live = True
    waits = False

    def __init__(self) -> None:
        self.began_s: float | None = None  # by time.monotonic
        self.last_s = -_LEAST_STEP_S

    def time_s(self, captured_s: float) -> float:
        """From the beginning of the first connection; ascending."""
        if self.began_s is None:
            self.began_s = captured_s
        self.last_s = max(captured_s - self.began_s, self.last_s + _LEAST_STEP_S)
        return self.last_s


class CameraSource(_Live):
    """A camera of this machine.

    Args:
        index: As `kinema watch --list` counts them.
        size: Asked for, as in 640x480; the driver takes the nearest.
        fps: Likewise.
    """

    def __init__(self, index: int, *, size: str = "640x480", fps: int = 30) -> None:
        super().__init__()
        self.index = index
        self._wanted = {"video_size": size, "framerate": str(fps)}

    @property
    def name(self) -> str:
        return f"camera {self.index}"

    def open(self, stop: threading.Event) -> Feed:
        place = camera_place(self.index)
        try:
            container = self._open(place.format, place.address, self._wanted)
        except (av.FFmpegError, ValueError) as error:
            # Some cameras, mostly of macOS and Windows, know only what they list.
            try:
                container = self._open(place.format, place.address, {})
            except (av.FFmpegError, ValueError):
                raise DataError(f"{self.name}: {self._why(error)}") from None
        return LiveFeed(container, self, stop, timed=True)

    def _open(self, name: str, address: str, options: dict[str, str]) -> InputContainer:
        return av.open(address, "r", format=name, options={**_NON_BLOCK, **options}, timeout=(OPEN_S, None))

    def _why(self, error: Exception) -> str:
        if isinstance(error, av.error.PermissionError):
            where = "in the system's settings" if sys.platform == "darwin" else "join its group, mostly video"
            return f"no permission to use it; allow it {where}"
        if _errno(error) == errno.EBUSY:
            return "another program uses it; end that program first"
        if isinstance(error, av.error.ExitError):
            return f"it gave no picture within {OPEN_S:g} s; is it plugged in well?"
        words = getattr(error, "strerror", None) or str(error)
        return f"it gives no pictures ({words}); kinema watch --list shows what cameras there are"


class StreamSource(_Live):
    """A stream of an address. One that has an end (a file on a server) is played as fast as it was made.

    Args:
        address: As FFmpeg takes it.
        realtime: Play it as fast as it was made, whatever it is.
    """

    def __init__(self, address: str, *, realtime: bool = False) -> None:
        super().__init__()
        self.address = address
        self.realtime = realtime

    @property
    def name(self) -> str:
        return without_password(self.address)

    def open(self, stop: threading.Event) -> Feed:
        # By UDP a lost packet is a broken picture, and so are all up to the next key frame.
        options = {"rtsp_transport": "tcp"} if self.address.lower().startswith("rtsp") else {}
        try:
            container = av.open(self.address, "r", options=options, timeout=(OPEN_S, SILENT_S))
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{self.name}: {self._why(error)}") from None
        has_end = container.duration is not None and container.duration > 0
        timed = container.format.name.split(",")[0] not in _UNTIMED
        return LiveFeed(container, self, stop, timed=timed, has_end=has_end, paced=has_end or self.realtime)

    def _why(self, error: Exception) -> str:
        if isinstance(error, av.error.ExitError):
            return f"nothing came within {OPEN_S:g} s; is the address right, and the camera on?"
        if isinstance(error, av.error.HTTPUnauthorizedError):
            return "it asks for a user and a password; give them as in rtsp://USER:PASSWORD@HOST/"
        words = getattr(error, "strerror", None) or str(error).replace(self.address, self.name)
        return f"cannot be opened ({words}); is the address right, and the camera on?"


def _errno(error: Exception) -> int | None:
    return getattr(error, "errno", None)


class Arrivals:
    """When pictures were there, by their timestamps and by the clock of this machine.

    The quickest way that a picture took is taken for the way without any delay; it may become longer by the drift of
    clocks alone.
    """

    def __init__(self) -> None:
        self._way_s: float | None = None  # clock minus timestamp
        self._last_s = 0.0

    def take(self, pts_s: float, now_s: float) -> float:
        """Something with a timestamp arrives; by how many seconds it is late."""
        way_s = now_s - pts_s
        if self._way_s is None or abs(way_s - self._way_s) > _JUMP_S:
            self._way_s = way_s
        else:
            self._way_s = min(way_s, self._way_s + _DRIFT * (now_s - self._last_s))
        self._last_s = now_s
        return way_s - self._way_s

    def captured_s(self, pts_s: float) -> float:
        """When it would have been here without a delay, by `time.monotonic`."""
        assert self._way_s is not None
        return pts_s + self._way_s


class LiveFeed:
    """Pictures of an open camera or stream, each as it comes.

    Args:
        container: What FFmpeg opened; closed with the feed, and at once where there is no video in it.
        source: Whose times go on.
        stop: See `Source.open`.
        timed: Its timestamps are those of a camera.
        has_end: It is a recording.
        paced: It is played as fast as it was made.

    Raises:
        DataError: It has no video.
    """

    def __init__(
        self,
        container: InputContainer,
        source: CameraSource | StreamSource,
        stop: threading.Event,
        *,
        timed: bool,
        has_end: bool = False,
        paced: bool = False,
    ) -> None:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            container.close()
            raise DataError(f"{source.name}: there is no video in it that FFmpeg can decode")
        self._stream: VideoStream = streams[0]
        # Threads that each decode another frame would hold as many of them back.
        self._stream.codec_context.thread_count = 1
        self._container, self._source, self._stop = container, source, stop
        self._packets: Iterator[Packet[VideoStream]] | None = None
        self._decoded: deque[tuple[VideoFrame, float]] = deque()
        self._arrivals = Arrivals() if timed and not paced else None
        self._pace = Pace(stop) if paced else None
        self._has_end = has_end
        self._orientation: Orientation | None = None
        self._opened_s = time.monotonic()
        self._begun = self._behind = self._is_over = False
        self._before_s: float | None = None
        self._spacings_s: deque[float] = deque(maxlen=_SPACINGS)
        self.skipped = 0
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.fps = rate if timed and _RATES[0] <= rate <= _RATES[1] else None
        self._duration_s = 1 / self.fps if self.fps else _USUAL_S
        self.size_px = self._stream.codec_context.width, self._stream.codec_context.height

    def read(self) -> Picture | None:
        while not self._decoded:
            packet = None if self._is_over else self._packet()
            if packet is None:
                return None
            if not packet.size and not self._has_end:
                raise LostError("the stream has ended")
            self._is_over = not packet.size
            self._decode(packet, time.monotonic())
        frame, arrived_s = self._decoded.popleft()
        if frame.is_corrupt:
            raise BrokenPictureError("a frame is damaged")
        return self._picture(frame, arrived_s)

    def close(self) -> None:
        self._packets = None
        self._container.close()

    def _packet(self) -> Packet[VideoStream] | None:
        """The next as soon as it is there; an empty one at the end, None when it is to stop."""
        since_s = time.monotonic()
        while not self._stop.is_set():
            try:
                if self._packets is None:
                    self._packets = self._container.demux(self._stream)
                return next(self._packets, None)
            except av.error.BlockingIOError:
                self._packets = None
                if time.monotonic() - since_s > SILENT_S:
                    raise LostError(f"no picture for {SILENT_S:g} s") from None
                self._stop.wait(2e-3)
            except av.error.ExitError:
                raise LostError(f"nothing came for {SILENT_S:g} s") from None
            except (av.FFmpegError, IndexError) as error:
                is_network = isinstance(self._source, StreamSource)
                words = None if is_network and _errno(error) == errno.EIO else getattr(error, "strerror", None)
                raise LostError(words or "the connection broke off") from None
        return None

    def _decode(self, packet: Packet[VideoStream], now_s: float) -> None:
        ticks = packet.pts if packet.pts is not None else packet.dts
        if self._arrivals is not None and ticks is not None and self._stream.time_base is not None:
            late_s = self._arrivals.take(float(ticks * self._stream.time_base), now_s)
            # Behind until a key frame comes in time: what follows it can be decoded.
            self._behind = late_s > LATE_S or (self._behind and not packet.is_keyframe)
        self._begun |= packet.is_keyframe or now_s - self._opened_s > _KEY_S
        if packet.size and not packet.is_keyframe and (self._behind or not self._begun):
            self.skipped += self._begun
            return
        try:
            frames = self._stream.decode(packet if packet.size else None)  # at the end, what it still holds
        except av.FFmpegError as error:
            raise BrokenPictureError(error.strerror or str(error)) from None
        self._decoded.extend((frame, now_s) for frame in frames)

    def _picture(self, frame: VideoFrame, arrived_s: float) -> Picture:
        if self._orientation is None:
            self._orientation = orientation_of(frame)[0]
        captured_s = arrived_s
        if frame.pts is not None and self._stream.time_base is not None:
            pts_s = float(frame.pts * self._stream.time_base)
            if self._pace is not None:
                captured_s = self._pace.wait(pts_s)
            elif self._arrivals is not None:
                captured_s = min(arrived_s, self._arrivals.captured_s(pts_s))
        if self.fps is None and self._before_s is not None:  # nothing says its rate: as it was of late
            self._spacings_s.append(min(max(captured_s - self._before_s, _LEAST_STEP_S), 1.0))
            self._duration_s = statistics.median(self._spacings_s)
        self._before_s = captured_s
        return Picture(
            image=frame,
            time_s=self._source.time_s(captured_s),
            duration_s=self._duration_s,
            captured_s=captured_s,
            orientation=self._orientation,
        )
