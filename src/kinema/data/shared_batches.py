"""Memory for batches, made once and used again and again: several processes can write into it.

A slot is room for one batch. Whoever is given a batch has tensors on the slot's memory itself, nothing is copied; the
slot is free again when the last of these tensors, or of anything that is made from one without copying, is gone.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Name -> shape and type of what one clip has of it."""

_PAGE_BYTES = 4096


class Lease:
    """The memory of one slot, for as long as any array or tensor lies on it.

    NumPy takes it for an array's memory (`__array_interface__`), so that arrays hold it, tensors hold the arrays, and
    its end is the end of all of them.
    """

    def __init__(self, memory: Any, address: int, num_bytes: int) -> None:
        self._memory = memory
        self._copies: list[torch.cuda.Event] = []
        self.__array_interface__ = {"data": (address, False), "shape": (num_bytes,), "typestr": "|u1", "version": 3}

    def is_being_copied(self) -> None:
        """Called after a copy to a GPU was begun, which may still be going on when the tensors here are gone."""
        cuda: Any = torch.cuda  # parts of it have no types
        event = cuda.Event()
        event.record()
        self._copies.append(event)

    def on_end(self, ended: deque[tuple[int, list[torch.cuda.Event]]], slot: int) -> None:
        """Have (slot, copies that may be going on) appended when nobody uses the memory any more."""
        # Appending takes no lock: this can happen in any thread, in the middle of anything.
        weakref.finalize(self, ended.append, (slot, self._copies)).atexit = False


class Slots:
    """Room for a fixed number of batches. Copies of it in other processes write into the same memory.

    On Linux the memory is anonymous and inherited by the processes that are forked: it has no name, no file and no
    part in /dev/shm, which is as small as 64 MB in containers. Elsewhere it has a name (`by_name`), and a process that
    is sent this object finds it by that.

    Args:
        layout: What one clip has.
        batch_size: Clips of a batch.
        num_slots: Batches.
        by_name: Whether processes are not forked.
    """

    def __init__(self, layout: Layout, *, batch_size: int, num_slots: int, by_name: bool = False) -> None:
        self._layout = dict(layout)
        self._batch_size = batch_size
        self._num_slots = num_slots
        self._offsets, used = {}, 0
        for name, (shape, dtype) in self._layout.items():
            self._offsets[name] = used
            used += -(-batch_size * math.prod(shape) * dtype.itemsize // _PAGE_BYTES) * _PAGE_BYTES
        self._slot_bytes = max(used, _PAGE_BYTES)
        num_bytes = self._slot_bytes * num_slots
        self._attach(SharedMemory(create=True, size=num_bytes) if by_name else mmap.mmap(-1, num_bytes))
        self._free = list(reversed(range(num_slots)))
        self._lent: set[int] = set()
        self._ended: deque[tuple[int, list[torch.cuda.Event]]] = deque()
        self._locked = False

    def _attach(self, memory: mmap.mmap | SharedMemory) -> None:
        self._memory = memory
        buffer: Any = memory.buf if isinstance(memory, SharedMemory) else memory
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._arrays = [self._arrays_of(self._lease(slot)) for slot in range(self._num_slots)]

    def __getstate__(self) -> dict[str, Any]:
        assert isinstance(self._memory, SharedMemory)
        keys = ("_layout", "_batch_size", "_num_slots", "_offsets", "_slot_bytes")
        return {"name": self._memory.name, **{key: getattr(self, key) for key in keys}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        memory = SharedMemory(name=state.pop("name"))
        self.__dict__.update(state)
        self._attach(memory)

    def _lease(self, slot: int) -> Lease:
        return Lease(self._memory, self._address + slot * self._slot_bytes, self._slot_bytes)

    def _arrays_of(self, lease: Lease) -> dict[str, NDArray[Any]]:
        memory = np.asarray(lease)
        arrays = {}
        for name, (shape, dtype) in self._layout.items():
            start, whole = self._offsets[name], (self._batch_size, *shape)
            arrays[name] = memory[start : start + math.prod(whole) * dtype.itemsize].view(dtype).reshape(whole)
        return arrays

    def row(self, slot: int, row: int) -> dict[str, NDArray[Any]]:
        """Name -> where to write what one clip of a batch has of it."""
        return {name: array[row, ...] for name, array in self._arrays[slot].items()}

    @property
    def num_lent(self) -> int:
        """Slots that somebody has tensors on."""
        while self._ended:
            slot, copies = self._ended.popleft()
            for copy in copies:
                copy.synchronize()
            self._lent.remove(slot)
            self._free.append(slot)
        return len(self._lent)

    def take(self) -> int:
        """A free slot."""
        assert len(self._free) + self.num_lent <= self._num_slots
        # The one that was used last: memory that was never needed is never touched. Where all of it is locked, the
        # one that was used first, as nothing is copied from it any more.
        return self._free.pop(0 if self._locked else -1)

    def give_back(self, slot: int) -> None:
        """A slot that was taken and that nobody has tensors on."""
        self._free.append(slot)

    def lend(self, slot: int, rows: Sequence[int], *, copy: bool) -> tuple[dict[str, Tensor], Lease | None]:
        """Tensors of some clips of a batch, and what holds their memory.

        Args:
            slot: That was taken; it becomes free when the tensors are gone.
            rows: Ascending places in the batch: clips that were read.
            copy: Whether to give copies, so that the slot is free at once.
        """
        lease = self._lease(slot)
        arrays = self._arrays_of(lease)
        for array in arrays.values():
            for target, row in enumerate(rows):
                if target != row:
                    array[target] = array[row]
        tensors = {name: torch.from_numpy(array[: len(rows)]) for name, array in arrays.items()}
        if copy or not rows:
            self.give_back(slot)
            return {name: tensor.clone() for name, tensor in tensors.items()}, None
        self._lent.add(slot)
        lease.on_end(self._ended, slot)
        return tensors, lease

    def lock(self) -> None:
        """Lock the memory's pages, so that a GPU copies from it by itself while others compute."""
        cuda: Any = torch.cuda
        answer = cuda.cudart().cudaHostRegister(self._address, self._slot_bytes * self._num_slots, 0)
        self._locked = int(answer) == 0
        if not self._locked:
            log.debug("the memory of batches cannot be page-locked: %s", answer)

    def close(self) -> None:
        """Give up what the system would keep. Tensors that somebody has stay as they are."""
        if self._locked:
            cuda: Any = torch.cuda
            cuda.synchronize()
            cuda.cudart().cudaHostUnregister(self._address)
            self._locked = False
        if isinstance(self._memory, SharedMemory):
            with suppress(FileNotFoundError):
                self._memory.unlink()
