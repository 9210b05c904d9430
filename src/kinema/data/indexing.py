"""Making the packet index of a video while it is probed.

Two ways, after those of `kinema.data.decoding`. Where packets alone say what is displayed when, their headers also say
which of them others need (`kinema.data.bitstreams`); a few frames from the beginning are compared. Where a video is
decoded in full anyway, a second decoder runs alongside on labelled packets: every picture of it has to equal that of
the plain decode, and so have pictures read by the finished index. What is not proved is not used: then there is no
index, and the log says why at debug level.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.bitstreams import Parser, UnsureError, parser
from kinema.data.containers import Reading, codec_name, opened
from kinema.data.packet_index import DecoderSettings, PacketIndex
from kinema.data.sparse import labelled, take_by_index
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

CHECKED_FRAMES: Final = 8
"""How many frames are compared of a video that is not decoded in full."""

# Sampled of one that is, to be compared with what the finished index gives.
_SAMPLED_FRAMES = 12

# In front of a packet's data containers may have this much of their own.
_HEADER_BYTES = 64

# Tables stand in front of pictures.
_TABLES_BYTES = 4096

# A filter may change so many bytes of a packet.
_MAX_PATCHES = 4

_BY_FRAMES = frozenset({"mpeg4", "mpeg2video", "mjpeg", "vp8", "h264", "hevc", "vp9", "av1"})


class PacketCollector:
    """Is shown the packets of a stream and notes where they lie in the file and what is in them.

    Args:
        path: The file.
        stream: Its video.
    """

    def __init__(self, path: Path, stream: VideoStream) -> None:
        self._path = path
        self._stream = stream
        self._pts: list[int] = []
        self._discarded: list[bool] = []
        self._unsure: str | None = None
        try:
            self._parser: Parser | None = parser(codec_name(stream), stream.codec_context.extradata or b"")
        except UnsureError as error:
            self._unsure = str(error)
        self._places = _Places(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.close()

    def add(self, packet: Packet[VideoStream]) -> None:
        """Note one packet that has a timestamp."""
        if self._unsure is not None:
            return
        assert packet.pts is not None
        assert self._parser is not None
        try:
            _refuse_side_data(packet)
            self._places.add(packet)
            self._parser.add(bytes(packet))
        except (UnsureError, IndexError, OSError) as error:
            self._unsure = str(error) or type(error).__name__
        self._pts.append(packet.pts)
        self._discarded.append(packet.is_discard)

    def index(self, first_frames: Iterable[VideoFrame]) -> PacketIndex | None:
        """The index, or None where it would not be exact.

        Args:
            first_frames: The first that are displayed, from a plain decode.
        """
        try:
            return self._index(list(first_frames))
        except (UnsureError, OSError) as error:
            _say_why_not(self._path, error)
            return None

    def _index(self, first_frames: list[VideoFrame]) -> PacketIndex:
        if self._unsure is not None or self._parser is None:
            raise UnsureError(self._unsure)
        pts, shown = np.array(self._pts), ~np.array(self._discarded)
        keys = self._parser.keys()
        if not keys[0]:
            raise UnsureError("it does not start with a key frame")
        ranks = np.searchsorted(np.sort(pts[shown]), pts)  # of one not shown: the next that is
        index = self._places.index(
            settings=_settings(self._stream),
            frames=np.where(shown, ranks, -1),
            starts=np.where(keys, ranks, -1),
            droppable=self._parser.droppable(),
        )
        if [frame.pts for frame in first_frames] != np.sort(pts[shown])[: len(first_frames)].tolist():
            raise UnsureError("frames come out in another order than their times say")
        _check(self._path, index, dict(enumerate(first_frames)))
        return index


class Shadow:
    """A second decode beside a plain one, of labelled packets, to find out which frame comes from which packet.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsure: str | None = None
        self._labels: list[int] = []  # of displayed frames
        self._is_key: dict[int, int] = {}  # packet -> first frame that is right
        self._is_b: list[int] = []
        self._rng = random.Random(0)
        self._sample: list[tuple[int, VideoFrame]] = []
        self._last: VideoFrame | None = None
        self._stream_facts: tuple[DecoderSettings, Parser | None] | None = None
        self._discarded: set[int] = set()
        self._headers: list[int] = []  # which of those that stand outside pictures each packet brings
        self._places = _Places(path)
        self._frames = self._decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.close()
        self._places.close()

    def compare(self, frame: VideoFrame) -> None:
        """The next frame of the plain decode."""
        if self._unsure is not None:
            return
        try:
            own = self._next()
            if own is None or not same_picture(frame, own):
                raise UnsureError(f"frame {len(self._labels)} of labelled packets is another")
        except (UnsureError, DataError, av.FFmpegError, IndexError, OSError) as error:
            self._unsure = str(error) or type(error).__name__
            return
        assert own.pts is not None
        number = len(self._labels)
        self._labels.append(own.pts)
        self._last = frame
        if len(self._sample) < _SAMPLED_FRAMES:
            self._sample.append((number, frame))
        elif (place := self._rng.randrange(number + 1)) < _SAMPLED_FRAMES:
            self._sample[place] = number, frame

    def index(self) -> PacketIndex | None:
        """The index, after the last frame, or None where it would not be exact."""
        try:
            return self._index()
        except (UnsureError, DataError, av.FFmpegError, IndexError, OSError) as error:
            _say_why_not(self._path, error)
            return None

    def _next(self) -> VideoFrame | None:
        for frame in self._frames:
            if frame.pts is None or frame.pts in self._labels[-64:]:
                raise UnsureError("a frame that does not tell its packet")
            if frame.key_frame and frame.pict_type == PictureType.I:
                self._is_key[frame.pts] = len(self._labels)
            if frame.pict_type == PictureType.B:
                self._is_b.append(frame.pts)
            if frame.pts not in self._discarded:
                return frame
        return None

    def _decode(self) -> Generator[VideoFrame]:
        with opened(self._path) as (container, stream):
            codec = codec_name(stream)
            if codec not in _BY_FRAMES:
                raise UnsureError(f"codec {codec}")
            extradata = stream.codec_context.extradata or b""
            parser_ = None if codec in ("mpeg4", "mpeg2video", "mjpeg", "vp8") else parser(codec, extradata)
            self._stream_facts = _settings(stream), parser_
            reading = Reading(container, stream)
            unpack = BitStreamFilterContext("mpeg4_unpack_bframes", in_stream=stream) if codec == "mpeg4" else None
            for number, packet in enumerate(self._packets(reading, unpack)):
                data = bytes(packet)
                self._headers.append(_headers(codec, data))
                if parser_ is not None:
                    parser_.add(data)
                if packet.is_discard:
                    self._discarded.add(number)
                yield from stream.codec_context.decode(labelled(data, number))
            yield from stream.codec_context.decode(None)
            if reading.damaged:
                raise UnsureError("it is damaged")

    def _packets(self, reading: Reading, unpack: BitStreamFilterContext | None) -> Iterator[Packet[VideoStream]]:
        for packet in reading.packets():
            if packet.size == 0:
                continue
            _refuse_side_data(packet)
            self._places.add(packet, whole=unpack is None)
            if unpack is None:
                yield packet
                continue
            for part in unpack.filter(packet):
                self._places.add_part(part)
                yield cast("Packet[VideoStream]", part)
        if unpack is not None:
            for part in unpack.filter(None):
                self._places.add_part(part)
                yield cast("Packet[VideoStream]", part)

    def _index(self) -> PacketIndex:
        if self._unsure is None and self._next() is not None:
            self._unsure = "labelled packets give more frames"
        if self._unsure is not None or self._stream_facts is None or self._last is None:
            raise UnsureError(self._unsure)
        if len(set(self._labels)) != len(self._labels):
            raise UnsureError("two frames come from one packet")
        settings, parser_ = self._stream_facts
        num = len(self._headers)
        frames, starts = np.full(num, -1), np.full(num, -1)
        frames[self._labels] = np.arange(len(self._labels))
        keys = np.zeros(num, dtype=np.bool_)
        keys[list(self._is_key)] = True
        droppable = np.zeros(num, dtype=np.bool_)
        if parser_ is not None:
            keys &= parser_.keys()
            droppable = parser_.droppable()
        else:
            keys &= _complete(settings.codec, np.array(self._headers))
            droppable[self._is_b] = settings.codec in ("mpeg4", "mpeg2video")
            droppable[:] |= settings.codec == "mjpeg"
        starts[list(self._is_key)] = list(self._is_key.values())
        starts[~keys] = -1
        index = self._places.index(settings=settings, frames=frames, starts=starts, droppable=droppable)
        sample = dict(self._sample)
        _check(self._path, index, sample)
        _check(self._path, index, {len(self._labels) - 1: self._last})
        return index


class _Places:
    """Where the data of packets lie in a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._offset = 0  # from where the container says a packet is, to its data
        self._sizes: list[int] = []
        self._positions: list[int] = []
        self._patches: dict[int, list[tuple[int, int]]] = {}
        self._unused: list[int] = []  # where packets lie of which no part has been found

    def close(self) -> None:
        self._file.close()

    def add(self, packet: Packet[VideoStream], *, whole: bool = True) -> None:
        """Find a packet of the container.

        Raises:
            UnsureError: It is not in the file as it is in the packet.
        """
        if packet.pos is None or packet.pos < 0:
            raise UnsureError("a packet whose place in the file is not known")
        data = bytes(packet)
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

    def add_part(self, packet: Packet) -> None:
        """Find what a filter made of packets.

        Raises:
            UnsureError: It is not in the file.
        """
        data = np.frombuffer(packet, dtype=np.uint8)
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
        starts = starts.astype(np.int32)
        starts[0] = 0  # a decode from the beginning is right by definition
        return PacketIndex(
            settings=settings,
            sizes=np.array(self._sizes, dtype=np.int32),
            positions=np.array(self._positions, dtype=np.int64),
            frames=frames.astype(np.int32),
            starts=starts,
            droppable=droppable,
            file_bytes=os.fstat(self._file.fileno()).st_size,
            patches=self._patches,
        )

    def _note(self, size: int, position: int) -> None:
        self._sizes.append(size)
        self._positions.append(position)

    def _at(self, position: int, num_bytes: int) -> bytes:
        return os.pread(self._file.fileno(), num_bytes, position)


def same_picture(one: VideoFrame, other: VideoFrame) -> bool:
    """Whether two frames have the same pixels, and become the same RGB."""
    if (one.format.name, one.width, one.height, one.color_range, one.colorspace) != (
        other.format.name,
        other.width,
        other.height,
        other.color_range,
        other.colorspace,
    ):
        return False
    num_bytes = 2 if any(component.bits > 8 for component in one.format.components) else 1
    one_by_one = len(one.planes) == len(one.format.components)
    for a, b in zip(one.planes, other.planes, strict=True):
        # Behind the end of a row there may be anything.
        width = a.width * num_bytes if one_by_one else a.line_size
        rows = (np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[:, :width] for plane in (a, b))
        if not np.array_equal(*rows):
            return False
    return True


def _check(path: Path, index: PacketIndex, frames: Mapping[int, VideoFrame]) -> None:
    found = take_by_index(path, index, set(frames), lambda frame: frame)
    for number, frame in frames.items():
        if number not in found or not same_picture(frame, found[number]):
            raise UnsureError(f"frame {number} read by the index is another")


def _headers(codec: str, data: bytes) -> int:
    if codec == "mpeg2video":  # the sequence header resets what pictures may have changed
        return b"\x00\x00\x01\xb3" in data[:_TABLES_BYTES]
    if codec == "mpeg4":
        return _has_layer(data[:_TABLES_BYTES])
    if codec == "mjpeg":  # quantisation tables, Huffman tables
        return (b"\xff\xdb" in data[:_TABLES_BYTES]) + 2 * (b"\xff\xc4" in data[:_TABLES_BYTES])
    return 0


def _complete(codec: str, headers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each packet, whether it brings the headers that it needs, as far as they do not stand in the container."""
    if codec == "mpeg2video":
        return headers == 1
    if codec == "mpeg4" and headers[1:].any():  # else there is one at most, for all
        return headers == 1
    if codec == "mjpeg":  # with Huffman tables always, or always with the standard ones
        return (headers & 1 == 1) & (headers & 2 == (headers & 2).max())
    return np.ones(len(headers), dtype=np.bool_)


def _has_layer(content: bytes) -> bool:
    start = content.find(b"\x00\x00\x01")
    while 0 <= start < len(content) - 3:
        code = content[start + 3]
        if 0x20 <= code <= 0x2F:
            return True
        if code == 0xB6:  # a picture: no headers behind it
            return False
        start = content.find(b"\x00\x00\x01", start + 3)
    return False


def _settings(stream: VideoStream) -> DecoderSettings:
    context = stream.codec_context
    try:
        tag = context.codec_tag
    except UnicodeDecodeError:
        raise UnsureError("the container calls its codec by an odd name") from None
    return DecoderSettings(
        codec=context.codec.name,
        tag=tag,
        extradata=context.extradata or b"",
        width_px=context.width,
        height_px=context.height,
        color=(context.color_range, context.color_primaries, context.color_trc, context.colorspace),
        reorder_depth=context.reorder_depth,
    )


def _refuse_side_data(packet: Packet[VideoStream]) -> None:
    if packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change") or packet.has_sidedata("palette"):
        raise UnsureError("headers that change on the way")


def _say_why_not(path: Path, error: Exception) -> None:
    _LOG.debug("%s: frames are read without a packet index: %s", path, error or type(error).__name__)
