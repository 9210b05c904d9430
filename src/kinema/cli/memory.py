"""How the process deals with memory that it has freed."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc


@contextmanager
def no_garbage() -> Iterator[None]:
    """While many objects are made and none is thrown away, looking for garbage again and again is a quarter of the
    work."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next allocation instead of returning it to the system.

    A network on a CPU frees and allocates its activations, megabytes each, at every layer. By default each of them is
    mapped anew, and clearing its pages takes longer than the arithmetic. Elsewhere than on glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)
