"""Stored frames as a video: clips are cut out of them as they are out of what a decoder gives.

The frames of each stored clip are a video of their own, whose path is the store's with the entry's key behind it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from kinema.data.frame_store import KIND, Files
from kinema.data.pictures import Picture, Planes
from kinema.data.sampling import clip_interval_s
from kinema.data.shards import Store
from kinema.data.video import STORE, Video
from kinema.types import Clip, DataError

R = TypeVar("R")

_STORES = 16
"""Stores that a process keeps open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A list of clips of which some are read from a store.

    Attributes:
        clips: In the order of the list. Those that are stored begin at 0 and have a video of their own.
        videos: Of all of these.
        num_stored: How many are read from the store.
        num_stale: How many are not, as their file has changed since they were stored.
    """

    clips: list[Clip]
    videos: dict[Path, Video]
    num_stored: int
    num_stale: int


def stored_videos(store: Store, clips: Sequence[Clip], videos: Mapping[Path, Video], *, root: Path | None) -> Stored:
    """Clips and their videos, those that are stored replaced by what is stored.

    Args:
        store: Of frames.
        clips: Of a data set.
        videos: What probing their videos found.
        root: Folder of the data set.

    Raises:
        DataError: A clip's times lie outside its video, or the store is damaged.
    """
    entries, names = _entries(store)
    files = Files(root)
    found: list[Clip] = []
    used: dict[Path, Video] = {}
    num_stored = num_stale = 0
    for clip in clips:
        start_s, stop_s = clip_interval_s(clip, videos[clip.video])
        state = files.state(clip.video)
        key = entries.get((*_identity(state), start_s, stop_s))
        if key is None:
            num_stale += (state["path"], start_s, stop_s) in names
            found.append(clip)
            used[clip.video] = videos[clip.video]
            continue
        num_stored += 1
        path = store.folder / key.hex()
        used[path] = _video(path, store.meta(key))
        found.append(replace(clip, video=path, start_s=0.0, stop_s=None, fps=None))
    return Stored(clips=found, videos=used, num_stored=num_stored, num_stale=num_stale)


def take(video: Video, indices: Iterable[int], take: Callable[[Picture], R]) -> list[R]:
    """Make something of each stored frame that is asked for, as `kinema.data.decoding.take_frames` does.

    Raises:
        DataError: The store cannot be read, or is not what it was.
    """
    asked = list(indices)
    store = _opened(video.path.parent)
    key = bytes.fromhex(video.path.name)
    if key not in store:  # opened before more was stored
        _opened.cache_clear()
        store = _opened(video.path.parent)
    if key not in store:
        raise DataError(f"{video.path.parent}: does not hold the clip any more that it held; start again")
    meta = _meta(video.path.parent, key)
    taken = {index: take(_picture(store, key, meta, index)) for index in sorted(set(asked))}
    return [taken[index] for index in asked]


def _picture(store: Store, key: bytes, meta: Mapping[str, Any], index: int) -> Picture:
    """Planes, or RGB (H, W, 3)."""
    height_px, width_px = meta["size_px"]
    if meta["pixels"] == "jpeg":
        sizes = meta["jpeg_bytes"]
        packed = np.empty(sizes[index], dtype=np.uint8)
        store.read_into(key, packed, start=sum(sizes[:index]))
        try:
            return np.asarray(Image.open(io.BytesIO(packed.tobytes()), formats=["JPEG"]).convert("RGB"))
        except (OSError, ValueError) as error:
            raise DataError(f"{store.folder}: damaged ({error}); see kinema data check {store.folder}") from None
    if meta["pixels"] == "i420":
        row = np.empty(height_px * width_px * 3 // 2, dtype=np.uint8)
        store.read_into(key, row, start=index * row.nbytes)
        return Planes.of_row(row, height_px, width_px)
    pixels = np.empty((3, height_px, width_px), dtype=np.uint8)
    store.read_into(key, pixels, start=index * pixels.nbytes)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _video(path: Path, meta: Mapping[str, Any]) -> Video:
    """Times are counted from the start of the clip, at which the first stored frame is on display."""
    times_s = np.maximum(np.array(meta["times_s"], dtype=np.float64) - meta["start_s"], 0.0)
    times_s[0] = 0.0
    duration_s = meta["stop_s"] - meta["start_s"]
    height_px, width_px = meta["size_px"]
    return Video(
        path=path,
        times_s=times_s,
        duration_s=duration_s,
        fps=len(times_s) / duration_s,
        width_px=width_px,
        height_px=height_px,
        rotation_deg=0,
        codec=meta["pixels"],
        container=STORE,
    )


def _entries(store: Store) -> tuple[dict[tuple[Any, ...], bytes], set[tuple[Any, ...]]]:
    """(file, start, end) -> key of what is stored of that clip, random versions left aside; and the same without the
    file's size and time of change."""
    entries: dict[tuple[Any, ...], bytes] = {}
    names = set()
    for key in store:
        meta = store.meta(key)
        if meta["view"] is None:
            entries.setdefault((*_identity(meta["video"]), meta["start_s"], meta["stop_s"]), key)
            names.add((meta["video"]["path"], meta["start_s"], meta["stop_s"]))
    return entries, names


def _identity(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return state["path"], state["size"], state["mtime_ns"]


@functools.lru_cache(maxsize=_STORES)
def _opened(folder: Path) -> Store:
    return Store.open(folder, kind=KIND)


@functools.lru_cache(maxsize=256)
def _meta(folder: Path, key: bytes) -> dict[str, Any]:
    return _opened(folder).meta(key)
