"""Training steps: R(2+1)D-18 on the CPU against plain PyTorch; on a GPU, where there is one, shares of its limit.

    python benchmarks/training_step.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

CPU: forward, backward and AdamW step on 4 clips of 16 x 112, the same network and the same random clips in fp32. The
peer is eager PyTorch, contiguous, AdamW as it is by default. Each has a process of its own, since settings of the
allocator and of threads are a process's; the first step is not counted.

GPU: R(2+1)D-18 and ResNet-50 + LSTM steps and MobileNetV2 features, bf16, as clips/s and as a share of what a large
matrix multiplication reaches on the same GPU; in "facts" if there is no GPU: that nothing was measured.
"""

from __future__ import annotations

import os

import torch

import computing
import gpu
from harness import AS_KINEMA, Elsewhere, Report, Run, in_turn, options, row, say

CLIPS = 4


def main() -> None:
    given = options(__doc__, rounds=7)
    report = Report(name="training_step", options=given)
    shape = (2, 3, 4, 32, 32) if given.quick else (CLIPS, 3, 16, 112, 112)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    say("R(2+1)D-18 on the CPU")
    contenders = {
        "kinema": Elsewhere(computing.training_step, shape, threads, environment=AS_KINEMA),
        "plain": Elsewhere(plain, shape, threads),
    }
    try:
        seconds = in_turn(contenders, given.rounds)
    finally:
        for process in contenders.values():
            process.close()
    report.rows.append(
        row(
            f"R(2+1)D-18 training step, CPU, {shape[0]} clips of {shape[2]} x {shape[3]}",
            seconds["kinema"],
            seconds["plain"],
            "eager PyTorch fp32, contiguous",
            amount=shape[0],
            target=3.0,
            step_s=float(seconds["kinema"].mean()),
        )
    )
    if torch.cuda.is_available():
        report.rows += gpu.rows(quick=given.quick, rounds=given.rounds)
    else:
        report.facts["gpu"] = "not measured: no GPU at hand"
        report.notes.append("no GPU at hand: its part is not measured")
    report.finish()


def plain(shape: tuple[int, ...], threads: int) -> Run:
    """Steps as anybody would write them."""
    torch.set_num_threads(threads)
    model = computing.r2plus1d()
    return computing.steps(model, torch.optim.AdamW(model.parameters(), lr=1e-3), shape)


if __name__ == "__main__":
    main()
