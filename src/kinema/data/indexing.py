"""Making the packet index of a video while it is probed.

Two ways, after those of `kinema.data.decoding`. Where packets alone say what is displayed when, their headers also say
which of them others need (`kinema.data.bitstreams`); a few frames from the beginning are compared. Where a video is
decoded in full anyway, a second decoder runs alongside on labelled packets: every picture of it has to equal that of
the plain decode, and so have pictures read by the finished index. What is not proved is not used: then there is no
index, and the log says why at debug level.
"""

from __future__ import annotations

import logging
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

from kinema.data.bits import UnsureError
from kinema.data.bitstreams import Parser, parser, reorder_depth
from kinema.data.containers import Reading, codec_name, opened
from kinema.data.machine import is_machines
from kinema.data.packet_headers import complete, outside_headers
from kinema.data.packet_index import DecoderSettings, PacketIndex, PacketsUnknown
from kinema.data.packet_places import Places
from kinema.data.sparse import DamagedError, labelled, take_by_index
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

CHECKED_FRAMES: Final = 8
"""How many frames are compared of a video that is not decoded in full."""

# Sampled of one that is, to be compared with what the finished index gives.
_SAMPLED_FRAMES = 12

_BY_FRAMES = frozenset({"mpeg4", "mpeg2video", "mjpeg", "vp8", "h264", "hevc", "vp9", "av1"})

_NEW_HEADERS = frozenset({"new_extradata", "param_change", "palette"})


class PacketCollector:
    """Is shown the packets of a stream and notes where they lie in the file and what is in them.

    Args:
        path: The file.
        stream: Its video.
    """

    def __init__(self, path: Path, stream: VideoStream) -> None:
        self.path = path
        self._stream = stream
        self._pts: list[int] = []
        self._shown: list[bool] = []
        self._no_places: str | None = None
        self._doubt: str | None = None
        try:
            self._parser: Parser | None = parser(codec_name(stream), stream.codec_context.extradata or b"")
        except UnsureError as error:
            self._parser, self._doubt = None, str(error)
        self._places = Places(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.close()

    def add(self, packet: Packet[VideoStream]) -> bool:
        """Note one packet that has a timestamp, and whether it makes sense to go on."""
        assert packet.pts is not None
        if self._parser is None:
            return False
        data = bytes(packet)
        try:
            _refuse_side_data(packet)
            self._parser.add(data)
        except (UnsureError, IndexError) as error:
            self._doubt = str(error) or type(error).__name__
            return False
        self._pts.append(packet.pts)
        self._shown.append(not packet.is_discard)
        if self._no_places is None:
            try:
                self._places.add(packet, data)
            except (UnsureError, OSError) as error:
                self._no_places = str(error)
        return True

    def doubt(self) -> str | None:
        """Why packets do not tell which frames come out of a decoder in which order, or None where they do: each of
        them has one picture, and their timestamps ascend in the order that the pictures' own headers say."""
        if self._doubt is not None or self._parser is None:
            return self._doubt
        try:
            ranks = self._parser.ranks()
        except UnsureError as error:
            return str(error)
        limit = self._parser.max_reorder
        if reorder_depth(ranks) > (self._stream.codec_context.reorder_depth if limit is None else limit):
            return "pictures further out of order than a decoder expects"
        pts, shown = np.array(self._pts, dtype=np.int64), np.array(self._shown, dtype=np.bool_)
        order = np.argsort(ranks)
        displayed = pts[order][shown[order]]
        if not len(displayed):
            return "nothing is displayed"
        return None if np.all(np.diff(displayed) > 0) else "timestamps are not in the order of its pictures"

    def index(self, first_frames: Iterable[VideoFrame]) -> PacketIndex | PacketsUnknown | None:
        """The index; None where it would not be exact; unknown where the machine failed. There must be no doubt.

        Args:
            first_frames: The first that are displayed, from a plain decode.
        """
        try:
            return self._index(list(first_frames))
        except (UnsureError, av.FFmpegError, OSError) as error:
            _say_why_not(self.path, error)
            return PacketsUnknown() if is_machines(error) else None

    def _index(self, first_frames: list[VideoFrame]) -> PacketIndex:
        if self._no_places is not None:
            raise UnsureError(self._no_places)
        assert self._parser is not None
        pts, shown = np.array(self._pts), np.array(self._shown)
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
        _check(self.path, index, dict(enumerate(first_frames)))
        return index


class Shadow:
    """A second decode beside a plain one, of labelled packets, to find out which frame comes from which packet.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsure: str | None = None
        self._machine_failed = False
        self._labels: list[int] = []  # of displayed frames
        self._is_key: dict[int, int] = {}  # packet -> first frame that is right
        self._is_b: list[int] = []
        self._rng = random.Random(0)
        self._sample: list[tuple[int, VideoFrame]] = []
        self._last: VideoFrame | None = None
        self._stream_facts: tuple[DecoderSettings, Parser | None] | None = None
        self._discarded: set[int] = set()
        self._headers: list[int] = []  # which of those that stand outside pictures each packet brings
        self._places = Places(path)
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
            self._machine_failed = is_machines(error)
            return
        assert own.pts is not None
        number = len(self._labels)
        self._labels.append(own.pts)
        self._last = frame
        if len(self._sample) < _SAMPLED_FRAMES:
            self._sample.append((number, frame))
        elif (place := self._rng.randrange(number + 1)) < _SAMPLED_FRAMES:
            self._sample[place] = number, frame

    def index(self) -> PacketIndex | PacketsUnknown | None:
        """The index, after the last frame; None where it would not be exact; unknown where the machine failed."""
        try:
            return self._index()
        except (UnsureError, DataError, av.FFmpegError, IndexError, OSError) as error:
            _say_why_not(self._path, error)
            return PacketsUnknown() if self._machine_failed or is_machines(error) else None

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
                self._headers.append(outside_headers(codec, data))
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
            self._places.add(packet, bytes(packet), whole=unpack is None)
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
            keys &= complete(settings.codec, np.array(self._headers))
            droppable[self._is_b] = settings.codec in ("mpeg4", "mpeg2video")
            droppable[:] |= settings.codec == "mjpeg"
        starts[list(self._is_key)] = list(self._is_key.values())
        starts[~keys] = -1
        index = self._places.index(settings=settings, frames=frames, starts=starts, droppable=droppable)
        _check(self._path, index, {**dict(self._sample), len(self._labels) - 1: self._last})
        return index


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
        rows = [np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size) for plane in (a, b)]
        if not np.array_equal(rows[0][:, :width], rows[1][:, :width]):
            return False
    return True


def _check(path: Path, index: PacketIndex, frames: Mapping[int, VideoFrame]) -> None:
    try:
        found = take_by_index(path, index, set(frames), lambda frame: frame)
    except DamagedError as error:
        raise UnsureError(str(error)) from None
    for number, frame in frames.items():
        if number not in found or not same_picture(frame, found[number]):
            raise UnsureError(f"frame {number} read by the index is another")


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


def _say_why_not(path: Path, error: Exception) -> None:
    _LOG.debug("%s: frames are read without a packet index: %s", path, error or type(error).__name__)


def _refuse_side_data(packet: Packet[VideoStream]) -> None:
    if any(data.data_type in _NEW_HEADERS for data in packet.iter_sidedata()):
        raise UnsureError("headers that change on the way")
