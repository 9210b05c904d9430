"""The processes that train together, and what they tell one another.

One of them, the leader (rank 0), is the command that somebody started: it finds the clips, builds the model, keeps the
run's folder and prints. The others follow: they get everything from it, ready made, and take part in each step.
"""

from __future__ import annotations

import datetime
import gc
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")

_LONGEST_WAIT = datetime.timedelta(days=7)
"""For what the leader does alone, such as computing the features of a large data set."""


class Team:
    """A process that trains alone: what it would tell others, it is told.

    Attributes:
        rank: Of this process, from 0.
        local_rank: Of this process among those of its node.
        size: Number of processes.
    """

    rank = 0
    local_rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes."""
        return dict(values)

    def most(self, values: Sequence[float]) -> list[float]:
        """For each place the largest value that any process gives."""
        return list(values)

    def gather(self, value: Value) -> list[Value]:
        """What each process gives, by rank."""
        return [value]

    def share(self, value: Value) -> Value:
        """What the leader gives."""
        return value


class Processes(Team):
    """Several processes, each of which calls the same methods in the same order.

    They speak through memory of the CPU (gloo), whatever they compute on, and beside the group that Lightning uses.

    Args:
        store: Through which they find one another.
        rank: Of this process, from 0.
        local_rank: Of this process among those of its node.
        size: Number of processes.
        backend: Of the group that exchanges gradients: `gloo` or `nccl`.

    Attributes:
        has_shared: Whether the others have been given something.
    """

    def __init__(self, store: dist.Store, *, rank: int, local_rank: int, size: int, backend: str) -> None:
        self.rank = rank
        self.local_rank = local_rank
        self.size = size
        self.store = store
        self.has_shared = False
        device = torch.device("cuda", local_rank) if backend == "nccl" else None
        if device is not None:
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=device)
        group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        assert isinstance(group, dist.ProcessGroup)
        self._group = group

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        tensor = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(tensor, group=self._group)
        return dict(zip(values, tensor.tolist(), strict=True))

    def most(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return tensor.tolist()

    def gather(self, value: Value) -> list[Value]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._group)
        return found

    def share(self, value: Value) -> Value:
        self.has_shared = True
        # Pickled here, so that what cannot be fails before anybody waits for it.
        parts: list[Any] = [pickle.dumps(value) if self.leads else None]
        dist.broadcast_object_list(parts, src=0, group=self._group)
        return value if self.leads else pickle.loads(parts[0])  # noqa: S301 - what the leader wrote

    def leave(self) -> None:
        """End the groups. What holds on to them, such as the wrapper of a model, has to be gone."""
        gc.collect()
        if dist.is_initialized():
            dist.destroy_process_group()
