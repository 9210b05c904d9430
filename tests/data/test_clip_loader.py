"""Loaders: nothing is overwritten, nothing is lost, nothing is left, whatever happens to the workers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import REPOSITORY
from tests.readers import MadeUpReader, OddError, assert_right

from kinema.data import loading, read_ahead
from kinema.data.loading import Batch, ClipLoader, EpochOrder, clip_loader

DEATHS = ("exit", "kill", "crash")
DIED = "the process that read it died; out of memory, or a crash"
WAYS = [(0, True), (1, True), (2, True), (3, True), (1, False), (3, False)]


def loader(reader: MadeUpReader, *, workers: int = 2, batch_size: int = 4, seed: int | None = None) -> ClipLoader:
    return clip_loader(reader, EpochOrder(len(reader), batch_size=batch_size, seed=seed), workers=workers)


def at(batches: ClipLoader) -> EpochOrder:
    assert isinstance(batches.order, EpochOrder)
    return batches.order


def until(condition: Callable[[], bool], *, timeout_s: float = 20) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def num_begun(batches: ClipLoader) -> int:
    """Clips that processes have begun to read, since they were started."""
    assert batches._started is not None
    engine = batches._started[0]
    assert isinstance(engine, read_ahead.ReadAhead)
    return sum(process._num_begun.value for process in engine._processes)


def num_threads() -> int:
    return sum(thread.name.startswith("kinema-reader") for thread in threading.enumerate())


def num_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# What is read


@pytest.mark.parametrize(("workers", "in_processes"), WAYS)
@pytest.mark.parametrize("batch_size", [1, 4, 23, 40])
def test_batches_come_in_order_and_are_right(workers: int, in_processes: bool, batch_size: int) -> None:
    reader = MadeUpReader(in_processes=in_processes, events={3: "unreadable", 8: "slow", 22: "unreadable"})
    order = EpochOrder(len(reader), batch_size=batch_size, seed=5)
    with clip_loader(reader, order, workers=workers) as batches:
        for epoch, first in [(0, 0), (1, 2), (7, 0)]:
            order.set_position(epoch=epoch, first_batch=first)
            expected = list(order)
            for items, batch in zip(expected, batches, strict=True):
                indices = [index for index, _ in items]
                assert batch.indices.tolist() == [index for index in indices if index not in (3, 22)]
                assert batch.failures == {index: "it is unreadable" for index in indices if index in (3, 22)}
                if len(batch):
                    assert_right(batch, epoch=epoch)


def test_processes_that_are_spawned_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)  # where they find this module
    for module in (loading, read_ahead):
        monkeypatch.setattr(module, "start_method", lambda: "spawn")
    with loader(MadeUpReader(events={5: "unreadable"}), workers=1) as batches:
        held = list(batches)
        seen = [index for batch in held for index in batch.indices.tolist()]
        assert seen == [index for index in range(23) if index != 5]
    for batch in held:
        assert_right(batch)
    del batch, held
    gc.collect()
    assert children() == []


def test_a_loader_has_a_length_and_ends() -> None:
    with loader(MadeUpReader(10), workers=1) as batches:
        assert len(batches) == 3
        assert len(list(batches)) == 3
        assert len(list(batches)) == 3
    with pytest.raises(RuntimeError, match="after it was closed"):
        next(iter(batches))
    batches.close()


def test_a_list_without_clips() -> None:
    with loader(MadeUpReader(0), workers=1) as batches:
        assert list(batches) == []


@pytest.mark.parametrize("in_processes", [True, False])
def test_an_epoch_that_is_left_does_not_disturb_the_next(in_processes: bool) -> None:
    with loader(MadeUpReader(60, in_processes=in_processes, sleep_s=0.002), seed=1) as batches:
        for epoch in range(12):
            at(batches).set_position(epoch=epoch, first_batch=0)
            old = iter(batches)
            for _ in range(epoch % 4):
                assert_right(next(old), epoch=epoch)
        found = [batch.indices for batch in batches]
        assert sorted(torch.cat(found).tolist()) == list(range(60))
        with pytest.raises(RuntimeError, match="begun again"):
            next(old)


def test_two_loaders_at_once() -> None:
    with loader(MadeUpReader(), workers=1) as one, loader(MadeUpReader(events={2: "kill"}), workers=2) as other:
        for first, second in zip(one, other, strict=True):
            assert_right(first)
            assert_right(second)


# Memory


@pytest.mark.parametrize(("workers", "in_processes"), WAYS)
def test_batches_that_are_kept_are_not_overwritten(workers: int, in_processes: bool) -> None:
    rng = random.Random(0)
    kept: list[tuple[int, Batch]] = []
    with loader(MadeUpReader(50, in_processes=in_processes), workers=workers, batch_size=3) as batches:
        for epoch in range(6):
            at(batches).set_position(epoch=epoch, first_batch=0)
            for batch in batches:
                kept.append((epoch, batch))
                if rng.random() < 0.5:
                    kept.pop(rng.randrange(len(kept)))
            for of_epoch, batch in kept:
                assert_right(batch, epoch=of_epoch)
    for of_epoch, batch in kept:
        assert_right(batch, epoch=of_epoch)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_that_of_the_slots(workers: int) -> None:
    with loader(MadeUpReader(100), workers=workers) as batches:
        places = set()
        for _ in range(5):
            for batch in batches:
                places.add(batch.streams["rgb"].data_ptr())
        assert len(places) <= (6 if workers else 4)
    part = batch.streams["rgb"][1:]
    place = part.data_ptr()
    del batch
    assert (part == part[0, 0, 0, 0, 0]).any()
    assert part.data_ptr() == place


@pytest.mark.parametrize("kept", ["a row", "an array", "features"])
def test_whatever_is_made_of_a_batch_without_copying_keeps_its_memory(kept: str) -> None:
    parts: dict[str, Callable[[Batch], Any]] = {
        "a row": lambda batch: batch.streams["rgb"][2],
        "an array": lambda batch: batch.streams["rgb"].numpy()[2:3, :, 1],
        "features": lambda batch: None if batch.features is None else batch.features.mT,
    }
    with loader(MadeUpReader(100)) as batches:
        iterator = iter(batches)
        part = torch.as_tensor(parts[kept](next(iterator)))
        before = part.clone()
        for _ in iterator:
            assert torch.equal(part, before)


def test_the_memory_of_batches_is_not_in_dev_shm() -> None:
    def mapped() -> set[str]:
        return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/" in line}

    before = mapped()
    with loader(MadeUpReader(16, shape=(2, 512, 1024))) as batches:
        assert next(iter(batches)).streams["rgb"].shape == (4, 2, 512, 1024)
        assert mapped() <= before


@pytest.mark.parametrize(("workers", "in_processes"), [(2, True), (2, False), (0, True)])
def test_nothing_piles_up_and_nothing_is_left(workers: int, in_processes: bool) -> None:
    def resident_pages(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])

    files, threads = num_files(), num_threads()
    events = {5: "unreadable"} if workers == 0 or not in_processes else {5: "unreadable", 11: "exit"}
    batches = loader(MadeUpReader(40, in_processes=in_processes, events=events, shape=(2, 500, 100)), workers=workers)
    sizes, open_files = [], []
    for _ in range(30):
        for batch in batches:
            assert_right(batch)
        sizes.append(sum(map(resident_pages, [os.getpid(), *children()])))
        open_files.append(num_files())
    assert len(children()) == (workers if in_processes else 0)
    assert max(open_files[2:]) == min(open_files[2:])
    assert max(sizes[5:]) <= 1.03 * max(sizes[2:5])
    batches.close()
    del batch, batches
    assert children() == []
    assert num_threads() == threads
    assert num_files() == files


@pytest.mark.parametrize("in_processes", [True, False])
def test_a_loader_that_nobody_closed_ends_when_nobody_has_it(in_processes: bool) -> None:
    files, threads = num_files(), num_threads()
    batches = loader(MadeUpReader(in_processes=in_processes))
    assert_right(next(iter(batches)))
    assert num_threads() == threads + 2
    del batches
    gc.collect()
    assert until(lambda: not children() and num_threads() == threads)
    assert until(lambda: num_files() == files)


# Reading ahead


@pytest.mark.parametrize("in_processes", [True, False])
def test_workers_go_on_while_nobody_asks(in_processes: bool) -> None:
    counter = multiprocessing.Value("i", 0)
    reader = MadeUpReader(200, in_processes=in_processes, sleep_s=0.002, counter=counter)
    with loader(reader, workers=2) as batches:
        iterator = iter(batches)
        next(iterator)
        # One was given out; two more, and one for the four clips that two workers have.
        assert until(lambda: counter.value == 4 * (1 + 3))
        time.sleep(0.1)
        assert counter.value == 16
        next(iterator)
        assert until(lambda: counter.value == 20)


def test_one_slow_clip_does_not_stop_the_other_workers() -> None:
    counter = multiprocessing.Value("i", 0)
    with loader(MadeUpReader(8, events={0: "endless"}, counter=counter), workers=2) as batches:
        thread = threading.Thread(target=lambda: list(batches), daemon=True)
        thread.start()
        assert until(lambda: counter.value == 6)  # all but the endless one and the one behind it
        assert until(lambda: num_begun(batches) == 7)  # killed before it begins, its clip would be read by another
        for child in children():  # one of them is at the endless clip; killing the other costs nothing
            os.kill(child, signal.SIGKILL)
        thread.join(20)
        assert not thread.is_alive()


# Workers that die


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_kills_its_process_is_named_and_the_others_are_unharmed(death: str, workers: int) -> None:
    events = {0: death, 6: death, 7: death, 13: "unreadable", 22: death}
    with loader(MadeUpReader(events=events), workers=workers) as batches:
        for _ in range(2):
            found = list(batches)
            assert [i for batch in found for i in batch.indices.tolist()] == [i for i in range(23) if i not in events]
            failures = {i: reason for batch in found for i, reason in batch.failures.items()}
            assert failures.pop(13) == "it is unreadable"
            assert failures == {i: f"{i}.mp4: {DIED}" for i in (0, 6, 7, 22)}
            for batch in found:
                assert_right(batch)
        assert len(children()) <= workers


def test_all_clips_kill_their_process() -> None:
    with loader(MadeUpReader(9, events=dict.fromkeys(range(9), "exit"))) as batches:
        found = list(batches)
        assert [len(batch) for batch in found] == [0, 0, 0]
        assert [len(batch.failures) for batch in found] == [4, 4, 1]


def test_processes_that_are_killed_at_any_moment() -> None:
    rng = random.Random(3)
    num_clips = 400
    with loader(MadeUpReader(num_clips, sleep_s=0.001), batch_size=5) as batches:
        seen: list[int] = []
        failed: list[int] = []
        kills = 0
        for number, batch in enumerate(batches):
            if len(batch):
                assert_right(batch)
            seen += batch.indices.tolist()
            failed += batch.failures
            if number % 6 == 0 and number < 70:  # then all has been read
                time.sleep(rng.random() * 0.01)
                for pid in children()[: rng.randint(1, 2)]:
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        assert sorted(seen + failed) == list(range(num_clips))
        assert len(failed) <= kills
        for batch in batches:
            assert_right(batch)
            assert not batch.failures


def test_processes_that_are_killed_while_they_have_nothing_to_do_cost_no_clip() -> None:
    with loader(MadeUpReader()) as batches:
        list(batches)
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: not children())
        assert [batch.failures for batch in batches] == [{}] * 6


def test_a_process_that_dies_just_before_it_is_given_a_clip_costs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    send = read_ahead._Process.send
    killed: list[int] = []

    def late(self: read_ahead._Process, task: Any) -> None:
        if len(killed) < 3 and task[0].items[0][1] == 1:  # in the second epoch: they have read before
            assert self._process.pid is not None
            killed.append(self._process.pid)
            self._process.kill()
            self._process.join()
        send(self, task)

    monkeypatch.setattr(read_ahead._Process, "send", late)
    with loader(MadeUpReader()) as batches:
        list(batches)
        at(batches).set_position(epoch=1, first_batch=0)
        found = list(batches)
    assert len(killed) == 3
    assert [batch.failures for batch in found] == [{}] * 6
    for batch in found:
        assert_right(batch, epoch=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_for_the_parent_to_decide(number: signal.Signals) -> None:
    with loader(MadeUpReader(100, sleep_s=0.002)) as batches:
        before = None
        for batch in batches:
            assert_right(batch)
            assert not batch.failures
            before = before or sorted(children())
            for pid in children():
                os.kill(pid, number)
        assert sorted(children()) == before


@pytest.mark.parametrize("parent_ends", ["by a kill", "by leaving"])
def test_no_process_outlives_its_parent(parent_ends: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    parent = os.fork()
    if parent == 0:
        batches = loader(MadeUpReader(1000, sleep_s=0.01), workers=2)
        others = loader(MadeUpReader(1000, sleep_s=0.01), workers=1)
        next(iter(batches)), next(iter(others))
        theirs.send(children())
        time.sleep(1000 if parent_ends == "by a kill" else 0.01)
        os._exit(0)
    pids = ours.recv()
    assert len(pids) == 3
    assert all(is_running(pid) for pid in pids)
    if parent_ends == "by a kill":
        os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Mistakes


@pytest.mark.parametrize(("workers", "in_processes"), [(0, True), (2, True), (2, False)])
@pytest.mark.parametrize(("event", "message"), [("wrong", "a mistake in a reader"), ("odd", "something odd")])
def test_what_a_reader_raises_is_raised_with_the_clips_name(
    workers: int, in_processes: bool, event: str, message: str
) -> None:
    with loader(MadeUpReader(in_processes=in_processes, events={9: event}), workers=workers) as batches:
        for _ in range(5):  # slots are not lost
            seen = []
            with pytest.raises((KeyError, OddError, RuntimeError), match=message) as caught:
                seen += [batch.indices.tolist() for batch in batches]
            text = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
            assert "'clip 9'" in text
            assert "tests/readers.py" in text or workers == 0 or not in_processes
        at(batches).set_position(epoch=0, first_batch=3)
        assert [batch.indices.tolist() for batch in batches] == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22]]


def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_serve", lambda *_: None)
    with pytest.raises(RuntimeError, match="end as soon as they are started"):
        next(iter(loader(MadeUpReader())))
    assert children() == []
