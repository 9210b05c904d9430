"""What tests ask of a run's folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch


def rows(run: Path) -> list[dict[str, float]]:
    """Content of metrics.csv."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def result(run: Path) -> dict[str, Any]:
    """All of a finished run that has to be the same whenever the same run is done again."""
    weights = run / "weights"
    calibration = weights / "calibration.json"
    return {
        "model.safetensors": (weights / "model.safetensors").read_bytes(),
        "config.json": (weights / "config.json").read_text(),
        "training.json": (weights / "training.json").read_text(),
        "calibration.json": calibration.read_text() if calibration.exists() else None,
        "README.md": (weights / "README.md").read_text(),
        "metrics.csv": [{name: value for name, value in row.items() if name != "seconds"} for row in rows(run)],
        "evaluations": sorted(place.name for place in (run / "evaluations").iterdir()),
        "metrics.json": (run / "evaluations" / "validation" / "metrics.json").read_text(),
        "predictions.csv": (run / "evaluations" / "validation" / "predictions.csv").read_text(),
    }


def training_json(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "weights" / "training.json").read_text())
    return content


def position(run: Path) -> tuple[int, int]:
    """Epoch, from 1, that the last checkpoint was written in, and how many of its batches were done."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch_state"]
    return state["epoch"] + 1, state["batches_done"]


def temporary_files(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.name.endswith(".tmp")]
