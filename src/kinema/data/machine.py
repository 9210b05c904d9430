"""Whose fault an error is: what a file holds is remembered, what the machine failed at is tried again."""

from __future__ import annotations

import errno

from kinema.types import DataError

_OF_MACHINES = frozenset(
    getattr(errno, name)
    for name in (
        "EIO",
        "ENOMEM",
        "EMFILE",
        "ENFILE",
        "ESTALE",
        "EINTR",
        "EAGAIN",
        "ETIMEDOUT",
        "ENODEV",
        "ENXIO",
        "ENOTCONN",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EREMOTEIO",
    )
    if hasattr(errno, name)
)


class MachineError(DataError):
    """A file could not be read, and it may not be the file's fault: memory, open files, a disk or a network failed.
    Nothing keeps that as a fact about the file."""


class Passing(str):
    """Why something was not read or made, where that may be the machine's fault: another time it may be."""

    __slots__ = ()


def is_machines(error: BaseException) -> bool:
    """Whether an error of Python or FFmpeg may be the machine's."""
    return isinstance(error, MemoryError | MachineError) or getattr(error, "errno", None) in _OF_MACHINES


def data_error(message: str, cause: BaseException) -> DataError:
    """An error about a file, as what caused it says: a `MachineError`, or another `DataError`."""
    return MachineError(message) if is_machines(cause) else DataError(message)


def reason_of(error: Exception, message: str | None = None) -> str:
    """Why there is nothing, from the error that says so; `Passing` where it may be the machine's.

    Args:
        error: What was raised.
        message: What is said of it, if not its own words.
    """
    words = str(error) if message is None else message
    return Passing(words) if is_machines(error) else words
