"""Stores survive whatever happens to who writes them, and say when they are damaged."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.data import shard_writer
from kinema.data.places import Places
from kinema.data.shard_index import RECORD, record_checksums
from kinema.data.shards import ShardWriter, Store, entry_key, file_state
from kinema.types import DataError

SETTINGS = {"size_px": 8, "pixels": "i420"}


def content(number: int) -> bytes:
    return np.random.default_rng(number).integers(0, 256, 100 + 37 * (number % 50), dtype=np.uint8).tobytes()


def fill(folder: Path, numbers: Iterable[int], *, shard: tuple[int, int] = (1, 1)) -> None:
    with ShardWriter(folder, kind="test", settings=SETTINGS, shard=shard) as writer:
        for number in numbers:
            writer.append(entry_key(number), content(number), {"number": number})


def assert_holds(store: Store, numbers: range) -> None:
    assert set(store.keys()) == {entry_key(number) for number in numbers}
    assert len(store) == len(numbers)
    for number in numbers:
        assert store.get(entry_key(number)).tobytes() == content(number)
        assert store.meta(entry_key(number)) == {"number": number}
    assert store.damaged() == []


def test_what_was_stored_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(20))
    store = Store.open(tmp_path / "s", kind="test")
    assert_holds(store, range(20))
    assert (store.kind, store.settings) == ("test", SETTINGS)
    assert store.num_bytes == sum(len(content(number)) for number in range(20))
    assert store.num_bytes_of(entry_key(3)) == len(content(3))
    assert entry_key(20) not in store
    with pytest.raises(KeyError):
        store.get(entry_key(20))
    assert not store.get(entry_key(1)).flags.writeable
    out = np.zeros(len(content(7)), dtype=np.uint8)
    store.read_into(entry_key(7), out)
    assert out.tobytes() == content(7)
    store.read_into(entry_key(7), out[:5], start=11)
    assert out[:5].tobytes() == content(7)[11:16]


def test_arrays_are_stored_by_their_bytes_and_aligned(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    with ShardWriter(tmp_path / "s", kind="test", settings={}) as writer:
        writer.append(entry_key("odd"), b"abc", {})
        writer.append(entry_key("turned"), values.transpose(2, 0, 1), {})
        writer.append(entry_key("none"), np.zeros((0, 4)), {})
    store = Store.open(tmp_path / "s")
    read = store.get(entry_key("turned")).view(np.float16).reshape(4, 2, 3)
    assert np.array_equal(read, values.transpose(2, 0, 1))
    assert read.ctypes.data % 64 == 0
    out = np.empty((4, 2, 3), dtype=np.float16)
    store.read_into(entry_key("turned"), out)
    assert np.array_equal(out, read)
    assert store.get(entry_key("none")).size == 0


def test_an_empty_store_is_one(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(0))
    assert_holds(Store.open(tmp_path / "s"), range(0))


def test_shards_are_merged_and_of_what_two_stored_the_first_counts(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    both = [ShardWriter(folder, kind="test", settings=SETTINGS, shard=(number, 2)) for number in (1, 2)]
    for number, writer in enumerate(both):  # neither saw what the other has stored since
        writer.append(entry_key("same"), f"of {number}".encode(), {"of": number})
        writer.append(entry_key(number), content(number), {"number": number})
    for writer in both:
        writer.close()
    store = Store.open(folder)
    assert list(store.keys()) == [entry_key("same"), entry_key(0), entry_key(1)]
    assert store.get(entry_key("same")).tobytes() == b"of 0"
    assert store.meta(entry_key("same")) == {"of": 0}
    # Cut differently, the next jobs still know what is there.
    with ShardWriter(folder, kind="test", settings=SETTINGS, shard=(3, 3)) as writer:
        assert entry_key("same") in writer
        assert entry_key(1) in writer
        writer.append(entry_key(0), b"again", {})
    assert Store.open(folder).get(entry_key(0)).tobytes() == content(0)


def test_a_store_is_pickled_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    store = Store.open(tmp_path / "s")
    store.get(entry_key(0))
    fill(tmp_path / "s", range(9))
    assert_holds(pickle.loads(pickle.dumps(store)), range(5))


def test_a_fork_reads_too(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    store = Store.open(tmp_path / "s")
    store.get(entry_key(0))
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get(entry_key(4)).tobytes() == content(4) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get(entry_key(4)).tobytes() == content(4)


# Killed


@contextmanager
def other_process(function: Callable[[], None]) -> Iterator[int]:
    """A process that does something, and is killed at the end of the block."""
    process = os.fork()
    if process == 0:
        with suppress(BaseException):
            function()
            os._exit(0)
        os._exit(1)
    try:
        yield process
    finally:
        with suppress(ChildProcessError, ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def fill_and_die(folder: Path, left: int) -> None:
    """Fill, and be killed after half of the `left`-th write."""
    shard_writer._COMMIT_EVERY_S = 0.0
    write = shard_writer._write

    def dies(descriptor: int, data: bytes | memoryview) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            write(descriptor, memoryview(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(descriptor, data)

    shard_writer._write = dies  # type: ignore[assignment]
    fill(folder, range(12))


def test_killed_in_the_middle_of_anything(tmp_path: Path) -> None:
    """Padding, data, meta or index record, each of them half written, one kill after the other on one store."""
    folder = tmp_path / "s"
    num_kept = 0
    for left in (1, 2, 3, 4, 5, 6, 11, 8, 7):
        with other_process(partial(fill_and_die, folder, left)) as process:
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        store = Store.open(folder)
        assert len(store) >= num_kept  # what was committed stays
        num_kept = len(store)
        assert_holds(store, range(num_kept))
    assert num_kept >= 6
    fill(folder, range(12))
    assert_holds(Store.open(folder), range(12))
    (index,) = folder.glob("*.idx")
    assert index.stat().st_size == 12 * 64  # no duplicate
    assert (folder / "1-of-1.bin").stat().st_size < sum(len(content(number)) + 64 for number in range(12))


def fill_for_ever(folder: Path) -> None:
    shard_writer._COMMIT_EVERY_S = 0.01
    fill(folder, range(10**9))


def wait_for_entries(folder: Path, num: int) -> None:
    deadline_s = time.monotonic() + 30
    while sum(path.stat().st_size for path in folder.glob("*.idx")) < 64 * num:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    num_kept = 0
    for seconds in (0.02, 0.011, 0.0163, 0.03, 0.0):
        with other_process(partial(fill_for_ever, folder)):
            wait_for_entries(folder, num_kept + 1)
            time.sleep(seconds)
        store = Store.open(folder)
        assert len(store) > num_kept
        num_kept = len(store)
        assert_holds(store, range(num_kept))
        store.close()


def test_stopped_from_the_keyboard_keeps_all(tmp_path: Path) -> None:
    def interrupted() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "s", interrupted())
    assert_holds(Store.open(tmp_path / "s"), range(3))


@given(cut=st.integers(min_value=0, max_value=64 * 3 - 1))
def test_an_index_that_breaks_off_loses_only_its_end(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut") / "s"
    fill(folder, range(5))
    index = folder / "1-of-1.idx"
    index.write_bytes(index.read_bytes()[: 5 * 64 - 1 - cut])
    num_left = (5 * 64 - 1 - cut) // 64
    assert_holds(Store.open(folder), range(num_left))
    fill(folder, range(6))
    assert_holds(Store.open(folder), range(6))


def test_zeros_at_the_end_of_an_index_are_no_entries(tmp_path: Path) -> None:
    """What some file systems leave behind when the power fails."""
    fill(tmp_path / "s", range(3))
    with (tmp_path / "s" / "1-of-1.idx").open("ab") as file:
        file.write(bytes(200))
    assert_holds(Store.open(tmp_path / "s"), range(3))
    fill(tmp_path / "s", range(4))
    assert_holds(Store.open(tmp_path / "s"), range(4))


# At once


def test_the_same_shard_is_written_by_one_job_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with other_process(partial(fill_for_ever, folder)):
        wait_for_entries(folder, 1)
        with pytest.raises(DataError, match=r"another process is writing shard 1/1 of this store"):
            ShardWriter(folder, kind="test", settings=SETTINGS)
        fill(folder, range(2), shard=(2, 2))
    fill(folder, range(2))


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_a_shard_has_a_number_of_how_many(tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=rf"shard {shard[0]}/2: the first of 2 is 1/2"):
        ShardWriter(tmp_path / "s", kind="test", settings={}, shard=shard)


# What is not as it should be


def test_a_damaged_entry_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fill(folder, range(10))
    data, meta = folder / "1-of-1.bin", folder / "1-of-1.meta"
    flipped = bytearray(data.read_bytes())
    position = flipped.index(content(4)) + 50
    flipped[position] ^= 1
    data.write_bytes(flipped)
    meta.write_bytes(meta.read_bytes().replace(b'"number":7', b'"number":8'))
    store = Store.open(folder)
    num_checked = 0

    def checked(num_bytes: int) -> None:
        nonlocal num_checked
        num_checked += num_bytes

    assert store.damaged(checked=checked) == [entry_key(4), entry_key(7)]
    assert num_checked == store.num_bytes - len(content(7))
    with pytest.raises(DataError, match=r"1-of-1\.meta: damaged; see kinema data check"):
        store.meta(entry_key(7))


def test_a_file_that_was_cut_short_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fill(folder, range(10))
    os.truncate(folder / "1-of-1.bin", 200)
    store = Store.open(folder)
    assert entry_key(9) in store.damaged()
    assert entry_key(0) not in store.damaged()
    with pytest.raises(DataError, match=r"1-of-1\.bin: shorter than its index says"):
        store.get(entry_key(9))
    with pytest.raises(DataError, match=r"1-of-1\.bin: shorter than 1-of-1\.idx says"):
        fill(folder, range(11))


def test_an_index_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    index = tmp_path / "s" / "1-of-1.idx"
    content = bytearray(index.read_bytes())
    for byte in (64, 100, 127):
        broken = bytearray(content)
        broken[byte] ^= 4
        index.write_bytes(broken)
        with pytest.raises(DataError, match=r"1-of-1\.idx: damaged: record 1 is not what was written"):
            Store.open(tmp_path / "s")


def test_other_stores_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with pytest.raises(DataError, match=r"not a store: there is no store\.json in it"):
        Store.open(folder)
    fill(folder, range(1))
    with pytest.raises(DataError, match=r"a store of test, where one of frames is needed"):
        Store.open(folder, kind="frames")
    with pytest.raises(DataError, match=r"is a store of test, not of frames; give another folder"):
        ShardWriter(folder, kind="frames", settings=SETTINGS)
    with pytest.raises(DataError, match=r"was made with pixels = 'i420', not 'rgb'"):
        ShardWriter(folder, kind="test", settings={**SETTINGS, "pixels": "rgb"})
    description = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**description, "version": 2}))
    with pytest.raises(DataError, match=r"a store of version 2, and this kinema reads version 1"):
        Store.open(folder)
    with pytest.raises(DataError, match=r"a store of version 2"):
        ShardWriter(folder, kind="test", settings=SETTINGS)


def test_a_full_disk_costs_nothing_that_was_committed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(DataError, match=r"cannot be written: No space left on device; make room and run it again"):
            fill_up(disk / "s")
        store = Store.open(disk / "s")
        num_kept = len(store)
        assert num_kept > 10
        assert store.damaged() == []
        assert store.get(entry_key(num_kept - 1)).tobytes() == content(num_kept - 1) * 20
        store.close()
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        with ShardWriter(disk / "s", kind="test", settings=SETTINGS) as writer:
            assert len(writer) == num_kept
            writer.append(entry_key("one more"), bytes(50_000), {})
        assert len(Store.open(disk / "s")) == num_kept + 1
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_up(folder: Path) -> None:
    with ShardWriter(folder, kind="test", settings=SETTINGS) as writer:
        for number in range(10**6):
            writer.append(entry_key(number), content(number) * 20, {"number": number})
            writer.commit()


def test_many_entries_are_opened_at_once(tmp_path: Path) -> None:
    num = 240_000
    fill(tmp_path, range(1))
    index = tmp_path / "1-of-1.idx"
    records = np.repeat(np.frombuffer(index.read_bytes(), dtype=RECORD), num)
    records["key"][1:] = np.random.default_rng(0).integers(0, 256, (num - 1, 16))
    records["record_checksum"] = record_checksums(records)
    index.write_bytes(records.tobytes())
    assert len(Store.open(tmp_path)) == num
    assert min(_seconds_to_open(tmp_path) for _ in range(3)) < 1.0


def _seconds_to_open(folder: Path) -> float:
    began = time.perf_counter()
    store = Store.open(folder)
    assert store.get(entry_key(0)).tobytes() == content(0)
    return time.perf_counter() - began


# Keys


def test_a_file_is_named_from_the_root_and_told_from_itself_when_changed(tmp_path: Path) -> None:
    path = tmp_path / "root" / "a" / "b.avi"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"123")
    os.utime(path, ns=(1, 5))
    state = file_state(path, tmp_path / "root")
    assert state == {"path": "a/b.avi", "size": 3, "mtime_ns": 5}
    assert file_state(path, tmp_path / "elsewhere")["path"] == path.as_posix()
    os.utime(path, ns=(1, 6))
    assert entry_key(file_state(path, tmp_path / "root")) != entry_key(state)
    with pytest.raises(DataError, match=r"gone\.avi: cannot be read"):
        file_state(tmp_path / "gone.avi")


def test_a_folder_of_frames_is_told_from_itself_when_a_file_in_it_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "frames"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"123")
        os.utime(folder / f"{number}.png", ns=(5, 5))
    before, stat = file_state(folder, tmp_path / "root"), folder.stat()
    assert (before["path"], before["files"]) == ("frames", 3)
    (folder / "1.png").write_bytes(b"456")  # in its place: the folder stays as it was
    assert folder.stat().st_mtime_ns == stat.st_mtime_ns
    assert file_state(folder, tmp_path / "root") != before
    (folder / "1.png").write_bytes(b"123")
    os.utime(folder / "1.png", ns=(5, 5))
    assert file_state(folder, tmp_path / "root") == before
    moved = (tmp_path / "moved").absolute()
    (tmp_path / "root").rename(moved)
    os.utime(moved / "frames", ns=(7, 7))
    assert file_state(moved / "frames", moved) == before
    (moved / "frames" / "2.png").rename(moved / "frames" / "3.png")
    assert file_state(moved / "frames", moved) != before


def test_that_there_is_nothing_to_store_is_stored(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, kind="test", settings={}) as writer:
        writer.append(entry_key("a"), b"abc", {})
        writer.append_failure(entry_key("b"), "b.avi: does not decode", {"clip": "b"})
        writer.append(entry_key("none"), b"", {})
    store = Store.open(tmp_path)
    assert store.failures() == {entry_key("b"): "b.avi: does not decode"}
    assert [store.failure(entry_key(name)) is None for name in ("a", "b", "none")] == [True, False, True]
    assert store.damaged() == []
    with pytest.raises(DataError, match=r"^b\.avi: does not decode$"):
        store.read_into(entry_key("b"), np.zeros(3, dtype=np.uint8))


def test_a_damaged_reason_is_a_failure_and_damage(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, kind="test", settings={}) as writer:
        writer.append(entry_key("a"), b"abc", {})
        writer.append_failure(entry_key("b"), "b.avi: does not decode", {"clip": "b"})
    (meta,) = tmp_path.glob("*.meta")
    content = bytearray(meta.read_bytes())
    content[content.index(b"b.avi")] ^= 1
    meta.write_bytes(content)
    store = Store.open(tmp_path)
    assert store.damaged() == [entry_key("b")]
    assert "damaged; see kinema data check" in store.failures()[entry_key("b")]
    assert store.parts == {1: [1]}


def test_places_of_keys_in_several_stores(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(4))
    fill(tmp_path / "b", range(2, 6))
    keys = np.array([[list(entry_key(number)) for number in row] for row in ((0, 3, 5), (9, 2, 1))], dtype=np.uint8)
    stores = [Store.open(tmp_path / name) for name in "ab"]
    places = Places(stores, keys)
    assert places.held.tolist() == [[True, True, True], [False, True, True]]
    assert places.stores == stores
    for place, number in {(0, 1): 3, (0, 2): 5, (1, 1): 2}.items():
        out = np.zeros(len(content(number)), dtype=np.uint8)
        assert places.read(place, out)
        assert out.tobytes() == content(number)
    assert not places.read((1, 0), np.zeros(3, dtype=np.uint8))
    # Of the same content in another place it is the same, and another one of what is missing or different.
    assert Places(stores[::-1], keys).fingerprint == places.fingerprint
    assert Places(stores[:1], keys).fingerprint != places.fingerprint
    fill(tmp_path / "b", [9])
    assert Places([stores[0], Store.open(tmp_path / "b")], keys).fingerprint != places.fingerprint


def test_a_key_is_of_what_is_in_it_in_any_order() -> None:
    assert entry_key({"a": 1, "b": [1, 2]}) == entry_key({"b": [1, 2], "a": 1})
    assert entry_key({"a": 1}) != entry_key({"a": 2})
    assert len(entry_key(0)) == 16
