"""What the first bits of packets say about which packets others need and when their pictures are displayed, without
decoding them.

Only what a standard promises is believed; flags and timestamps of the container are not. A stream with anything in it
that could make a decoder give other frames when it starts in the middle raises `UnsureError`.

Sources: ITU-T H.264 and H.265 (`kinema.data.h264`, `kinema.data.hevc`), the VP9 bitstream specification 0.6 (6.1, annex
B) and the AV1 one (5.3, 5.9).
"""

from __future__ import annotations

from bisect import bisect
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinema.data.bits import Bits, UnsureError
from kinema.data.h264 import H264
from kinema.data.hevc import Hevc


class Parser(Protocol):
    """Is shown all packets of a stream, in decode order."""

    @property
    def max_reorder(self) -> int | None:
        """By how many places a decoder puts pictures into order, where the stream says so."""
        ...

    def add(self, packet: bytes) -> None:
        """Look at one packet.

        Raises:
            UnsureError: The stream has something that is not understood.
        """
        ...

    def keys(self) -> NDArray[np.bool_]:
        """For each packet, whether frames displayed from it on need none before it."""
        ...

    def droppable(self) -> NDArray[np.bool_]:
        """For each packet, whether no other needs it."""
        ...

    def ranks(self) -> NDArray[np.int64]:
        """For each packet, the place of its picture in the order in which pictures are displayed.

        Raises:
            UnsureError: Not each of them has one picture that is sure to come out of a decoder.
        """
        ...


def parser(codec: str, extradata: bytes) -> Parser:
    """The parser for a codec, by FFmpeg's name of it.

    Raises:
        UnsureError: There is none, or the container's header is not understood.
    """
    try:
        if codec == "h264":
            return H264(extradata)
        if codec == "hevc":
            return Hevc(extradata)
    except IndexError:
        raise UnsureError("a header that is cut short") from None
    if codec == "vp9":
        return _Vp9()
    if codec == "av1":
        return _Av1()
    raise UnsureError(f"codec {codec}")


def reorder_depth(ranks: NDArray[np.int64]) -> int:
    """How many pictures a decoder has to hold back to put pictures into order: the most that are decoded before another
    one and displayed behind it."""
    depth, seen = 0, list[int]()
    for rank in ranks.tolist():
        place = bisect(seen, rank)
        depth = max(depth, len(seen) - place)
        seen.insert(place, rank)
    return depth


# More zeros than an arithmetic coder writes, which are a hole in a file.
_HOLE = bytes(32)


class _InOrder:
    """Codecs that display in decode order."""

    max_reorder = None

    def __init__(self) -> None:
        self._keys: list[bool] = []
        self._has_hole = False

    def keys(self) -> NDArray[np.bool_]:
        return np.array(self._keys, dtype=np.bool_)

    def droppable(self) -> NDArray[np.bool_]:
        return np.zeros(len(self._keys), dtype=np.bool_)

    def ranks(self) -> NDArray[np.int64]:
        if self._has_hole:
            raise UnsureError("a picture with a hole in it")
        return np.arange(len(self._keys))


class _Vp9(_InOrder):
    """Starts at key frames. Each packet changes the probabilities that the next one is read with: none can be left
    out."""

    def add(self, packet: bytes) -> None:
        shown = 0
        key = False
        for number, (start, stop) in enumerate(_vp9_frames(packet)):
            bits = Bits(packet[start : min(stop, start + 4)])
            if bits.read(2) != 2:
                raise UnsureError("not VP9")
            profile = bits.read(1) + 2 * bits.read(1)
            if profile == 3:
                bits.read(1)
            if bits.read(1):  # shows a frame that was decoded before
                shown += 1
                continue
            is_key, is_shown = bits.read(1) == 0, bits.read(1) == 1
            shown += is_shown
            key |= number == 0 and is_key and is_shown
        if shown != 1:
            raise UnsureError(f"a packet of {shown} displayed frames")
        self._keys.append(key)
        self._has_hole |= _HOLE in packet


def _vp9_frames(packet: bytes) -> list[tuple[int, int]]:
    marker = packet[-1]
    num, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = len(packet) - 2 - num * width
    if marker & 0xE0 != 0xC0 or index < 0 or packet[index] != marker:
        return [(0, len(packet))]
    frames: list[tuple[int, int]] = []
    start = 0
    for i in range(num):
        at = index + 1 + i * width
        size = int.from_bytes(packet[at : at + width], "little")
        if size == 0 or start + size > index:
            raise UnsureError("a superframe whose parts do not fit")
        frames.append((start, start + size))
        start += size
    return frames


class _Av1(_InOrder):
    """Starts at displayed key frames that bring their sequence header. Nothing is left out."""

    def add(self, packet: bytes) -> None:
        position, has_sequence, key, seen, shown = 0, False, False, False, 0
        while position < len(packet):
            header = packet[position]
            kind, extended, sized = header >> 3 & 15, header & 4, header & 2
            position += 1
            if extended:
                if packet[position] >> 3 & 3:
                    raise UnsureError("spatial layers")
                position += 1
            size = len(packet) - position
            if sized:
                size, position = _leb128(packet, position)
            if kind == 1:
                has_sequence = True
                if packet[position] & 0x08:
                    raise UnsureError("a still picture")
            elif kind in (3, 6):  # show_existing_frame (1 bit), then frame_type (2), show_frame (1)
                key = packet[position] & 0xF0 == 0x10 if not seen else key
                shown += packet[position] & 0x90 != 0
                seen = True
            position += size
        if shown != 1 or position != len(packet):
            raise UnsureError("a temporal unit that is not understood")
        self._keys.append(key and has_sequence)
        self._has_hole |= _HOLE in packet


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise UnsureError("a size of more than 8 bytes")
