"""Where the bytes of packets lie in a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.bits import UnsureError
from kinema.data.packet_index import DecoderSettings, PacketIndex

# In front of a packet's data containers may have this much of their own.
_HEADER_BYTES = 64

# A filter may change so many bytes of a packet.
_MAX_PATCHES = 4


class Places:
    """Where the data of packets lie in a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._offset = 0  # from where the container says a packet is, to its data
        self._sizes: list[int] = []
        self._positions: list[int] = []
        self._patches: dict[int, list[tuple[int, int]]] = {}
        self._unused: list[int] = []  # where packets lie of which no part has been found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, packet: Packet[VideoStream], data: bytes, *, whole: bool = True) -> None:
        """Find a packet of the container, of which the content is given.

        Raises:
            UnsureError: It is not in the file as it is in the packet.
        """
        if packet.pos is None or packet.pos < 0:
            raise UnsureError("a packet whose place in the file is not known")
        position = packet.pos + self._offset
        if self._at(position, len(data)) != data:
            found = self._at(packet.pos, len(data) + _HEADER_BYTES).find(data)
            if found < 0:
                raise UnsureError("a packet that is not in the file as it is")
            self._offset = found
            position = packet.pos + found
        if whole:
            self._note(len(data), position)
        else:
            self._unused.append(position)

    def add_part(self, packet: Packet[VideoStream]) -> None:
        """Find what a filter made of packets.

        Raises:
            UnsureError: It is not in the file.
        """
        data = np.frombuffer(bytes(packet), dtype=np.uint8)
        behind = [self._positions[-1] + self._sizes[-1]] if self._positions else []
        most = _MAX_PATCHES if len(data) > _HEADER_BYTES else 0
        for max_patches in (0, most):
            for position in (*behind, *self._unused):
                there = np.frombuffer(self._at(position, len(data)), dtype=np.uint8)
                changed = np.flatnonzero(there != data) if len(there) == len(data) else None
                if changed is None or len(changed) > max_patches:
                    continue
                if len(changed):
                    self._patches[len(self._sizes)] = [(int(at), int(data[at])) for at in changed]
                self._note(len(data), position)
                # What lies before will not be asked for again.
                self._unused = [unused for unused in self._unused if unused > position]
                return
        raise UnsureError("a filtered packet that is not in the file")

    def index(
        self,
        *,
        settings: DecoderSettings,
        frames: NDArray[np.int64],
        starts: NDArray[np.int64],
        droppable: NDArray[np.bool_],
    ) -> PacketIndex:
        """The index of all packets found so far, of which the rest is given."""
        first_right: NDArray[np.int32] = starts.astype(np.int32)
        first_right[0] = 0  # a decode from the beginning is right by definition
        return PacketIndex(
            settings=settings,
            sizes=np.array(self._sizes, dtype=np.int32),
            positions=np.array(self._positions, dtype=np.int64),
            frames=frames.astype(np.int32),
            starts=first_right,
            droppable=droppable,
            file_bytes=os.fstat(self._file.fileno()).st_size,
            patches=self._patches,
        )

    def _note(self, size: int, position: int) -> None:
        self._sizes.append(size)
        self._positions.append(position)

    def _at(self, position: int, num_bytes: int) -> bytes:
        return os.pread(self._file.fileno(), num_bytes, position)
