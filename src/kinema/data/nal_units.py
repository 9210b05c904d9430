"""What H.264 and H.265 have in common: units, parameter sets, and pictures that are displayed in another order than
they are decoded in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kinema.data.bits import UnsureError

HEADER_BYTES = 32
"""Of a slice: more than its header takes up to its place in the order."""
LONG_HEADER_BYTES = 512
"""And more than its whole header takes."""


@dataclass
class DisplayOrder:
    """Where pictures come in display order, and why that is not sure.

    Attributes:
        gapless: Counts ascend by always the same, as encoders make them, where nothing else shows that one is missing.
        doubt: The first reason not to believe it.
    """

    gapless: bool = False
    doubt: str | None = None
    _keys: list[int] = field(default_factory=list)
    _sequence: int = 0

    def add(self, count: int, *, restart: bool) -> None:
        """Note the next picture.

        Args:
            count: Its picture order count.
            restart: Counts begin anew: all pictures so far are displayed before it.
        """
        self._sequence += restart
        self._keys.append((self._sequence << 40) + count)

    def suspect(self, reason: str) -> None:
        """Note a reason not to believe it."""
        self.doubt = self.doubt or reason

    def ranks(self) -> NDArray[np.int64]:
        """int64 (packets,), the place of each picture.

        Raises:
            UnsureError: It is not sure.
        """
        if self.doubt is not None:
            raise UnsureError(self.doubt)
        keys = np.array(self._keys, dtype=np.int64)
        order = np.argsort(keys)
        if len(set(self._keys)) < len(order):
            raise UnsureError("two pictures at the same place")
        steps = np.diff(keys[order])
        steps = steps[steps < 1 << 32]  # inside sequences
        if self.gapless and len(steps) and steps.max() > steps.min():
            raise UnsureError("pictures may be missing")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        return ranks


@dataclass
class ParameterSets:
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


def nal_length(extradata: bytes, at: int) -> int:
    """Bytes in which packets store the length of each unit; 0 where start codes part them."""
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def units(packet: bytes, length: int) -> list[tuple[int, int]]:
    """Where each unit of a packet begins and ends.

    Raises:
        UnsureError: They do not fit into the packet.
    """
    if length == 0:
        return _units_by_start_code(packet)
    found: list[tuple[int, int]] = []
    position = 0
    while position + length <= len(packet):
        start = position + length
        position = start + int.from_bytes(packet[position:start], "big")
        if position > start:
            found.append((start, position))
    if position != len(packet):
        raise UnsureError("units that are longer or shorter than their packet")
    return found


def has_hole(packet: bytes, start: int, stop: int) -> bool:
    """Whether there is something in a unit that no encoder writes: three zeros in a row, or one at its end."""
    return packet[stop - 1] == 0 or packet.find(b"\x00\x00\x00", start, stop) >= 0


def unescaped(data: bytes) -> bytes:
    """The content of a unit without the bytes that keep it from looking like a start code."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


def listed(data: bytes, position: int, num: int) -> tuple[list[bytes], int]:
    """Parameter sets that stand in a container's header, each behind its length, and where the next thing begins."""
    found: list[bytes] = []
    for _ in range(num):
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        found.append(data[start:position])
    return found, position


def _units_by_start_code(packet: bytes) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    start = packet.find(b"\x00\x00\x01")
    while start >= 0:
        following = packet.find(b"\x00\x00\x01", start + 3)
        stop = following if following >= 0 else len(packet)
        while stop > start + 3 and packet[stop - 1] == 0:  # of a longer start code, or filling
            stop -= 1
        if stop > start + 3:
            found.append((start + 3, stop))
        start = following
    return found
