"""When frames of a video are on display, from its packets or by a full decode; `kinema.data.decoding` says how."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.containers import Reading, codec_name, opened
from kinema.data.indexing import CHECKED_FRAMES, PacketCollector, Shadow
from kinema.data.packet_index import PacketSource
from kinema.data.truncation import is_short
from kinema.data.video import Orientation, Video
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

# Where one packet is one displayed frame and carries its time. VP8 (packets that are never displayed) and MPEG-4
# (packets of several frames and of none) are not among them, in whatever container.
_INDEXED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_INDEXED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})


def probe_file(path: Path, *, in_full: bool = False) -> Video:
    """A video file that is not a still image.

    Args:
        path: The file.
        in_full: Decode all of it, whatever its packets say.

    Raises:
        DataError: FFmpeg cannot read it, or no frame of it decodes.
    """
    with opened(path) as (container, stream):
        indexed = is_indexed(container, stream)
        if indexed and not in_full:
            with PacketCollector(path, stream) as collector:
                table = _table_from_packets(container, stream, collector)
            if table is not None:
                return _video(path, container, stream, table)
    with opened(path) as (container, stream), Shadow(path) as shadow:
        table = _table_from_frames(path, container, stream, shadow, indexed=indexed)
        return _video(path, container, stream, table)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """When frames are on display, in ticks of `tick_s` seconds from the first of them."""

    ticks: NDArray[np.int64]
    last_ticks: int  # how long the last frame is on display; 0 where the file does not say
    tick_s: Fraction
    first: VideoFrame
    first_pts: int | None
    damaged: bool = False
    packets: PacketSource | None = None


def is_indexed(container: InputContainer, stream: VideoStream) -> bool:
    """Whether one packet is one displayed frame and carries its time."""
    known = _INDEXED_CONTAINERS.intersection(container.format.name.split(","))
    return bool(known) and codec_name(stream) in _INDEXED_CODECS


def _table_from_packets(container: InputContainer, stream: VideoStream, collector: PacketCollector) -> _Table | None:
    """The table of frames without decoding more than the first few, or None where the packets leave a doubt."""
    reading = Reading(container, stream)
    durations: dict[int, int] = {}  # by timestamp, of packets that are displayed
    num_packets = num_displayed = 0
    frames: list[VideoFrame] = []
    doubt: str | None = None
    for packet in reading.packets():
        if len(frames) < CHECKED_FRAMES:
            frames += reading.decode(packet)
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            continue  # the end
        if packet.size == 0 or packet.pts is None:
            doubt = "packets without content or timestamp"
            break
        num_packets += 1
        if not packet.is_discard:
            num_displayed += 1
            durations[packet.pts] = packet.duration or 0
        if not collector.add(packet):
            break
    pts = np.array(sorted(durations), dtype=np.int64)
    doubt = doubt or collector.doubt()
    if doubt is None and (reading.damaged or num_packets != (stream.frames or num_packets)):
        doubt = "it is damaged"
    if doubt is None and (stream.time_base is None or len(pts) != num_displayed):
        doubt = "timestamps are missing"
    if doubt is None and (not frames or [frame.pts for frame in frames] != pts[: len(frames)].tolist()):
        doubt = "frames come out in another order than their times say"
    if doubt is not None or stream.time_base is None:
        _LOG.debug("%s: decoded in full, as its packets leave a doubt: %s", collector.path, doubt)
        return None
    first_pts, last_ticks = int(pts[0]), durations[int(pts[-1])]
    return _Table(
        ticks=pts - first_pts,
        last_ticks=last_ticks,
        tick_s=stream.time_base,
        first=frames[0],
        first_pts=first_pts,
        packets=collector.index(frames),
    )


def _table_from_frames(
    path: Path, container: InputContainer, stream: VideoStream, shadow: Shadow, *, indexed: bool
) -> _Table:
    """The table of frames by a full decode."""
    reading = Reading(container, stream)
    first: VideoFrame | None = None
    last_ticks = 0
    pts: list[int | None] = []
    for frame in reading.frames():
        first = first or frame
        last_ticks = frame.duration or 0
        pts.append(frame.pts)
        shadow.compare(frame)
    if first is None:
        raise DataError(f"{path}: no frame of it decodes")
    packets = None if reading.damaged else shadow.index()
    time_base = stream.time_base
    if not is_by_order(container, stream) and time_base is not None and _is_ascending(pts):
        ticks = np.array(pts, dtype=np.int64)
        # In a damaged file the same frame may not come out again after a seek.
        first_pts = int(ticks[0]) if indexed and not reading.damaged else None
        return _Table(
            ticks=ticks - ticks[0],
            last_ticks=last_ticks,
            tick_s=time_base,
            first=first,
            first_pts=first_pts,
            damaged=reading.damaged,
            packets=packets,
        )
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise DataError(f"{path}: has neither a frame rate nor times of frames that can be trusted")
    return _Table(
        ticks=np.arange(len(pts), dtype=np.int64),
        last_ticks=1,
        tick_s=1 / rate,
        first=first,
        first_pts=None,
        damaged=reading.damaged,
        packets=packets,
    )


def is_by_order(container: InputContainer, stream: VideoStream) -> bool:
    """Whether frames are on display one after the other at the frame's rate, whatever their timestamps say."""
    return container.format.name == "avi" and codec_name(stream) == "mpeg4"


def _is_ascending(pts: Sequence[int | None]) -> bool:
    known = [value for value in pts if value is not None]
    return len(known) == len(pts) and all(a < b for a, b in pairwise(known))


def _video(path: Path, container: InputContainer, stream: VideoStream, table: _Table) -> Video:
    # One division of exact integers: equal times come out as equal floats, however they were found.
    times_s = table.ticks * table.tick_s.numerator / table.tick_s.denominator
    last_ticks: Fraction | int = table.last_ticks
    if last_ticks <= 0 and len(table.ticks) > 1:
        last_ticks = int(table.ticks[-1] - table.ticks[-2])
    elif last_ticks <= 0:
        last_ticks = 1 / (table.tick_s * (stream.average_rate or stream.guessed_rate or 25))
    duration_s = float((int(table.ticks[-1]) + last_ticks) * table.tick_s)
    orientation, rotation_deg = orientation_of(table.first)
    width_px, height_px = table.first.width, table.first.height
    return Video(
        path=path,
        times_s=times_s,
        duration_s=duration_s,
        fps=len(times_s) / duration_s,
        width_px=height_px if orientation.transposed else width_px,
        height_px=width_px if orientation.transposed else height_px,
        rotation_deg=rotation_deg,
        codec=codec_name(stream),
        container=container.format.name,
        first_pts=table.first_pts,
        damaged=table.damaged or is_short(duration_s, container, stream),
        orientation=orientation,
        packets=table.packets,
    )


def orientation_of(frame: VideoFrame) -> tuple[Orientation, int]:
    """How to make a frame upright, and its counterclockwise rotation.

    The display matrix (ISO/IEC 14496-12, 8.2.2) maps pixel (x, y) to (a x + c y, b x + d y), y downwards.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation(), 0
    a, b, _, c, d, *_ = np.frombuffer(bytes(cast("SideData", matrix)), dtype=np.int32).tolist()
    if abs(b) > abs(a):
        return Orientation(True, b < 0, c < 0), 90 if b < 0 else 270
    return Orientation(False, d < 0, a < 0), 180 if d < 0 else 0
