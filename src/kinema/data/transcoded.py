"""Videos that were transcoded once, so that a clip in the middle of them is near a key frame."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kinema.data.frame_store import Files
from kinema.data.probing import probe_all
from kinema.data.shards import Store, entry_key
from kinema.data.video import Video
from kinema.types import DataError, fingerprint

KIND: Final = "transcode"

FOLDER: Final = "videos"
"""Where in a store they are."""


def video_key(state: Mapping[str, Any]) -> bytes:
    """Key of a transcoded video.

    Args:
        state: Of the file that it is made of, from `Files.state`.
    """
    return entry_key({"video": dict(state)})


def file_name(key: bytes) -> str:
    """Name in a store of what a video became."""
    return f"{key.hex()}.mp4"


def videos(store: Store, found: Mapping[Path, Video], files: Files) -> tuple[dict[Path, Video], str]:
    """Path -> the transcoded video, or where there is none the one that was found; and what differs with the content of
    these. Files that have changed since have none, nor have those that could not be transcoded.

    Raises:
        DataError: A transcoded video is not what was written.
    """
    keys = {path: video_key(files.state(path)) for path in found}
    digests = {path: store.get(key).tobytes().hex() for path, key in keys.items() if key in store}
    names = {path: store.folder / FOLDER / file_name(keys[path]) for path, content in digests.items() if content}
    probed = probe_all(names.values())
    result = dict(found)
    for path, name in names.items():
        video = probed[name]
        if isinstance(video, DataError):
            raise DataError(f"{video}; see kinema data check {store.folder}")
        # How long the last frame is on display, not every container says in the same way.
        result[path] = replace(video, duration_s=found[path].duration_s, fps=found[path].fps)
    return result, fingerprint({keys[path].hex(): digests[path] for path in names})


def digest(path: Path) -> bytes:
    """Of a transcoded video's content: the data of its entry.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def damaged(store: Store, *, checked: Callable[[int], None] = lambda _num_bytes: None) -> list[bytes]:
    """Keys of videos that are not what was written.

    Args:
        store: Of transcoded videos.
        checked: Called with the number of bytes of each video that has been read.
    """
    found = store.damaged()
    for key in _made(store):
        path = store.folder / FOLDER / file_name(key)
        try:
            if key not in found and digest(path) != store.get(key).tobytes():
                found.append(key)
            checked(path.stat().st_size)
        except OSError:
            found.append(key)
    return found


def num_bytes(store: Store) -> int:
    """Of all videos of a store, as far as they are there."""
    sizes = ((store.folder / FOLDER / file_name(key)) for key in _made(store))
    return sum(path.stat().st_size for path in sizes if path.is_file())


def _made(store: Store) -> list[bytes]:
    """Keys of videos that could be transcoded."""
    return [key for key in store if store.num_bytes_of(key)]
