"""A reader of made-up clips, which can do what clips in the field do to a process."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinema.data.loading import Batch, Drawn, Layout
from kinema.types import Clip, DataError

SHAPE = (2, 3, 5, 7)


class OddError(Exception):
    """Cannot be sent to another process: made with one argument, it asks for two when it is made again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class MadeUpReader:
    """Clips whose bytes are a function of (index, epoch).

    Args:
        num_clips: In the list.
        in_processes: As in `Reader`.
        events: Index -> what happens when that clip is read.
        sleep_s: Time that reading takes.
        counter: Counts clips that were read.
        shape: Of one clip.
    """

    def __init__(
        self,
        num_clips: int = 23,
        *,
        in_processes: bool = True,
        events: Mapping[int, str] | None = None,
        sleep_s: float = 0.0,
        counter: Synchronized[int] | None = None,
        shape: tuple[int, ...] = SHAPE,
    ) -> None:
        self.clips = [
            Clip(clip_id=f"clip {index}", video=Path(f"{index}.mp4"), labels={"action": index % 3})
            for index in range(num_clips)
        ]
        self.in_processes = in_processes
        self.events = dict(events or {})
        self.sleep_s = sleep_s
        self.counter = counter
        self.shape = shape

    def __len__(self) -> int:
        return len(self.clips)

    def layout(self) -> Layout:
        return {"rgb": (self.shape, np.dtype(np.uint8)), "features": ((2, 3), np.dtype(np.float16))}

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        out["rgb"][...] = 255
        happen(self.events.get(index, "nothing"))
        time.sleep(self.sleep_s)
        out["rgb"][...] = content(index, epoch)
        out["features"][...] = index + epoch / 4
        if self.counter is not None:
            with self.counter.get_lock():
                self.counter.value += 1
        return Drawn(flip=index % 2 == 0, colour=(1.0, float(index), float(epoch)))


def happen(event: str) -> None:
    """One of the things that can happen while a clip is read."""
    match event:
        case "exit":
            os._exit(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # not the report of pytest's fault handler
            ctypes.string_at(0)
        case "unreadable":
            raise DataError("it is unreadable")
        case "wrong":
            raise KeyError("a mistake in a reader")
        case "odd":
            raise OddError("something odd", "that cannot be sent")
        case "slow":
            time.sleep(0.3)
        case "endless":
            time.sleep(1000)


def content(index: int, epoch: int) -> int:
    return (17 * index + 101 * epoch) % 251


def assert_right(batch: Batch, *, epoch: int = 0) -> None:
    """A batch holds, of each of its clips, what that clip is."""
    assert batch.features is not None
    assert batch.colour is not None
    flips = batch.flip.tolist() if batch.flip is not None else [False] * len(batch)
    for row, index in enumerate(batch.indices.tolist()):
        assert (batch.streams["rgb"][row] == content(index, epoch)).all(), index
        assert (batch.features[row] == index + epoch / 4).all(), index
        assert batch.labels["action"][row] == index % 3
        assert flips[row] == (index % 2 == 0)
        assert batch.colour[row].tolist() == [1, index, epoch]
