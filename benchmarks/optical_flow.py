"""Optical flow by each method: pairs of pictures a second on one core, and how far it is from motion that is known.

    python benchmarks/optical_flow.py [--json FILE] [--rounds N] [--quick]

The pictures are a generated texture that is moved, turned and zoomed (`known_motion.py`). RAFT is timed at the smallest
size that it takes, with random weights: they are as fast as others, and say nothing about its error.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models import optical_flow as networks

from harness import Report, Run, in_turn, machine, options, row, say, timed
from kinema.data.optical_flow import Estimator, flow_of
from kinema.data.raft import LEAST_PX
from known_motion import Motion, end_point_error, pair

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]

METHODS = ("dis", "farneback", "tvl1")
NETWORKS = ("raft_small", "raft_large")
SIZES = {"112 x 112": (112, 112), "224 x 224": (224, 224), "340 x 256": (256, 340)}
"""Width by height -> height and width."""
SMALLEST = f"{LEAST_PX} x {LEAST_PX}"
PAIRS = {"dis": 16, "farneback": 8}
"""Pairs in a round; of the others 2."""
TYPICAL = Motion(right_px=2.0, down_px=1.0, turn_deg=1.0)
"""What is timed: how long TV-L1 takes depends on how much moves."""

_DIRECTION = math.radians(30)
"""Of translations: neither of their parts is a whole number of pixels."""
MOTIONS = {
    f"{length} px": Motion(right_px=length * math.cos(_DIRECTION), down_px=length * math.sin(_DIRECTION))
    for length in (1, 4, 8)
} | {"turn of 3 degrees": Motion(turn_deg=3.0), "zoom of 5 %": Motion(zoom=1.05)}
ERROR_SIZE = "224 x 224"
TEXTURES = 3
"""Pictures for each motion; errors are their mean."""
MARGIN_PX = 8


def main() -> None:
    given = options(__doc__, rounds=5)
    report = Report(name="optical_flow", options=given)
    torch.set_num_threads(1)
    estimators = {method: flow_of(method) for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        raft = {name: random_raft(name, Path(folder)) for name in NETWORKS}
    sizes = {"48 x 48": (48, 48)} if given.quick else SIZES
    for size, height_width in sizes.items():
        time_methods(report, estimators, size, height_width)
    time_methods(report, raft, SMALLEST, (LEAST_PX, LEAST_PX))
    errors_at = next(iter(sizes)) if given.quick else ERROR_SIZE
    errors = {name: errors_of(estimate, sizes[errors_at]) for name, estimate in estimators.items()}
    still = errors_of(lambda first, _: np.zeros((*first.shape, 2), dtype=np.float32), sizes[errors_at])
    report.facts["errors"] = [
        {"method": method, "motion": motion, "px": error}
        for method, of_method in [*errors.items(), ("no flow at all", still)]
        for motion, error in of_method.items()
    ]
    report.notes += [
        "one thread; a pair is two grey pictures of a generated texture that turns by 1 degree and moves by 2.2 px",
        "raft_small and raft_large: random weights; their error is not measured",
        f"errors: {errors_at}, mean of {TEXTURES} textures, without {MARGIN_PX} px along the edges of both pictures",
    ]
    load, cores = report.load_before[0], machine()["cores"]
    if load >= cores:
        report.notes.append(f"the machine was busy: load {load:.1f} on {cores} cores before; alone it is faster")
    report.finish()
    for name, of_method in errors.items():
        say(f"{name}: " + ", ".join(f"{motion} {error:.3f}" for motion, error in of_method.items()))


def time_methods(report: Report, estimators: Mapping[str, Estimator], size: str, height_width: tuple[int, int]) -> None:
    """A row for each method."""
    say(f"{size} px")
    nums = {name: 1 if report.options.quick else PAIRS.get(name, 2) for name in estimators}
    pairs = [pair(TYPICAL, *height_width, seed=seed) for seed in range(max(nums.values()))]
    runs: dict[str, Run] = {
        name: partial(seconds, estimate, pairs[: nums[name]]) for name, estimate in estimators.items()
    }
    for name, found in in_turn(runs, report.options.rounds).items():
        ms = 1000 * statistics.median(found.sum(axis=1)) / nums[name]
        more: dict[str, Any] = {"method": name, "size_px": size, "ms_per_pair": round(ms, 2)}
        report.rows.append(row(f"{name}, {size} px", found, None, "", amount=nums[name], unit="pairs/s", **more))


def seconds(estimate: Estimator, pairs: Sequence[Pair]) -> list[float]:
    return [timed(partial(estimate, *each)) for each in pairs]


def errors_of(estimate: Estimator, height_width: tuple[int, int]) -> dict[str, float]:
    """Motion -> mean end-point error in pixels."""
    return {
        name: statistics.mean(
            end_point_error(estimate(*pair(motion, *height_width, seed=seed)), motion, margin_px=MARGIN_PX)
            for seed in range(TEXTURES)
        )
        for name, motion in MOTIONS.items()
    }


def random_raft(name: str, folder: Path) -> Estimator:
    torch.manual_seed(0)
    network = networks.raft_small() if name == "raft_small" else networks.raft_large()
    torch.save(network.state_dict(), folder / f"{name}.pt")
    return flow_of("raft", weights=folder / f"{name}.pt")


if __name__ == "__main__":
    main()
