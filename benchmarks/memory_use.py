"""How much memory processes hold, from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def family(pid: int | None = None) -> list[int]:
    """A process and all that descend from it; by default this one."""
    found = [os.getpid() if pid is None else pid]
    for parent in found:  # grows while it is gone through
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def megabytes(pids: list[int]) -> float:
    """What processes of one family hold together; pages that several of them share are counted once.

    Pages of files, mostly libraries, are counted as in the process that has most of them in memory. Their proportional
    share would change whenever any other program on the machine loads the same library.
    """
    own_kb = sum(sum(_values(pid, "smaps_rollup", ("Pss_Anon", "Pss_Shmem"))) for pid in pids)
    files_kb = max((sum(_values(pid, "status", ("RssFile",))) for pid in pids), default=0)
    return (own_kb + files_kb) / 1000


def anonymous_megabytes(pid: int | None = None) -> float:
    """What a process, by default this one, holds that is not in a file."""
    return sum(_values(os.getpid() if pid is None else pid, "smaps_rollup", ("Anonymous",))) / 1000


def _values(pid: int, file: str, names: tuple[str, ...]) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    return [int(line.split()[1]) for line in text.splitlines() if line.partition(":")[0] in names]
