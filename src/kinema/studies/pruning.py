"""Giving a trial up that does worse than the others."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_PREFIX, _SUFFIX = "validation/", "_top1"


class GivenUp(BaseException):
    """A trial was pruned. Not an error, which would count as the run's failure."""


class MedianStop(Callback):
    """Reports every epoch's validation accuracy to a trial, and gives it up when its pruner says so.

    Args:
        trial: Of Optuna.
        metrics: The run's table of epochs, which a run that goes on has from before.
    """

    def __init__(self, trial: Any, metrics: Path) -> None:
        self._trial = trial
        self._metrics = metrics
        self._reported = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = accuracies(self._metrics)
        for epoch in range(self._reported, len(values)):
            self._trial.report(values[epoch], step=epoch)
        self._reported = len(values)
        is_last = trainer.max_epochs is not None and len(values) >= trainer.max_epochs
        if not is_last and self._trial.should_prune():
            raise GivenUp


def accuracies(metrics: Path) -> list[float]:
    """The headline accuracy on validation clips of each epoch, of a run's `metrics.csv`."""
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
    column = f"{_PREFIX}joint{_SUFFIX}" if len(names) > 1 else names[0] if names else ""
    found = [float(row[column]) for row in rows] if column else []
    return [value for value in found if math.isfinite(value)]
