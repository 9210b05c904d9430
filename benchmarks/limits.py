"""What the machine can do at most: copying memory, multiplying matrices, reading the disk. Limits that stages are
compared with in docs/performance.md; that of decoding is measured beside it, in `decoding.py`.

    python benchmarks/limits.py [--json FILE] [--rounds N] [--quick]

The disk is that of `build/bench`; what is read from it is not in the system's page cache (it may be in one below).
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from harness import MADE, Report, options, timed


def main() -> None:
    given = options(__doc__, rounds=15)
    report = Report(name="limits", options=given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_bytes = 2**24 if given.quick else 2**28
    source, target = np.ones(num_bytes, dtype=np.uint8), np.zeros(num_bytes, dtype=np.uint8)
    _limit(
        report, "copying memory, one thread", "GB/s", num_bytes / 1e9, lambda: np.copyto(target, source), given.rounds
    )
    if hasattr(os, "posix_fadvise"):
        reading_disk(report, num_bytes, min(given.rounds, 5))
    else:
        report.notes.append("reading the disk is not measured: this system cannot be told to forget a file")
    size = 512 if given.quick else 2048
    for dtype in (torch.float32, torch.bfloat16):
        for threads in (1, cores):
            torch.set_num_threads(threads)
            a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
            name = f"matrix product {str(dtype).removeprefix('torch.')}, {threads} threads"
            _limit(report, name, "GFLOP/s", 2 * size**3 / 1e9, partial(torch.matmul, a, b), given.rounds)
    report.finish()


def reading_disk(report: Report, num_bytes: int, rounds: int) -> None:
    """A file from the disk, one block of 8 MiB after the other."""
    MADE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=MADE) as file:
        block = bytearray(os.urandom(2**23))
        for _ in range(num_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())

        def read() -> float:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            return timed(lambda: sum(iter(lambda: file.raw.readinto(block) or 0, 0)))

        rates = [num_bytes / 1e9 / read() for _ in range(rounds)]
    _row(report, "reading the disk, one thread", "GB/s", rates)


def _limit(report: Report, job: str, unit: str, amount: float, work: Callable[[], object], rounds: int) -> None:
    work()
    _row(report, job, unit, [amount / timed(work) for _ in range(rounds)])


def _row(report: Report, job: str, unit: str, rates: list[float]) -> None:
    report.rows.append(
        {
            "job": job,
            "kinema": None,
            "peer": statistics.median(rates),
            "peer_range": [min(rates), max(rates)],
            "peer_name": "limit of the machine",
            "ratio": None,
            "unit": unit,
            "target": None,
            "limit": True,
        }
    )


if __name__ == "__main__":
    main()
