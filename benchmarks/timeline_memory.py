"""Memory of `kinema timeline` on a long video, against a short one.

    python benchmarks/timeline_memory.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

Videos of 2 and of 20 minutes, tiny frames, 10 a second, are watched by a small network, each by a process of its
own, and made into actions. What counts is the most memory that the process ever held. The ratio is that of the long
video to the short one; 1.03 at most is asked for. `--rounds` is the number of processes for each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from harness import Report, options, say
from kinema.models.build import build_model
from kinema.models.weights import TrainingFacts, WeightsConfig, save
from kinema.types import Preprocessing

MOST = 1.03
FPS = 10
RGB = Preprocessing(num_frames=8, size_px=32, resize_px=32, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)

WATCH = """
import resource, sys
from kinema.cli.main import main
try:
    main()
finally:
    print("KB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def main() -> None:
    given = options(__doc__, rounds=2)
    report = Report(name="timeline_memory", options=given)
    minutes = (1.0, 2.0) if given.quick else (2.0, 20.0)
    used_mb: dict[float, list[float]] = {length: [] for length in minutes}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        weights = _weights(folder / "weights")
        videos = {length: _video(folder / f"{length:g}.mp4", length) for length in minutes}
        for number in range(given.rounds):
            for length, video in videos.items():
                used_mb[length].append(_watched(weights, video, folder / f"{length:g}-{number}"))
                say(f"{length:g} minutes: {used_mb[length][-1]:.0f} MB")
    short, long = (statistics.median(used_mb[length]) for length in minutes)
    report.rows.append(
        {
            "job": f"most memory of kinema timeline, {minutes[1]:g} minutes of video",
            "kinema": long,
            "peer": short,
            "peer_name": f"itself, {minutes[0]:g} minutes (at most {MOST} is asked for)",
            "ratio": long / short,
            "unit": "MB",
            "target": MOST,
            "at_most": True,
            "rounds": given.rounds,
        }
    )
    report.finish()


def _watched(weights: Path, video: Path, out: Path) -> float:
    """Megabytes."""
    command = [sys.executable, "-c", WATCH, "timeline", str(weights), str(video), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("KB ")]
    return int(line.split()[1]) / 1000


def _weights(folder: Path) -> Path:
    heads = {"action": tuple(f"class {number}" for number in range(10))}
    config = WeightsConfig(model="cnn_lstm", arguments={"backbone": "tiny"}, heads=heads, preprocessing={"rgb": RGB})
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=heads, inputs=config.inputs)
    facts = TrainingFacts(
        data={"name": "motion"},
        seed=0,
        num_clips=10,
        class_counts={"action": [1] * 10},
        commonest={"action": 0},
        accuracy={"action": 0.1},
        num_accuracy_clips=10,
        epoch=0,
        selected_by="nothing",
        groups=[],
        contents=[],
    )
    save(folder, model.state_dict(), config, facts, card="")
    return folder


def _video(path: Path, minutes: float) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (50, 48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(round(60 * minutes * FPS)):
            frame = VideoFrame.from_ndarray(images[number % len(images)], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
