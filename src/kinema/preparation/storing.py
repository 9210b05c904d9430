"""What making every kind of store has in common: several jobs, room, what is there already, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kinema.data.frame_store import Files
from kinema.data.machine import Passing
from kinema.data.processes import Died, results
from kinema.data.shard_writer import BusyError
from kinema.data.shards import Buffer, ShardWriter, Store, check_agreement, file_state, is_store
from kinema.preparation.room import check_room
from kinema.progress import Reporter
from kinema.types import DataError
from kinema.wording import byte_size

_CHUNK = 2**20

AT_A_TIME = 8
"""Processes that may write into one store at a time without having said so."""

_DIED = "the process that decoded it died; out of memory, or a crash"

Made: TypeAlias = tuple[Buffer, dict[str, Any]] | str
"""Data and meta of an entry; or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of the clips, or videos, of one job.

    Attributes:
        num_asked: Each version counted.
        num_before: Stored before.
        num_new: Stored now.
        num_bytes: What was written now.
        failures: Name -> why it could not be read, now or before.
    """

    num_asked: int
    num_before: int
    num_new: int
    num_bytes: int
    failures: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that is to be stored.

    Attributes:
        key: Under which.
        name: Of the clip or video, as it is counted and reported.
        path: File that it is made from.
        counts: Whether it is counted: of several entries of one clip, one is.
    """

    key: bytes
    name: str
    path: Path
    counts: bool = True


@contextmanager
def storing(
    entries: Sequence[Entry],
    folder: Path,
    *,
    kind: str,
    settings: Mapping[str, Any],
    files: Files,
    shard: tuple[int, int] | None,
    estimate: Callable[[list[int]], int],
    unit: str,
) -> Iterator[Storing]:
    """Find out what of a job's part is missing, see that there is room for it, and open the store to write it.

    Args:
        entries: All that the store is to hold.
        folder: The store.
        kind: Of the store.
        settings: Of the store.
        files: The data set's.
        shard: (i, n): do the i-th of n parts. None: all of it, whoever else writes into the store at the same time.
        estimate: Bytes that entries at some places in the list will take.
        unit: What is counted, in the plural.

    Raises:
        DataError: There is no room, or the folder holds another store, or cannot be written.
    """
    number, count = shard or (1, 1)
    part = range(len(entries) * (number - 1) // count, len(entries) * number // count)
    failed: dict[bytes, str] = {}
    missing = list(part)
    if is_store(folder):
        check_agreement(folder, kind, settings)
        store = Store.open(folder)
        failed = store.failures()
        missing = [place for place in part if entries[place].key not in store]
    # Before the store is made: nothing is left behind where there is no room.
    check_room(folder, estimate(missing) if missing else 0, f"{_count(entries, missing):,} {unit}")
    with _writer(folder, kind, settings, shard) as writer:
        todo = [place for place in missing if entries[place].key not in writer]
        job = Storing(entries=entries, writer=writer, files=files, unit=unit, part=part, todo=todo)
        unreadable = [place for place in part if entries[place].key in failed]
        job.failures |= {entries[place].name: failed[entries[place].key] for place in unreadable}
        job.num_before = _count(entries, part) - _count(entries, todo) - _count(entries, unreadable)
        yield job


def _writer(folder: Path, kind: str, settings: Mapping[str, Any], shard: tuple[int, int] | None) -> ShardWriter:
    """A writer of one shard; of None, of the first that no other process is writing."""
    if shard is not None:
        return ShardWriter(folder, kind=kind, settings=settings, shard=shard)
    for number in range(1, AT_A_TIME):
        with suppress(BusyError):
            return ShardWriter(folder, kind=kind, settings=settings, shard=(number, AT_A_TIME))
    return ShardWriter(folder, kind=kind, settings=settings, shard=(AT_A_TIME, AT_A_TIME))


def _count(entries: Sequence[Entry], places: Iterable[int]) -> int:
    return sum(entries[place].counts for place in places)


@dataclass(slots=True, kw_only=True)
class Storing:
    """One job at work.

    Attributes:
        entries: All that the store is to hold.
        writer: Of the store.
        files: The data set's.
        unit: What is counted.
        part: Places of the entries that fall to this job.
        todo: Those of them that are missing.
        failures: Name -> why it cannot be read.
        num_before: How many of its part were stored before.
        num_new: How many it has stored.
        num_bytes: What it has written.
    """

    entries: Sequence[Entry]
    writer: ShardWriter
    files: Files
    unit: str
    part: range
    todo: list[int]
    failures: dict[str, str] = field(default_factory=dict)
    num_before: int = 0
    num_new: int = 0
    num_bytes: int = 0

    def run(
        self,
        make: Callable[[int], Made],
        *,
        again: Callable[[int], Made] | None = None,
        title: str,
        workers: int,
        reporter: Reporter,
        apart: bool = False,
        stored: Callable[[Mapping[str, Any]], None] = lambda _meta: None,
    ) -> None:
        """Make and store what is missing, in several processes. That on which a process died is tried once more at the
        end, alone: memory may have run out.

        Args:
            make: Of a place in the list. Of a module, or a partial of one.
            again: In its place the second time.
            title: What the reporter shows.
            workers: Processes to use.
            reporter: Shown how much is done.
            apart: Nothing is made in this process, however few there are.
            stored: Called with the meta of what has been stored.

        Raises:
            DataError: It cannot be written.
        """
        total = _count(self.entries, self.part)
        done = total - _count(self.entries, self.todo)
        died: list[int] = []
        with reporter.track(title, total=total, unit=self.unit, done=done) as task:

            def store(made: Generator[tuple[int, Made | Died]], *, is_last: bool) -> None:
                with closing(made):
                    for place, result in made:
                        if isinstance(result, Died) and not is_last:
                            died.append(place)
                            continue
                        if isinstance(result, Died):
                            self.fail(place, Passing(f"{self.entries[place].path}: {_DIED}"))
                        elif isinstance(result, str):
                            self.fail(place, result)
                        else:
                            self.add(place, *result)
                            stored(result[1])
                        task.advance(self.entries[place].counts, stored=byte_size(self.num_bytes))

            store(results(make, self.todo, workers=workers, apart=apart), is_last=False)
            store(results(again or make, died, workers=1, apart=True), is_last=True)

    def add(self, place: int, data: Buffer, meta: Mapping[str, Any]) -> None:
        """Store an entry. Where `meta` says how many "bytes" it takes elsewhere, these are counted."""
        self.writer.append(self.entries[place].key, data, meta)
        self.num_new += self.entries[place].counts
        self.num_bytes += meta.get("bytes", data.nbytes if isinstance(data, np.ndarray) else len(data))

    def fail(self, place: int, reason: str) -> None:
        """Report an entry that cannot be made. Where it is the file's content that is to blame, store that: it would be
        the same the next time, for as long as the file is the same."""
        entry = self.entries[place]
        self.failures[entry.name] = reason
        if not isinstance(reason, Passing) and self._is_as_it_was(entry.path):
            self.writer.append_failure(entry.key, reason, {"clip": entry.name})

    def result(self) -> Stored:
        """What became of the job."""
        return Stored(
            num_asked=_count(self.entries, self.part),
            num_before=self.num_before,
            num_new=self.num_new,
            num_bytes=self.num_bytes,
            failures=self.failures,
        )

    def _is_as_it_was(self, path: Path) -> bool:
        """Whether a file, or folder of frames, reads to its end and has not changed since its key was made."""
        try:
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                if file.is_file():
                    with file.open("rb") as content:
                        while content.read(_CHUNK):
                            pass
            return file_state(path, self.files.root) == self.files.state(path)
        except (OSError, DataError):
            return False
