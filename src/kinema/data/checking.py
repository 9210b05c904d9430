"""Finding the videos that will not decode, before a run stumbles over them.

Each video is probed, its first and last frames (or all of them) are decoded, and its content is hashed. What was found
is kept in the index like what probing found, so that the next check does only what is new or changed, and training
does not probe what was checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinema.data.decoding import count_frames, probe, read_frames
from kinema.data.file_index import Index, Key, Table
from kinema.data.hashing import content_hash
from kinema.data.machine import is_machines
from kinema.data.probing import DiedError, file_key, is_lasting, keep_probed, probe_all
from kinema.data.processes import Died, results
from kinema.data.video import Video
from kinema.progress import SILENT, Reporter
from kinema.types import DataError

_SAVE_EVERY = 64
_SAVE_EVERY_S = 2.0

# To be counted up whenever a check would find something else in the same file.
_VERSION = "2"

_TABLE = Table(
    name="checks_1",
    of="checked videos",
    columns={"deep": "INTEGER", "error": "TEXT", "damaged": "INTEGER", "content": "TEXT"},
)

# Frames of a folder that are in memory at once.
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What a check found out about a video.

    Attributes:
        video: What probing found, or None where that failed.
        error: Why its clips cannot be used, without its path; None where they can.
        damaged: Something in it does not decode in full, and what does is used.
        content: Hash of its content: the same for copies. None where it was not read.
        fresh: Found just now, and not kept from an earlier check.
        passing: The error may be the machine's and not the file's: it is not kept.
    """

    video: Video | None = None
    error: str | None = None
    damaged: bool = False
    content: str | None = None
    fresh: bool = True
    passing: bool = False


def check_videos(
    paths: Iterable[Path],
    *,
    fps: Mapping[Path, float] | None = None,
    deep: bool = False,
    workers: int = 2,
    root: Path | None = None,
    index: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[Path, Checked]:
    """Check videos.

    Args:
        paths: Files or folders of frames; each is checked once, however often it is named.
        fps: Rates of the folders, as `frame_rates` gives them.
        deep: Decode all frames, and not only the first and the last.
        workers: Processes to use where there are many videos.
        root: Of the data set that they belong to: its index is kept there.
        index: Folder of the index, in place of that of `kinema.data.file_index`.
        reporter: Shown how many videos are done.

    Returns:
        What was found, for each path in the order given. A video that cannot be read is no error here.
    """
    rates = dict(fps or {})
    probed = probe_all(paths, fps=rates, workers=workers, root=root, index=index, reporter=reporter)
    store = _Store(Index(root=root, folder=index), deep=deep)
    keys = {path: _key(key) for path in probed if (key := file_key(path, fps=rates.get(path))) is not None}
    known = store.load(keys)
    videos = {path: result for path, result in probed.items() if isinstance(result, Video)}
    found = {
        path: Checked(error=_without_path(result, path), fresh=path not in known, passing=not is_lasting(result))
        for path, result in probed.items()
        if isinstance(result, DataError)
    }
    store.save(keys, {path: result for path, result in found.items() if result.fresh})
    known = {path: result for path, result in known.items() if path in videos}
    todo = [video for path, video in videos.items() if path not in known]
    description = "Decoding all frames" if deep else "Decoding first and last frames"
    with (
        reporter.track(description, total=len(videos), unit="videos", done=len(known)) as task,
        closing(_decoded(todo, store, keys, deep=deep, workers=workers)) as decoded,
    ):
        for path, result in decoded:
            known[path] = result
            videos[path] = result.video or videos[path]
            task.advance()
    for path, video in videos.items():
        found[path] = replace(known[path], video=video, damaged=known[path].damaged or video.damaged)
    return {path: found[path] for path in probed}


def _decoded(
    videos: list[Video], store: _Store, keys: Mapping[Path, Key], *, deep: bool, workers: int
) -> Generator[tuple[Path, Checked]]:
    """What decoding finds out, as it comes; kept on the way, and when it is interrupted."""
    fresh: dict[Path, Checked] = {}
    saved_s = time.monotonic()
    try:
        with closing(results(_all if deep else _ends, videos, workers=workers)) as outcomes:
            for video, outcome in outcomes:
                path = video.path
                if isinstance(outcome, Died):
                    yield path, Checked(error=_without_path(DiedError(path), path), passing=True)
                    continue
                fresh[path] = outcome
                if len(fresh) >= _SAVE_EVERY or time.monotonic() - saved_s > _SAVE_EVERY_S:
                    store.save(keys, fresh)
                    fresh, saved_s = {}, time.monotonic()
                yield path, outcome
    finally:
        store.save(keys, fresh)


def _key(probed: Key) -> Key:
    """A check says something about what one version of probing found."""
    return probed._replace(version=f"{_VERSION}, probed by {probed.version}")


def _ends(video: Video) -> Checked:
    return _checked(video, _decode_ends)


def _all(video: Video) -> Checked:
    """Of a damaged file, also what a full decode says of it: its packets cannot be believed."""
    checked = _checked(video, _decode_all)
    if video.is_images or video.damaged or not (checked.damaged or checked.error):
        return checked
    try:
        return replace(
            checked, video=replace(probe(video.path, in_full=True), damaged=True, packets=None, first_pts=None)
        )
    except DataError:
        return checked


def _checked(video: Video, decode: Callable[[Video], bool]) -> Checked:
    try:
        damaged = decode(video)
        return Checked(damaged=damaged, content=content_hash(video.path))
    except DataError as error:
        return Checked(error=_without_path(error, video.path), passing=is_machines(error))
    except OSError as error:
        return Checked(error=f"cannot be read ({error.strerror or error})", passing=True)


def _decode_ends(video: Video) -> bool:
    read_frames(video, {0, len(video.times_s) - 1})
    return False


def _decode_all(video: Video) -> bool:
    """Whether anything does not decode in full, although all frames do.

    Raises:
        DataError: Frames are missing.
    """
    num_frames = len(video.times_s)
    if video.is_images:
        for first in range(0, num_frames, _FRAMES_AT_ONCE):
            read_frames(video, range(first, min(first + _FRAMES_AT_ONCE, num_frames)))
        return False
    num_decoded, damaged = count_frames(video)
    if num_decoded < num_frames:
        raise DataError(f"{video.path}: {num_frames - num_decoded} of {num_frames} frames do not decode")
    return damaged or num_decoded > num_frames


def _without_path(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


class _Store:
    """What was checked before, at least as deeply as is asked for now."""

    def __init__(self, index: Index, *, deep: bool) -> None:
        self._index = index
        self._deep = deep

    def load(self, keys: Mapping[Path, Key]) -> dict[Path, Checked]:
        found = {}
        for path, (deep, error, damaged, content) in self._index.load(_TABLE, keys).items():
            if deep or error is not None or not self._deep:
                found[path] = Checked(error=error, damaged=bool(damaged), content=content, fresh=False)
        return found

    def save(self, keys: Mapping[Path, Key], found: Mapping[Path, Checked]) -> None:
        # First: who finds the check need not look again.
        keep_probed(self._index, (checked.video for checked in found.values() if checked.video is not None))
        lasting = {path: checked for path, checked in found.items() if path in keys and not checked.passing}
        rows = ((path, keys[path], self._row(checked)) for path, checked in lasting.items())
        self._index.save(_TABLE, rows)

    def _row(self, checked: Checked) -> tuple[Any, ...]:
        return int(self._deep), checked.error, int(checked.damaged), checked.content
