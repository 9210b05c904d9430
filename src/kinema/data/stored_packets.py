"""Packet indexes that stay in the index of the data set until a frame of their video is read.

A listing may have hundreds of thousands of videos, and each process that reads frames needs the packets of a few at a
time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from kinema.data.packet_index import PacketIndex

_LOG = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 10.0

_MOST_PACKETS = 1_000_000
"""Packets that are kept at hand in a process: some 30 MB. Clips of one long video follow each other in many data
sets."""


@dataclass(slots=True)
class _Opened:
    """What one process has of an index. What a process had before it forked is not used behind it, and not closed
    either: SQLite's connections bear neither."""

    pid: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: sqlite3.Connection | None = None
    recent: OrderedDict[int, PacketIndex] = field(default_factory=OrderedDict)
    num_packets: int = 0
    works: bool = True


class PacketFile:
    """Reads packet indexes out of the index of a data set, in whatever process and thread.

    Args:
        path: The index.
        table: Its table of them.
    """

    def __init__(self, path: Path, table: str) -> None:
        self.path = path
        self._table = table
        self._opened: list[_Opened] = []

    def __reduce__(self) -> tuple[type[PacketFile], tuple[Path, str]]:
        return PacketFile, (self.path, self._table)

    def load(self, number: int) -> PacketIndex | None:
        """The packets with this number; None where they are not there any more, or cannot be read."""
        opened = self._of_this_process()
        with opened.lock:
            found = opened.recent.get(number)
            if found is not None:
                opened.recent.move_to_end(number)
            elif opened.works:
                found = self._read(opened, number)
                if found is not None:
                    _keep(opened, number, found)
        return found

    def _of_this_process(self) -> _Opened:
        if not self._opened or self._opened[-1].pid != os.getpid():
            self._opened.append(_Opened(pid=os.getpid()))
        return self._opened[-1]

    def _read(self, opened: _Opened, number: int) -> PacketIndex | None:
        try:
            if opened.connection is None:
                opened.connection = sqlite3.connect(
                    f"{self.path.as_uri()}?mode=ro",
                    uri=True,
                    timeout=_LOCK_TIMEOUT_S,
                    isolation_level=None,
                    check_same_thread=False,
                )
            select = f"SELECT content FROM {self._table} WHERE number = ?"  # noqa: S608 - the name is ours
            # All rows: a statement that could give more would keep the index locked.
            rows = opened.connection.execute(select, (number,)).fetchall()
        except sqlite3.Error as error:
            opened.works = False
            _LOG.debug("%s: packets cannot be read, frames are found the slow way: %s", self.path, error)
            return None
        try:
            return PacketIndex.from_bytes(rows[0][0])
        except (IndexError, TypeError, ValueError) as error:
            _LOG.debug("%s: no packets with number %d: %s", self.path, number, error)
            return None


def _keep(opened: _Opened, number: int, packets: PacketIndex) -> None:
    opened.recent[number] = packets
    opened.num_packets += len(packets.sizes)
    while opened.num_packets > _MOST_PACKETS and len(opened.recent) > 1:
        _, oldest = opened.recent.popitem(last=False)
        opened.num_packets -= len(oldest.sizes)


@dataclass(frozen=True, slots=True)
class StoredPackets:
    """The packets of one video, fetched when they are needed (a `kinema.data.packet_index.PacketSource`)."""

    file: PacketFile
    number: int

    def load(self) -> PacketIndex | None:
        """The packets, or None where they cannot be had any more."""
        return self.file.load(self.number)
