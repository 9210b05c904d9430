"""Videos that were transcoded once, so that a clip in the middle of them is near a key frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kinema.data.frame_store import Files
from kinema.data.probing import probe_all
from kinema.data.shards import Store, entry_key
from kinema.data.video import Video
from kinema.types import DataError

KIND: Final = "transcode"


def video_key(state: Mapping[str, Any]) -> bytes:
    """Key of a transcoded video.

    Args:
        state: Of the file that it is made of, from `Files.state`.
    """
    return entry_key({"video": dict(state)})


def file_name(key: bytes) -> str:
    """Name in a store of what a video became."""
    return f"{key.hex()}.mp4"


def videos(store: Store, found: Mapping[Path, Video], files: Files) -> dict[Path, Video]:
    """Path -> the transcoded video, or where there is none the one that was found. Files that have changed since have
    none.

    Raises:
        DataError: A transcoded video is not what was written.
    """
    names = {}
    for path in found:
        key = video_key(files.state(path))
        if key in store:
            names[path] = store.folder / "videos" / file_name(key)
    probed = probe_all(names.values())
    result = dict(found)
    for path, name in names.items():
        video = probed[name]
        if isinstance(video, DataError):
            raise DataError(f"{video}; see kinema data check {store.folder}")
        result[path] = video
    return result
