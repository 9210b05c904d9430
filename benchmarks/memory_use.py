"""How much memory processes hold, from /proc: pages that several share are counted once (proportional set size)."""

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


def megabytes(pids: list[int], *, kind: str = "Pss") -> float:
    """Sum over processes of a line of `smaps_rollup`: `Pss`, or `Anonymous`: what is not in a file."""
    total_kb = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        total_kb += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{kind}:"))
    return total_kb / 1000
