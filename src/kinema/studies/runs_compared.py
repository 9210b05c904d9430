"""Runs compared clip by clip on what they were both evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinema.evaluation.asked import clips_words, views_words
from kinema.evaluation.class_statistics import group_numbers, intervals
from kinema.report.record import Evaluation, read_run
from kinema.studies.comparable import choose
from kinema.studies.significance import Comparison, compare
from kinema.types import JOINT, ConfigError, DataError

Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A run beside the best one.

    Attributes:
        test: Its paired test; `difference` is the best's accuracy less this run's.
        interval: 95 % interval of the difference, by bootstrap over groups; None where there is one group.
        only_best: Clips that the best alone got right.
        only_other: Clips that the other alone got right.
        classes: Class -> difference of the accuracies on its clips, the largest first, of the first task.
    """

    test: Comparison
    interval: list[float] | None
    only_best: Sequence[str]
    only_other: Sequence[str]
    classes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Several runs on the same clips.

    Attributes:
        evaluations: Run -> name of the evaluation that was taken.
        asked: Run -> what that was of, in words.
        is_same_list: Whether all were asked about the same list of clips.
        split: Of the first's evaluation.
        task: What is right: the only task, or "joint", all of them.
        num_clips: Clips that all of the evaluations have.
        num_left_out: Clips that only some have.
        accuracy: Run -> top-1 on these clips.
        intervals: Run -> 95 % interval of it.
        best: The run with the highest accuracy, the first of several.
        differences: Other run -> it beside the best.
    """

    evaluations: Mapping[str, str]
    asked: Mapping[str, str]
    is_same_list: bool
    split: str
    task: str
    num_clips: int
    num_left_out: int
    accuracy: Mapping[str, float]
    intervals: Mapping[str, list[float] | None]
    best: str
    differences: Mapping[str, Difference]


def compare_runs(folders: Sequence[Path], *, split: str | None = None, named: Sequence[str] = ()) -> Compared:
    """Compare runs on the evaluations of the same list of clips that say the most about them (`choose`).

    Args:
        folders: At least two runs of the same tasks.
        split: On which; by default the test split, or validation where not all were evaluated on a test split.
        named: Names of evaluations: of the first run, for which those of the others are found, or one for each run.

    Raises:
        ConfigError: A run is given twice, not evaluated on the split, or has no such evaluation.
        DataError: A folder is no run, runs have other tasks, or a clip has another label in one of them.
    """
    names = [str(folder) for folder in folders]
    if len(set(names)) < len(names) or len(names) < 2:
        raise ConfigError("kinema compare: give two runs or more, each once")
    chosen = choose({name: read_run(Path(name)) for name in names}, split=split, named=named)
    lists = {evaluation.record["list"]["fingerprint"] for evaluation in chosen.values()}
    tasks = list(chosen[names[0]].record["tasks"])
    rows = {name: _rows(evaluation, tasks) for name, evaluation in chosen.items()}
    common = [clip for clip in rows[names[0]] if all(clip in of_run for of_run in rows.values())]
    if not common:
        raise DataError(f"{', '.join(names)}: their evaluations have no clip in common")
    for clip in common:
        for task in tasks:
            labels = {of_run[clip][f"{task}_label"] for of_run in rows.values()}
            if len(labels) > 1:
                raise DataError(f"clip {clip} has several labels of {task}: {', '.join(sorted(labels))}")
    right = {
        name: np.array([all(of_run[c][f"{t}_label"] == of_run[c][f"{t}_predicted"] for t in tasks) for c in common])
        for name, of_run in rows.items()
    }
    first = rows[names[0]]
    groups = group_numbers([first[clip]["group"] or first[clip]["video"] for clip in common])
    best = max(names, key=lambda name: right[name].mean())
    tests = compare(_shares(common, right[best]), {n: _shares(common, right[n]) for n in names if n != best})
    labels_of_first = [first[clip][f"{tasks[0]}_label"] for clip in common]
    return Compared(
        evaluations={name: evaluation.name for name, evaluation in chosen.items()},
        asked={name: f"{clips_words(e.record)}, each looked at {views_words(e.record)}" for name, e in chosen.items()},
        is_same_list=len(lists) == 1,
        split=chosen[names[0]].split,
        task=tasks[0] if len(tasks) == 1 else JOINT,
        num_clips=len(common),
        num_left_out=len(set().union(*rows.values())) - len(common),
        accuracy={name: float(values.mean()) for name, values in right.items()},
        intervals={name: intervals(values, groups)[0] for name, values in right.items()},
        best=best,
        differences={
            test.name: _difference(test, common, right[best], right[test.name], groups, labels_of_first)
            for test in tests
        },
    )


def _difference(
    test: Comparison, clips: Sequence[str], best: np.ndarray, other: np.ndarray, groups: Any, labels: Sequence[str]
) -> Difference:
    values = best.astype(np.float64) - other
    by_class = {name: float(values[[label == name for label in labels]].mean()) for name in dict.fromkeys(labels)}
    return Difference(
        test=test,
        interval=intervals(values, groups)[0],
        only_best=[clip for clip, value in zip(clips, values, strict=True) if value > 0],
        only_other=[clip for clip, value in zip(clips, values, strict=True) if value < 0],
        classes=dict(sorted(by_class.items(), key=lambda item: -abs(item[1]))),
    )


def _rows(evaluation: Evaluation, tasks: Sequence[str]) -> dict[str, Row]:
    if list(evaluation.record["tasks"]) != list(tasks):
        found = ", ".join(evaluation.record["tasks"])
        raise DataError(f"{evaluation.folder}: is of {found}, not of {', '.join(tasks)} like the first")
    rows = evaluation.predictions()
    needed = {"clip_id", "group", "video", *(f"{task}_{what}" for task in tasks for what in ("label", "predicted"))}
    if not rows or not needed <= rows[0].keys():
        raise DataError(f"{evaluation.folder / 'predictions.csv'}: not the predictions of kinema; evaluate again")
    return {row["clip_id"]: row for row in rows}


def _shares(clips: Sequence[str], right: np.ndarray) -> dict[str, float]:
    return dict(zip(clips, right.astype(float).tolist(), strict=True))
