"""Packets that stay in the index until they are needed: the same in every process, and nothing where they are gone."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import REPOSITORY

from kinema.data import stored_packets
from kinema.data.file_index import Index
from kinema.data.packet_index import DecoderSettings, PacketIndex
from kinema.data.probing import _Store, file_key
from kinema.data.stored_packets import StoredPackets
from kinema.data.video import Orientation, Video


def packets_of(num: int) -> PacketIndex:
    sizes = np.arange(100, 100 + num, dtype=np.int32)
    return PacketIndex(
        settings=DecoderSettings(
            codec="h264", tag="avc1", extradata=b"head", width_px=64, height_px=48, color=(0, 1, 1, 1), reorder_depth=0
        ),
        sizes=sizes,
        positions=np.cumsum(sizes.astype(np.int64)) - sizes,
        frames=np.arange(num, dtype=np.int32),
        starts=np.where(np.arange(num) % 4 == 0, np.arange(num), -1).astype(np.int32),
        droppable=np.zeros(num, dtype=np.bool_),
        file_bytes=int(sizes.sum()),
    )


@pytest.fixture
def listing(tmp_path: Path) -> dict[Path, Video]:
    """Videos of 5, 6 and 7 frames, as they come out of the index; one of them has packets, one is turned."""
    found = {}
    for num in (5, 6, 7):
        path = tmp_path / f"{num}.mp4"
        path.touch()
        found[path] = Video(
            path=path,
            times_s=np.arange(num) / 25,
            duration_s=num / 25,
            fps=25.0,
            width_px=64,
            height_px=48,
            rotation_deg=0,
            codec="h264",
            container="mp4",
            packets=None if num == 7 else packets_of(num),
            orientation=Orientation(True, False, num == 7),
        )
    keys = {path: key for path in found if (key := file_key(path))}
    saved = _Store(Index(folder=tmp_path)).save(keys, dict(found))
    loaded = _Store(Index(folder=tmp_path)).load(keys)
    assert saved.keys() == loaded.keys() == found.keys()
    for path, video in found.items():
        for other in (saved[path], loaded[path]):
            assert isinstance(other, Video)
            assert other.orientation == video.orientation
            assert np.array_equal(other.times_s, video.times_s)
            assert (other.packets is None) == (video.packets is None)
    return {path: video for path, video in loaded.items() if isinstance(video, Video)}


def stored(listing: dict[Path, Video], num: int) -> StoredPackets:
    (packets,) = [video.packets for path, video in listing.items() if path.stem == str(num)]
    assert isinstance(packets, StoredPackets)
    return packets


def same(found: PacketIndex | None, num: int) -> bool:
    return found is not None and found.to_bytes() == packets_of(num).to_bytes()


def test_they_are_what_was_saved_and_kept_at_hand(listing: dict[Path, Video]) -> None:
    five = stored(listing, 5)
    assert same(five.load(), 5)
    assert five.load() is five.load()
    assert stored(listing, 6).file is five.file
    assert same(stored(listing, 6).load(), 6)


def test_only_so_many_are_kept_at_hand(listing: dict[Path, Video], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_packets, "_MOST_PACKETS", 10)
    first = stored(listing, 5).load()
    assert same(stored(listing, 6).load(), 6)
    again = stored(listing, 5).load()
    assert again is not first
    assert same(again, 5)


def _says(packets: StoredPackets, queue: multiprocessing.SimpleQueue[bool]) -> None:
    queue.put(same(packets.load(), 6))


@pytest.mark.parametrize("context", [get_context("fork"), get_context("spawn")], ids=["fork", "spawn"])
def test_another_process_reads_them_too(
    listing: dict[Path, Video], context: ForkContext | SpawnContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)  # where a process that is spawned finds this module
    assert same(stored(listing, 5).load(), 5)  # so that there is a connection to be inherited
    queue: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    process = context.Process(target=_says, args=(stored(listing, 6), queue))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    assert queue.get()


def test_several_threads_read_at_once(listing: dict[Path, Video]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda num: same(stored(listing, num).load(), num), [5, 6] * 20))
    assert all(found)


def test_a_pickled_listing_names_its_index_once(listing: dict[Path, Video]) -> None:
    again = pickle.loads(pickle.dumps(listing))
    assert same(stored(again, 5).load(), 5)
    assert stored(again, 5).file is stored(again, 6).file


def test_reading_does_not_lock_the_index(listing: dict[Path, Video], tmp_path: Path) -> None:
    assert same(stored(listing, 5).load(), 5)
    with closing(sqlite3.connect(tmp_path / "kinema-index.sqlite", timeout=0)) as connection, connection:
        connection.execute("UPDATE packets_1 SET content = x'00'")
    assert same(stored(listing, 5).load(), 5)  # at hand
    assert stored(listing, 6).load() is None  # what lies there now is no packet index


def test_where_they_are_gone_there_are_none(
    listing: dict[Path, Video], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / "kinema-index.sqlite")) as connection, connection:
        connection.execute("DELETE FROM packets_1")
    assert stored(listing, 5).load() is None
    (tmp_path / "kinema-index.sqlite").write_text("no database " * 1000)
    anew = pickle.loads(pickle.dumps(listing))
    (tmp_path / "kinema-index.sqlite-journal").unlink(missing_ok=True)
    with caplog.at_level(logging.DEBUG):
        assert stored(anew, 5).load() is None
    (tmp_path / "kinema-index.sqlite").unlink()
    assert stored(pickle.loads(pickle.dumps(listing)), 5).load() is None
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
