"""The one thread in which the model is run: a recogniser is not shared between threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Kind = Literal["clip", "live"]


class ModelThread:
    """Does one job after the other. Pictures of cameras go before clips, which were going to wait anyhow; but after
    each of them it is a clip's turn, so that neither starves the other."""

    def __init__(self) -> None:
        self._waiting: dict[Kind, deque[tuple[Future[Any], Callable[[], Any]]]] = {"live": deque(), "clip": deque()}
        self._last: Kind = "clip"
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="kinema-model", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], *, kind: Kind) -> Future[T]:
        """Have a job done. One that is cancelled before its turn is left out."""
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                future.cancel()
                return future
            self._waiting[kind].append((future, job))
            self._wake.notify()
        return future

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Take no more jobs, drop those that wait, and let the one that is being done end."""
        with self._wake:
            self._closed = True
            for jobs in self._waiting.values():
                for future, _ in jobs:
                    future.cancel()
                jobs.clear()
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or any(self._waiting.values()))
                if self._closed:
                    return
                future, job = self._next()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                future.set_exception(error)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]]:
        first: Kind = "clip" if self._last == "live" else "live"
        kind = first if self._waiting[first] else self._last
        self._last = kind
        return self._waiting[kind].popleft()
