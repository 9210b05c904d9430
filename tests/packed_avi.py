"""MPEG-4 in AVI as DivX and Xvid write it: B-frames packed into the packet of the frame that they are decoded behind,
with an empty picture where they should have been."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

_PICTURE = b"\x00\x00\x01\xb6"
_DIVX = b"\x00\x00\x01\xb2DivX503b1393p"  # the p at its end says: packed
_RATE = 25
_TIME_BITS = 5  # of a time between 0 and 24


def write_packed_avi(path: Path, frames: list[NDArray[np.uint8]], *, num_b: int, group: int) -> Path:
    """Encode RGB frames at 25 fps.

    Args:
        path: The file.
        frames: All of the same size.
        num_b: B-frames between two others.
        group: From one intra picture to the next.
    """
    packets: list[bytes] = []
    with av.open("/dev/null", "w", format="avi") as unused:
        options = {"bf": str(num_b), "g": str(group), "b_strategy": "0", "sc_threshold": "1000000000"}
        stream = unused.add_stream("mpeg4", rate=_RATE, options={"threads": "1", **options})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, image in enumerate(frames):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            packets += [bytes(packet) for packet in stream.encode(frame)]
        packets += [bytes(packet) for packet in stream.encode()]
    with av.open(str(path), "w") as container:
        target = container.add_stream("mpeg4", rate=_RATE)
        assert isinstance(target, VideoStream)
        target.height, target.width = frames[0].shape[:2]
        target.pix_fmt = "yuv420p"
        for i, data in enumerate(_packed(packets)):
            packet = Packet(data)
            packet.stream = target
            packet.pts = packet.dts = i
            packet.time_base = Fraction(1, _RATE)
            packet.is_keyframe = i == 0
            container.mux(packet)
    return path


def _packed(packets: list[bytes]) -> list[bytes]:
    first = packets[0].index(_PICTURE)
    headers, packets = packets[0][:first], [packets[0][first:], *packets[1:]]
    packed: list[bytes] = []
    reference = b""
    for data in packets:
        if _is_b(data) and not _is_b(reference):
            packed[-1] += data
            packed.append(_empty(reference))
        else:
            packed.append(data)
        reference = data
    packed[0] = headers + _DIVX + packed[0]
    return packed


def _is_b(data: bytes) -> bool:
    at = data.find(_PICTURE)
    return at >= 0 and data[at + 4] >> 6 == 2


def _empty(picture: bytes) -> bytes:
    """A picture that is not coded, at the time of another (ISO/IEC 14496-2, 6.2.5)."""
    bits = "".join(f"{byte:08b}" for byte in picture[picture.index(_PICTURE) + 4 :][:8])
    seconds = bits[2:].index("0")
    time = bits[2 + seconds + 2 :][:_TIME_BITS]
    header = "01" + "1" * seconds + "0" + "1" + time + "1" + "0"
    header += "0" + "1" * (-len(header) - 1 & 7)  # stuffing
    return _PICTURE + int(header, 2).to_bytes(len(header) // 8, "big")
