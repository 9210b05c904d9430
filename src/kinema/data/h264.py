"""H.264: which packets others need, and in which order pictures are displayed (ITU-T H.264, 7.3, 8.2.1, D.1.8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinema.data.bits import Bits, UnsureError
from kinema.data.nal_units import (
    HEADER_BYTES,
    LONG_HEADER_BYTES,
    DisplayOrder,
    ParameterSets,
    has_hole,
    listed,
    nal_length,
    unescaped,
    units,
)

# Profiles whose sequence parameter set says how colours are stored.
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_MAX_MARKINGS = 64


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Of a sequence parameter set, what the headers of slices depend on."""

    number: int
    has_chroma: bool
    separate_planes: bool
    frame_number_bits: int
    order_kind: int
    count_bits: int
    frames_only: bool


@dataclass(frozen=True, slots=True)
class _Picture:
    """The same of a picture parameter set."""

    number: int
    sequence: int
    bottom_count: bool
    slice_groups: bool
    num_references: tuple[int, int]
    weighted: bool
    weighted_both_ways: bool
    redundant: bool


class H264:
    """Starts at IDR pictures, and at intra pictures whose recovery point is themselves (open groups)."""

    max_reorder = None

    def __init__(self, extradata: bytes) -> None:
        self._length = nal_length(extradata, 4)
        self._sets = ParameterSets(extradata)
        self._keys: list[bool] = []
        self._droppable: list[bool] = []
        self._order = DisplayOrder()
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, _Picture] = {}
        self._known: dict[tuple[int, int], bytes] = {}
        self._active: _Sequence | None = None
        self._fields = False
        self._last_frame_number: int | None = None  # of the last reference picture
        self._last_count = 0  # its count
        for unit in _sets_of(extradata):
            self._note_set(unit)

    def add(self, packet: bytes) -> None:
        idr = recovery = False
        droppable = True
        slices: list[int] = []
        sets: list[bytes] = []
        for start, stop in units(packet, self._length):
            header = packet[start]
            kind = header & 31
            if kind in (1, 5):
                if slices and packet[start + 1] & 0x80:
                    self._order.suspect("a packet of several pictures")
                slices.append(start)
                idr |= kind == 5
                droppable &= header & 0x60 == 0
                if has_hole(packet, start, stop):
                    self._order.suspect("a picture with a hole in it")
            elif 2 <= kind <= 4:
                raise UnsureError("data partitions")
            elif kind == 6:
                recovery |= _is_recovery_point(packet[start + 1 : stop])
            elif kind in (7, 8, 13, 15):
                sets.append(packet[start:stop].rstrip(b"\x00"))
                self._note_set(sets[-1])
        if not slices:
            raise UnsureError("a packet without a picture")
        self._keys.append(idr or (recovery and all(_is_intra(packet, start) for start in slices)))
        self._droppable.append(droppable and not sets)
        self._sets.add(sets)
        if not self._fields:
            self._place(packet, slices[0])

    def keys(self) -> NDArray[np.bool_]:
        return self._sets.restrict(np.array(self._keys, dtype=np.bool_))

    def droppable(self) -> NDArray[np.bool_]:
        return np.array(self._droppable, dtype=np.bool_)

    def ranks(self) -> NDArray[np.int64]:
        return self._order.ranks()

    def _note_set(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind not in (7, 8):
            return
        bits = Bits(unescaped(unit[1:]))
        if kind == 7:
            sequence = _sequence(bits)
            self._sequences[sequence.number] = sequence
            number = sequence.number
        else:
            picture = _picture(bits)
            self._pictures[picture.number] = picture
            number = picture.number
        if self._known.setdefault((kind, number), unit) != unit:
            self._order.suspect("headers that change on the way")

    def _place(self, packet: bytes, start: int) -> None:
        """Find out where in the display order the picture of a packet is, from its first slice."""
        header = packet[start]
        idr, is_reference = header & 31 == 5, header & 0x60 != 0
        bits = Bits(unescaped(packet[start + 1 : start + HEADER_BYTES]))
        first, slice_kind, picture = bits.ue(), bits.ue() % 5, self._pictures.get(bits.ue())
        sequence = None if picture is None else self._sequences.get(picture.sequence)
        if picture is None or sequence is None:
            raise UnsureError("a picture whose headers are missing")
        if header & 0x80 or first != 0:
            self._order.suspect("a part of a picture")
        if self._active not in (None, sequence) or sequence.order_kind == 1 or picture.slice_groups:
            self._order.suspect("a rare kind of stream")
        self._active = sequence
        if sequence.separate_planes:
            bits.read(2)
        frame_number = bits.read(sequence.frame_number_bits)
        if not sequence.frames_only and bits.read(1):
            self._order.suspect("pictures of one field")
            self._fields = True
            return
        if idr:
            self._last_count = 0
            if bits.ue() > 65535 or frame_number != 0 or not is_reference:
                raise UnsureError("a header that cannot be")
        elif self._last_frame_number is None:
            self._order.suspect("it does not start with a key frame")
        elif frame_number != (self._last_frame_number + 1) % (1 << sequence.frame_number_bits):
            raise UnsureError("pictures are missing")
        count = self._count(bits, sequence, picture, is_reference=is_reference)
        if is_reference:
            self._last_frame_number = frame_number
        if is_reference and not idr and frame_number == 0:  # elsewhere the next frame number would show it
            more = Bits(unescaped(packet[start + 1 : start + LONG_HEADER_BYTES]))
            more.read(bits.position)
            _skip_references(more, sequence, picture, slice_kind)
            if _restarts(more):
                self._order.suspect("an order that restarts on the way")
        self._order.add(count, restart=idr)

    def _count(self, bits: Bits, sequence: _Sequence, picture: _Picture, *, is_reference: bool) -> int:
        """The picture order count (8.2.1)."""
        if sequence.order_kind == 2:  # displayed as decoded
            self._last_count += 1
            return self._last_count
        low, size = bits.read(sequence.count_bits), 1 << sequence.count_bits
        # The one nearest to the last reference picture's; of two that are equally near, the later.
        top = self._last_count + size // 2 - (size // 2 + self._last_count - low) % size
        if is_reference:
            self._last_count = top
        return min(top, top + bits.se()) if picture.bottom_count else top


def _sets_of(extradata: bytes) -> list[bytes]:
    """The parameter sets in the container's header (ISO/IEC 14496-15, 5.3.3.1)."""
    if extradata[:1] != b"\x01":
        return [extradata[start:stop] for start, stop in units(extradata, 0)]
    sequences, position = listed(extradata, 6, extradata[5] & 31)
    return sequences + listed(extradata, position + 1, extradata[position])[0]


def _sequence(bits: Bits) -> _Sequence:
    """A sequence parameter set (7.3.2.1.1)."""
    profile = bits.read(8)
    bits.read(16)
    number, colours, separate_planes = bits.ue(), 1, False
    if profile in _HIGH_PROFILES:
        colours = bits.ue()
        separate_planes = colours == 3 and bits.read(1) == 1
        bits.ue(), bits.ue(), bits.read(1)
        if bits.read(1):
            for i in range(12 if colours == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    frame_number_bits, order_kind, count_bits = bits.ue() + 4, bits.ue(), 0
    if order_kind == 0:
        count_bits = bits.ue() + 4
    elif order_kind == 1:
        bits.read(1), bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue(), bits.read(1), bits.ue(), bits.ue()
    frames_only = bits.read(1) == 1
    has_chroma = colours > 0 and not separate_planes
    return _Sequence(number, has_chroma, separate_planes, frame_number_bits, order_kind, count_bits, frames_only)


def _skip_scaling_list(bits: Bits, num: int) -> None:
    """A scaling list (7.3.2.1.1.1)."""
    last = 8
    for _ in range(num):
        last = (last + bits.se()) % 256
        if last == 0:
            return


def _picture(bits: Bits) -> _Picture:
    """A picture parameter set (7.3.2.2), up to what slices depend on."""
    number, sequence = bits.ue(), bits.ue()
    bits.read(1)
    bottom_count, slice_groups = bits.read(1) == 1, bits.ue() > 0
    if slice_groups:
        return _Picture(number, sequence, bottom_count, True, (1, 1), False, False, False)
    num_references = bits.ue() + 1, bits.ue() + 1
    weighted, weighted_both_ways = bits.read(1) == 1, bits.read(2) == 1
    bits.se(), bits.se(), bits.se(), bits.read(2)
    redundant = bits.read(1) == 1
    return _Picture(number, sequence, bottom_count, False, num_references, weighted, weighted_both_ways, redundant)


def _is_intra(packet: bytes, start: int) -> bool:
    bits = Bits(unescaped(packet[start + 1 : start + 12]))
    bits.ue()
    return bits.ue() in (2, 7)


def _skip_references(bits: Bits, sequence: _Sequence, picture: _Picture, slice_kind: int) -> None:
    """What stands in a slice's header between its count and the marking of references (7.3.3)."""
    if picture.redundant:
        bits.ue()
    both_ways, predicted = slice_kind == 1, slice_kind in (0, 1, 3)
    if both_ways:
        bits.read(1)
    nums = list(picture.num_references[: 1 + both_ways]) if predicted else []
    if predicted and bits.read(1):
        nums = [bits.ue() + 1 for _ in nums]
    for _ in nums:
        if bits.read(1):
            while bits.ue() < 3:
                bits.ue()
    if picture.weighted_both_ways if both_ways else picture.weighted and predicted:
        bits.ue()
        if sequence.has_chroma:
            bits.ue()
        for _ in range(sum(nums)):
            for num in (2, 4) if sequence.has_chroma else (2,):
                if bits.read(1):
                    for _ in range(num):
                        bits.se()


def _restarts(bits: Bits) -> bool:
    """Whether the marking of references (7.3.3.3) begins a new order, as if the picture were an IDR picture."""
    if not bits.read(1):
        return False
    for _ in range(_MAX_MARKINGS):
        operation = bits.ue()
        if operation in (0, 5):
            return operation == 5
        bits.ue()
        if operation == 3:
            bits.ue()
    raise UnsureError("a header that cannot be")


def _is_recovery_point(data: bytes) -> bool:
    """Whether an SEI says that everything from this picture on, in output order, is exact."""
    data = unescaped(data)
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
            bits = Bits(data[position : position + size])
            frames, exact, broken = bits.ue(), bits.read(1), bits.read(1)
            return frames == 0 and exact == 1 and broken == 0
        position += size
    return False
