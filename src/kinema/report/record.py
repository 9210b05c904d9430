"""What a run's folder holds, read without loading torch."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinema.config import parse_yaml
from kinema.evaluation.sanity import check_record
from kinema.files import read_json_object
from kinema.training.run_folder import Run
from kinema.types import SPLITS, DataError, UserError


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of clips, (K, K): row the true class, column the predicted class."""

    task: str
    names: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A folder below `evaluations/`.

    Attributes:
        folder: It.
        record: Content of `metrics.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def split(self) -> str:
        return str(self.record["split"])

    @property
    def is_own(self) -> bool:
        """Of a split of what the run was trained on, and not of some other list of clips."""
        return bool(self.record["list"]["own"])

    @property
    def is_plain(self) -> bool:
        """Of a split of its own, each clip looked at once: what stands as the accuracy of a run."""
        return self.is_own and "views" not in self.record

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """Task, and with several "joint", -> its numbers."""
        joint = self.record.get("joint")
        return {**self.record["tasks"], **({"joint": joint} if joint else {})}

    @property
    def order(self) -> tuple[int, str, int]:
        """Sorts evaluations by split, and those of a name by age (`test`, `test-2`, `test-10`)."""
        count = re.search(r"-(\d+)$", self.name)
        place = SPLITS.index(self.split) if self.split in SPLITS else len(SPLITS)
        return place, self.name[: count.start()] if count else self.name, int(count.group(1)) if count else 1

    def confusions(self) -> list[Confusion]:
        """The confusion matrices that are there, in the order of the tasks."""
        found = []
        for task in self.record["tasks"]:
            path = self.folder / f"confusion_{task}.csv"
            rows = _csv_rows(path)
            if rows:
                try:
                    counts = np.array([[int(value) for value in row[1:]] for row in rows[1:]], dtype=np.int64)
                except ValueError as error:
                    raise DataError(f"{path}: not a confusion matrix: {error}; evaluate again") from None
                found.append(Confusion(task=task, names=tuple(rows[0][1:]), counts=counts))
        return found

    def predictions(self) -> list[dict[str, str]]:
        """Rows of `predictions.csv`."""
        return _csv_records(self.folder / "predictions.csv")

    def skipped(self) -> list[dict[str, str]]:
        """Rows of `skipped.csv`: clip id and reason."""
        return _csv_records(self.folder / "skipped.csv")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that a run says about itself.

    Attributes:
        folder: The run.
        config: Its recipe.
        config_text: The same as it was written.
        environment: Content of `environment.json`; empty where that is missing.
        history: Rows of `metrics.csv`, one per epoch; a number that is missing is NaN.
        model: Content of `weights/config.json`, None before the run is finished.
        training: Content of `weights/training.json`, None before the run is finished.
        evaluations: By split and age.
        log: Lines of `log.txt`.
    """

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    model: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    evaluations: Sequence[Evaluation]
    log: Sequence[str]

    @property
    def title(self) -> str:
        return f"{self.config['model']['name']} on {self.config['data']['name']}"

    @property
    def plain(self) -> Sequence[Evaluation]:
        """The newest plain evaluation of each of its splits."""
        return list({evaluation.split: evaluation for evaluation in self.evaluations if evaluation.is_plain}.values())

    @property
    def others(self) -> Sequence[Evaluation]:
        """All that are not in `plain`: of other clips, with other views, or older ones."""
        plain = {evaluation.name for evaluation in self.plain}
        return [evaluation for evaluation in self.evaluations if evaluation.name not in plain]

    @property
    def headline(self) -> Evaluation | None:
        """The newest plain evaluation of its test split, or of its validation split, or of any; without any, the newest
        with views of its own splits, or of whatever clips there are."""
        own = [evaluation for evaluation in self.others if evaluation.is_own]
        for some in (self.plain, own, self.others):
            for split in ("test", "validation", "train"):
                found = [evaluation for evaluation in some if evaluation.split == split]
                if found:
                    return found[-1]
        return None

    def newest_with(self, key: str) -> Evaluation | None:
        """The evaluation that says most about the run among those whose record has a key: the headline, or the newest
        plain one, of its own clips, or of others."""
        headline = self.headline
        found = [evaluation for evaluation in self.evaluations if evaluation.record.get(key)]
        found.sort(key=lambda one: (one is headline, one.is_plain, one.is_own))
        return found[-1] if found else None

    @property
    def heads(self) -> Mapping[str, Sequence[str]]:
        """Task -> class names; empty before the run is finished."""
        return {} if self.model is None else self.model["heads"]


def read_run(folder: Path) -> RunRecord:
    """Read a run, finished or not.

    Raises:
        DataError: The folder holds no run, or a file in it is not what kinema wrote.
    """
    run = Run(folder)
    if not run.config.is_file():
        raise DataError(f"{folder}: not a run, config.yaml is missing")
    text = run.config.read_text(encoding="utf-8")
    config = parse_yaml(text, source=str(run.config))
    if not isinstance(config, Mapping) or not all(
        isinstance(config.get(section), Mapping) and config[section].get("name") for section in ("model", "data")
    ):
        raise DataError(f"{run.config}: not the recipe of a run; model.name and data.name are missing")
    log = folder / "log.txt"
    return RunRecord(
        folder=folder,
        config=config,
        config_text=text,
        environment=_json(folder / "environment.json") or {},
        history=[{name: _number(value) for name, value in row.items()} for row in _csv_records(folder / "metrics.csv")],
        model=_json(run.weights / "config.json"),
        training=_json(run.weights / "training.json"),
        evaluations=_evaluations(run.evaluations),
        log=log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else [],
    )


def _evaluations(folder: Path) -> list[Evaluation]:
    found = []
    for path in folder.glob("*/metrics.json"):
        record = _json(path)
        if record is None or not {"split", "tasks", "list"} <= record.keys():
            raise DataError(f"{path}: not the numbers of an evaluation; remove {path.parent.name} and evaluate again")
        try:
            check_record(record, where=str(path))
        except UserError as error:
            raise DataError(f"{error}; remove {path.parent.name} and evaluate again") from None
        found.append(Evaluation(folder=path.parent, record=record))
    return sorted(found, key=lambda evaluation: evaluation.order)


def _json(path: Path) -> dict[str, Any] | None:
    return read_json_object(path) if path.is_file() else None


def _csv_rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file) if row]


def _csv_records(path: Path) -> list[dict[str, str]]:
    rows = _csv_rows(path)
    return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]] if rows else []


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
