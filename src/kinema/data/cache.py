"""The cache on disk: what was found out about files, kept until they change.

It only saves time: without it, or beside a broken one, results are the same.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 5.0

Key = tuple[bytes, int, int, str]  # path, size, mtime_ns, version


def cache_folder() -> Path:
    """Where kinema keeps what it can find out again: `$KINEMA_CACHE`, else `$XDG_CACHE_HOME/kinema`, else
    `~/.cache/kinema`."""
    own = os.environ.get("KINEMA_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "kinema"


class CacheTable:
    """A table of `probes.sqlite`, with a row per file. The first thing that goes wrong with it turns it off, with a
    warning.

    Args:
        folder: Where the file lies, or will.
        name: Of the table.
        columns: Columns behind those of the key, each with its type, as SQL has them.
        of: What the rows are about, for the warning.
    """

    def __init__(self, folder: Path, *, name: str, columns: Mapping[str, str], of: str) -> None:
        self._path = folder / "probes.sqlite"
        self._of = of
        self._works = True
        typed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        self._create = (
            f"CREATE TABLE IF NOT EXISTS {name} (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, version TEXT, "
            f"{typed}) WITHOUT ROWID"
        )
        self._select = (
            f"SELECT {', '.join(columns)} FROM {name} "  # noqa: S608
            "WHERE path = ? AND size = ? AND mtime_ns = ? AND version = ?"
        )
        self._insert = f"INSERT OR REPLACE INTO {name} VALUES ({', '.join('?' * (4 + len(columns)))})"  # noqa: S608

    def load(self, keys: Mapping[Path, Key]) -> dict[Path, tuple[Any, ...]]:
        """Rows of the files that have one, without their keys."""
        found: dict[Path, tuple[Any, ...]] = {}
        if not self._works:
            return found
        try:
            with closing(self._connect()) as connection:
                for path, key in keys.items():
                    row = connection.execute(self._select, key).fetchone()
                    if row is not None:
                        found[path] = row
        except (sqlite3.Error, OSError) as error:
            self._turn_off(error)
        return found

    def save(self, rows: Iterable[tuple[Key, tuple[Any, ...]]]) -> None:
        """Keep rows, in place of earlier ones of the same files."""
        values = [(*key, *row) for key, row in rows]
        if not values or not self._works:
            return
        try:
            # Closed again each time: a connection must not be carried into a forked process.
            with closing(self._connect()) as connection, connection:
                connection.executemany(self._insert, values)
        except (sqlite3.Error, OSError) as error:
            self._turn_off(error)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S)
        try:
            connection.execute(self._create)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _turn_off(self, error: Exception) -> None:
        self._works = False
        _LOG.warning("%s: cache of %s not used: %s", self._path, self._of, error)
