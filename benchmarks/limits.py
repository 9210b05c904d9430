"""What the machine can do at most: copying memory, multiplying matrices, reading the disk. Limits that stages are
compared with in docs/performance.md; that of decoding is measured beside it, in `decoding.py`.

    python benchmarks/limits.py [--json FILE] [--rounds N] [--quick]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from harness import Report, options, timed


def main() -> None:
    given = options(__doc__, rounds=15)
    report = Report(name="limits", options=given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_bytes = 2**24 if given.quick else 2**28
    source, target = np.ones(num_bytes, dtype=np.uint8), np.zeros(num_bytes, dtype=np.uint8)
    _limit(
        report, "copying memory, one thread", "GB/s", num_bytes / 1e9, lambda: np.copyto(target, source), given.rounds
    )
    size = 512 if given.quick else 2048
    for dtype in (torch.float32, torch.bfloat16):
        for threads in (1, cores):
            torch.set_num_threads(threads)
            a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
            name = f"matrix product {str(dtype).removeprefix('torch.')}, {threads} threads"
            _limit(report, name, "GFLOP/s", 2 * size**3 / 1e9, partial(torch.matmul, a, b), given.rounds)
    report.finish()


def _limit(report: Report, job: str, unit: str, amount: float, work: Callable[[], object], rounds: int) -> None:
    work()
    rates = [amount / timed(work) for _ in range(rounds)]
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
