"""What is known of a video before its frames are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinema.data.packet_index import PacketSource

IMAGE: Final = "image"
"""Container of a still image."""
FRAMES: Final = "frames"
"""Container of a folder of frames."""
STORE: Final = "store"
"""Container of a video of which a store holds the frames."""


class Orientation(NamedTuple):
    """How to make a decoded frame upright: transpose it, then flip its rows, then its columns."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Video:
    """What `probe` found out about a file, or about a folder of frames.

    Attributes:
        path: The file or folder.
        times_s: float64 (num_frames,), when each frame comes on display, from the first displayed frame.
            Ascending, `times_s[0] == 0`.
        duration_s: End of the last frame.
        fps: Frames per second, on average.
        width_px: Width as displayed, after rotation.
        height_px: Height as displayed, after rotation.
        rotation_deg: By how much decoded frames are turned counterclockwise to stand upright: 0, 90, 180 or 270
            (and then mirrored, where the file says so).
        codec: FFmpeg's name of the codec ("h264"); of images, Pillow's name of the format in small letters ("jpeg").
        container: FFmpeg's name of the container ("avi"), `image` or `frames`.
        first_pts: Timestamp of the first displayed frame in the stream's time base where frames can be told apart
            by their timestamps; None where only their order tells. In a folder of frames, the number in the name of
            the first.
        damaged: Something in it did not decode in full when it was probed; what did is in `times_s`.
        orientation: How to make frames upright as they come out of a decoder.
        packets: Where its packets lie in the file and what they are good for; None where frames cannot be read that
            way and be exact.
        names: In a folder of frames, a format that makes names of files from their numbers ("frame_%010d.jpg").
    """

    path: Path
    times_s: NDArray[np.float64]
    duration_s: float
    fps: float
    width_px: int
    height_px: int
    rotation_deg: int
    codec: str
    container: str
    first_pts: int | None = None
    damaged: bool = False
    names: str | None = None
    orientation: Orientation = Orientation()
    packets: PacketSource | None = None

    @property
    def is_images(self) -> bool:
        """Whether it is a still image, or a folder of them."""
        return self.container in (IMAGE, FRAMES)

    def frames_at(self, times_s: ArrayLike) -> NDArray[np.int64]:
        """Index of the frame on display at each time: the last with `times_s[i] <= time`, clamped into range."""
        index = np.searchsorted(self.times_s, np.asarray(times_s, dtype=np.float64), side="right") - 1
        return np.clip(index, 0, len(self.times_s) - 1).astype(np.int64)
