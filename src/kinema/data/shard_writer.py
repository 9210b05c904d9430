"""Writing the files of a store, which `kinema.data.shards` describes and reads."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinema.data.shard_index import (
    FAILED,
    KEY_BYTES,
    RECORD,
    agree,
    index_files,
    joined,
    read_index,
    record_checksums,
    rows,
)
from kinema.types import DataError

Buffer: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What network disks answer that were mounted without locks."""

_ALIGNMENT = 64
# A kill costs at most this much work, which is then done again; and this is how often the disk has to be waited for.
_COMMIT_EVERY_S = 1.0


class BusyError(DataError):
    """Another process is writing the same shard."""


class ShardWriter:
    """Adds entries to a store, as one of `n` jobs that may run at the same time; a context manager.

    What an earlier run of the same job stored is kept, and what it had only begun is dropped. Entries are safe on the
    disk from the next `commit` on, which `append` calls every second, and leaving the block.

    Args:
        folder: The store; made where it does not exist.
        kind: What is stored ("frames"); a store has one kind.
        settings: Of JSON types; a store has one of each.
        shard: (i, n): this is job i, from 1, of n.

    Raises:
        DataError: The folder holds a store of another version, kind or settings, or cannot be written; or a process
            that runs writes the same shard.
    """

    def __init__(
        self, folder: Path, *, kind: str, settings: Mapping[str, Any], shard: tuple[int, int] = (1, 1)
    ) -> None:
        number, count = shard
        if not 1 <= number <= count:
            raise DataError(f"shard {number}/{count}: the first of {count} is 1/{count}, the last {count}/{count}")
        self.folder = folder
        self._name = f"{number}-of-{count}"
        self._files: dict[str, int] = {}
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            agree(folder, kind, settings)
            try:
                self._open()
            except BaseException:
                self._close()
                raise

    def _open(self) -> None:
        self._lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        for suffix in ("bin", "meta", "idx"):
            self._files[suffix] = os.open(self._path(suffix), flags, 0o666)
        own = read_index(self._path("idx"))
        self._end = _ends(own, "offset", "length")
        self._meta_end = _ends(own, "meta_offset", "meta_length")
        sizes = {"bin": self._end, "meta": self._meta_end, "idx": len(own) * RECORD.itemsize}
        for suffix, size in sizes.items():
            if os.fstat(self._files[suffix]).st_size < size:
                raise DataError(
                    f"{self._path(suffix)}: shorter than {self._path('idx').name} says; the store is damaged"
                )
            os.ftruncate(self._files[suffix], size)
            os.lseek(self._files[suffix], size, os.SEEK_SET)
        # A job skips what any other has stored up to now: jobs may be cut differently from one run to the next.
        self._keys = set(rows(joined([read_index(path) for path in index_files(self.folder)])))
        self._records: list[tuple[Any, ...]] = []
        self._committed_s = time.monotonic()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def append(self, key: bytes, data: Buffer, meta: Mapping[str, Any]) -> None:
        """Store an entry. A key that is there already is left as it is.

        Args:
            key: 16 bytes.
            data: What is stored under it, of any length; of an array, its bytes.
            meta: Small, of JSON types.

        Raises:
            DataError: It cannot be written: the disk is full. What was committed stays good.
        """
        assert len(key) == KEY_BYTES
        if key in self._keys:
            return
        if isinstance(data, np.ndarray):
            content = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        else:
            content = memoryview(data)
        line = json.dumps(dict(meta), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        offset, meta_offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT, self._meta_end
        with _writing(self._path("bin")):
            _write(self._files["bin"], bytes(offset - self._end))
            _write(self._files["bin"], content)
            _write(self._files["meta"], line)
        self._end, self._meta_end = offset + content.nbytes, meta_offset + len(line)
        whole = (tuple(key), offset, content.nbytes, zlib.crc32(content))
        self._records.append((*whole, meta_offset, len(line), zlib.crc32(line), 0, 0))
        self._keys.add(key)
        if time.monotonic() - self._committed_s >= _COMMIT_EVERY_S:
            self.commit()

    def append_failure(self, key: bytes, reason: str, meta: Mapping[str, Any]) -> None:
        """Store that there is nothing to store under a key, and why: it need not be tried again.

        Raises:
            DataError: As `append`.
        """
        self.append(key, b"", {**meta, FAILED: reason})

    def commit(self) -> None:
        """See to it that everything up to here survives whatever happens.

        Raises:
            DataError: It cannot be written.
        """
        if self._records:
            records = np.array(self._records, dtype=RECORD)
            records["record_checksum"] = record_checksums(records)
            with _writing(self._path("idx")):
                for suffix in ("bin", "meta"):
                    os.fsync(self._files[suffix])
                _write(self._files["idx"], memoryview(records.tobytes()))
                os.fsync(self._files["idx"])
            self._records = []
        self._committed_s = time.monotonic()

    def close(self) -> None:
        """Commit, and let others write this shard."""
        try:
            self.commit()
        finally:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DataError):  # a full disk: what can still be kept, is
            with suppress(DataError):
                self.commit()
            self._close()
        else:
            self.close()

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self._name}.{suffix}"

    def _lock(self) -> None:
        """A lock that ends with this process, and that the processes it forks do not hold."""
        self._files["lock"] = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.lockf(self._files["lock"], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    log.warning("%s: this file system has no locks; see that no two jobs write one part", self.folder)
                    return
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise BusyError(
                    f"{self.folder}: another process is writing shard {self._name.replace('-of-', '/')} of this store; "
                    "wait for it, or give every job a shard of its own"
                ) from None

    def _close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def _ends(records: NDArray[np.void], offset: str, length: str) -> int:
    return int((records[offset] + records[length]).max()) if len(records) else 0


def _write(descriptor: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What goes wrong with writing, as somebody can mend it."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "; make room and run it again: it goes on where it stopped" if full else ""
        raise DataError(f"{error.filename or path}: cannot be written: {error.strerror}{advice}") from None
