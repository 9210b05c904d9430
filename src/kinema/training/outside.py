"""Who has started this process, where that was torchrun or srun: read without loading torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A process that torchrun or srun has started among others.

    Attributes:
        starter: Who.
        rank: Of this process, from 0.
        local_rank: Within its node.
        size: Number of processes.
    """

    starter: Literal["torchrun", "srun"]
    rank: int
    local_rank: int
    size: int

    def meeting_place(self) -> tuple[str, int]:
        """Host and port at which the processes find one another."""
        if self.starter == "torchrun":
            return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        from lightning.fabric.plugins.environments import SLURMEnvironment

        environment = SLURMEnvironment(auto_requeue=False)
        return environment.main_address, environment.main_port


def outside() -> Outside | None:
    """This process's place among several; None if it was started alone."""
    found = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        found = _read("torchrun", rank="RANK", local_rank="LOCAL_RANK", size="WORLD_SIZE")
    elif "SLURM_STEP_NUM_TASKS" in os.environ:  # of a step of srun; a batch script has it not
        found = _read("srun", rank="SLURM_PROCID", local_rank="SLURM_LOCALID", size="SLURM_STEP_NUM_TASKS")
    return found if found is not None and found.size > 1 else None


def _read(starter: Literal["torchrun", "srun"], *, rank: str, local_rank: str, size: str) -> Outside:
    values = {"rank": rank, "local_rank": local_rank, "size": size}
    return Outside(starter=starter, **{name: int(os.environ.get(key, "1")) for name, key in values.items()})
