"""Streams over HTTP as cameras send them, from a server of this machine."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from tests.loopback import Behaviour, Request
from tests.videos import numbered_frame

RATE = 30


def transport_stream(num_frames: int, *, key_every: int = 10, first: int = 0) -> list[bytes]:
    """H.264 in an MPEG transport stream, in pieces of a frame each; frames carry their numbers."""
    buffer = io.BytesIO()
    pieces = []
    with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"tune": "zerolatency", "threads": "1"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = key_every
        for number in range(num_frames):
            frame = VideoFrame.from_ndarray(numbered_frame(first + number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            pieces.append(_taken(buffer))
        container.mux(stream.encode())
    return [*pieces, _taken(buffer)]


def motion_jpeg(num_frames: int) -> list[bytes]:
    """What most network cameras have: a JPEG after the other, as parts of one answer."""
    pieces = []
    for number in range(num_frames):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(numbered_frame(number))).save(buffer, "JPEG")
        content = buffer.getvalue()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
        pieces.append(head.encode() + content + b"\r\n")
    return pieces


def live(
    pieces: list[bytes], *, fps: float = RATE, kind: str = "video/mp2t", until: Callable[[], bool] | None = None
) -> Behaviour:
    """Sends a piece whenever it is due, and ends, or is silent first until something is true."""

    def answer(request: Request, _number: int) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        began_s = time.monotonic()
        for number, piece in enumerate(pieces):
            time.sleep(max(0.0, began_s + number / fps - time.monotonic()))
            request.wfile.write(piece)
            request.wfile.flush()
        while until is not None and not until():
            time.sleep(0.01)

    return answer


MJPEG = "multipart/x-mixed-replace;boundary=frame"


def _taken(buffer: io.BytesIO) -> bytes:
    content = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return content
