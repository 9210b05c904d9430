"""The index of a data set: what was found out about its files, in one file beside them, until they change.

Paths in it are relative to the root of the data set, so that it goes where the data go, and all who read the data from
one disk share it. Where the root cannot be written, and for files outside it, there is another one in the cache folder;
`$KINEMA_INDEX` names a folder to use in place of both. An index only saves time: without it, or beside a broken one,
results are the same, and it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kinema.data.cache import cache_folder

_LOG = logging.getLogger(__name__)

INDEX_NAME = "kinema-index.sqlite"

_LOCK_TIMEOUT_S = 10.0


class Key(NamedTuple):
    """What tells whether a row still says what is true of its file.

    Attributes:
        size: Of the file, in bytes.
        mtime_ns: When it was changed.
        version: Of what found the rest of the row. Rows of several versions stand beside each other: machines that
            share an index need not have the same ones.
    """

    size: int
    mtime_ns: int
    version: str


class Blob(NamedTuple):
    """Where bytes lie that are read when they are needed: in which index, under which number."""

    file: Path
    number: int


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of rows, one for each file and version.

    Attributes:
        name: To be changed when columns change: the index may be shared with an older kinema.
        columns: Columns behind those of the key, each with its type, as SQL has them.
        of: What the rows are about, for warnings.
        blobs: Name of a further table of bytes, which are not read with the row. The last column is then the
            number of a row of it: the last value of a row is bytes or None when it is saved, a `Blob` or None when it
            is loaded.
    """

    name: str
    columns: Mapping[str, str]
    of: str
    blobs: str | None = None


class Index:
    """Rows about files, in the index beside the data set, or where that cannot be.

    Args:
        root: Of the data set: a folder, or a file in it. None: files of no data set.
        folder: Keeps everything in this folder; by default `$KINEMA_INDEX`, if it is set.
    """

    def __init__(self, *, root: Path | None = None, folder: Path | None = None) -> None:
        given = os.environ.get("KINEMA_INDEX")
        only = folder if folder is not None else Path(given).expanduser() if given else None
        self._elsewhere = _IndexFile(cache_folder() if only is None else only, root=None)
        self._beside: _IndexFile | None = None
        if root is not None and only is None:
            place = root.absolute()
            place = place if place.is_dir() else place.parent
            self._beside = _IndexFile(place, root=place)

    def load(self, table: Table, keys: Mapping[Path, Key]) -> dict[Path, tuple[Any, ...]]:
        """Rows of the files that have one, without their keys."""
        if self._beside is None:
            return self._elsewhere.load(table, keys)
        found = self._beside.load(table, keys)
        # What is not in the index beside the data, and is not to be kept there either.
        rest = {p: key for p, key in keys.items() if p not in found and self._keeper(p) is self._elsewhere}
        return found | self._elsewhere.load(table, rest)

    def save(self, table: Table, rows: Iterable[tuple[Path, Key, tuple[Any, ...]]]) -> dict[Path, Blob | None]:
        """Keep rows, in place of earlier ones of the same files and version, and throw away those of the files as they
        were before they changed. What is returned are those that were kept, each with where its bytes can be found."""
        kept: dict[Path, Blob | None] = {}
        waiting = list(rows)
        for keeper in (self._beside, self._elsewhere):
            if keeper is None:
                continue
            mine = [row for row in waiting if self._keeper(row[0]) is keeper]
            kept |= keeper.save(table, mine)
            # What could not be kept beside the data is kept elsewhere.
            waiting = [row for row in waiting if self._keeper(row[0]) is not keeper]
        return kept

    def _keeper(self, path: Path) -> _IndexFile:
        beside = self._beside
        if beside is None or not beside.works or not beside.is_writable or beside.name(path) is None:
            return self._elsewhere
        return beside


class _IndexFile:
    """One index. The first thing that goes wrong with it turns it off, with a warning."""

    def __init__(self, folder: Path, *, root: Path | None) -> None:
        self.path = folder.absolute() / INDEX_NAME
        self.works = True
        self._root = root
        self._writable: bool | None = None

    @property
    def is_writable(self) -> bool:
        """Whether rows can be kept here. A cache folder is made to be written: there, what hinders it is worth a
        warning, and this is true."""
        if self._writable is None:
            # SQLite writes a journal beside the file, so that the folder has to be writable too.
            places = [self.path.parent, *([self.path] if self.path.exists() else [])]
            self._writable = self._root is None or all(os.access(place, os.W_OK) for place in places)
            if not self._writable:
                _LOG.debug("%s: cannot be written; what is found out is kept in %s", self.path, cache_folder())
        return self._writable

    def name(self, path: Path) -> bytes | None:
        """What a file is called here, or None for one that has no place here."""
        absolute = str(path.absolute())
        if self._root is None:
            return os.fsencode(absolute)
        # As text: there may be hundreds of thousands. The root itself has no place here: where it is a folder of
        # frames, it would change whenever its index is written.
        prefix = f"{str(self._root).rstrip(os.sep)}{os.sep}"
        if not absolute.startswith(prefix):
            return None
        relative = absolute.removeprefix(prefix).replace(os.sep, "/")
        return None if ".." in relative.split("/") else os.fsencode(relative)

    def load(self, table: Table, keys: Mapping[Path, Key]) -> dict[Path, tuple[Any, ...]]:
        found: dict[Path, tuple[Any, ...]] = {}
        if not self.works or not keys:
            return found
        select = (
            f"SELECT {', '.join(table.columns)} FROM {table.name} "  # noqa: S608 - names are ours
            "WHERE path = ? AND version = ? AND size = ? AND mtime_ns = ?"
        )
        try:
            if not self.path.exists():
                return found
            with self._connected() as connection:
                # One transaction: each would have to be locked, which on a network disk takes long.
                connection.execute("BEGIN")
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table.name,)).fetchone():
                    return found
                for path, key in keys.items():
                    name = self.name(path)
                    if name is None:
                        continue
                    row = connection.execute(select, (name, key.version, key.size, key.mtime_ns)).fetchone()
                    if row is not None:
                        found[path] = row if table.blobs is None else self._with_blob(row)
        except (sqlite3.Error, OSError) as error:
            self._turn_off(table, error)
        return found

    def _with_blob(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        *values, number = row
        return (*values, Blob(self.path, number) if isinstance(number, int) else None)

    def save(self, table: Table, rows: list[tuple[Path, Key, tuple[Any, ...]]]) -> dict[Path, Blob | None]:
        kept: dict[Path, Blob | None] = {}
        if not self.works or not rows:
            return kept
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Closed again each time: a connection must not be carried into a forked process.
            with self._connected() as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _create(table):
                    connection.execute(statement)
                for path, key, row in rows:
                    name = self.name(path)
                    assert name is not None
                    number = _save_row(connection, table, name, key, row)
                    kept[path] = None if number is None else Blob(self.path, number)
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._turn_off(table, error)
            return {}
        return kept

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        mode = "rwc" if self.is_writable else "ro"
        uri = f"{self.path.as_uri()}?mode={mode}"
        # Without an isolation level Python begins no transactions of its own.
        with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT_S, isolation_level=None)) as connection:
            yield connection

    def _turn_off(self, table: Table, error: Exception) -> None:
        self.works = False
        _LOG.warning("%s: index of %s not used: %s", self.path, table.of, error)


def _create(table: Table) -> list[str]:
    typed = ", ".join(f"{column} {kind}" for column, kind in table.columns.items())
    statements = [
        f"CREATE TABLE IF NOT EXISTS {table.name} (path BLOB, version TEXT, size INTEGER, mtime_ns INTEGER, {typed}, "
        "PRIMARY KEY (path, version)) WITHOUT ROWID"
    ]
    if table.blobs is not None:
        statements.append(f"CREATE TABLE IF NOT EXISTS {table.blobs} (number INTEGER PRIMARY KEY, content BLOB)")
    return statements


def _save_row(connection: sqlite3.Connection, table: Table, name: bytes, key: Key, row: tuple[Any, ...]) -> int | None:
    """Put a row in the place of its predecessors; the number of its bytes, if it has any."""
    outdated = "path = ? AND (size <> ? OR mtime_ns <> ?)"
    before = (name, key.size, key.mtime_ns)
    number = None
    if table.blobs is not None:
        *values, content = row
        last = list(table.columns)[-1]
        connection.execute(
            f"DELETE FROM {table.blobs} WHERE number IN (SELECT {last} FROM {table.name} WHERE {outdated})",  # noqa: S608
            before,
        )
        number = None if content is None else _number(name, key)
        row = (*values, number)
        if number is not None:
            connection.execute(f"INSERT OR REPLACE INTO {table.blobs} VALUES (?, ?)", (number, content))  # noqa: S608
    connection.execute(f"DELETE FROM {table.name} WHERE {outdated}", before)  # noqa: S608
    places = ", ".join("?" * (4 + len(table.columns)))
    connection.execute(
        f"INSERT OR REPLACE INTO {table.name} VALUES ({places})",  # noqa: S608
        (name, key.version, key.size, key.mtime_ns, *row),
    )
    return number


def _number(name: bytes, key: Key) -> int:
    """The same for the same file and version, and for no other: whoever holds a number may hold it while the index is
    deleted and made anew, and must then find either the same bytes or none."""
    digest = hashlib.blake2b(repr((name, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
