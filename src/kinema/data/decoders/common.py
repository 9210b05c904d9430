"""What decoders other than PyAV share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from kinema.data.video import Orientation, Video
from kinema.types import DataError

R = TypeVar("R")

# What a rotation by so many degrees counterclockwise is. Any other orientation is also mirrored.
_ROTATIONS = {
    0: Orientation(),
    90: Orientation(transposed=True, flip_rows=True),
    180: Orientation(flip_rows=True, flip_columns=True),
    270: Orientation(transposed=True, flip_columns=True),
}


class Decoder(Protocol):
    """Decodes video files with a library that is not PyAV."""

    @property
    def name(self) -> str:
        """As `clips.decoder` calls it."""
        ...

    def refusal(self, video: Video) -> str | None:
        """Why this decoder would not give the frames of a video exactly, or None where it does. Reads no file."""
        ...

    def take(self, video: Video, indices: Iterable[int], take: Callable[[NDArray[np.uint8]], R]) -> list[R]:
        """Decode frames, and call `take` on each wanted one as it comes out.

        Args:
            video: What `probe` returned.
            indices: Which frames, in any order, with repetitions.
            take: Given RGB (video.height_px, video.width_px, 3), upright. The array is its to keep.

        Returns:
            For each index, in the order asked, what `take` returned; the same object for an index asked twice.

        Raises:
            DataError: The video is refused, or does not decode to the frames that it had when it was probed.
            IndexError: The video has no such frame.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """Which stream of a file PyAV decodes, and the length of its ticks."""

    index: int
    video_index: int  # among the streams of video
    tick_s: Fraction | None


def stream_facts(video: Video) -> StreamFacts:
    """Find the first stream of video that is not a cover picture: other libraries may prefer another.

    Raises:
        DataError: The file cannot be opened, or there is none.
    """
    try:
        with av.open(f"file:{video.path}", "r", metadata_errors="replace") as container:
            for video_index, stream in enumerate(container.streams.video):
                if not stream.disposition & Disposition.attached_pic:
                    return StreamFacts(index=stream.index, video_index=video_index, tick_s=stream.time_base)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{video.path}: cannot be opened ({error.strerror})") from None
    raise DataError(f"{video.path}: no video stream")


def common_refusal(video: Video) -> str | None:
    """Why no decoder but PyAV gives the frames of a video exactly, or None."""
    if video.is_images:
        return "these are images, not a video file"
    if video.damaged:
        return "the file is damaged, and libraries differ in what they make of the rest"
    try:
        os.fspath(video.path).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def is_mirrored(video: Video) -> bool:
    """Whether the file says that it is to be shown as in a mirror, besides rotated."""
    return video.orientation != _ROTATIONS[video.rotation_deg]


def upright(image: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """An image (height, width, 3) as it is to be seen, contiguous."""
    if orientation.transposed:
        image = image.transpose(1, 0, 2)
    if orientation.flip_rows:
        image = image[::-1]
    if orientation.flip_columns:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def checked_indices(video: Video, indices: Iterable[int]) -> list[int]:
    """The indices as a list.

    Raises:
        IndexError: The video has no such frame.
    """
    asked = [int(index) for index in indices]
    num_frames = len(video.times_s)
    outside = [index for index in asked if not 0 <= index < num_frames]
    if outside:
        raise IndexError(f"{video.path}: frame {outside[0]} asked for, there are {num_frames}")
    return asked


def refused(name: str, video: Video, reason: str) -> DataError:
    """What is raised where a decoder is not exact on a video."""
    return DataError(f"{video.path}: clips.decoder={name} is refused for this file: {reason}; set clips.decoder=pyav")


def failed(name: str, video: Video, index: int, what: str) -> DataError:
    """What is raised where a decoder did not give the frame that it was asked for."""
    return DataError(
        f"{video.path}: clips.decoder={name}: frame {index} of {len(video.times_s)} {what}; set clips.decoder=pyav, "
        "or if the file has changed since it was probed, run this again"
    )


def check_size(name: str, video: Video, index: int, image: NDArray[np.uint8]) -> None:
    """Make sure that an upright frame is as large as the first one.

    Raises:
        DataError: It is not.
    """
    height_px, width_px = image.shape[:2]
    if image.shape != (video.height_px, video.width_px, 3) or image.dtype != np.uint8:
        raise failed(
            name, video, index, f"comes out as {width_px}x{height_px}, not {video.width_px}x{video.height_px} in RGB"
        )


def in_order(asked: Sequence[int], results: dict[int, R]) -> list[R]:
    """For each index its result."""
    return [results[index] for index in asked]
