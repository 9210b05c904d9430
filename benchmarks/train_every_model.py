"""Every registered model is trained on set 1 of UT-Interaction and evaluated on set 2, on the command line.

    python benchmarks/train_every_model.py ROOT WEIGHTS [--models NAME ...] [--json FILE]

ROOT is the folder with clips.csv, WEIGHTS a file of MobileNetV2 trained on ImageNet. It shows that the models train:
the loss falls, and nothing is NaN. Models of frames see features, or maps, of the frozen MobileNetV2, which the first
of them computes and the others find; all others begin from scratch, small and for a few epochs, and their accuracy
says nothing. `ensemble` is not trained.

Each command is a process of its own, that reads clips itself (`clips.workers=0`), so that its peak is all the memory
that training takes. Results are written after each model; those that the file has already, of the same settings, are
not made again. Features are kept in a folder beside the file. It exits with 1 if a command failed, or a loss is not
finite or did not fall.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import MADE, machine, say, versions
from kinema import recipes, registry
from kinema.files import read_json_object, write_json

LEFT_OUT = ("ensemble",)
"""Made of trained models; it is not trained itself."""

FROZEN, SCRATCH = "frozen MobileNetV2", "scratch"

FRAMES: dict[str, dict[str, Any]] = {
    "cnn_bert": {"width": 128, "num_heads": 4, "feature_norm": "clip"},
    "cnn_conv1d_stack": {"channels": 64, "num_blocks": 2, "feature_norm": "clip"},
    "cnn_conv_lstm": {"channels": 32, "feature_norm": "clip"},
    "cnn_correlation": {"backbone": "mobilenet_v2", "channels": 32, "radius": 2, "feature_norm": "batch"},
    "cnn_difference": {"backbone": "mobilenet_v2", "feature_norm": "batch"},
    "cnn_gru": {"hidden_size": 64, "bidirectional": True, "pool": "mean", "feature_norm": "clip"},
    "cnn_hybrid": {
        "width": 128,
        "hidden_size": 64,
        "num_layers": 1,
        "num_heads": 4,
        "feed_forward": 256,
        "feature_norm": "clip",
    },
    "cnn_lsta": {"backbone": "mobilenet_v2", "channels": 64, "bank": 20, "feature_norm": "clip"},
    "cnn_multi_scale_transformer": {"width": 128, "num_layers": 1, "num_heads": 4, "feature_norm": "clip"},
    "cnn_perceiver": {"size": 128, "num_queries": 16, "feature_norm": "clip"},
    "cnn_rnn": {"hidden_size": 64, "bidirectional": True, "pool": "mean", "feature_norm": "clip"},
    "cnn_transformer": {"width": 128, "num_layers": 2, "num_heads": 4, "feature_norm": "clip"},
    "cross_task_attention": {
        "width": 128,
        "num_layers": 1,
        "num_heads": 4,
        "branch_width": 128,
        "feature_norm": "clip",
    },
    "frame_class_conv": {"channels": 128},
    "frame_statistics": {"segments": 4, "feature_norm": "clip"},
}
"""Arguments of models of frames that have no recipe here; of others the defaults."""

MAPS_EPOCHS = 10
"""Of models that take maps: with them an epoch takes 10 s, not half a second."""

STREAMS: dict[str, dict[str, Any]] = {
    "two_stream_conv_lstm": {"backbone": "mobilenet_v2", "channels": 32},
    "two_stream_cross_task": {"width": 128, "num_layers": 1, "num_heads": 4, "branch_width": 128},
}
"""Arguments of models of several streams, of frozen networks whose features are not stored."""

STREAMS_EPOCHS = 3

_SMALL_TRANSFORMER = {"hidden_size": 192, "num_layers": 4, "num_heads": 3}
CLIPS: dict[str, dict[str, Any]] = {
    "flow_attention": {"flow_channels": 8},
    "tsm": {"backbone": "resnet18"},
    "video_transformer": _SMALL_TRANSFORMER,
}
"""Arguments of other models, to make them small; of those that are not named the defaults."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mvit, v1_b": ("mvit", {"variant": "v1_b"}),
    "r2plus1d_18, 7 blocks, Perceiver": ("r2plus1d_18", {"num_blocks": 7, "pool": "perceiver"}),
    "r2plus1d_18, BERT": ("r2plus1d_18", {"pool": "bert"}),
    **{
        f"video_transformer, {architecture}": (
            "video_transformer",
            {**_SMALL_TRANSFORMER, "architecture": architecture},
        )
        for architecture in ("timesformer", "vivit", "vjepa2")
    },
}
"""Other networks that a model can be: row -> model and arguments. They are models of clips."""

TRANSFORMERS = ("mvit", "swin3d", "video_transformer")
"""Take a smaller learning rate."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is trained.

    Attributes:
        recipe: Shipped name.
        settings: What is another than there, as the command line takes it.
        start: Where weights come from.
    """

    recipe: str
    settings: tuple[str, ...]
    start: str

    def command(self, root: Path, weights: Path, output: Path) -> list[str]:
        """Arguments of `kinema train`."""
        given = [f"data.root={root}", "data.holdout.set=[2]", "clips.workers=0", f"output={output}"]
        # What the file expects: pixel / 127.5 - 1.
        expected = ["init.mean=[0.5,0.5,0.5]", "init.std=[0.5,0.5,0.5]"]
        given += [f"init.weights={weights}", *expected] if self.start == FROZEN else []
        return ["train", self.recipe, *given, *self.settings]


def plan(row: str) -> Plan:
    """How a registered model, or a variant of one, is trained."""
    if row in VARIANTS:
        return _of_clips(*VARIANTS[row])
    name = row
    if name == "two_stream":
        return Plan(recipe="ut_interaction/best", settings=(), start=FROZEN)
    if name in STREAMS:
        model = _override("model", {"name": name, **STREAMS[name]})
        return Plan(recipe="ut_interaction/best", settings=(model, f"trainer.epochs={STREAMS_EPOCHS}"), start=FROZEN)
    parameters = {parameter.name for parameter in registry.entry("model", name, key="model").parameters}
    if "feature_norm" not in parameters or name in CLIPS:
        return _of_clips(name, CLIPS.get(name, {}))
    takes_maps = name in ("cnn_conv_lstm", "cnn_correlation", "cnn_difference", "cnn_lsta", "frame_class_conv")
    epochs = (f"trainer.epochs={MAPS_EPOCHS}",) if takes_maps else ()
    if f"ut_interaction/{name}" in recipes.names():
        return Plan(recipe=f"ut_interaction/{name}", settings=epochs, start=FROZEN)
    model = _override("model", {"name": name, **FRAMES.get(name, {})})
    return Plan(recipe="ut_interaction/cnn_conv1d", settings=(model, *epochs), start=FROZEN)


def _of_clips(name: str, arguments: Mapping[str, Any]) -> Plan:
    """The recipe's clips, few and small frames, each epoch the same."""
    return Plan(
        recipe="ut_interaction/cnn_conv1d",
        settings=(
            _override("model", {"name": name, **arguments}),
            "init={}",
            "clips.num_frames=8",
            "clips.size_px=64",
            "clips.batch_size=8",
            _override("clips.augmentation", {"views": 1, "jitter": False, "flip": 0, "min_scale": 1, "colour": 0}),
            f"optim.lr={3e-4 if name in TRANSFORMERS else 1e-3}",
            "trainer.epochs=3",
        ),
        start=SCRATCH,
    )


def _override(key: str, value: Mapping[str, Any]) -> str:
    return f"{key}={json.dumps(value)}"


def main() -> None:
    names = sorted([*(name for name in registry.entries("model") if name not in LEFT_OUT), *VARIANTS])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with clips.csv")
    parser.add_argument("weights", type=Path, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--models", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--json", type=Path, default=MADE / "train_every_model.json", help="results (%(default)s)")
    given = parser.parse_args()
    root, weights, place = given.root.resolve(), given.weights.resolve(), given.json.resolve().with_suffix("")
    found = read_json_object(given.json) if given.json.is_file() else {}
    rows: dict[str, dict[str, Any]] = {row["model"]: row for row in found.get("rows", [])}
    for name in given.models:
        chosen = plan(name)
        settings = [chosen.recipe, *chosen.settings]
        if name in rows and rows[name]["settings"] == settings and rows[name]["problem"] is None:
            say(f"{name}: has a result")
            continue
        rows[name] = {"model": name, "start": chosen.start, "settings": settings}
        rows[name] |= trained(chosen, root, weights, place)
        say(f"{name}: {rows[name]['problem'] or 'trained'}, {rows[name]['seconds']:.0f} s")
        given.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"benchmark": "train_every_model", "machine": machine(), "versions": versions()}
        write_json(given.json, {**result, "rows": [rows[n] for n in names if n in rows]})
    print(table([rows[name] for name in given.models]))
    problems = [f"{name}: {rows[name]['problem']}" for name in given.models if rows[name]["problem"]]
    if problems:
        sys.exit("\n".join(problems))


def trained(chosen: Plan, root: Path, weights: Path, place: Path) -> dict[str, Any]:
    """Train and evaluate; what came of it."""
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)  # of a model during which it was interrupted
    place.mkdir(parents=True, exist_ok=True)
    try:
        return _trained(chosen, root, weights, place, run)
    finally:
        shutil.rmtree(run, ignore_errors=True)


def _trained(chosen: Plan, root: Path, weights: Path, place: Path, run: Path) -> dict[str, Any]:
    training = kinema(chosen.command(root, weights, run), place)
    facts: dict[str, Any] = {
        "seconds": training.seconds,
        "cpu_seconds": training.cpu_seconds,
        "peak_mb": training.peak_mb,
        "problem": training.error,
    }
    if training.error is not None:
        return facts
    losses = read_losses(run / "metrics.csv")
    facts["problem"] = problem(losses)
    if facts["problem"] is not None:
        return facts
    facts |= {"epochs": len(losses), "first_loss": losses[0], "last_loss": losses[-1]}
    result = place / "evaluation.json"
    evaluation = kinema(["evaluate", str(run), "--json", str(result)], place)
    if evaluation.error is not None:
        return {**facts, "problem": evaluation.error}
    figures = read_json_object(result)["tasks"]["action"]
    facts |= {name: figures[name] for name in ("top1", "train_top1", "chance", "majority")}
    return facts


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command took, and how it failed."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    error: str | None


def kinema(arguments: Sequence[str], place: Path) -> Done:
    """Run a command in a process of its own, with a cache of its own."""
    environment = {**os.environ, "KINEMA_CACHE": str(place / "cache")}
    began_s = time.perf_counter()
    log = place / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "kinema.cli.main", *arguments], env=environment, stdout=file, stderr=file
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    error = None
    if process.returncode:
        said = log.read_text(encoding="utf-8").strip().splitlines()
        error = f"kinema {arguments[0]} ended with {process.returncode}: {said[-1] if said else 'it said nothing'}"
    return Done(
        seconds=round(time.perf_counter() - began_s, 1),
        cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
        peak_mb=round(used.ru_maxrss * 1024 / 1e6),  # Linux has KiB
        error=error,
    )


def read_losses(path: Path) -> list[float]:
    """Of the training clips, by epoch."""
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def problem(losses: Sequence[float]) -> str | None:
    """What is wrong with how a loss went, if anything."""
    if not all(map(math.isfinite, losses)):
        return (
            f"the loss of epoch {next(i for i, loss in enumerate(losses, 1) if not math.isfinite(loss))} is not finite"
        )
    if not losses[-1] < losses[0]:
        return f"the loss did not fall: {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last"
    return None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown."""
    head = [
        "model",
        "begins from",
        "epochs",
        "loss, first and last",
        "training clips",
        "top-1",
        "CPU time",
        "peak",
    ]
    lines = [head, ["---"] * 2 + ["--:"] * 6]
    for row in rows:
        if "top1" not in row:
            lines.append([f"`{row['model']}`", row["start"], f"{row['problem']}", *["-"] * 5])
            continue
        losses = f"{row['first_loss']:.2f} {row['last_loss']:.2f}"
        shares = [f"{100 * row[name]:.1f} %" for name in ("train_top1", "top1")]
        used = [f"{row['cpu_seconds']:.0f} s", f"{row['peak_mb'] / 1000:.2f} GB"]
        lines.append([f"`{row['model']}`", row["start"], str(row["epochs"]), losses, *shares, *used])
    baselines = {(row["chance"], row["majority"]) for row in rows if "top1" in row}
    said = [f"Chance {100 * chance:.1f} %, majority {100 * majority:.1f} %." for chance, majority in sorted(baselines)]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", *said])


if __name__ == "__main__":
    main()
