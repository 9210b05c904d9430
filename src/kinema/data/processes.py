"""Doing the same to many files in several processes, where a file may kill the process that opens it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

# Fewer items than this are done before processes have started.
_POOL_FROM = 17


def available_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Died:
    """Stands for the result of an item on which the process died: of memory that ran out, or of a crash."""


def results(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, apart: bool = False
) -> Generator[tuple[Item, Result | Died]]:
    """The result of every item: as they come from several processes where there are many, else one after the other.

    Args:
        function: Of a module, so that another process finds it. What it raises is raised here.
        items: What to call it with.
        workers: Processes to use. Below 2 the work is done in this one, where nothing stops it from dying.
        apart: Use at least one process, however few items there are.
    """
    workers = max(workers, 1) if apart else workers
    # A daemonic process, such as a worker of a data loader, may not have children.
    many = apart or (workers > 1 and len(items) >= _POOL_FROM)
    if items and many and not multiprocessing.current_process().daemon:
        yield from _in_processes(function, items, workers=min(workers, len(items)))
    else:
        for item in items:
            yield item, function(item)


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Generator[tuple[Item, Result | Died]]:
    """An item on which a process dies is answered by `Died`; the others are done by a new process.

    `multiprocessing.Pool` would wait for ever for a process that died, and `ProcessPoolExecutor` does not say on
    which item it died.
    """
    # Like torch's DataLoader: on Linux a script without a main guard works, elsewhere it needs one.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    waiting = list(reversed(items))
    busy: dict[Connection, tuple[BaseProcess, Item]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                connection, process = idle.pop() if idle else _start(context, function)
                busy[connection] = process, waiting[-1]
                with suppress(OSError):  # a process that died while idle: `recv` finds that out
                    connection.send(waiting.pop())
            for connection in cast("list[Connection]", wait(list(busy))):
                process, item = busy.pop(connection)
                try:
                    result, error = connection.recv()
                except (EOFError, OSError):
                    _stop(connection, process)
                    yield item, Died()
                    continue
                idle.append((connection, process))
                if error is not None:
                    raise error
                yield item, result
    finally:
        for connection, process in [*idle, *((connection, process) for connection, (process, _) in busy.items())]:
            _stop(connection, process)


def _start(context: Any, function: Callable[[Any], Any]) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, ours, theirs), daemon=True)
    with warnings.catch_warnings():
        # From Python 3.12 on, of forking beside threads (a progress bar has one). `_work` takes none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()  # now its end closes when the process dies
    return ours, process


def _stop(connection: Connection, process: BaseProcess) -> None:
    connection.close()
    process.kill()
    process.join()


def _work(function: Callable[[Any], Any], theirs: Connection, ours: Connection) -> None:
    """Answer what comes through the pipe until its other end closes, even by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the parent has set up for itself
    theirs.close()
    with suppress(EOFError, OSError):
        while True:
            item = ours.recv()
            try:
                answer: tuple[Any, Exception | None] = function(item), None
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                error.add_note(traceback.format_exc())
                answer = None, error
            ours.send(answer)
