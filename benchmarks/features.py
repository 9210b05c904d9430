"""Features of a frozen MobileNetV2 from AVI on the CPU, end to end, and epochs on features that are stored.

    python benchmarks/features.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

End to end: 20 frames at 224 of real videos become a stored 20 x 1280 per clip. The peer is the plain way: decord in a
DataLoader with 2 workers, normalised as the weights expect, batches of 16 clips through the network in fp32 as
torchvision builds it, allocator as it is. Each has a process of its own, since settings of the allocator and of threads
are a process's. The weights are those in the data folder, for both. bf16 is measured where the processor has
instructions for it; how far it moves features is under "facts".

Stored: one epoch of `kinema train`'s loop with ConvNet1D (two heads, 97 verbs and 300 nouns, batches of 128) on 67,217
clips x 20 x 1280, random fp16 features in a store: as many as EPIC-KITCHENS-100 trains on.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import computing
import media
import peers
import pipeline
from harness import AS_KINEMA, Elsewhere, Options, Report, Run, in_turn, options, row, say, timed
from kinema.models.runtime import has_bf16
from peers import Request

EPIC_CLIPS = 67_217
EPOCH_S = 30.0
EPOCHS = 2
"""Of which the first is not counted."""
_ROOM = 2.0
"""Free disk wanted, as a multiple of what is written."""


def main() -> None:
    given = options(__doc__, rounds=3)
    report = Report(name="features", options=given)
    end_to_end(given, report)
    stored(given, report)
    report.finish()


def end_to_end(given: Options, report: Report) -> None:
    """Videos in, features out."""
    weights = given.data / computing.WEIGHTS
    if not weights.is_file():
        report.notes.append(f"{weights} is not there; features from videos are left out")
        return
    found = media.avi_files(given.data, num=1 if given.quick else 8)
    paths = [path for of_collection in found.values() for path in of_collection]
    wanted = pipeline.preprocessing(num_frames=20, size_px=64 if given.quick else 224)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as place:
        pipeline.own_cache(Path(place))
        videos, report.facts["index"] = pipeline.index(paths, Path(place))
        requests = pipeline.uniform(paths, videos, wanted).requests
        targets = {"fp32": 6.0}
        has, processor = has_bf16(torch.device("cpu"))
        if has:
            targets["bf16"] = 8.0
        else:  # emulated, it takes minutes
            report.notes.append(f"bf16 is not measured: {processor} has no instructions for it")
        contenders: dict[str, Any] = {
            precision: Elsewhere(
                computing.features_pass,
                paths,
                Path(place),
                weights,
                wanted,
                precision,
                threads,
                environment=AS_KINEMA,
            )
            for precision in targets
        }
        ways = peers.variants("decord")
        if ways:
            way = next(iter(ways)) if given.quick else peers.fastest(ways, requests[:6])[0]
            contenders["plain"] = Elsewhere(plain_pass, requests, weights, way, threads)
        else:
            report.notes.append("decord is not installed; the plain way is left out")
        say("features from AVI")
        try:
            seconds = in_turn(contenders, given.rounds)
        finally:
            for process in contenders.values():
                process.close()
    for precision, target in targets.items():
        report.rows.append(
            row(
                f"frozen MobileNetV2 features from AVI, CPU, end to end, {precision}",
                seconds[precision],
                seconds.get("plain"),
                f"decord DataLoader ({way}), eager fp32, default allocator" if ways else "none installed",
                amount=len(paths),
                target=target,
            )
        )
    if has:
        report.facts["bf16_moves_features_by"] = moved(weights, wanted.shape.height_px)


def plain_pass(requests: Sequence[Request], weights: Path, way: str, threads: int) -> Run:
    """The plain way, in this process."""
    from torchvision.models import mobilenet_v2

    torch.set_num_threads(threads)
    network = mobilenet_v2(weights=None)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    own = network.state_dict()
    network.load_state_dict({k: v for k, v in state.items() if k in own and own[k].shape == v.shape}, strict=False)
    network.classifier = torch.nn.Identity()
    network.eval()
    loader = peers.data_loader(peers.variants("decord")[way], requests, batch_size=16, workers=2)

    def once() -> None:
        features = []
        with torch.no_grad():
            for clips, _ in loader:
                pixels = clips.flatten(0, 1).float() / 127.5 - 1
                features.append(network(pixels).unflatten(0, clips.shape[:2]).half())
        assert sum(map(len, features)) == len(requests)

    return lambda: [timed(once)]


def moved(weights: Path, size_px: int) -> dict[str, float]:
    """Largest and mean difference of bf16 features from fp32 features, relative to the largest feature."""
    wanted = pipeline.preprocessing(num_frames=20, size_px=size_px)
    model = computing.frozen_model(weights, wanted.shape, heads={"action": ("0", "1")})
    clips = torch.rand(1, 20, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = model.features(clips)
    computing.set_precision(model, "bf16")
    differences = (model.features(clips).float() - exact).abs() / exact.abs().max()
    return {"largest": float(differences.max()), "mean": float(differences.mean())}


def stored(given: Options, report: Report) -> None:
    """Epochs on stored features."""
    num_clips = 300 if given.quick else EPIC_CLIPS
    num_bytes = num_clips * 20 * computing.FEATURES * 2
    with tempfile.TemporaryDirectory() as place:
        free = shutil.disk_usage(place).free
        if free < _ROOM * num_bytes:
            report.notes.append(f"{num_bytes / 1e9:.1f} GB for stored features do not fit into {place}; left out")
            return
        say(f"ConvNet1D on {num_clips} stored clips")
        process = Elsewhere(epochs_pass, Path(place), num_clips, environment=AS_KINEMA)
        try:
            seconds = list(process())[1:]
        finally:
            process.close()
    wanted_s = EPOCH_S * num_clips / EPIC_CLIPS
    report.rows.append(
        {
            "job": f"one epoch of ConvNet1D on {num_clips:,} stored clips x 20 x {computing.FEATURES}",
            "kinema": num_clips / statistics.median(seconds),
            "kinema_range": [num_clips / max(seconds), num_clips / min(seconds)],
            "peer": num_clips / wanted_s,
            "peer_name": f"{wanted_s:.3g} s an epoch, as asked for",
            "ratio": wanted_s / statistics.median(seconds),
            "unit": "clips/s",
            "target": 1.0,
            "epoch_s": float(np.median(seconds)),
        }
    )


def epochs_pass(folder: Path, num_clips: int) -> Run:
    """Epochs on stored features, in this process."""
    from stored_epochs import stored_epochs  # Lightning, which the other processes have no use for

    return lambda: stored_epochs(folder, num_clips=num_clips, batch_size=128, epochs=EPOCHS)


if __name__ == "__main__":
    main()
