"""Stored frames as a video: clips are cut out of them as they are out of what a decoder gives.

The frames of each stored clip are a video of their own, whose path is the store's with the entry's key behind it. Of a
long clip there are several entries, each with some of its frames; the path is then that of the first.
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
from kinema.types import Clip, DataError, fingerprint

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
        fingerprint: Differs with what is read from the store, and with which clips these are.
    """

    clips: list[Clip]
    videos: dict[Path, Video]
    num_stored: int
    num_stale: int
    fingerprint: str


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
    read: list[bytes] = []
    num_stored = num_stale = 0
    for clip in clips:
        start_s, stop_s = clip_interval_s(clip, videos[clip.video])
        state = files.state(clip.video)
        keys = entries.get((*_identity(state), start_s, stop_s))
        if keys is None:
            num_stale += (state["path"], start_s, stop_s) in names
            found.append(clip)
            used[clip.video] = videos[clip.video]
            continue
        num_stored += 1
        path = store.folder / keys[0].hex()
        used[path] = _video(path, [store.meta(key) for key in keys])
        found.append(replace(clip, video=path, start_s=0.0, stop_s=None, fps=None))
        read += keys
    contents = store.contents(store.find(read)).tolist()
    return Stored(
        clips=found,
        videos=used,
        num_stored=num_stored,
        num_stale=num_stale,
        fingerprint=fingerprint([[key.hex(), *content] for key, content in zip(read, contents, strict=True)]),
    )


def take(video: Video, indices: Iterable[int], take: Callable[[Picture], R]) -> list[R]:
    """Make something of each stored frame that is asked for, as `kinema.data.decoding.take_frames` does.

    Raises:
        DataError: The store cannot be read, or is not what it was.
    """
    asked = list(indices)
    folder, first = video.path.parent, bytes.fromhex(video.path.name)
    if not _holds(folder, first):  # opened before more was stored
        _opened.cache_clear()
        if not _holds(folder, first):
            raise DataError(f"{folder}: does not hold the clip any more that it held; start again")
    head = _meta(folder, first)
    keys, num_in_each = _blocks(first, head), len(head["indices"])
    taken = {}
    for index in sorted(set(asked)):
        key, place = keys[index // num_in_each], index % num_in_each
        taken[index] = take(_picture(_opened(folder), key, _meta(folder, key), place))
    return [taken[index] for index in asked]


def _holds(folder: Path, first: bytes) -> bool:
    store = _opened(folder)
    return first in store and all(key in store for key in _blocks(first, _meta(folder, first)))


def _blocks(first: bytes, head: Mapping[str, Any]) -> list[bytes]:
    """Keys of all entries of a clip, from the key and the meta of the first. All but the last have as many frames."""
    return [bytes.fromhex(key) for key in head.get("blocks", [first.hex()])]


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


def _video(path: Path, metas: Sequence[Mapping[str, Any]]) -> Video:
    """Times are counted from the start of the clip, at which the first stored frame is on display."""
    head = metas[0]
    times_s = np.concatenate([np.array(meta["times_s"], dtype=np.float64) for meta in metas])
    times_s = np.maximum(times_s - head["start_s"], 0.0)
    times_s[0] = 0.0
    duration_s = head["stop_s"] - head["start_s"]
    height_px, width_px = head["size_px"]
    return Video(
        path=path,
        times_s=times_s,
        duration_s=duration_s,
        fps=len(times_s) / duration_s,
        width_px=width_px,
        height_px=height_px,
        rotation_deg=0,
        codec=head["pixels"],
        container=STORE,
    )


def _entries(store: Store) -> tuple[dict[tuple[Any, ...], list[bytes]], set[tuple[Any, ...]]]:
    """(file, start, end) -> keys of what is stored of that clip, random versions left aside; and the same without what
    tells the file from itself before it was changed. Clips that are not there in full are not there."""
    entries: dict[tuple[Any, ...], list[bytes]] = {}
    names = set()
    failed = store.failures()
    for key in store:
        meta = store.meta(key)
        if key in failed or meta["view"] is not None or meta["block"]:
            continue
        keys = _blocks(key, meta)
        if all(one in store and one not in failed for one in keys):
            entries.setdefault((*_identity(meta["video"]), meta["start_s"], meta["stop_s"]), keys)
            names.add((meta["video"]["path"], meta["start_s"], meta["stop_s"]))
    return entries, names


def _identity(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(state.items()))


@functools.lru_cache(maxsize=_STORES)
def _opened(folder: Path) -> Store:
    return Store.open(folder, kind=KIND)


@functools.lru_cache(maxsize=256)
def _meta(folder: Path, key: bytes) -> dict[str, Any]:
    return _opened(folder).meta(key)
