"""What a video file holds, and its frames, exact to the frame.

Truth is the order in which frames come out of a full sequential decode. Everything here gives what that gives:

- MPEG-4 in AVI (UCF101, HMDB51, UT-Interaction) has timestamps out of order and headers that claim frames which
  do not exist. There frame `i` is the `i`-th that decodes, on display from `i / frame rate`.
- Elsewhere a frame is on display from its timestamp, counted from that of the first displayed frame. Timestamps
  that are missing, doubled or not ascending are not trusted: the file is then treated like MPEG-4 in AVI.
- A damaged file is read from its beginning. Damage inside of pictures does not show in packets: until
  `kinema data check --deep` has found it, frames there are told by their timestamps, and a frame that others do not
  need may have been left out although its damage would have changed later ones.
- In MP4, MOV, Matroska and WebM, packets say all that, and `probe` decodes a few frames only: where the pictures' own
  headers prove that they are displayed in the order of their timestamps. Else it decodes the file once in full.

Still images and folders of frames are in `kinema.data.images`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.containers import Reading, check_file, opened
from kinema.data.frame_table import probe_file
from kinema.data.images import is_image, probe_folder, probe_image, read_images
from kinema.data.machine import MachineError, data_error, is_machines
from kinema.data.pictures import Picture, take_rgb
from kinema.data.sparse import DamagedError, take_by_index
from kinema.data.truncation import check_complete
from kinema.data.video import STORE, Video
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

R = TypeVar("R")


def probe(path: Path, *, fps: float | None = None, in_full: bool = False) -> Video:
    """Find the true number of frames of a video, and when each of them is on display.

    Args:
        path: A video, a still image (a video of one frame), or a folder of frames, one image file each.
        fps: Frames per second of a folder of frames. Files know theirs.
        in_full: Decode all of a video, which finds damage that its packets do not show.

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
    return probe_file(path, in_full=in_full)


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


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # `check_file` will say
        return False


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
        raise data_error(f"{video.path}: cannot be read ({error.strerror})", error) from None
    except (DamagedError, av.FFmpegError, ValueError) as error:
        if is_machines(error):
            raise MachineError(f"{video.path}: cannot be decoded ({error})") from None
        _LOG.debug("%s: not read by the packet index: %s", video.path, error)
        return {}
    if len(taken) < len(wanted):
        _LOG.debug(
            "%s: %d of %d frames not found by the packet index", video.path, len(wanted) - len(taken), len(wanted)
        )
    return taken


def _take_by_container(video: Video, wanted: set[int], take: Callable[[VideoFrame], R]) -> dict[int, R]:
    """Index -> what was taken, in the order of the container, from the beginning."""
    with opened(video.path) as (container, stream):
        numbers = _numbers(video, wanted, stream)
        taken: dict[int, R] = {}
        for position, frame in enumerate(Reading(container, stream).frames()):
            number = position if video.first_pts is None else frame.pts
            index = None if number is None else numbers.get(number)
            if index is not None and index not in taken:
                taken[index] = take(frame)
                if len(taken) == len(wanted):
                    break
        return taken
