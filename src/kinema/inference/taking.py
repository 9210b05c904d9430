"""From the pictures of a stream to what stands for a frame in a model's input, as it is for the clips of a file."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from kinema.data.decoding import Video
from kinema.data.geometry import Box, centre_box
from kinema.data.modalities import field_maker
from kinema.data.pictures import resize_i420, take_planes, take_rgb
from kinema.data.reading import still_pictures, to_size
from kinema.data.stored_flow import reads_stored
from kinema.data.video import UPRIGHT, Orientation
from kinema.inference.live_types import Picture
from kinema.types import DataError, Preprocessing

_STREAM = Path("stream")


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What stands for a frame.

    Attributes:
        time_s: When the frame comes on display.
        values: uint8, of `Preprocessing.frame_shape`.
    """

    time_s: float
    values: NDArray[np.uint8]


class FrameTaker:
    """Cuts and scales each picture.

    Args:
        preprocessing: Of frames.
    """

    reach_s = 0.0
    """For how long behind a frame pictures are needed."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._known: tuple[tuple[int, int, Orientation], Video, Box] | None = None

    def take(self, picture: Picture) -> list[Taken]:
        """The picture itself.

        Raises:
            DataError: Its pixels cannot be read.
        """
        return [Taken(picture.time_s, self.values(picture))]

    def values(self, picture: Picture) -> NDArray[np.uint8]:
        """
        Raises:
            DataError: Its pixels cannot be read.
        """
        video, box = self._geometry(picture)
        out = np.empty((1, *self.preprocessing.frame_shape), dtype=np.uint8)
        if self.preprocessing.pixels == "i420":
            resize_i420([take_planes(video, box)(picture.image)], self.preprocessing.size_px, out)
        else:
            out[...] = to_size([take_rgb(video, box)(picture.image)], None, self.preprocessing.size_px).numpy()
        return out[0]

    def reset(self) -> None:
        """Frames are taken one by one: there is nothing to forget."""

    def _geometry(self, picture: Picture) -> tuple[Video, Box]:
        """Of pictures of this size, which may change on the way."""
        image, orientation = picture.image, picture.orientation
        if isinstance(image, VideoFrame):
            height_px, width_px = image.height, image.width
        else:
            (height_px, width_px), orientation = image.shape[:2], UPRIGHT
        key = (width_px, height_px, orientation)
        if self._known is None or self._known[0] != key:
            if orientation.transposed:
                width_px, height_px = height_px, width_px
            video = Video(
                path=_STREAM,
                times_s=np.zeros(1),
                duration_s=0.0,
                fps=1.0,
                width_px=width_px,
                height_px=height_px,
                rotation_deg=0,
                codec="",
                container="",
                orientation=orientation,
            )
            self._known = key, video, centre_box(height_px, width_px, self.preprocessing)
        return self._known[1:]


class FieldTaker:
    """Makes fields of motion, as soon as there are the pictures that they are of.

    Args:
        preprocessing: Of motion.

    Raises:
        DataError: Its fields are read from files.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        assert preprocessing.motion is not None
        if reads_stored([preprocessing]):
            raise DataError(
                "this model reads optical flow from files (clips.motion.method=stored), which a stream has none of; "
                "take one that was trained on flow that is computed"
            )
        self.preprocessing = preprocessing
        self._motion = preprocessing.motion
        self._stills = FrameTaker(still_pictures(preprocessing))
        self._make = field_maker(preprocessing)
        self.reset()

    @property
    def reach_s(self) -> float:
        return self._reach_s

    def reset(self) -> None:
        """The stream begins anew."""
        self._pictures: deque[Taken] = deque()  # from the next frame that is to be given on
        self._fields: dict[tuple[float, float], NDArray[np.uint8]] = {}
        self._reach_s = 0.0

    def take(self, picture: Picture) -> list[Taken]:
        """Those frames whose fields are complete with this picture: none, or an earlier one, or several after a gap.

        Raises:
            DataError: Its pixels cannot be read.
        """
        self._pictures.append(Taken(picture.time_s, self._stills.values(picture)))
        step = self._motion.step(1 / picture.duration_s)
        apart_s = step * picture.duration_s
        self._reach_s = self._motion.stack * apart_s
        late_s = picture.duration_s / 2  # that a picture may be late
        found = []
        while self._pictures[0].time_s + self._reach_s <= picture.time_s + late_s:
            found.append(self._stack(apart_s, late_s))
            first = self._pictures.popleft().time_s
            self._fields = {pair: field for pair, field in self._fields.items() if pair[0] > first}
        return found

    def _stack(self, apart_s: float, late_s: float) -> Taken:
        """The fields of the first picture that is kept."""
        first = self._pictures[0].time_s
        chosen = [self._on_display(first + number * apart_s + late_s) for number in range(self._motion.stack + 1)]
        fields = []
        for one, other in itertools.pairwise(chosen):
            pair = one.time_s, other.time_s
            if pair not in self._fields:
                self._fields[pair] = self._make(one.values, other.values)
            fields.append(self._fields[pair])
        return Taken(first, np.concatenate(fields))

    def _on_display(self, time_s: float) -> Taken:
        found = self._pictures[0]
        for picture in self._pictures:
            if picture.time_s > time_s:
                break
            found = picture
        return found


def make_taker(preprocessing: Preprocessing) -> FrameTaker | FieldTaker:
    """What makes one stream's input of pictures."""
    return FrameTaker(preprocessing) if preprocessing.motion is None else FieldTaker(preprocessing)
