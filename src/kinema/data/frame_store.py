"""Frames of clips that were decoded once: cut, scaled and stored, so that reading a clip is a copy.

A stored clip is taken where it is what would be decoded, byte for byte: the same frames of the same file, which has not
changed since, cut and scaled in the same way. The key of an entry is made of all that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinema.data.reading import ClipPlan
from kinema.data.shards import Store, entry_key, file_state
from kinema.data.video import Video
from kinema.types import Clip, DataError, Preprocessing

log = logging.getLogger(__name__)

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
    """

    pixels: str
    size_px: int | None = None
    resize_px: int | None = None
    fit: str | None = None
    short_side_px: int | None = None
    quality: int | None = None

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> FrameFormat:
        """What frames have to be to be given to a model without another look."""
        return cls(
            pixels=preprocessing.pixels,
            size_px=preprocessing.size_px,
            resize_px=preprocessing.resize_px,
            fit=preprocessing.fit,
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


def frames_key(state: Mapping[str, Any], plan: ClipPlan, form: FrameFormat) -> bytes:
    """Key of the frames of a plan. Which rectangle was cut out is in the plan, so the format counts only in so far as
    it says what becomes of that.

    Args:
        state: Of the video, from `Files.state`.
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
        }
    )


class FrameStore:
    """Clips that lie ready, in one store or several.

    Args:
        stores: Of frames.
        files: The data set's.
        whole: They hold everything that the reader may ask for.
    """

    def __init__(self, stores: Sequence[Store], files: Files, *, whole: bool = False) -> None:
        self.stores = stores
        self.files = files
        self.whole = whole

    def holds(self, clip: Clip, plan: ClipPlan, preprocessing: Preprocessing) -> bool:
        """Whether the frames of a plan are there, of the file as it is now."""
        return self._find(clip, plan, preprocessing) is not None

    def read(
        self, clip: Clip, video: Video, plan: ClipPlan, preprocessing: Preprocessing, out: NDArray[np.uint8]
    ) -> bool:
        """Write what `read_plan` would write.

        Args:
            clip: The clip.
            video: What probing its video found.
            plan: Which of its frames.
            preprocessing: What frames have to be.
            out: (T, *preprocessing.frame_shape), C-contiguous.

        Returns:
            Whether it is there. If not, nothing was written.

        Raises:
            DataError: The store cannot be read.
        """
        found = self._find(clip, plan, preprocessing)
        if found is None:
            return False
        store, key = found
        unique = sorted(set(plan.indices))
        if len(unique) == len(plan.indices):
            store.read_into(key, out)
            return True
        frames = np.empty((len(unique), *preprocessing.frame_shape), dtype=np.uint8)
        store.read_into(key, frames)
        out[...] = frames[np.searchsorted(unique, plan.indices)]
        return True

    def _find(self, clip: Clip, plan: ClipPlan, preprocessing: Preprocessing) -> tuple[Store, bytes] | None:
        try:
            state = self.files.state(clip.video)
        except DataError:  # reading the video will say so
            return None
        key = frames_key(state, plan, FrameFormat.of(preprocessing))
        return next(((store, key) for store in self.stores if key in store), None)
