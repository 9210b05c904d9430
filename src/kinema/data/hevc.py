"""H.265: which packets others need, and in which order their pictures are displayed (ITU-T H.265, 7.3, 8.3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinema.data.bits import Bits, UnsureError
from kinema.data.nal_units import (
    HEADER_BYTES,
    DisplayOrder,
    ParameterSets,
    has_hole,
    listed,
    nal_length,
    unescaped,
    units,
)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Of a sequence parameter set, what the headers of slices depend on."""

    number: int
    separate_planes: bool
    count_bits: int
    max_reorder: int


@dataclass(frozen=True, slots=True)
class _Picture:
    """The same of a picture parameter set."""

    number: int
    sequence: int
    output_flag: bool
    extra_bits: int


class Hevc:
    """Starts at intra random access pictures."""

    def __init__(self, extradata: bytes) -> None:
        self._length = nal_length(extradata, 21)
        self._sets = ParameterSets(extradata)
        self._keys: list[bool] = []
        self._non_reference: list[bool] = []
        self._layers: list[int] = []
        self._order = DisplayOrder(gapless=True)
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, _Picture] = {}
        self._known: dict[tuple[int, int], bytes] = {}
        self._active: _Sequence | None = None
        self._num_access = 0
        self._last_count = 0  # of the last picture that counts are told from
        for unit in _sets_of(extradata):
            self._note_set(unit)

    @property
    def max_reorder(self) -> int | None:
        """As its header says."""
        return None if self._active is None else self._active.max_reorder

    def add(self, packet: bytes) -> None:
        key = False
        non_reference = True
        layer = -1
        slices: list[int] = []
        sets: list[bytes] = []
        for start, stop in units(packet, self._length):
            if stop - start < 3:
                raise UnsureError("a NAL unit without content")
            kind = packet[start] >> 1 & 63
            if packet[start] & 1 or packet[start + 1] >> 3:
                raise UnsureError("several layers")
            if kind < 32:
                if 10 <= kind <= 15 or kind >= 22:
                    raise UnsureError("a kind of picture that is not known")
                slices.append(start)
                layer = (packet[start + 1] & 7) - 1
                key |= 16 <= kind <= 23
                non_reference &= kind < 16 and kind % 2 == 0
                # Of 16 to 18 the pictures that lead are never displayed; the flag discards pictures before.
                if self._keys and (16 <= kind <= 18 or (16 <= kind <= 23 and packet[start + 2] & 0x40)):
                    raise UnsureError("pictures that are decoded and not displayed")
                if has_hole(packet, start, stop):
                    self._order.suspect("a picture with a hole in it")
            elif kind in (32, 33, 34):
                sets.append(packet[start:stop].rstrip(b"\x00"))
                self._note_set(sets[-1])
            elif kind in (36, 37):
                raise UnsureError("an end of sequence")
        if layer < 0:
            raise UnsureError("a packet without a picture")
        self._keys.append(key)
        self._non_reference.append(non_reference and not sets)
        self._layers.append(layer)
        self._sets.add(sets)
        if any(bool(packet[start + 2] & 0x80) != (start == slices[0]) for start in slices):
            self._order.suspect("a packet of several pictures, or of a part of one")
        self._place(packet[slices[0] : slices[0] + HEADER_BYTES], layer)

    def keys(self) -> NDArray[np.bool_]:
        return self._sets.restrict(np.array(self._keys, dtype=np.bool_))

    def droppable(self) -> NDArray[np.bool_]:
        # Pictures of this kind may be needed by those of higher temporal layers.
        layers = np.array(self._layers)
        return np.array(self._non_reference, dtype=np.bool_) & (layers == layers.max(initial=0))

    def ranks(self) -> NDArray[np.int64]:
        return self._order.ranks()

    def _note_set(self, unit: bytes) -> None:
        kind = unit[0] >> 1 & 63
        bits = Bits(unescaped(unit[2:]))
        if kind == 33:
            sequence = _sequence(bits)
            self._sequences[sequence.number] = sequence
            number = sequence.number
        elif kind == 34:
            picture = _Picture(bits.ue(), bits.ue(), bits.read(2) & 1 == 1, bits.read(3))
            self._pictures[picture.number] = picture
            number = picture.number
        else:
            return
        if self._known.setdefault((kind, number), unit) != unit:
            self._order.suspect("headers that change on the way")

    def _place(self, unit: bytes, layer: int) -> None:
        """Find out where in the display order the picture of a packet is."""
        kind = unit[0] >> 1 & 63
        is_access, is_instant = 16 <= kind <= 23, kind in (19, 20)
        bits = Bits(unescaped(unit[2:]))
        bits.read(2 if is_access else 1)
        picture = self._pictures.get(bits.ue())
        sequence = None if picture is None else self._sequences.get(picture.sequence)
        if picture is None or sequence is None:
            raise UnsureError("a picture whose headers are missing")
        if self._active not in (None, sequence):
            self._order.suspect("headers that change on the way")
        self._active = sequence
        starts = len(self._keys) == 1
        if starts and not is_access:
            self._order.suspect("it does not start with a key frame")
        self._num_access += is_access
        if kind in (8, 9) and self._num_access < 2:
            self._order.suspect("pictures at the start that need what was cut away")
        bits.read(picture.extra_bits)
        bits.ue()
        if picture.output_flag and not bits.read(1):
            self._order.suspect("pictures that are not displayed")
        if sequence.separate_planes:
            bits.read(2)
        count = 0
        if not is_instant:
            low, size = bits.read(sequence.count_bits), 1 << sequence.count_bits
            # The one nearest to the last; of two that are equally near, the later.
            last = 0 if starts else self._last_count
            count = low if starts else last + size // 2 - (size // 2 + last - low) % size
        # Neither pictures of higher layers nor those that lead a key frame, nor those that none of their layer needs.
        if layer == 0 and not (kind < 16 and kind % 2 == 0) and kind not in (7, 9):
            self._last_count = count
        self._order.add(count, restart=is_instant)


def _sets_of(extradata: bytes) -> list[bytes]:
    """The parameter sets in the container's header (ISO/IEC 14496-15, 8.3.3.1)."""
    if extradata[:1] != b"\x01":
        return [extradata[start:stop] for start, stop in units(extradata, 0)]
    found: list[bytes] = []
    position = 23
    for _ in range(extradata[22]):
        num = int.from_bytes(extradata[position + 1 : position + 3], "big")
        sets, position = listed(extradata, position + 3, num)
        found += sets
    return found


def _sequence(bits: Bits) -> _Sequence:
    """A sequence parameter set (7.3.2.2.1), up to how far pictures are out of order."""
    bits.read(4)
    num_layers = bits.read(3)  # less one
    bits.read(1)
    bits.read(96)
    sub_layers = [(bits.read(1), bits.read(1)) for _ in range(num_layers)]
    bits.read(2 * (8 - num_layers) if num_layers else 0)
    for has_profile, has_level in sub_layers:
        bits.read(88 * has_profile + 8 * has_level)
    number = bits.ue()
    separate_planes = bits.ue() == 3 and bits.read(1) == 1
    bits.ue()
    bits.ue()
    if bits.read(1):
        for _ in range(4):
            bits.ue()
    bits.ue()
    bits.ue()
    count_bits, max_reorder = bits.ue() + 4, 0
    for _ in range(num_layers + 1 if bits.read(1) else 1):
        bits.ue()
        max_reorder = bits.ue()
        bits.ue()
    return _Sequence(number, separate_planes, count_bits, max_reorder)
