"""Frames from the packets that they need, without the container.

A run starts at the last key that is good for its frames, leaves out packets that nobody needs, ends with the packet of
its last frame, and is then drained. Each packet carries its number as its timestamp, so a frame says which packet it
came out of, in whatever order frames come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.packet_index import DecoderSettings, PacketIndex

R = TypeVar("R")


class DamagedError(Exception):
    """What a decoder makes up for what is missing depends on frames that are left out here."""


# FFmpeg's decoders read beyond the end of a packet; what they find there has to be zeros.
_PADDING_BYTES = 64

# Read at once, at most; and, where less than this lies between two packets, what lies between is read too.
_PIECE_BYTES = 8 << 20
_GAP_BYTES = 1 << 16

# PyAV takes any buffer, and does not copy it.
_packet = cast("Callable[[memoryview], Packet[VideoStream]]", Packet)


def take_by_index(path: Path, index: PacketIndex, wanted: set[int], take: Callable[[VideoFrame], R]) -> dict[int, R]:
    """Decode frames.

    Args:
        path: The file.
        index: Of its packets.
        wanted: Which frames; all of them exist.
        take: Called on each frame as it comes out.

    Returns:
        For each frame that came out, what `take` made of it. One is missing if the file is not what it was.

    Raises:
        DamagedError: Something does not decode in full.
        OSError: The file cannot be read.
    """
    taken: dict[int, R] = {}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size != index.file_bytes:
            return taken
        decoder = open_decoder(index.settings)
        for start, numbers, frame_of in _runs(index, wanted):
            # How far frames may be out of order, as the container's reader found out. The decoder alone guesses too
            # little at first, and then drops frames.
            decoder.reorder_depth = index.settings.reorder_depth
            right = (index.frames >= index.starts[start]) | (index.frames < 0)
            for frame in _decoded(decoder, packets(descriptor, index, numbers), right):
                number = frame_of.get(frame.pts)
                if number is not None and number not in taken:
                    taken[number] = take(frame)
            decoder.flush_buffers()
    finally:
        os.close(descriptor)
    return taken


def open_decoder(settings: DecoderSettings) -> VideoCodecContext:
    """A decoder in one thread that needs no container."""
    decoder = cast("VideoCodecContext", av.CodecContext.create(settings.codec, "r"))
    if settings.extradata:
        decoder.extradata = settings.extradata
    decoder.codec_tag = settings.tag
    decoder.width, decoder.height = settings.width_px, settings.height_px
    decoder.color_range, decoder.color_primaries, decoder.color_trc, decoder.colorspace = settings.color
    decoder.thread_count = 1
    decoder.open()
    return decoder


def labelled(data: bytes, number: int) -> Packet[VideoStream]:
    """A packet that carries its number as its timestamp."""
    buffer = memoryview(bytearray(len(data) + _PADDING_BYTES))
    buffer[: len(data)] = data
    packet = _packet(buffer[: len(data)])
    packet.pts = packet.dts = number
    return packet


def packets(descriptor: int, index: PacketIndex, numbers: NDArray[np.int64]) -> Iterator[Packet[VideoStream]]:
    """Packets of these numbers, ascending, read from the file and labelled with their numbers."""
    for piece in _pieces(index, numbers):
        sizes, positions = index.sizes[piece].tolist(), index.positions[piece].tolist()
        offsets, num_bytes = [], 0
        for size in sizes:
            offsets.append(num_bytes)
            num_bytes += size + _PADDING_BYTES
        buffer = memoryview(bytearray(num_bytes))
        _read(descriptor, buffer, sizes, positions, offsets)
        for number, size, offset in zip(piece.tolist(), sizes, offsets, strict=True):
            for at, byte in index.patches.get(number, ()):
                buffer[offset + at] = byte
            packet = _packet(buffer[offset : offset + size])
            packet.pts = packet.dts = number
            yield packet


def _runs(index: PacketIndex, wanted: set[int]) -> Iterator[tuple[int, NDArray[np.int64], dict[int | None, int]]]:
    """A key, packets to decode from there on, and which frame is to be taken from which of them."""
    frames = np.array(sorted(wanted))
    sources = index.packet_of[frames]
    starts = index.start_of[frames]
    for start in np.unique(starts).tolist():
        of_run = starts == start
        run_sources = sources[of_run]
        needed = ~index.droppable[start : int(run_sources.max()) + 1]
        needed[run_sources - start] = True
        frame_of = dict(zip(cast("list[int | None]", run_sources.tolist()), frames[of_run].tolist(), strict=True))
        yield start, np.flatnonzero(needed) + start, frame_of


def _decoded(
    decoder: VideoCodecContext, packets: Iterator[Packet[VideoStream]], right: NDArray[np.bool_]
) -> Iterator[VideoFrame]:
    """Frames of a run. What does not decode matters where it should be right: not in pictures that are displayed before
    the first one, as they need what was not read.

    Raises:
        DamagedError: Something that should be right does not decode in full.
    """
    for packet in packets:
        assert packet.pts is not None
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError as error:
            if right[packet.pts]:
                raise DamagedError(f"packet {packet.pts} does not decode ({error.strerror})") from None
            continue
        yield from _checked(frames, right)
    try:
        frames = decoder.decode(None)
    except av.FFmpegError as error:
        raise DamagedError(f"the last packets do not decode ({error.strerror})") from None
    yield from _checked(frames, right)


def _checked(frames: list[VideoFrame], right: NDArray[np.bool_]) -> Iterator[VideoFrame]:
    for frame in frames:
        if frame.is_corrupt and frame.pts is not None and right[frame.pts]:
            raise DamagedError(f"the frame of packet {frame.pts} is damaged")
        yield frame


def _pieces(index: PacketIndex, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The numbers in pieces that are read at once."""
    behind = np.cumsum(index.sizes[numbers], dtype=np.int64) // _PIECE_BYTES
    if behind[-1] == 0:
        yield numbers
        return
    yield from np.split(numbers, np.flatnonzero(np.diff(behind)) + 1)


def _read(
    descriptor: int, buffer: memoryview, sizes: Sequence[int], positions: Sequence[int], offsets: Sequence[int]
) -> None:
    """Fill the places of packets in the buffer; packets that lie near each other are read together."""
    first, num = 0, len(sizes)
    while first < num:
        start = positions[first]
        stop = start + sizes[first]
        last = first + 1
        while last < num and 0 <= positions[last] - stop <= _GAP_BYTES:
            stop = positions[last] + sizes[last]
            last += 1
        data = memoryview(_pread(descriptor, stop - start, start))
        for i in range(first, last):
            part = data[positions[i] - start : positions[i] - start + sizes[i]]
            buffer[offsets[i] : offsets[i] + len(part)] = part
        first = last


def _pread(descriptor: int, num_bytes: int, start: int) -> bytes:
    """All of it, or what there is before the end of the file. Network disks give less than is asked for."""
    data = os.pread(descriptor, num_bytes, start)
    while len(data) < num_bytes and (more := os.pread(descriptor, num_bytes - len(data), start + len(data))):
        data += more
    return data
