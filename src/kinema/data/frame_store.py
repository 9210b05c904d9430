"""Frames of clips that were decoded once: cut, scaled and stored, so that reading a clip is a copy.

A stored clip is taken where it is what would be decoded, byte for byte: the same frames of the same file, which has not
changed since, cut and scaled in the same way. The key of an entry is made of all that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinema.data.loading import ClipReader
from kinema.data.places import Places
from kinema.data.read_ahead import Drawn
from kinema.data.reading import ClipPlan
from kinema.data.shard_index import KEY_BYTES
from kinema.data.shards import Store, entry_key, file_state
from kinema.types import DataError, Preprocessing, only

KIND: Final = "frames"

_READING: Final = 1
"""To be counted up whenever `read_plan` gives other bytes for the same plan: what was stored before is then not found
any more, and clips are read from their videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFormat:
    """How frames lie in a store.

    Attributes:
        pixels: `i420` and `rgb` are those of `Preprocessing`; `jpeg` are files one behind the other.
        size_px: Side of square frames, cut and scaled as a recipe does it; None for whole frames.
        resize_px: Of square frames, as in `Preprocessing`.
        fit: Likewise.
        short_side_px: Of whole frames, the longest that their short side may be.
        quality: Of JPEG.
        motion: Fields of motion in place of frames: `Preprocessing.motion`, and under `modality` which.
    """

    pixels: str
    size_px: int | None = None
    resize_px: int | None = None
    fit: str | None = None
    short_side_px: int | None = None
    quality: int | None = None
    motion: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> FrameFormat:
        """What frames have to be to be given to a model without another look."""
        return cls(
            pixels=preprocessing.pixels,
            size_px=preprocessing.size_px,
            resize_px=preprocessing.resize_px,
            fit=preprocessing.fit,
            motion=_motion_facts(preprocessing),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it, of JSON types: settings of a store."""
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}


class Files:
    """What the videos of a data set are now, each looked at once.

    Args:
        root: Folder of the data set.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root.parent if root is not None and root.is_file() else root
        self._states: dict[Path, dict[str, Any]] = {}

    def state(self, path: Path) -> dict[str, Any]:
        """As `kinema.data.shards.file_state`.

        Raises:
            DataError: It cannot be looked at.
        """
        if path not in self._states:
            self._states[path] = file_state(path, self.root)
        return self._states[path]

    def state_of(self, video: Path, plan: ClipPlan) -> dict[str, Any]:
        """Of all files that a plan is read from. Those of flow count only where they are read.

        Raises:
            DataError: One cannot be looked at.
        """
        state = self.state(video)
        return state if plan.flow is None else {**state, "flow": [self.state(place) for place in plan.flow.places]}


def frames_key(state: Mapping[str, Any], plan: ClipPlan, form: FrameFormat) -> bytes:
    """Key of the frames of a plan. Which rectangle was cut out is in the plan, so the format counts only in so far as
    it says what becomes of that.

    Args:
        state: Of the files, from `Files.state_of`.
        plan: Which frames.
        form: How they are stored.
    """
    box = plan.box
    return entry_key(
        {
            "reading": _READING,
            "video": dict(state),
            "indices": plan.indices,
            "box": None if form.size_px is None else [box.top_px, box.left_px, box.height_px, box.width_px],
            "size_px": form.size_px,
            "short_side_px": form.short_side_px,
            "pixels": form.pixels,
            "quality": form.quality,
            **({} if plan.stacks is None else {"motion": form.motion, "stacks": plan.stacks}),
        }
    )


def _motion_facts(preprocessing: Preprocessing) -> dict[str, Any] | None:
    motion = preprocessing.motion
    return None if motion is None else {"modality": preprocessing.modality, **motion.facts}


class FrameStore:
    """Clips of a reader that lie ready. Where, and what is drawn for them, is looked up once.

    Args:
        reader: Whose clips; of a number of versions that is known, or of which only what is done on the device is drawn
            anew in every epoch.
        stores: Of frames.
        files: The data set's.
    """

    def __init__(self, reader: ClipReader, stores: Sequence[Store], files: Files) -> None:
        more = reader.augmentation is not None and reader.augmentation.changes_more
        # What is drawn is kept, where that is little.
        self._plan = reader.plan if more or reader.num_views is None else None
        self._num_views = reader.num_views or 1
        # Not a list of `Drawn`: there may be hundreds of thousands.
        self._flip = np.zeros((self._num_views, len(reader)), dtype=np.bool_)
        self._colour = np.full((self._num_views, len(reader), 3), np.nan)
        self._repeated: dict[tuple[int, int], NDArray[np.intp]] = {}
        self._frame_shape = only(reader.preprocessing).frame_shape
        keys = np.zeros((self._num_views, len(reader), KEY_BYTES), dtype=np.uint8)
        form = FrameFormat.of(only(reader.preprocessing))
        for view, index in np.ndindex(self._num_views, len(reader)):
            # Where there is no plan, or no file, reading the video will say so.
            with suppress(DataError):
                plans, drawn = reader.plan(index, view)
                state = files.state_of(reader.clips[index].video, only(plans))
                keys[view, index] = np.frombuffer(frames_key(state, only(plans), form), dtype=np.uint8)
                self._remember(view, index, only(plans), drawn)
        self._places = Places(stores, keys)

    def _remember(self, view: int, index: int, plan: ClipPlan, drawn: Drawn) -> None:
        self._flip[view, index] = drawn.flip
        if drawn.colour is not None:
            self._colour[view, index] = drawn.colour
        unique, place = np.unique(plan.indices, return_inverse=True)
        if len(unique) < len(place):
            self._repeated[view, index] = place

    @property
    def stores(self) -> list[Store]:
        """Those that clips are read from."""
        return self._places.stores

    @property
    def num_held(self) -> int:
        """Clips that lie ready, every version counted."""
        return int(self._places.held.sum())

    @property
    def whole(self) -> bool:
        """Every clip lies ready."""
        return bool(self._places.held.all())

    def read(self, index: int, epoch: int, out: NDArray[np.uint8]) -> Drawn | None:
        """Write what would be decoded.

        Args:
            index: Of a clip of the reader.
            epoch: Which epoch's version.
            out: (T, *preprocessing.frame_shape), C-contiguous.

        Returns:
            What is drawn for the clip and done later; None where it does not lie ready: nothing was written.

        Raises:
            DataError: The store cannot be read; or the clip could not be when it was to be stored.
        """
        place = epoch % self._num_views, index
        repeated = self._repeated.get(place)
        if repeated is None:
            found = self._places.read(place, out)
        else:
            frames = np.empty((int(repeated.max()) + 1, *self._frame_shape), dtype=np.uint8)
            found = self._places.read(place, frames)
            if found:
                out[...] = frames[repeated]
        if not found:
            return None
        return self._drawn(place) if self._plan is None else self._plan(index, epoch)[1]

    def _drawn(self, place: tuple[int, int]) -> Drawn:
        brightness, contrast, saturation = self._colour[place].tolist()
        colour = None if math.isnan(brightness) else (brightness, contrast, saturation)
        return Drawn(flip=bool(self._flip[place]), colour=colour)
