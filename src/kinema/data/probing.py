"""Probing many videos: in several processes, and once only.

What was found is kept in the index of the data set (`kinema.data.file_index`) by path, size and time of change, and by
the versions that found it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from sys import intern
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from kinema.data.cache import cache_folder as cache_folder  # callers have it from here
from kinema.data.decoding import Video, probe
from kinema.data.file_index import Index, Key, Table
from kinema.data.machine import MachineError
from kinema.data.packet_index import VERSION as PACKETS_VERSION
from kinema.data.packet_index import PacketSource, PacketsUnknown
from kinema.data.processes import Died, results
from kinema.data.stored_packets import PacketFile, StoredPackets
from kinema.data.video import Orientation
from kinema.progress import SILENT, Reporter
from kinema.types import Clip, DataError

Probed = Video | DataError


class DiedError(MachineError):
    """The process that decoded a file died."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: the process that decoded it died; out of memory, or a crash")


_SAVE_EVERY = 64
_SAVE_EVERY_S = 2.0

# To be counted up whenever `probe` would find something else in the same file.
_VERSION = f"4 packets {PACKETS_VERSION} av {av.__version__}"

_PACKETS = "packets_1"
_TABLE = Table(
    name="videos_1",
    of="probed videos",
    columns={
        "error": "TEXT",
        "num_frames": "INTEGER",
        "step_numerator": "INTEGER",
        "step_denominator": "INTEGER",
        "times_s": "BLOB",
        "duration_s": "REAL",
        "fps": "REAL",
        "width_px": "INTEGER",
        "height_px": "INTEGER",
        "rotation_deg": "INTEGER",
        "codec": "TEXT",
        "container": "TEXT",
        "first_pts": "INTEGER",
        "damaged": "INTEGER",
        "names": "TEXT",
        "orientation": "INTEGER",
        "packets": "INTEGER",
    },
    blobs=_PACKETS,
)


_Item = tuple[Path, float | None]  # path, rate of a folder of frames
_Step = tuple[int, int]  # seconds, as numerator and denominator


def frame_rates(clips: Iterable[Clip]) -> dict[Path, float]:
    """Folder of frames -> its rate, of clips in folders.

    Raises:
        DataError: Clips of one folder say different rates.
    """
    rates: dict[Path, float] = {}
    for clip in clips:
        if clip.fps is not None and rates.setdefault(clip.video, clip.fps) != clip.fps:
            raise DataError(
                f"{clip.video}: clips of this folder of frames say different rates: {rates[clip.video]:g} and "
                f"{clip.fps:g} frames per second"
            )
    return rates


def probe_all(
    paths: Iterable[Path],
    *,
    fps: Mapping[Path, float] | None = None,
    workers: int = 2,
    root: Path | None = None,
    index: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[Path, Probed]:
    """Probe videos.

    Args:
        paths: Files, and folders of frames; each is probed once, however often it is named.
        fps: Rates of the folders, as `frame_rates` gives them.
        workers: Processes to use where there are many files.
        root: Of the data set that they belong to: its index is kept there.
        index: Folder of the index, in place of that of `kinema.data.file_index`.
        reporter: Shown how many videos are done.

    Returns:
        For each path, in the order given, what `probe` returned, or the error that it raised.
    """
    unique = list(dict.fromkeys(Path(path) for path in paths))
    store = _Store(Index(root=root, folder=index))
    rates = dict(fps or {})
    keys = {path: key for path in unique if (key := file_key(path, fps=rates.get(path))) is not None}
    found: dict[Path, Probed] = store.load(keys)
    todo: list[_Item] = [(path, rates.get(path)) for path in unique if path not in found]
    with reporter.track("Probing videos", total=len(unique), unit="videos", done=len(found)) as task:
        fresh: dict[Path, Probed] = {}
        saved_s = time.monotonic()
        try:
            with closing(_probed(todo, workers=workers)) as probed:
                for path, result in probed:
                    found[path] = fresh[path] = result
                    task.advance()
                    if len(fresh) >= _SAVE_EVERY or time.monotonic() - saved_s > _SAVE_EVERY_S:
                        found |= store.save(keys, fresh)
                        fresh, saved_s = {}, time.monotonic()
        finally:  # also when interrupted
            found |= store.save(keys, fresh)
    return {path: found[path] for path in unique}


def keep_probed(index: Index, videos: Iterable[Video]) -> None:
    """Put what was found out about video files in the place of what was probed."""
    found = {video.path: video for video in videos}
    keys = {path: key for path in found if (key := file_key(path)) is not None}
    _Store(index).save(keys, dict(found))


def file_key(path: Path, *, fps: float | None = None) -> Key | None:
    """What a cached result belongs to, or None for what cannot be read or is neither a file nor a folder whose rate is
    given: that may change unnoticed.

    Args:
        path: The file or folder.
        fps: The rate of a folder of frames.
    """
    try:
        stat = path.stat()
        is_folder = path.is_dir()
    except OSError:
        return None
    if not ((is_folder and fps is not None) or path.is_file()) or not os.access(path, os.R_OK):
        return None
    version = _VERSION
    if is_folder:
        # Files that are added to a folder or taken away change its times. Unpacking sets the one back, not the other.
        version += f" fps {fps!r} ctime_ns {stat.st_ctime_ns}"
    return Key(stat.st_size, stat.st_mtime_ns, version)


def _probed(items: list[_Item], *, workers: int) -> Generator[tuple[Path, Probed]]:
    for (path, _), result in results(_outcome, items, workers=workers):
        yield path, DiedError(path) if isinstance(result, Died) else result


def _outcome(item: _Item) -> Probed:
    path, fps = item
    try:
        return probe(path, fps=fps)
    except DataError as error:
        return error


class _Store:
    """What was probed before. What comes from it shares what can be shared: there may be hundreds of thousands."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._regular = _RegularTimes()
        self._packets: dict[Path, PacketFile] = {}

    def load(self, keys: dict[Path, Key]) -> dict[Path, Probed]:
        rows = self._index.load(_TABLE, keys)
        found = {path: self._from_row(path, row) for path, row in rows.items()}
        return {path: result for path, result in found.items() if result is not None}

    def save(self, keys: dict[Path, Key], results: dict[Path, Probed]) -> dict[Path, Probed]:
        """Keep results; the same ones as `load` gives them, of those that could be kept."""
        rows = {path: _to_row(path, result) for path, result in results.items() if path in keys and is_lasting(result)}
        # What was just found is taken out of its row again: its packets need not stay in memory.
        blobs = self._index.save(_TABLE, ((path, keys[path], row) for path, row in rows.items()))
        kept: dict[Path, Probed] = {}
        for path, blob in blobs.items():
            row = self._from_row(path, (*rows[path][:-1], blob))
            if row is not None:
                kept[path] = row
        return kept

    def _from_row(self, path: Path, row: tuple[Any, ...]) -> Probed | None:
        *values, blob = row
        packets = None
        if blob is not None:
            file = self._packets.setdefault(blob.file, PacketFile(blob.file, _PACKETS))
            packets = StoredPackets(file, blob.number)
        return _from_row(path, tuple(values), self._regular, packets)


def is_lasting(result: Probed) -> bool:
    """Whether the same would be found another time, as long as the file is the same."""
    if isinstance(result, DataError):
        return not isinstance(result, MachineError)
    return not isinstance(result.packets, PacketsUnknown)


def _to_row(path: Path, result: Probed) -> tuple[Any, ...]:
    if isinstance(result, DataError):
        return (str(result).removeprefix(f"{path}: "), *(None,) * 16)
    step_s = _constant_step(result.times_s)
    packets = None if result.packets is None else result.packets.load()
    times = (None, None, result.times_s.tobytes()) if step_s is None else (*step_s, None)
    return (
        None,
        len(result.times_s),
        *times,
        result.duration_s,
        result.fps,
        result.width_px,
        result.height_px,
        result.rotation_deg,
        result.codec,
        result.container,
        result.first_pts,
        result.damaged,
        result.names,
        sum(turn << bit for bit, turn in enumerate(result.orientation)),
        None if packets is None else packets.to_bytes(),
    )


def _from_row(path: Path, row: tuple[Any, ...], regular: _RegularTimes, packets: PacketSource | None) -> Probed | None:
    """What `_to_row` was given, or None where the row is not one that it made."""
    error, num_frames, numerator, denominator, blob, *rest = row
    if error is not None:
        return DataError(f"{path}: {error}")
    duration_s, fps, width_px, height_px, rotation_deg, codec, container, first_pts, damaged, names, turns = rest
    try:
        times_s = np.frombuffer(blob) if blob is not None else regular(num_frames, (numerator, denominator))
        orientation = Orientation(*(bool(turns >> bit & 1) for bit in range(3)))
    except (TypeError, ValueError):
        return None
    if len(times_s) != num_frames:
        return None
    return Video(
        path=path,
        times_s=times_s,
        duration_s=duration_s,
        fps=fps,
        width_px=width_px,
        height_px=height_px,
        rotation_deg=rotation_deg,
        codec=intern(codec),
        container=intern(container),
        first_pts=first_pts,
        damaged=bool(damaged),
        names=None if names is None else intern(names),
        orientation=orientation,
        packets=packets,
    )


def _constant_step(times_s: NDArray[np.float64]) -> _Step | None:
    """The step from which `_regular` makes exactly these times, or None."""
    if len(times_s) == 1:
        return 0, 1
    step_s = Fraction(float(times_s[-1]) / (len(times_s) - 1)).limit_denominator(1_000_000).as_integer_ratio()
    return step_s if np.array_equal(_regular(len(times_s), step_s), times_s) else None


def _regular(num_frames: int, step_s: _Step) -> NDArray[np.float64]:
    return np.arange(num_frames) * step_s[0] / step_s[1]


class _RegularTimes:
    """`_regular`, as views of one array for each step: of most data sets all videos have the same few."""

    def __init__(self) -> None:
        self._longest: dict[_Step, NDArray[np.float64]] = {}

    def __call__(self, num_frames: int, step_s: _Step) -> NDArray[np.float64]:
        longest = self._longest.get(step_s)
        if longest is None or len(longest) < num_frames:
            # Twice as long as needed, so that an ascending series of lengths does not leave an array for each.
            longest = self._longest[step_s] = _regular(2 * num_frames, step_s)
            longest.flags.writeable = False
        return longest[:num_frames]
