"""Probing many videos: in several processes, and once only.

What was found is kept in `probes.sqlite` in the cache folder, by absolute path, size and time of change, and by
the versions that found it. The cache only saves time: without it, or beside a broken one, results are the same.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
import traceback
import warnings
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from fractions import Fraction
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from kinema.data.decoding import Video, probe
from kinema.progress import SILENT, Reporter
from kinema.types import DataError

_LOG = logging.getLogger(__name__)

Probed = Video | DataError


class _DiedError(DataError):
    """Not cached: it may have been the machine's fault."""


# Fewer files than this are done before processes have started.
_POOL_FROM = 17
_SAVE_EVERY = 64
_SAVE_EVERY_S = 2.0
_LOCK_TIMEOUT_S = 5.0

# To be counted up whenever `probe` would find something else in the same file.
_VERSION = f"1 av {av.__version__}"

_CREATE = """
CREATE TABLE IF NOT EXISTS probes (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, version TEXT, error TEXT,
    num_frames INTEGER, step_numerator INTEGER, step_denominator INTEGER, times_s BLOB,
    duration_s REAL, fps REAL, width_px INTEGER, height_px INTEGER, rotation_deg INTEGER,
    codec TEXT, container TEXT, first_pts INTEGER
) WITHOUT ROWID
"""
_COLUMNS = (
    "error, num_frames, step_numerator, step_denominator, times_s, duration_s, fps, width_px, height_px, "
    "rotation_deg, codec, container, first_pts"
)
_SELECT = f"SELECT {_COLUMNS} FROM probes WHERE path = ? AND size = ? AND mtime_ns = ? AND version = ?"  # noqa: S608
_INSERT = f"INSERT OR REPLACE INTO probes VALUES ({', '.join('?' * 17)})"  # noqa: S608

_Key = tuple[bytes, int, int, str]  # path, size, mtime_ns, version


def cache_folder() -> Path:
    """Where kinema keeps what it can find out again: `$KINEMA_CACHE`, else `$XDG_CACHE_HOME/kinema`, else
    `~/.cache/kinema`."""
    own = os.environ.get("KINEMA_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "kinema"


def probe_all(
    paths: Iterable[Path], *, workers: int = 2, cache: Path | None = None, reporter: Reporter = SILENT
) -> dict[Path, Probed]:
    """Probe videos.

    Args:
        paths: Files; each is probed once, however often it is named.
        workers: Processes to use where there are many files.
        cache: Folder of the cache; by default `cache_folder()`.
        reporter: Shown how many videos are done.

    Returns:
        For each path, in the order given, what `probe` returned, or the error that it raised.
    """
    unique = list(dict.fromkeys(Path(path) for path in paths))
    store = _Cache(cache_folder() if cache is None else cache)
    keys = {path: key for path in unique if (key := _key(path)) is not None}
    found: dict[Path, Probed] = store.load(keys)
    todo = [path for path in unique if path not in found]
    with reporter.track("Probing videos", total=len(unique), unit="videos", done=len(found)) as task:
        fresh: dict[Path, Probed] = {}
        saved_s = time.monotonic()
        try:
            with closing(_probed(todo, workers=workers)) as results:
                for path, result in results:
                    found[path] = fresh[path] = result
                    task.advance()
                    if len(fresh) >= _SAVE_EVERY or time.monotonic() - saved_s > _SAVE_EVERY_S:
                        store.save(keys, fresh)
                        fresh, saved_s = {}, time.monotonic()
        finally:  # also when interrupted
            store.save(keys, fresh)
    return {path: found[path] for path in unique}


def _key(path: Path) -> _Key | None:
    """What a cached result belongs to, or None for what is not a readable file: that may change unnoticed."""
    try:
        stat = path.stat()
    except OSError:
        return None
    if not path.is_file() or not os.access(path, os.R_OK):
        return None
    return os.fsencode(path.absolute()), stat.st_size, stat.st_mtime_ns, _VERSION


def _probed(paths: list[Path], *, workers: int) -> Generator[tuple[Path, Probed]]:
    # A daemonic process, such as a worker of a data loader, may not have children.
    if workers > 1 and len(paths) >= _POOL_FROM and not multiprocessing.current_process().daemon:
        yield from _probed_in_processes(paths, workers=min(workers, len(paths)))
    else:
        for path in paths:
            yield path, _outcome(path)


def _outcome(path: Path) -> Probed:
    try:
        return probe(path)
    except DataError as error:
        return error


def _probed_in_processes(paths: list[Path], *, workers: int) -> Generator[tuple[Path, Probed]]:
    """Results as they come. A file on which a process dies is an error; the other files are done by a new process.

    `multiprocessing.Pool` would wait for ever for a process that died, and `ProcessPoolExecutor` does not say on
    which file it died.
    """
    # Like torch's DataLoader: on Linux a script without a main guard works, elsewhere it needs one.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    waiting = list(reversed(paths))
    busy: dict[Connection, tuple[BaseProcess, Path]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                connection, process = idle.pop() if idle else _start(context)
                busy[connection] = process, waiting[-1]
                with suppress(OSError):  # a process that died while idle: `recv` finds that out
                    connection.send(waiting.pop())
            for connection in cast("list[Connection]", wait(list(busy))):
                process, path = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    _stop(connection, process)
                    yield path, _DiedError(f"{path}: the process that decoded it died; out of memory, or a crash")
                    continue
                idle.append((connection, process))
                if not isinstance(result, Probed):
                    raise result
                yield path, result
    finally:
        for connection, process in [*idle, *((connection, process) for connection, (process, _) in busy.items())]:
            _stop(connection, process)


def _start(context: Any) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(ours, theirs), daemon=True)
    with warnings.catch_warnings():
        # From Python 3.12 on, of forking beside threads (a progress bar has one). `_work` takes none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()  # now its end closes when the process dies
    return ours, process


def _stop(connection: Connection, process: BaseProcess) -> None:
    connection.close()
    process.kill()
    process.join()


def _work(theirs: Connection, ours: Connection) -> None:
    """Probe what comes through the pipe until its other end closes, even by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the parent has set up for itself
    theirs.close()
    with suppress(EOFError, OSError):
        while True:
            path = ours.recv()
            try:
                result: Probed | Exception = _outcome(path)
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                error.add_note(traceback.format_exc())
                result = error
            ours.send(result)


class _Cache:
    """The cache on disk. The first thing that goes wrong with it turns it off, with a warning."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "probes.sqlite"
        self._works = True

    def load(self, keys: dict[Path, _Key]) -> dict[Path, Probed]:
        found: dict[Path, Probed] = {}
        try:
            with closing(self._connect()) as connection:
                for path, key in keys.items():
                    row = connection.execute(_SELECT, key).fetchone()
                    result = None if row is None else _from_row(path, row)
                    if result is not None:
                        found[path] = result
        except (sqlite3.Error, OSError) as error:
            self._turn_off(error)
        return found

    def save(self, keys: dict[Path, _Key], results: dict[Path, Probed]) -> None:
        rows = [
            (*keys[path], *_to_row(path, result))
            for path, result in results.items()
            if path in keys and not isinstance(result, _DiedError)
        ]
        if not rows or not self._works:
            return
        try:
            # Closed again each time: a connection must not be carried into a forked process.
            with closing(self._connect()) as connection, connection:
                connection.executemany(_INSERT, rows)
        except (sqlite3.Error, OSError) as error:
            self._turn_off(error)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S)
        try:
            connection.execute(_CREATE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _turn_off(self, error: Exception) -> None:
        self._works = False
        _LOG.warning("%s: cache of probed videos not used: %s", self._path, error)


def _to_row(path: Path, result: Probed) -> tuple[Any, ...]:
    if isinstance(result, DataError):
        return (str(result).removeprefix(f"{path}: "), *(None,) * 12)
    step_s = _constant_step(result.times_s)
    times = (None, None, result.times_s.tobytes()) if step_s is None else (*step_s.as_integer_ratio(), None)
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
    )


def _from_row(path: Path, row: tuple[Any, ...]) -> Probed | None:
    """What `_to_row` was given, or None where the row is not one that it made."""
    error, num_frames, numerator, denominator, blob, *rest = row
    if error is not None:
        return DataError(f"{path}: {error}")
    duration_s, fps, width_px, height_px, rotation_deg, codec, container, first_pts = rest
    try:
        step_s = None if blob is not None else Fraction(numerator, denominator)
        times_s = np.frombuffer(blob).copy() if step_s is None else _regular(num_frames, step_s)
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
        codec=codec,
        container=container,
        first_pts=first_pts,
    )


def _constant_step(times_s: NDArray[np.float64]) -> Fraction | None:
    """The step from which `_regular` makes exactly these times, or None."""
    if len(times_s) == 1:
        return Fraction(0)
    step_s = Fraction(float(times_s[-1]) / (len(times_s) - 1)).limit_denominator(1_000_000)
    return step_s if np.array_equal(_regular(len(times_s), step_s), times_s) else None


def _regular(num_frames: int, step_s: Fraction) -> NDArray[np.float64]:
    return np.arange(num_frames) * step_s.numerator / step_s.denominator
