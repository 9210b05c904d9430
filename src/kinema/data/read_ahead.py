"""Reading clips before they are asked for: the clips of the next batches, by threads or by processes.

Threads of this process take one clip after the other from a queue. Where reading takes a processor (decoding), each
has a process of its own that does it, and hands it a second clip before the first is done, so that the process never
waits. Only where to write and some small facts go through pipes: frames are written into memory that is shared. A
thread whose process dies, or could not be heard any more, says so of the clip that was being read, if there was one,
starts another process and goes on.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from kinema.data.machine import Passing, reason_of
from kinema.data.shared_batches import Layout, Slots
from kinema.types import Clip, DataError

log = logging.getLogger(__name__)

_CLIPS_AT_ONCE = 16
"""Where reading is a memory copy: asking for each clip would take longer than copying it."""

_QUEUED = 2
"""Clips that a process has: one that it reads, and the next."""

_ATTEMPTS = 3
"""To start a process, which may be killed by somebody just then."""

_LOOK_UP_S = 2.0
"""Threads that wait look this often whether they are still wanted: `abandon` cannot tell them."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for a clip and is done later, on the device.

    Attributes:
        flip: Whether it is to be mirrored.
        colour: Factors of brightness, contrast and saturation.
    """

    flip: bool = False
    colour: tuple[float, float, float] | None = None


class Reader(Protocol):
    """Something that clips, or what stands for them, can be read from, by several threads or processes at once.

    Attributes:
        clips: The list that indices point into.
        in_processes: Whether reading takes a processor; else it is a memory copy, which threads do as well.
    """

    @property
    def clips(self) -> Sequence[Clip]: ...

    @property
    def in_processes(self) -> bool: ...

    def __len__(self) -> int: ...

    def layout(self) -> Layout:
        """Stream, or "features", -> shape and type of one clip."""
        ...

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        """Write a clip, as it is in an epoch, where `out` says.

        Raises:
            DataError: It cannot be read.
        """
        ...


Answer = Drawn | str | Exception
"""To a clip: it was read; why it cannot be read; something is wrong that has nothing to do with the clip."""


class Job:
    """A batch that is to be read.

    Args:
        items: (index, epoch) of its clips.
        slot: Where they are to be written.
    """

    def __init__(self, items: Sequence[tuple[int, int]], slot: int) -> None:
        self.items = items
        self.slot = slot
        self.answers: list[Answer] = [""] * len(items)
        self.num_left = len(items)


Task = tuple[Job, range]
"""Some clips of a batch, by their places in it."""


class ReadHere:
    """Reads a batch when it is asked for, in the thread that asks."""

    def __init__(self, reader: Reader, slots: Slots) -> None:
        self._reader, self._slots = reader, slots

    def begin(self, job: Job) -> None:
        pass

    def wait(self, job: Job) -> None:
        for row, item in enumerate(job.items):
            job.answers[row] = read_one(self._reader, self._slots, job.slot, row, *item)

    def drop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class ReadAhead:
    """Threads that read batches, or have them read by a process each. They run until `close`.

    Args:
        reader: What to read from.
        slots: Where to write.
        workers: Threads.
        processes: Whether each has a process.
    """

    def __init__(self, reader: Reader, slots: Slots, *, workers: int, processes: bool) -> None:
        self._reader, self._slots = reader, slots
        self._clips_at_once = 1 if processes else _CLIPS_AT_ONCE
        lock = threading.Lock()
        self._work_came, self._work_done = threading.Condition(lock), threading.Condition(lock)
        self._tasks: deque[Task] = deque()
        self._num_taken = 0
        self._closed = False
        self._error: BaseException | None = None
        self._processes: list[_Process] = []
        self._owner = os.getpid()
        try:
            for _ in range(workers if processes else 0):  # all of them before there are threads
                self._processes.append(_Process(reader, slots, self._processes))
        except BaseException:
            for process in self._processes:
                process.stop()
            raise
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"kinema-reader-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    # Called by who wants batches

    def begin(self, job: Job) -> None:
        """Have a batch read as soon as there is time."""
        with self._work_came:
            for start in range(0, len(job.items), self._clips_at_once):
                self._tasks.append((job, range(start, min(start + self._clips_at_once, len(job.items)))))
            self._work_came.notify_all()

    def wait(self, job: Job) -> None:
        """Return when a batch that was begun has been read."""
        with self._work_done:
            while job.num_left and self._error is None:
                self._work_done.wait()
        if self._error is not None:
            raise self._error

    def drop(self) -> None:
        """Forget what was begun; nothing is written any more after this."""
        with self._work_done:
            self._tasks.clear()
            while self._num_taken and self._error is None:
                self._work_done.wait()

    def close(self) -> None:
        """End the processes and the threads."""
        self.abandon()
        if os.getpid() == self._owner:
            with self._work_came:
                self._work_came.notify_all()
            for thread in self._threads:
                thread.join()

    def abandon(self) -> None:
        """Have the processes and the threads end soon. Takes no lock: it may be called while memory is collected, in
        the middle of anything, and in a process that somebody forked, whose they are not."""
        if os.getpid() == self._owner:
            self._closed = True
            for process in list(self._processes):
                process.kill()

    # Called by the threads

    def _run(self, number: int) -> None:
        try:
            if self._processes:
                self._have_read(number)
            else:
                self._read()
        except BaseException as error:  # noqa: BLE001 - raised again where a batch is waited for
            with self._work_done:
                self._error = error
                self._work_done.notify_all()

    def _take(self, *, wait: bool) -> Task | None:
        """A task; None after the end, or where there is none and it is not waited for."""
        with self._work_came:
            while wait and not self._tasks and not self._closed:
                self._work_came.wait(_LOOK_UP_S)
            if self._closed or not self._tasks:
                return None
            self._num_taken += 1
            return self._tasks.popleft()

    def _answer(self, task: Task, answers: Sequence[Answer]) -> None:
        job, rows = task
        with self._work_done:
            job.answers[rows.start : rows.stop] = answers
            job.num_left -= len(rows)
            self._num_taken -= 1
            if not job.num_left or not self._num_taken:
                self._work_done.notify_all()

    def _read(self) -> None:
        while (task := self._take(wait=True)) is not None:
            job, rows = task
            self._answer(task, [read_one(self._reader, self._slots, job.slot, row, *job.items[row]) for row in rows])

    def _have_read(self, number: int) -> None:
        """Keep a process at work."""
        given: deque[Task] = deque()
        try:
            while not self._closed:
                while len(given) < _QUEUED and (task := self._take(wait=not given)) is not None:
                    given.append(task)
                    self._processes[number].send(task)
                if not given:
                    return
                try:
                    answer: Answer = self._processes[number].receive()
                except (EOFError, OSError):
                    if self._closed:
                        return
                    was_reading = self._processes[number].is_reading
                    lost = given.popleft() if was_reading else None  # else somebody killed it between two clips
                    self._start_again(number, given)
                    if lost is not None:
                        self._answer(lost, [self._lost(*lost)])
                else:
                    self._answer(given.popleft(), [answer])
        finally:
            self._processes[number].stop()

    def _lost(self, job: Job, rows: range) -> Passing:
        clip = self._reader.clips[job.items[rows.start][0]]
        log.warning("the process that read %s died, another one goes on", clip.clip_id)
        return Passing(f"{clip.video}: the process that read it died; out of memory, or a crash")

    def _start_again(self, number: int, given: Sequence[Task]) -> None:
        self._processes[number].stop()
        self._processes[number] = _Process(self._reader, self._slots, self._processes)
        for task in given:
            self._processes[number].send(task)


class _Process:
    """A process that reads clips, and this process's end of the pipe to it."""

    def __init__(self, reader: Reader, slots: Slots, others: Sequence[_Process]) -> None:
        context: Any = multiprocessing.get_context(start_method())
        self._num_begun = context.RawValue("q", 0)
        self._num_answered = -1  # the first is that it has started
        for _ in range(_ATTEMPTS):
            self._connection, theirs = context.Pipe()
            ours = [self._connection, *(other._connection for other in others)]
            forked = start_method() == "fork"
            self._process = context.Process(
                target=_serve,
                args=(reader, slots, theirs, ours if forked else [], self._num_begun),
                daemon=True,
            )
            with warnings.catch_warnings():
                # From Python 3.12 on, of forking beside threads. `_serve` takes none of their locks.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
            theirs.close()  # now its end closes when the process dies
            with suppress(EOFError, OSError):
                self.receive()
                return
            self.stop()
        raise RuntimeError("the processes that read clips end as soon as they are started")

    @property
    def is_reading(self) -> bool:
        """Whether it is at a clip, or was when it died: has begun one more than it has answered."""
        return self._num_begun.value > self._num_answered

    def send(self, task: Task) -> None:
        job, (row,) = task
        with suppress(OSError):  # it has died: `receive` finds that out
            self._connection.send((job.slot, row, *job.items[row]))

    def receive(self) -> Any:
        """The next answer.

        Raises:
            EOFError, OSError: The process has died.
        """
        # Its death closes the pipe, except where a process that others forked at the same time holds that end as well.
        while not self._connection.poll(1.0):
            if not self._process.is_alive():
                raise EOFError
        answer = self._connection.recv()
        self._num_answered += 1
        return answer

    def kill(self) -> None:
        """End it at once; it has nothing to lose. The thread that waits for it sees that."""
        with suppress(ValueError):  # it was stopped
            self._process.kill()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        with suppress(ValueError):  # it was stopped already
            self._process.kill()
            self._process.join()
            self._process.close()
        with suppress(OSError):
            self._connection.close()


def start_method() -> str:
    """Like torch's DataLoader: on Linux a script without a main guard works, elsewhere it needs one."""
    return "fork" if sys.platform == "linux" else "spawn"


def read_one(reader: Reader, slots: Slots, slot: int, row: int, index: int, epoch: int) -> Answer:
    """Read a clip into its place."""
    try:
        return reader.read(index, epoch, slots.row(slot, row))
    except DataError as error:
        return reason_of(error)
    except Exception as error:  # noqa: BLE001 - raised again where the batch is waited for
        error.add_note(f"while clip {reader.clips[index].clip_id!r} was read")
        return error


def _serve(
    reader: Reader, slots: Slots, ours: Connection, theirs: Sequence[Connection], num_begun: ctypes.c_longlong
) -> None:
    """Read what is asked for through the pipe until its other end closes, even by a kill."""
    # Ctrl-C, and the end that a batch system sends, reach the whole group: what follows is for the parent to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for connection in theirs:
        connection.close()
    gc.freeze()  # collecting would copy all that is shared with the parent
    torch.set_num_threads(1)  # the other cores are for the other processes and the model
    with suppress(EOFError, OSError):
        ours.send(None)
        while True:
            asked = ours.recv()
            num_begun.value += 1
            answer = read_one(reader, slots, *asked)
            ours.send(_portable(answer) if isinstance(answer, Exception) else answer)


def _portable(error: Exception) -> Exception:
    """The same, or where that cannot be sent, one that says the same; with its traceback, which is not sent."""
    with suppress(Exception):
        sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - what we wrote
        sent.add_note("".join(traceback.format_exception(error)))
        pickle.dumps(sent)
        return sent
    return RuntimeError("".join(traceback.format_exception(error)))
