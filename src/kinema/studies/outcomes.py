"""What came of a study: a row per setting, over its seeds and folds."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kinema.studies.jobs import Job, Place
from kinema.studies.significance import Comparison, compare
from kinema.studies.study import Study
from kinema.types import JOINT, DataError


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over several runs.

    Attributes:
        mean: Of them.
        std: Standard deviation of the sample; None of one.
        values: Them.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        known = [value for value in values if math.isfinite(value)]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(mean=statistics.fmean(known), std=std, values=tuple(known))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run that is done.

    Attributes:
        job: It.
        record: What `kinema.studies.work` wrote down.
        right: Clip -> whether it was right in all tasks, of what it is measured on.
    """

    job: Job
    record: Mapping[str, Any]
    right: Mapping[str, bool]

    @property
    def measured(self) -> Mapping[str, Any]:
        """Headline numbers on what settings are compared on."""
        found: Mapping[str, Any] = self.record["measured"][self.job.split]
        return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting.

    Attributes:
        name: Its name.
        changes: What it changes, `section.key=value`.
        num_runs: Seeds times folds.
        outcomes: Of the runs that are done.
        failures: Run -> why it failed.
        score: Accuracy on what settings are compared on, over seeds. With folds, of one seed, that of all held-out
            clips together.
        folds: Fold -> accuracy on it, the mean over seeds. Empty without folds.
        tasks: Task, and with several "joint", -> `top1`, `top3`, `top5`, `loss` and `majority` of what settings are
            compared on, of all clips together, the mean over seeds; those that are known.
        train_loss: Of the epochs that were kept, as they were trained: with augmentation and label smoothing.
        train: Accuracy on training clips, over all runs.
        groups: Where classes have unequal numbers of training clips: mean class accuracy of `head`, `middle` and
            `tail`, over all runs; of several tasks `verb head` and so on.
        chance: Of the compared clips.
        majority: Of the compared clips.
        right: Clip -> share of the seeds with which it was right.
    """

    name: str
    changes: tuple[str, ...]
    num_runs: int
    outcomes: tuple[Outcome, ...]
    failures: Mapping[str, str]
    score: Spread | None
    folds: Mapping[str, float]
    tasks: Mapping[str, Mapping[str, float]]
    train_loss: float | None
    train: Spread | None
    groups: Mapping[str, Spread]
    chance: float | None
    majority: float | None
    right: Mapping[str, float] = field(repr=False)

    @property
    def gap(self) -> float | None:
        return None if self.train is None or self.score is None else self.train.mean - self.score.mean

    @property
    def between_folds(self) -> Spread | None:
        """Of the accuracies of folds, each the mean over seeds; None without folds."""
        return Spread.of(list(self.folds.values()))

    @property
    def loss(self) -> float | None:
        """Of what settings are compared on, the tasks' together."""
        losses = [values.get("loss") for task, values in self.tasks.items() if task != JOINT]
        known = [loss for loss in losses if loss is not None]
        return sum(known) if known and len(known) == len(losses) else None

    @property
    def is_complete(self) -> bool:
        return len(self.outcomes) == self.num_runs

    def cost(self, key: str) -> float | None:
        """Of a run: the median over the runs; of memory the most."""
        values = [o.record[key] for o in self.outcomes if isinstance(o.record.get(key), int | float)]
        if not values:
            return None
        return max(values) if key == "memory_bytes" else statistics.median(values)

    def facts(self) -> dict[str, Any]:
        """Of JSON types."""
        costs = ("parameters", "trainable", "gflops", "clips_per_s", "memory_bytes", "seconds")
        return {
            "name": self.name,
            "changes": list(self.changes),
            "runs": self.num_runs,
            "done": len(self.outcomes),
            "failures": dict(self.failures),
            **{key: self.cost(key) for key in costs},
            "train_top1": None if self.train is None else self.train.mean,
            "train_runs_std": None if self.train is None else self.train.std,
            "train_loss": self.train_loss,
            "loss": self.loss,
            "tasks": {task: dict(values) for task, values in self.tasks.items()},
            "top1_mean": None if self.score is None else self.score.mean,
            "top1_std": None if self.score is None else self.score.std,
            "seeds_std": None if self.score is None else self.score.std,
            "folds_std": None if self.between_folds is None else self.between_folds.std,
            "top1": [] if self.score is None else list(self.score.values),
            "folds": dict(self.folds),
            "groups": {group: spread.mean for group, spread in self.groups.items()},
            "gap": self.gap,
            "chance": self.chance,
            "majority": self.majority,
        }


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """A whole study.

    Attributes:
        study: It.
        rows: In the order of its file.
        best: The row with the highest score, of those that are complete.
        comparisons: Of the best with the others.
        measured_on: In words: `validation`, `test` or `held-out`.
    """

    study: Study
    rows: tuple[Row, ...]
    best: Row | None
    comparisons: Mapping[str, Comparison]
    measured_on: str

    def facts(self) -> dict[str, Any]:
        """What `--json` gives."""
        source = self.study.file.source
        rows = []
        for row in self.rows:
            found = row.facts()
            comparison = self.comparisons.get(row.name)
            found["beside_best"] = None if comparison is None else asdict(comparison)
            if source is not None:
                values = source.rows.get(row.name, (None,) * len(source.columns))
                found["source"] = dict(zip(source.columns, values, strict=True))
            rows.append(found)
        return {
            "name": self.study.file.name,
            "folder": str(self.study.folder),
            "measured_on": self.measured_on,
            "best": None if self.best is None else self.best.name,
            "rows": rows,
        }


def outcomes_of(study: Study, jobs: Sequence[Job]) -> Outcomes:
    """What is there of a study.

    Raises:
        DataError: A file of it is broken.
    """
    place = Place(study.folder)
    by_setting: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_setting[job.setting].append(job)
    changes = {setting.name: setting.changes for setting in study.settings}
    rows = tuple(_row(name, changes.get(name, ()), of_setting, place) for name, of_setting in by_setting.items())
    complete = [row for row in rows if row.score is not None and row.is_complete]
    best = max(complete, key=lambda row: row.score.mean if row.score else 0.0, default=None)  # of equals the first
    others = {row.name: row.right for row in complete if row is not best}
    comparisons = compare(best.right, others) if best is not None else []
    measured_on = "held-out" if any(job.fold is not None for job in jobs) else jobs[0].split if jobs else "validation"
    return Outcomes(
        study=study,
        rows=rows,
        best=best,
        comparisons={comparison.name: comparison for comparison in comparisons},
        measured_on=measured_on,
    )


def _row(name: str, changes: tuple[str, ...], jobs: Sequence[Job], place: Place) -> Row:
    outcomes, failures = [], {}
    for job in jobs:
        record, failure = place.result(job), place.failure(job)
        if record is not None:
            outcomes.append(Outcome(job=job, record=record, right=_right(job)))
        elif failure is not None:
            failures[job.name] = failure
    seeds = list(dict.fromkeys(outcome.job.seed for outcome in outcomes))
    per_seed = [_weighted([o for o in outcomes if o.job.seed == seed], "top1") for seed in seeds]
    shares: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        for clip, right in outcome.right.items():
            shares[clip].append(right)
    folds: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.job.fold is not None:
            folds[outcome.job.fold].append(outcome.measured["top1"])
    train_loss = Spread.of([o.record["train_loss"] for o in outcomes if o.record.get("train_loss") is not None])
    return Row(
        name=name,
        changes=changes,
        num_runs=len(jobs),
        outcomes=tuple(outcomes),
        failures=failures,
        score=Spread.of(per_seed),
        folds={fold: statistics.fmean(values) for fold, values in folds.items()},
        tasks=_tasks(outcomes),
        train_loss=None if train_loss is None else train_loss.mean,
        groups=_groups(outcomes),
        train=Spread.of([outcome.record["train_top1"] for outcome in outcomes]),
        chance=outcomes[0].measured["chance"] if outcomes else None,
        majority=_weighted(outcomes, "majority") if outcomes else None,
        right={clip: sum(values) / len(values) for clip, values in shares.items()},
    )


def _groups(outcomes: Sequence[Outcome]) -> dict[str, Spread]:
    values: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for group, value in outcome.measured["groups"].items():
            values[group].append(value)
    known = {group: Spread.of(of_group) for group, of_group in values.items()}
    return {group: spread for group, spread in known.items() if spread is not None}


def _tasks(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    known = [outcome.measured.get("of_tasks", {}) for outcome in outcomes]
    for task, values in (known[0] if known else {}).items():
        found[task] = {}
        for key in values:
            numbers = [of_run.get(task, {}).get(key) for of_run in known]
            if all(number is not None for number in numbers):
                clips = [outcome.measured["num_clips"] for outcome in outcomes]
                found[task][key] = sum(n * share for n, share in zip(clips, numbers, strict=True)) / sum(clips)
    return found


def _weighted(outcomes: Sequence[Outcome], key: str) -> float:
    """A share of the clips of several folds together."""
    num = sum(outcome.measured["num_clips"] for outcome in outcomes)
    return sum(outcome.measured["num_clips"] * outcome.measured[key] for outcome in outcomes) / num if num else math.nan


def _right(job: Job) -> dict[str, bool]:
    path: Path = job.folder / "evaluations" / job.split / "predictions.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    tasks = [name.removesuffix("_label") for name in (rows[0] if rows else ()) if name.endswith("_label")]
    return {row["clip_id"]: all(row[f"{task}_label"] == row[f"{task}_predicted"] for task in tasks) for row in rows}
