"""What has to be right about bytes on this machine: room for them, their number, their checksum."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinema.progress import SILENT, Reporter, Task
from kinema.types import DataError
from kinema.wording import byte_size

_CHUNK_BYTES = 1 << 20
_LARGE_BYTES = 20_000_000  # counted in MB, smaller ones in kB
_RESERVE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is there and right."""

    num_bytes: int
    sha256: str


def check_room(folder: Path, needed: int, what: str) -> None:
    """Compare what is needed with what is free.

    Raises:
        DataError: It is not enough.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{folder}: {byte_size(free)} are free and {what} needs {byte_size(needed)}; make room")


def room_for_unknown(folder: Path) -> int:
    """How many bytes a file may take of which nobody knows the length: what is free, less a reserve of 1 GB, or of half
    of it where little is free."""
    free = shutil.disk_usage(folder).free
    return free - min(_RESERVE_BYTES, free // 2)


def check_file(path: Path, checksum: str | None, *, reporter: Reporter = SILENT) -> tuple[Fetched, str | None]:
    """Read a file and compare it with its published checksum.

    Returns:
        What it is, and the checksum that it has instead of the published one, or None.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", algorithm or "sha256"}}
    total = path.stat().st_size
    with path.open("rb") as file, ByteProgress(reporter, f"Checking {path.name}", total) as task:
        while chunk := file.read(_CHUNK_BYTES):
            for each in hashes.values():
                each.update(chunk)
            task.advance(len(chunk))
    found = hashes[algorithm or "sha256"].hexdigest()
    other = f"{algorithm}:{found}" if expected and found != expected.lower() else None
    return Fetched(num_bytes=total, sha256=hashes["sha256"].hexdigest()), other


class ByteProgress:
    """Progress of bytes, shown in a unit that suits their number."""

    def __init__(self, reporter: Reporter, description: str, total: int | None, done: int = 0) -> None:
        self._size, unit = (1_000_000, "MB") if total is None or total >= _LARGE_BYTES else (1000, "kB")
        self._rest = done % self._size
        self._tracked = reporter.track(
            description,
            total=None if total is None else -(-total // self._size),
            unit=unit,
            done=done // self._size,
        )
        self._task: Task | None = None

    def __enter__(self) -> ByteProgress:
        self._task = self._tracked.__enter__()
        return self

    def advance(self, num: int) -> None:
        assert self._task is not None
        whole, self._rest = divmod(self._rest + num, self._size)
        if whole:
            self._task.advance(whole)

    def __exit__(self, *error: Any) -> None:
        if self._task is not None and self._rest and error[0] is None:
            self._task.advance()
        self._tracked.__exit__(*error)
