"""What a video file holds, and its frames, exact to the frame.

Truth is the order in which frames come out of a full sequential decode. Everything here gives what that gives:

- MPEG-4 in AVI (UCF101, HMDB51, UT-Interaction) has timestamps out of order and headers that claim frames which
  do not exist. There frame `i` is the `i`-th that decodes, on display from `i / frame rate`.
- Elsewhere a frame is on display from its timestamp, counted from that of the first displayed frame. Timestamps
  that are missing, doubled or not ascending are not trusted: the file is then treated like MPEG-4 in AVI.
- In MP4, MOV, Matroska and WebM, timestamps of packets say all that, and `probe` decodes one frame only.

Still images and folders of frames are in `kinema.data.images`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.containers import Reading, check_file, codec_name, opened
from kinema.data.images import is_image, probe_folder, probe_image, read_images
from kinema.data.indexing import CHECKED_FRAMES, PacketCollector, Shadow
from kinema.data.packet_index import PacketIndex
from kinema.data.pictures import Picture, take_rgb
from kinema.data.sparse import take_by_index
from kinema.data.truncation import check_complete, is_short
from kinema.data.video import STORE, Orientation, Video
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

R = TypeVar("R")

# Where one packet is one displayed frame and carries its time. VP8 (packets that are never displayed) and MPEG-4
# (packets of several frames and of none) are not among them, in whatever container.
_INDEXED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_INDEXED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})

# Before this it is cheaper to decode from the start than to seek.
_SEEK_FROM_S = 10.0


def probe(path: Path, *, fps: float | None = None) -> Video:
    """Find the true number of frames of a video, and when each of them is on display.

    Args:
        path: A video, a still image (a video of one frame), or a folder of frames, one image file each.
        fps: Frames per second of a folder of frames. Files know theirs.

    Raises:
        DataError: There is no such file, it was cut short, or no frame of it decodes; or the rate of a folder of
            frames is not given, or frames are missing in it.
    """
    path = Path(path)
    if _is_folder(path):
        return probe_folder(path, fps)
    check_file(path)
    if is_image(path):
        return probe_image(path)
    check_complete(path)
    with opened(path) as (container, stream):
        indexed = _is_indexed(container, stream)
        if indexed:
            with PacketCollector(path, stream) as collector:
                table = _table_from_packets(container, stream, collector)
            if table is not None:
                return _video(path, container, stream, table)
    with opened(path) as (container, stream), Shadow(path) as shadow:
        table = _table_from_frames(path, container, stream, shadow, indexed=indexed)
        return _video(path, container, stream, table)


def read_frames(video: Video, indices: Iterable[int]) -> list[NDArray[np.uint8]]:
    """Decode frames of a video.

    Args:
        video: What `probe` returned.
        indices: Which frames, in any order, with repetitions.

    Returns:
        For each index, in the order asked, RGB of shape (video.height_px, video.width_px, 3), upright. An index
        asked twice gives the same array twice.

    Raises:
        DataError: A frame does not decode.
        IndexError: The video has no such frame.
    """
    return take_frames(video, indices, take_rgb(video))


def take_frames(
    video: Video, indices: Iterable[int], take: Callable[[Picture], R], *, decoder: str = "pyav"
) -> list[R]:
    """Decode frames of a video, and make something of each as it comes out of the decoder.

    Args:
        video: What `probe` returned.
        indices: Which frames, in any order, with repetitions.
        take: Called once on each frame that was asked for, in any order: a frame as decoded, which `video.orientation`
            makes upright, or upright RGB (height, width, 3) where there is no such thing (images, other decoders).
        decoder: "pyav", or the name of another one.

    Returns:
        For each index, in the order asked, what `take` returned; of an index asked twice, the same object.

    Raises:
        DataError: A frame does not decode, or the other decoder is not exact on this video or not installed.
        IndexError: The video has no such frame.
    """
    asked = [int(index) for index in indices]
    num_frames = len(video.times_s)
    outside = [index for index in asked if not 0 <= index < num_frames]
    if outside:
        raise IndexError(f"{video.path}: frame {outside[0]} asked for, there are {num_frames}")
    if not asked:
        return []
    if video.is_images:
        by_index = dict(zip(asked, read_images(video, asked), strict=True))
        taken = {index: take(image) for index, image in by_index.items()}
        return [taken[index] for index in asked]
    elsewhere = _elsewhere(video, decoder)
    if elsewhere is not None:
        return elsewhere(video, asked, take)
    check_file(video.path)
    wanted = set(asked)
    taken = _take_by_index(video, wanted, take)
    if len(taken) < len(wanted):
        taken = _take_by_container(video, wanted, take)
    missing = wanted - taken.keys()
    if missing:
        first = min(missing)
        raise DataError(
            f"{video.path}: frame {first} of {num_frames} (at {video.times_s[first]:.3f} s) does not decode; "
            "the file is damaged, or has changed since it was probed"
        )
    return [taken[index] for index in asked]


def count_frames(video: Video) -> tuple[int, bool]:
    """Decode a video file from its beginning to its end.

    Returns:
        How many frames come out, and whether anything did not decode in full.

    Raises:
        DataError: The file cannot be opened.
    """
    check_file(video.path)
    with opened(video.path) as (container, stream):
        reading = Reading(container, stream)
        num_frames = sum(1 for _ in reading.frames())
        return num_frames, reading.damaged


@dataclass(frozen=True, kw_only=True)
class _Table:
    """When frames are on display, in ticks of `tick_s` seconds from the first of them."""

    ticks: NDArray[np.int64]
    last_ticks: int  # how long the last frame is on display; 0 where the file does not say
    tick_s: Fraction
    first: VideoFrame
    first_pts: int | None
    damaged: bool = False
    packets: PacketIndex | None = None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # `check_file` will say
        return False


def _is_indexed(container: InputContainer, stream: VideoStream) -> bool:
    known = _INDEXED_CONTAINERS.intersection(container.format.name.split(","))
    return bool(known) and codec_name(stream) in _INDEXED_CODECS


def _table_from_packets(container: InputContainer, stream: VideoStream, collector: PacketCollector) -> _Table | None:
    """The table of frames without decoding more than the first few, or None where the packets leave a doubt."""
    reading = Reading(container, stream)
    durations: dict[int, int] = {}  # by timestamp, of packets that are displayed
    num_packets = num_displayed = 0
    frames: list[VideoFrame] = []
    for packet in reading.packets():
        if len(frames) < CHECKED_FRAMES:
            frames += reading.decode(packet)
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            continue  # the end
        if packet.size == 0 or packet.pts is None:
            return None
        num_packets += 1
        if not packet.is_discard:
            num_displayed += 1
            durations[packet.pts] = packet.duration or 0
        collector.add(packet)
    claimed = stream.frames or num_packets
    if reading.damaged or not frames or stream.time_base is None or num_packets != claimed:
        return None
    pts = np.array(sorted(durations), dtype=np.int64)
    # Frames at the start that need what was cut away are packets, but never come out of the decoder.
    if len(pts) != num_displayed or frames[0].pts != pts[0]:
        return None
    first_pts, last_ticks = int(pts[0]), durations[int(pts[-1])]
    ticks = pts - first_pts
    return _Table(
        ticks=ticks,
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
    by_order = container.format.name == "avi" and codec_name(stream) == "mpeg4"
    if not by_order and time_base is not None and _is_ascending(pts):
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
    orientation, rotation_deg = _orientation(table.first)
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


def _numbers(video: Video, wanted: Iterable[int], stream: VideoStream) -> dict[int, int]:
    """What tells a wanted frame from others (its timestamp, else its place in the sequence) -> its index."""
    if video.first_pts is None or stream.time_base is None:
        return {index: index for index in wanted}
    # `times_s` are whole ticks, and far fewer than 2**52 of them: rounding gives back exactly the timestamp.
    tick_s = stream.time_base
    ticks = {index: round(Fraction(float(video.times_s[index])) / tick_s) for index in wanted}
    return {video.first_pts + tick: index for index, tick in ticks.items()}


def _elsewhere(video: Video, decoder: str) -> Any:
    """What takes frames of videos that are not files for PyAV."""
    # By name: not everything that can be taken from has to be there.
    if video.container == STORE:
        return importlib.import_module("kinema.data.stored_video").take
    if decoder != "pyav":
        return importlib.import_module("kinema.data.decoders").decoder(decoder).take
    return None


def _take_by_index(video: Video, wanted: set[int], take: Callable[[VideoFrame], R]) -> dict[int, R]:
    """Index -> what was taken, by the packet index. Some or all are missing where there is none, or it is not true."""
    index = None if video.packets is None else video.packets.load()
    if index is None:
        return {}
    if index.num_frames != len(video.times_s):
        _LOG.debug("%s: its packet index is about another number of frames", video.path)
        return {}
    try:
        taken = take_by_index(video.path, index, wanted, take)
    except OSError as error:
        raise DataError(f"{video.path}: cannot be read ({error.strerror})") from None
    if len(taken) < len(wanted):
        _LOG.debug(
            "%s: %d of %d frames not found by the packet index", video.path, len(wanted) - len(taken), len(wanted)
        )
    return taken


def _take_by_container(video: Video, wanted: set[int], take: Callable[[VideoFrame], R]) -> dict[int, R]:
    """Index -> what was taken, in the order of the container: from a key frame far in, or from the beginning."""
    taken: dict[int, R] = {}
    if video.first_pts is not None and video.times_s[min(wanted)] > _SEEK_FROM_S:
        with opened(video.path) as (container, stream):
            keys = _numbers(video, wanted, stream)
            taken = _take(video, _frames_from_key(container, stream, min(keys)), wanted, keys, take)
    if len(taken) < len(wanted):  # nothing to seek by, or seeking did not find them all
        with opened(video.path) as (container, stream):
            frames = Reading(container, stream).frames()
            taken = _take(video, frames, wanted, _numbers(video, wanted, stream), take)
    return taken


def _take(
    video: Video,
    frames: Iterator[VideoFrame],
    wanted: set[int],
    numbers: dict[int, int],
    take: Callable[[VideoFrame], R],
) -> dict[int, R]:
    """Index -> what was taken of the wanted frames among those given."""
    taken: dict[int, R] = {}
    for position, frame in enumerate(frames):
        number = position if video.first_pts is None else frame.pts
        index = None if number is None else numbers.get(number)
        if index is not None and index not in taken:
            taken[index] = take(frame)
            if len(taken) == len(wanted):
                break
    return taken


def _frames_from_key(container: InputContainer, stream: VideoStream, pts: int) -> Iterator[VideoFrame]:
    """Frames from a key frame at or before `pts` on, or none where there is no key frame that is sure to do."""
    reading = Reading(container, stream)
    target = pts
    for _ in range(3):
        try:
            container.seek(target, stream=stream)
        except av.FFmpegError:
            return
        packets = reading.packets()
        key = next(packets)
        if key.pts is None or not key.is_keyframe:
            return
        if key.pts <= pts:
            break
        # Seeking may go by decode time: in an open group that can lead to the key frame behind.
        target = min(pts, pts if key.dts is None else key.dts) - 1
    else:
        return
    started = False
    for frame in reading.frames(chain([key], packets)):
        if not started:
            if frame.pts is None or frame.pts < key.pts:
                continue  # displayed before the key frame: made from frames that have not been decoded
            # Containers also flag frames from which a picture builds up only gradually.
            if frame.pts != key.pts or not frame.key_frame or frame.pict_type != PictureType.I:
                return
            started = True
        yield frame


def _orientation(frame: VideoFrame) -> tuple[Orientation, int]:
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
