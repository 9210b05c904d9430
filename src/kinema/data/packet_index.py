"""Where the packets of a video lie in its file, and which of them a frame needs.

With it, frames are read without the container: the bytes of the packets that they need go straight from the file into
a decoder (`kinema.data.sparse`). How it is made is in `kinema.data.indexing`. It is written with the file's facts and
read again by whoever reads frames, so it is small: about 4 bytes a packet.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

VERSION: Final = 1
_MAGIC: Final = b"kpkt"


class PacketSource(Protocol):
    """Something that has a packet index, or can fetch it."""

    def load(self) -> PacketIndex | None:
        """The index, or None where it cannot be had any more."""
        ...


class PacketsUnknown:
    """In place of an index where the machine failed while packets were looked at: the next time there may be one."""

    def load(self) -> None:
        """None: frames are read without an index."""
        return


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """What a decoder has to be told that the packets do not say.

    Attributes:
        codec: FFmpeg's name of the decoder ("h264").
        tag: Four characters by which the container calls the codec.
        extradata: Headers that stand in the container.
        width_px: As the container has it.
        height_px: As the container has it.
        color: FFmpeg's numbers of range, primaries, transfer and matrix.
        reorder_depth: By how many places frames may come out of order.
    """

    codec: str
    tag: str
    extradata: bytes
    width_px: int
    height_px: int
    color: tuple[int, int, int, int]
    reorder_depth: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PacketIndex:
    """The packets of one video stream, in decode order.

    Attributes:
        settings: Of the decoder.
        sizes: int32 (P,), bytes of each packet.
        positions: int64 (P,), where each lies in the file.
        frames: int32 (P,), index of the frame that comes out of each, in display order; -1 where none does, or one
            that is not displayed. Each displayed frame stands here once.
        starts: int32 (P,): the first frame that is right, as all behind it are, if decoding starts at this packet;
            -1 where it may not.
        droppable: bool (P,): no other packet needs this one.
        patches: Packet -> bytes to be changed in it, each with its place: what FFmpeg's filter for packed B-frames
            changes.
        file_bytes: Size of the file. In a file of another size, nothing of this is true.
    """

    settings: DecoderSettings
    sizes: NDArray[np.int32]
    positions: NDArray[np.int64]
    frames: NDArray[np.int32]
    starts: NDArray[np.int32]
    droppable: NDArray[np.bool_]
    file_bytes: int
    patches: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def load(self) -> Self:
        """Itself: an index at hand is a `PacketSource`."""
        return self

    @property
    def num_frames(self) -> int:
        """Displayed frames."""
        return int(self.frames.max(initial=-1)) + 1

    @cached_property
    def packet_of(self) -> NDArray[np.int64]:
        """int64 (num_frames,), the packet that each displayed frame comes out of."""
        packet_of = np.zeros(self.num_frames, dtype=np.int64)
        displayed = np.flatnonzero(self.frames >= 0)
        packet_of[self.frames[displayed]] = displayed
        return packet_of

    @cached_property
    def start_of(self) -> NDArray[np.int64]:
        """int64 (num_frames,), the last packet at which a decoder may start to give that frame: the last one not after
        it in decode order and in display order."""
        keys = np.flatnonzero(self.starts >= 0)
        firsts = self.starts[keys]
        # One that a later one undercuts in display order (there is none, in files that are whole) is never used.
        ascending = np.minimum.accumulate(firsts[::-1])[::-1] == firsts
        keys, firsts = keys[ascending], firsts[ascending]
        in_display = np.searchsorted(firsts, np.arange(self.num_frames), side="right")
        in_decode = np.searchsorted(keys, self.packet_of, side="right")
        return keys[np.minimum(in_display, in_decode) - 1]

    def to_bytes(self) -> bytes:
        """As it is written: small, and of no use to anything but `from_bytes`."""
        settings = self.settings
        header = {
            "codec": settings.codec,
            "tag": settings.tag,
            "extradata": settings.extradata.hex(),
            "size": [settings.width_px, settings.height_px],
            "color": settings.color,
            "reorder_depth": settings.reorder_depth,
            "patches": [[packet, *change] for packet, changes in self.patches.items() for change in changes],
            "packets": len(self.sizes),
            "file_bytes": self.file_bytes,
        }
        gaps = np.diff(self.positions, prepend=0) - np.concatenate([[0], self.sizes[:-1]])
        order = self.frames - np.arange(len(self.frames), dtype=np.int32)
        keys = np.flatnonzero(self.starts >= 0)
        header["starts"] = self.starts[keys].tolist()
        flags = (self.starts >= 0).astype(np.uint8) | (self.droppable.astype(np.uint8) << 1)
        head = json.dumps(header).encode()
        columns = (self.sizes.astype("<i4"), gaps.astype("<i8"), order.astype("<i4"), flags)
        body = b"".join([len(head).to_bytes(4, "little"), head, *(_apart(column) for column in columns)])
        return _MAGIC + bytes([VERSION]) + zlib.compress(body, 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> PacketIndex:
        """What `to_bytes` was called on.

        Raises:
            ValueError: It is damaged, or of another version.
        """
        if data[:4] != _MAGIC or data[4:5] != bytes([VERSION]):
            raise ValueError("not a packet index of this version")
        try:
            body = zlib.decompress(data[5:])
            stop = 4 + int.from_bytes(body[:4], "little")
            header: dict[str, Any] = json.loads(body[4:stop])
            num = int(header["packets"])
            sizes, gaps, order, flags = _columns(body[stop:], num)
            width_px, height_px = header["size"]
            settings = DecoderSettings(
                codec=header["codec"],
                tag=header["tag"],
                extradata=bytes.fromhex(header["extradata"]),
                width_px=width_px,
                height_px=height_px,
                color=tuple(header["color"]),
                reorder_depth=header["reorder_depth"],
            )
            starts = np.full(num, -1, dtype=np.int32)
            starts[(flags & 1).astype(np.bool_)] = header["starts"]
            patches: dict[int, list[tuple[int, int]]] = {}
            for packet, at, byte in header["patches"]:
                patches.setdefault(packet, []).append((at, byte))
        except (zlib.error, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"damaged packet index: {error}") from None
        return cls(
            settings=settings,
            sizes=sizes,
            positions=np.cumsum(gaps + np.concatenate([[0], sizes[:-1]])),
            frames=(order + np.arange(num)).astype(np.int32),
            starts=starts,
            droppable=(flags & 2).astype(np.bool_),
            file_bytes=int(header["file_bytes"]),
            patches=patches,
        )


def _apart(column: NDArray[Any]) -> bytes:
    """All lowest bytes, then all second ones, ...: zeros lie side by side and compress to next to nothing."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), -1).T.tobytes()


def _columns(
    body: bytes, num: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
    rows = np.frombuffer(body, dtype=np.uint8).reshape(-1, num)
    if len(rows) != 17:
        raise ValueError("damaged packet index: its length is wrong")
    parts = [np.ascontiguousarray(part.T) for part in np.split(rows, [4, 12, 16])]
    sizes, gaps, order = (
        part.view(kind).reshape(num) for part, kind in zip(parts, ("<i4", "<i8", "<i4"), strict=False)
    )
    return sizes, gaps, order, parts[3].reshape(num)
