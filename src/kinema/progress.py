"""How long work says how far it is. The library reports to a `Reporter`; only the command line has one that shows
anything (`kinema.cli.console`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of long work."""

    def advance(self, num: int = 1, **facts: str) -> None:
        """Count `num` more units as done.

        Args:
            num: How many units.
            facts: Name -> text shown beside the rate, replacing what was shown under that name.
        """


class Reporter(Protocol):
    """Shows tasks to somebody, or to nobody."""

    def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> AbstractContextManager[Task]:
        """Begin a task.

        Args:
            description: What is being done.
            total: Number of units, or None where it is not known.
            unit: What is counted, in the plural ("clips").
            done: Units done before, in an earlier run; they do not count for the rate.
        """


class _SilentTask:
    def advance(self, num: int = 1, **facts: str) -> None:
        pass


class _SilentReporter:
    @contextmanager
    def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        yield _SilentTask()


SILENT: Reporter = _SilentReporter()
