"""What the first bits of packets say about which packets others need, without decoding them.

Only what a standard promises is believed; flags of the container are not. A stream with anything in it that could make
a decoder give other frames when it starts in the middle raises `UnsureError`.

Sources: ITU-T H.264 (7.3.1, 7.3.3, D.1.8), ITU-T H.265 (7.3.1, 7.3.6), the VP9 bitstream specification 0.6 (6.1, annex
B) and the AV1 one (5.3, 5.9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class UnsureError(Exception):
    """Which packets a frame needs cannot be told."""


class Parser(Protocol):
    """Is shown all packets of a stream, in decode order."""

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


def parser(codec: str, extradata: bytes) -> Parser:
    """The parser for a codec, by FFmpeg's name of it.

    Raises:
        UnsureError: There is none.
    """
    if codec == "h264":
        return _H264(_nal_length(extradata, 4), extradata)
    if codec == "hevc":
        return _Hevc(_nal_length(extradata, 21), extradata)
    if codec == "vp9":
        return _Vp9()
    if codec == "av1":
        return _Av1()
    raise UnsureError(f"codec {codec}")


def _nal_length(extradata: bytes, at: int) -> int:
    """Bytes in which packets store the length of each NAL unit; 0 where start codes part them."""
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def _units(packet: bytes, length: int) -> Iterator[tuple[int, int]]:
    """Where each NAL unit of a packet begins and ends."""
    if length == 0:
        yield from _units_by_start_code(packet)
        return
    position = 0
    while position + length < len(packet):
        start = position + length
        position = start + int.from_bytes(packet[position:start], "big")
        if position > len(packet):
            raise UnsureError("a NAL unit that is longer than its packet")
        if position > start:
            yield start, position


def _units_by_start_code(packet: bytes) -> Iterator[tuple[int, int]]:
    start = packet.find(b"\x00\x00\x01")
    while start >= 0:
        stop = packet.find(b"\x00\x00\x01", start + 3)
        if (stop if stop >= 0 else len(packet)) > start + 3:
            yield start + 3, stop if stop >= 0 else len(packet)
        start = stop


@dataclass
class _ParameterSets:
    """Headers that stand in packets: after a start in the middle those of earlier packets are missing."""

    extradata: bytes
    per_packet: list[tuple[bytes, ...]] = field(default_factory=list)

    def add(self, units: list[bytes]) -> None:
        self.per_packet.append(tuple(units))

    def restrict(self, keys: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of these keys, those at which a decoder has the headers that it would have if it had seen everything."""
        # A set that the container has too changes nothing, unless another one came between.
        if all(unit in self.extradata for units in self.per_packet for unit in units):
            return keys
        at_keys = {self.per_packet[i] for i in np.flatnonzero(keys)}
        elsewhere = {unit for units, key in zip(self.per_packet, keys, strict=True) if not key for unit in units}
        if len(at_keys) == 1 and elsewhere <= set(next(iter(at_keys))):
            return keys
        first = np.zeros_like(keys)
        first[0] = keys[0]
        return first


class _H264:
    """Starts at IDR pictures, and at intra pictures whose recovery point is themselves (open groups)."""

    def __init__(self, length: int, extradata: bytes) -> None:
        self._length = length
        self._sets = _ParameterSets(extradata)
        self._keys: list[bool] = []
        self._droppable: list[bool] = []

    def add(self, packet: bytes) -> None:
        idr = recovery = False
        intra = droppable = True
        num_slices = 0
        sets: list[bytes] = []
        for start, stop in _units(packet, self._length):
            header = packet[start]
            kind = header & 31
            if kind in (1, 5):
                num_slices += 1
                idr |= kind == 5
                droppable &= header & 0x60 == 0
                intra = intra and not idr and _slice_type(packet[start + 1 : start + 12]) in (2, 7)
            elif 2 <= kind <= 4:
                raise UnsureError("data partitions")
            elif kind == 6:
                recovery |= _is_recovery_point(packet[start + 1 : stop])
            elif kind in (7, 8, 13, 15):
                sets.append(packet[start:stop].rstrip(b"\x00"))
        if num_slices == 0:
            raise UnsureError("a packet without a picture")
        self._keys.append(idr or (recovery and intra))
        self._droppable.append(droppable and not sets)
        self._sets.add(sets)

    def keys(self) -> NDArray[np.bool_]:
        return self._sets.restrict(np.array(self._keys, dtype=np.bool_))

    def droppable(self) -> NDArray[np.bool_]:
        return np.array(self._droppable, dtype=np.bool_)


class _Hevc:
    """Starts at intra random access pictures."""

    def __init__(self, length: int, extradata: bytes) -> None:
        self._length = length
        self._sets = _ParameterSets(extradata)
        self._keys: list[bool] = []
        self._non_reference: list[bool] = []
        self._layers: list[int] = []

    def add(self, packet: bytes) -> None:
        key = False
        non_reference = True
        layer = -1
        sets: list[bytes] = []
        for start, stop in _units(packet, self._length):
            if stop - start < 3:
                raise UnsureError("a NAL unit without content")
            kind = packet[start] >> 1 & 63
            if packet[start] & 1 or packet[start + 1] >> 3:
                raise UnsureError("several layers")
            if kind < 32:
                layer = (packet[start + 1] & 7) - 1
                key |= 16 <= kind <= 23
                non_reference &= kind < 16 and kind % 2 == 0
                # Of 16 to 18 the pictures that lead are never displayed; the flag discards pictures before.
                if self._keys and (16 <= kind <= 18 or (16 <= kind <= 23 and packet[start + 2] & 0x40)):
                    raise UnsureError("pictures that are decoded and not displayed")
            elif kind in (32, 33, 34):
                sets.append(packet[start:stop].rstrip(b"\x00"))
            elif kind in (36, 37):
                raise UnsureError("an end of sequence")
        if layer < 0:
            raise UnsureError("a packet without a picture")
        self._keys.append(key)
        self._non_reference.append(non_reference and not sets)
        self._layers.append(layer)
        self._sets.add(sets)

    def keys(self) -> NDArray[np.bool_]:
        return self._sets.restrict(np.array(self._keys, dtype=np.bool_))

    def droppable(self) -> NDArray[np.bool_]:
        # Pictures of this kind may be needed by those of higher temporal layers.
        layers = np.array(self._layers)
        return np.array(self._non_reference, dtype=np.bool_) & (layers == layers.max(initial=0))


class _Vp9:
    """Starts at key frames. Each packet changes the probabilities that the next one is read with: none can be left
    out."""

    def __init__(self) -> None:
        self._keys: list[bool] = []

    def add(self, packet: bytes) -> None:
        shown = 0
        key = False
        for number, (start, stop) in enumerate(_vp9_frames(packet)):
            bits = _Bits(packet[start : min(stop, start + 4)])
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

    def keys(self) -> NDArray[np.bool_]:
        return np.array(self._keys, dtype=np.bool_)

    def droppable(self) -> NDArray[np.bool_]:
        return np.zeros(len(self._keys), dtype=np.bool_)


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


class _Av1:
    """Starts at displayed key frames that bring their sequence header. Nothing is left out."""

    def __init__(self) -> None:
        self._keys: list[bool] = []

    def add(self, packet: bytes) -> None:
        position, has_sequence, key, seen = 0, False, False, False
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
            elif kind in (3, 6) and not seen:
                seen = True  # show_existing_frame = 0, frame_type = 0 (2 bits), show_frame = 1
                key = packet[position] & 0xF0 == 0x10
            position += size
        if not seen or position != len(packet):
            raise UnsureError("a temporal unit that is not understood")
        self._keys.append(key and has_sequence)

    def keys(self) -> NDArray[np.bool_]:
        return np.array(self._keys, dtype=np.bool_)

    def droppable(self) -> NDArray[np.bool_]:
        return np.zeros(len(self._keys), dtype=np.bool_)


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise UnsureError("a size of more than 8 bytes")


class _Bits:
    """Reads bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, num: int) -> int:
        self._left -= num
        if self._left < 0:
            raise UnsureError("a header that is cut short")
        return self._value >> self._left & ((1 << num) - 1)

    def exp_golomb(self) -> int:
        zeros = 0
        while self.read(1) == 0:
            zeros += 1
        return (1 << zeros) - 1 + (self.read(zeros) if zeros else 0)


def _slice_type(data: bytes) -> int:
    bits = _Bits(data.replace(b"\x00\x00\x03", b"\x00\x00"))
    bits.exp_golomb()  # first_mb_in_slice
    return bits.exp_golomb()


def _is_recovery_point(data: bytes) -> bool:
    """Whether an SEI says that everything from this picture on, in output order, is exact."""
    data = data.replace(b"\x00\x00\x03", b"\x00\x00")
    position = 0
    while position + 2 < len(data):
        kind = size = 0
        while position < len(data) and data[position] == 255:
            kind, position = kind + 255, position + 1
        kind, position = kind + data[position], position + 1
        while position < len(data) and data[position] == 255:
            size, position = size + 255, position + 1
        if position >= len(data):
            return False
        size, position = size + data[position], position + 1
        if kind == 6:
            bits = _Bits(data[position : position + size])
            frames, exact, broken = bits.exp_golomb(), bits.read(1), bits.read(1)
            return frames == 0 and exact == 1 and broken == 0
        position += size
    return False
