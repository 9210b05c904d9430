"""A clip that is given by its file alone, as one who uses a model gives it."""

from __future__ import annotations

import logging
from pathlib import Path

from kinema.data.probing import probe_all
from kinema.data.video import Video
from kinema.types import Clip, DataError

log = logging.getLogger(__name__)


def open_clip(
    path: Path, *, start_s: float = 0.0, stop_s: float | None = None, fps: float | None = None
) -> tuple[Clip, Video]:
    """A clip, and what its video is.

    Args:
        path: A video file, a still image, or a folder of frames.
        start_s: Where the clip begins in it.
        stop_s: Where it ends; None is the end of the file.
        fps: Frames per second of a folder of frames.

    Raises:
        DataError: It cannot be read.
    """
    clip = Clip(clip_id=path.name, video=path, start_s=start_s, stop_s=stop_s, fps=fps)
    (found,) = probe_all([path], fps=None if fps is None else {path: fps}).values()
    if isinstance(found, DataError):
        raise found
    if found.damaged:
        log.warning("%s: damaged in places; what decodes of it is used", path)
    return clip, found
