"""Files of a store: many entries of bytes under keys, written by several jobs and read as one.

    STORE/store.json       version, kind and settings; written once, whole
    STORE/2-of-4.bin       data of what job 2 of 4 stored, one entry behind the other, each at a multiple of 64 bytes
    STORE/2-of-4.meta      a line of JSON for each entry
    STORE/2-of-4.idx       a record of 64 bytes for each entry: key, where it lies, checksums
    STORE/2-of-4.lock      locked while that job writes

Data and meta are on the disk before the record that names them is written: whatever kills a writer, every record is of
an entry that is whole. What lies behind the last record is dropped when the job goes on. Readers take the records of
all jobs; of a key that two jobs stored, the first.

An entry may say that there is nothing to store, and why: a clip that cannot be decoded is not tried again, and a store
that lacks nothing else is complete.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kinema.data.shard_index import (
    FAILED,
    check_agreement,
    description,
    entry_key,
    file_state,
    index_files,
    is_store,
    joined,
    read_index,
    rows,
)
from kinema.data.shard_writer import Buffer, ShardWriter
from kinema.types import DataError

__all__ = ["Buffer", "ShardWriter", "Store", "check_agreement", "entry_key", "file_state", "is_store"]

_CHUNK = 4 * 2**20


class Store:
    """A store to read from. It may be pickled, and carried into forked processes.

    Attributes:
        folder: Where it lies.
        kind: What is stored.
        settings: With which settings.
    """

    def __init__(self, folder: Path, *, kind: str, settings: Mapping[str, Any], shards: Mapping[str, Any]) -> None:
        self.folder = folder
        self.kind = kind
        self.settings = settings
        self._names = list(shards)
        self._records = joined(list(shards.values()))
        self._offsets, self._lengths = self._records["offset"], self._records["length"]
        self._starts: list[int] = np.cumsum([0, *(len(records) for records in shards.values())]).tolist()
        self._where = rows(self._records)
        self._files: dict[tuple[int, str], int] = {}
        self._maps: dict[int, NDArray[np.uint8] | None] = {}

    @classmethod
    def open(cls, folder: Path, *, kind: str | None = None) -> Self:
        """Open a store.

        Args:
            folder: The store.
            kind: What it has to be a store of.

        Raises:
            DataError: There is none, of a version that is not known, or of another kind, or its index is damaged.
        """
        found = description(folder)
        if kind is not None and found["kind"] != kind:
            raise DataError(f"{folder}: a store of {found['kind']}, where one of {kind} is needed")
        shards = {path.stem: read_index(path) for path in index_files(folder)}
        return cls(folder, kind=found["kind"], settings=found["settings"], shards=shards)

    def __reduce__(self) -> tuple[Any, ...]:
        shards = np.split(self._records, self._starts[1:-1])
        return _reopened, (
            type(self),
            self.folder,
            self.kind,
            self.settings,
            dict(zip(self._names, shards, strict=True)),
        )

    def check_lengths(self) -> None:
        """Find out without reading them whether files of data are shorter than their index says: data come before their
        index, so that such a file was cut off later, as in copying.

        Raises:
            DataError: One is.
        """
        for name, records in zip(self._names, np.split(self._records, self._starts[1:-1]), strict=True):
            path = self.folder / f"{name}.bin"
            wanted = int((records["offset"] + records["length"]).max()) if len(records) else 0
            num_bytes = path.stat().st_size if path.exists() else 0
            if num_bytes < wanted:
                raise DataError(
                    f"{path}: is {num_bytes:,} bytes long, and {wanted:,} by its index; the store is damaged: copy it "
                    "again, or delete and prepare it"
                )

    def __contains__(self, key: bytes) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[bytes]:
        """Keys of all entries, in the order of storing, shard by shard."""
        return iter(self._where)

    def keys(self) -> Iterator[bytes]:
        """As iterating over it."""
        return iter(self)

    @property
    def num_bytes(self) -> int:
        """Bytes of data, without meta."""
        return int(self._lengths.sum())

    def num_bytes_of(self, key: bytes) -> int:
        """Bytes of data of one entry.

        Raises:
            KeyError: There is no such entry.
        """
        return int(self._lengths[self._where[key]])

    @property
    def parts(self) -> dict[int, list[int]]:
        """n -> numbers of the parts i of n that jobs have written."""
        found: dict[int, list[int]] = {}
        for name in self._names:
            number, _, count = name.partition("-of-")
            found.setdefault(int(count), []).append(int(number))
        return found

    def failure(self, key: bytes) -> str | None:
        """Why there is nothing under a key: what is said where it was to be stored. None where there is something.

        Raises:
            KeyError: There is no such entry.
            DataError: It is damaged.
        """
        reason = None if self.num_bytes_of(key) else self.meta(key).get(FAILED)
        return None if reason is None else str(reason)

    def failures(self) -> dict[bytes, str]:
        """Keys under which there is nothing, and why: also where what was said of it is damaged."""
        found = {}
        for key, row in self._where.items():
            if self._lengths[row]:
                continue
            try:
                reason = self.failure(key)
            except DataError as error:
                reason = str(error)
            if reason is not None:
                found[key] = reason
        return found

    def get(self, key: bytes) -> NDArray[np.uint8]:
        """Data of an entry: memory-mapped, read-only. Where the process may not map that much memory, a copy.

        Raises:
            KeyError: There is no such entry.
            DataError: Its file is not as long as it was, or cannot be read.
        """
        row = self._where[key]
        number, offset, length = self._place(row)
        mapped = self._mapped(number)
        if mapped is None:
            out = np.empty(length, dtype=np.uint8)
            self.read_row(row, out)
            return out
        if offset + length > len(mapped):
            raise self._short(number)
        return mapped[offset : offset + length]

    def read_into(self, key: bytes, out: NDArray[Any], *, start: int = 0) -> None:
        """Copy data of an entry. As fast as from mapped memory; the process does not grow by what it has read.

        Args:
            key: Of the entry.
            out: C-contiguous; as many bytes are read as it has.
            start: Which byte of the data is the first.

        Raises:
            KeyError: There is no such entry.
            DataError: Its file is not as long as it was, or cannot be read; or there is nothing to be read, for the
                reason that `failure` gives.
        """
        self.read_row(self._where[key], out, start=start)

    def read_row(self, row: int, out: NDArray[Any], *, start: int = 0) -> None:
        """As `read_into`, of the entry that is in this row: see `kinema.data.places`."""
        number, offset, length = self._place(row)
        view = out.data.cast("B") if out.size else memoryview(b"")
        if not length and view.nbytes:
            raise DataError(str(self._meta(row).get(FAILED)))
        assert 0 <= start <= start + view.nbytes <= length, (start, view.nbytes, length)
        self._read(number, "bin", offset + start, view)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Rows of entries; -1 where there is none."""
        return np.fromiter((self._where.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))

    def contents(self, found: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Length and checksum of the data of the entries in some rows: (..., 2)."""
        return np.stack([self._records[name][found] for name in ("length", "checksum")], axis=-1)

    def meta(self, key: bytes) -> dict[str, Any]:
        """What was stored beside the data of an entry.

        Raises:
            KeyError: There is no such entry.
            DataError: It is damaged.
        """
        return self._meta(self._where[key])

    def _meta(self, row: int) -> dict[str, Any]:
        number, record = bisect_right(self._starts, row) - 1, self._records[row]
        line = bytearray(int(record["meta_length"]))
        self._read(number, "meta", int(record["meta_offset"]), memoryview(line))
        if zlib.crc32(line) != record["meta_checksum"]:
            raise DataError(f"{self._path(number, 'meta')}: damaged; see kinema data check {self.folder}")
        meta: dict[str, Any] = json.loads(line)
        return meta

    def damaged(self, *, checked: Callable[[int], None] = lambda _num_bytes: None) -> list[bytes]:
        """Read everything, and compare checksums.

        Args:
            checked: Called with the number of bytes that have been read since it was called before.

        Returns:
            Keys of entries whose data or meta are not what was stored.
        """
        buffer = memoryview(bytearray(_CHUNK))
        found = []
        for key, row in self._where.items():
            try:
                self._meta(row)
                number, offset, left = self._place(row)
                checksum = 0
                while left:
                    part = buffer[: min(left, _CHUNK)]
                    self._read(number, "bin", offset, part)
                    checksum = zlib.crc32(part, checksum)
                    offset, left = offset + len(part), left - len(part)
                    checked(len(part))
                if checksum != self._records["checksum"][row]:
                    found.append(key)
            except (DataError, ValueError):
                found.append(key)
        return found

    def close(self) -> None:
        """Close its files. Whatever is read next opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])
        self._maps = {}

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self.close()

    def _place(self, row: int) -> tuple[int, int, int]:
        """Number of the shard, offset and length of data."""
        return bisect_right(self._starts, row) - 1, int(self._offsets[row]), int(self._lengths[row])

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{self._names[number]}.{suffix}"

    def _file(self, number: int, suffix: str) -> int:
        descriptor = self._files.get((number, suffix))
        if descriptor is None:
            path = self._path(number, suffix)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from None
            # Of two threads that come here at once, both keep what the first has put there.
            kept = self._files.setdefault((number, suffix), descriptor)
            if kept != descriptor:
                os.close(descriptor)
                descriptor = kept
        return descriptor

    def _read(self, number: int, suffix: str, offset: int, view: memoryview) -> None:
        descriptor = self._file(number, suffix)
        while view:
            try:
                num_read = os.preadv(descriptor, [view], offset)
            except OSError as error:
                raise DataError(f"{self._path(number, suffix)}: cannot be read: {error.strerror}") from None
            if num_read == 0:
                raise self._short(number, suffix)
            view, offset = view[num_read:], offset + num_read

    def _mapped(self, number: int) -> NDArray[np.uint8] | None:
        if number not in self._maps:
            descriptor = self._file(number, "bin")
            try:
                size = os.fstat(descriptor).st_size
                whole = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b""
                self._maps[number] = np.frombuffer(whole, dtype=np.uint8)
            except (OSError, ValueError, OverflowError):  # a limit on memory, or a file system that cannot
                self._maps[number] = None
        return self._maps[number]

    def _short(self, number: int, suffix: str = "bin") -> DataError:
        return DataError(
            f"{self._path(number, suffix)}: shorter than its index says; see kinema data check {self.folder}"
        )


def _reopened(
    cls: type[Store], folder: Path, kind: str, settings: Mapping[str, Any], shards: Mapping[str, Any]
) -> Store:
    return cls(folder, kind=kind, settings=settings, shards=shards)
