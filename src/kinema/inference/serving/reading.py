"""Uploaded clips are decoded in a process of their own: what a stranger sends may hang a decoder, take all memory or
crash, and then this process is ended, not the service."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import struct
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinema.data.machine import data_error
from kinema.types import DataError, Preprocessing

_FORMATS = (
    "3gp,apng,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,"
    "webm,yuv4mpegpipe"
)
"""Containers that are read. Playlists (HLS, DASH, concat) are not among them: they name other files and addresses,
which FFmpeg would open for a stranger."""

_MOST_PX = 8192 * 4320
_MOST_BYTES = 2**31
"""A process that has ever taken so much more memory than at its start makes room for a new one."""


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What is to be read.

    Attributes:
        path: The file.
        start_s: Where the clip begins in it.
        stop_s: Where it ends; None is the end of the file.
    """

    path: Path
    start_s: float = 0.0
    stop_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClipFrames:
    """What was read: stream -> frames (T, ...), uint8, and whether the file was damaged in places."""

    frames: Mapping[str, NDArray[np.uint8]]
    damaged: bool


class ClipReader:
    """A process that reads clips, one after the other; another takes its place when it hangs or dies.

    Args:
        streams: Preprocessing of the weights.
    """

    def __init__(self, streams: Mapping[str, Preprocessing]) -> None:
        self._streams = dict(streams)
        self._lock = threading.Lock()
        self._closed = False
        self._is_ready = False
        self._pipe, self._process = self._begun()

    def read(self, request: ClipRequest, *, timeout_s: float) -> ClipFrames:
        """Read a clip.

        Raises:
            DataError: It is no clip that can be read.
            TimeoutError: It took too long.
        """
        ends_s = time.monotonic() + timeout_s
        with self._lock:
            if self._closed:
                raise DataError(f"{request.path}: the service is ending")
            try:
                return self._ask(request, ends_s)
            except (EOFError, OSError) as error:
                if isinstance(error, TimeoutError):
                    if self._is_ready:  # else it is no clip that keeps it from answering
                        self._again()
                    raise
                self._again()
            raise DataError(f"{request.path}: the process that decoded it died; out of memory, or a crash")

    def wait(self, *, timeout_s: float) -> None:
        """Wait until the process has loaded what it needs, which takes seconds.

        Raises:
            TimeoutError: It has not by then.
        """
        if not self._is_ready:
            if not self._pipe.poll(timeout_s):
                raise TimeoutError("the process that reads clips did not begin")
            self._pipe.recv()
            self._is_ready = True

    def close(self) -> None:
        """End the process; a clip that is being read is given up."""
        self._closed = True
        self._stop()

    def _ask(self, request: ClipRequest, ends_s: float) -> ClipFrames:
        if not self._process.is_alive():  # it died while it had nothing to do
            self._again()
        self.wait(timeout_s=max(0.0, ends_s - time.monotonic()))
        self._pipe.send(request)
        if not self._pipe.poll(max(0.0, ends_s - time.monotonic())):
            raise TimeoutError
        answer, is_worn = self._pipe.recv()
        if is_worn:
            self._again()
        if isinstance(answer, Exception):
            raise answer
        found: ClipFrames = answer
        return found

    def _again(self) -> None:
        self._stop()
        if not self._closed:
            self._is_ready = False
            self._pipe, self._process = self._begun()

    def _begun(self) -> tuple[Connection, BaseProcess]:
        # Not forked: beside threads, and behind a model's memory, a fresh one is surer.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._streams), daemon=True)
        process.start()
        theirs.close()
        return ours, process

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _work(pipe: Connection, streams: Mapping[str, Preprocessing]) -> None:
    """Answer what comes through the pipe until its other end closes, even by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    import kinema.data.reading  # noqa: F401 - before there is a clip to wait for it

    torch.set_num_threads(1)
    began_bytes = _peak_bytes()
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            request = pipe.recv()
            pipe.send((_answer(request, streams), _peak_bytes() - began_bytes > _MOST_BYTES))


def _answer(request: ClipRequest, streams: Mapping[str, Preprocessing]) -> ClipFrames | Exception:
    """What is read, or an error that can be sent and says whose fault it is."""
    try:
        return read(request, streams)
    except DataError as error:
        return data_error(str(error), error)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return RuntimeError(f"{type(error).__name__}: {error}")


def read(request: ClipRequest, streams: Mapping[str, Preprocessing]) -> ClipFrames:
    """Read a clip in this process.

    Raises:
        DataError: It is no clip that can be read.
    """
    from kinema.data.decoding import probe
    from kinema.data.images import is_image
    from kinema.data.reading import read_clip
    from kinema.types import Clip

    path = request.path
    if is_image(path):
        _check_image(path)
    else:
        _check_format(path)
    # Not through the index of probed files: of an upload nothing is to stay.
    video = probe(path)
    clip = Clip(clip_id=path.name, video=path, start_s=request.start_s, stop_s=request.stop_s)
    frames = {stream: read_clip(clip, video, preprocessing).numpy() for stream, preprocessing in streams.items()}
    return ClipFrames(frames=frames, damaged=video.damaged)


def _check_format(path: Path) -> None:
    """Refuse what is none of the containers above, or too large a picture.

    Raises:
        DataError: It is.
    """
    import av

    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty (0 bytes)")
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", "r", metadata_errors="replace", options=options) as container:
            size_px = max((stream.width * stream.height for stream in container.streams.video), default=0)
    except av.FFmpegError as error:
        raise DataError(f"{path}: not a video that FFmpeg can read ({error.strerror})") from None
    _check_size(path, size_px)


def _check_image(path: Path) -> None:
    """Refuse too large an image by what its header says; what else is wrong with it is said when it is read.

    Raises:
        DataError: It is.
    """
    from PIL import Image

    size_px = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                size_px = image.width * image.height
        except Image.DecompressionBombError:
            raise DataError(f"{path}: larger than a picture may be; at most {_MOST_PX:,} pixels are taken") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error):
            return
    _check_size(path, size_px)


def _check_size(path: Path, size_px: int) -> None:
    if size_px > _MOST_PX:
        raise DataError(f"{path}: pictures of {size_px:,} pixels; at most {_MOST_PX:,} are taken here")


def _peak_bytes() -> int:
    """The most memory that this process has had at once; 0 where that is not told."""
    # Not by getrusage where there is another way: on Linux it keeps, through exec, the peak of the process that began
    # this one, and a service with a large model may have had any amount.
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1024 if hasattr(signal, "SIGPOLL") else 1  # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
