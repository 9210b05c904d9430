"""Batches of clips by two worker processes, 20 frames at 224, against torch's DataLoader around others' decoders.

    python benchmarks/loading.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

An epoch over the same clips in the same order, in batches of 16, with workers that stay from epoch to epoch; the first
epoch is not counted. Videos on which decord returns wrong frames are left out for all. kinema's batches hold planes
4:2:0, which become RGB on the device; the rows "to RGB" are of batches of RGB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import media
import peers
import pipeline
from harness import MADE, Options, Report, Run, in_turn, options, row, say, timed
from pipeline import Loader, Task
from truth import Truth

BATCH_SIZE = 16
WORKERS = 2


def main() -> None:
    given = options(__doc__, rounds=4)
    report = Report(name="loading", options=given)
    num = 1 if given.quick else 24
    repeat = 2 if given.quick else 3
    with tempfile.TemporaryDirectory() as place:
        pipeline.own_cache(Path(place))
        collections = media.avi_files(given.data, num=num)
        every = [path for paths in collections.values() for path in paths]
        h264 = media.as_h264(every[:num], folder=Path(place) if given.quick else MADE)
        wanted = pipeline.preprocessing(num_frames=20, size_px=224)
        videos, report.facts["index"] = pipeline.index([*every, *h264], Path(place))
        avi_targets: dict[str, float | None] = {"decord": 3.0, "torchvision-like": 10.0}
        for name, paths, targets in (
            *((f"{name} AVI", paths, avi_targets) for name, paths in collections.items()),
            ("H.264", h264, {"decord": 1.5, "torchcodec": 1.3, "torchvision-like": None}),
        ):
            job = f"loader, {WORKERS} workers, 20 frames at 224, {name}"
            say(job)
            first = pipeline.uniform(paths, videos, wanted)
            good = _right(first, report, job)
            if not good:
                continue
            measure(job, pipeline.uniform(good * repeat, videos, wanted), targets, given, report)
    report.finish()


def _right(task: Task, report: Report, job: str) -> list[Path]:
    """Videos on which decord, where it is installed, returns the right frames."""
    paths = [clip.video for clip in task.clips]
    if not peers.variants("decord"):
        return paths
    right = Truth(task.requests).right(peers.plain("decord"))
    if not right.all():
        report.notes.append(f"{job}: decord is right on {right.sum()} of {len(right)} videos; the others are left out")
    return [path for path, good in zip(paths, right, strict=True) if good]


def measure(job: str, task: Task, targets: Mapping[str, float | None], given: Options, report: Report) -> None:
    """Epochs in turn, and the rows of a job."""
    requests = task.requests
    loaders = {
        "kinema": Loader(task, pixels="i420", batch_size=BATCH_SIZE, workers=WORKERS),
        "kinema to RGB": Loader(task, pixels="rgb", batch_size=BATCH_SIZE, workers=WORKERS),
    }
    contenders: dict[str, Run] = {name: loader.epoch for name, loader in loaders.items()}
    titles: dict[str, str] = {}
    for peer in targets:
        ways = peers.variants(peer)
        if not ways:
            report.notes.append(f"{job}: {peer} is not installed or lacks its libraries; left out")
            continue
        way, read = _fastest(ways, requests, few=given.quick)
        titles[peer] = f"{peer} in a DataLoader ({way})"
        contenders[peer] = epoch(peers.data_loader(read, requests, batch_size=BATCH_SIZE, workers=WORKERS), requests)
    try:
        seconds = in_turn(contenders, given.rounds)
    finally:
        for loader in loaders.values():
            loader.close()
    for peer, title in titles.items():
        for ours, target in (("kinema", targets[peer]), ("kinema to RGB", None)):
            name = job if ours == "kinema" else f"{job}, to RGB"
            facts = row(name, seconds[ours], seconds[peer], title, amount=len(requests), target=target)
            report.rows.append(facts)


def _fastest(ways: Mapping[str, peers.Read], requests: Sequence[Any], *, few: bool) -> tuple[str, peers.Read]:
    """The way that is fastest inside a DataLoader of two workers."""
    if len(ways) == 1 or few:
        return next(iter(ways.items()))
    chosen = [requests[i] for i in np.linspace(0, len(requests) - 1, 16).astype(int)]
    seconds = {}
    for name, read in ways.items():
        run = epoch(peers.data_loader(read, chosen, batch_size=4, workers=WORKERS), chosen)
        run()
        seconds[name] = sum(run())
    name = min(seconds, key=seconds.__getitem__)
    return name, ways[name]


def epoch(loader: Any, requests: Sequence[Any]) -> Callable[[], list[float]]:
    """Seconds of a pass over a DataLoader."""

    def once() -> None:
        num = sum(len(indices) for _, indices in loader)
        assert num == len(requests), (num, len(requests))

    return lambda: [timed(once)]


if __name__ == "__main__":
    main()
