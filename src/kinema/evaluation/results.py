"""One evaluation as a record: the numbers with what they have to be compared with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinema.evaluation.baselines import baselines, majority_answers
from kinema.evaluation.calibration import calibration
from kinema.evaluation.class_statistics import class_statistics, groups_of, intervals
from kinema.evaluation.frequency import accuracy_by_frequency
from kinema.evaluation.metrics import (
    TOP_K,
    accuracy,
    can_rank_joint,
    confusion_matrix,
    joint_ranks,
    main_task,
    pair_accuracy,
    right_answers,
    task_metrics,
    top_k,
)
from kinema.evaluation.predictions import Predictions
from kinema.evaluation.sanity import check_record, findings, inputs_unknown
from kinema.evaluation.subsets import NUM_EPIC_SEGMENTS, epic_names, subset_accuracy
from kinema.evaluation.time_test import time_test
from kinema.files import write_atomically, write_json
from kinema.models.weights import Calibration, TrainingFacts
from kinema.types import JOINT, Split


def results(
    predictions: Predictions,
    *,
    split: Split,
    training: TrainingFacts,
    pairs: Mapping[str, tuple[tuple[str, str], ...]],
    tail: Mapping[str, Collection[int]] | None = None,
    unseen_groups: Collection[str] = (),
    calibrated: Calibration | None = None,
    fitted_here: bool = False,
    ks: Sequence[int] = TOP_K,
) -> dict[str, Any]:
    """The numbers of an evaluation, as `kinema evaluate --json` gives them; shares of 1.

    Args:
        predictions: Of the evaluated clips.
        split: Which split these are.
        training: What the model was trained on: for baselines and the gap.
        pairs: Task -> pairs of class names that show the same frames in opposite order.
        tail: Task -> classes that the data set asks to be evaluated on their own.
        unseen_groups: Groups of which it asks the same.
        calibrated: The temperatures that are kept with the weights, if there are.
        fitted_here: Whether they were fitted on these very clips.
        ks: Of top-k.

    Raises:
        UserError: Numbers contradict each other.
    """
    is_official = split == "validation" and len(predictions.clips) == NUM_EPIC_SEGMENTS
    ks = sorted({1, *ks, *((5,) if is_official else ())})
    base = baselines(predictions, training.commonest, training.background)
    tasks: dict[str, dict[str, Any]] = {}
    for task, names in predictions.classes.items():
        tasks[task] = {**task_metrics(predictions, task, ks), **base[task], "num_classes": len(names)}
        tasks[task] |= accuracy_by_frequency(predictions, task, training.class_counts.get(task, ()))
        tasks[task] |= class_statistics(predictions, task)
        tasks[task]["calibration"] = _calibration(predictions, task, calibrated)
    record: dict[str, Any] = {"split": split, "tasks": tasks}
    if len(predictions.classes) > 1:
        record[JOINT] = {**_joint_top_k(predictions, ks), **base[JOINT]}
        # Right in both is exactly the best combination, so these two are computed in two ways.
        assert _equal(record[JOINT]["top1"], accuracy(predictions)[JOINT])
        if training.combinations and can_rank_joint(predictions):
            record[JOINT]["with_prior"] = dict(top_k(joint_ranks(predictions, training.combinations), ks))
    groups, of_majority = groups_of(predictions), majority_answers(predictions, training.commonest)
    for task, right in right_answers(predictions).items():
        values = record[JOINT] if task == JOINT else tasks[task]
        values["interval"], _ = intervals(right, groups)
        values["above_majority"], _ = intervals(1.0 * right - of_majority[task], groups)
    for task, values in {**tasks, JOINT: record.get(JOINT, {})}.items():
        if values:
            known = values["train_top1"] = training.accuracy.get(task)
            values["gap"] = None if known is None else known - values["top1"]
    record["temperature_fitted_here"] = fitted_here
    subsets = subset_accuracy(predictions, tail=tail or {}, unseen_groups=unseen_groups)
    if subsets:
        record["subsets"] = subsets
    if is_official and subsets.keys() == {"tail", "unseen"} and subsets["tail"].keys() == {"verb", "noun", JOINT}:
        record["epic"] = epic_names(record)
    within = pair_accuracy(predictions, pairs)
    if within:
        record["pairs"] = within.pop("all")
        record["pairs_by_name"] = within
    main = main_task(predictions.classes)
    record["train_top1"] = training.accuracy.get(main)
    record["gap"] = (record[JOINT] if main == JOINT else tasks[main])["gap"]
    record["gap_unknown"] = None if record["gap"] is not None else training.unmeasured or "it was not measured"
    record["inputs_unknown"] = inputs_unknown(predictions, training)
    record["num_clips"] = len(predictions.clips)
    record["num_skipped"] = len(predictions.skipped)
    if predictions.single_view is not None:
        for task, share in predictions.single_view.items():
            (record[JOINT] if task == JOINT else tasks[task])["single_view_top1"] = share
    if predictions.reordered:
        record["time"] = time_test(predictions)
    check_record(record)
    record["findings"] = findings(predictions, record, training)
    return record


def _calibration(predictions: Predictions, task: str, calibrated: Calibration | None) -> dict[str, Any]:
    """Of the logits as they are, and under `after` as they are divided by the temperature of the weights."""
    logits, labels = predictions.logits[task], predictions.labels[task]
    found = calibration(logits, labels)
    if calibrated is not None and task in calibrated.temperatures:
        found["temperature"] = temperature = calibrated.temperatures[task]
        found["after"] = calibration(logits / np.float32(temperature), labels)
    return found


def _joint_top_k(predictions: Predictions, ks: Sequence[int]) -> dict[str, float | None]:
    if can_rank_joint(predictions):
        return dict(top_k(joint_ranks(predictions), ks))
    return {**{f"top{k}": None for k in ks}, "top1": accuracy(predictions)[JOINT]}


def save_evaluation(folder: Path, record: Mapping[str, Any], predictions: Predictions) -> None:
    """Write `metrics.json`, the predictions, and `confusion_<task>.csv` and `classes_<task>.csv` into a new folder.

    Raises:
        OSError: They cannot be written.
    """
    predictions.save(folder)
    for task, names in predictions.classes.items():
        matrix = confusion_matrix(
            predictions.logits[task].argmax(axis=1), predictions.labels[task], num_classes=len(names)
        )
        write_atomically(folder / f"confusion_{task}.csv", _confusion_csv(matrix, names))
        write_atomically(folder / f"classes_{task}.csv", _classes_csv(record["tasks"][task]["classes"]))
    write_json(folder / "metrics.json", record)


def _classes_csv(classes: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = ("recall", "precision", "f1", "average_precision", "auroc")
    writer.writerow(["class", "num_clips", "num_answers", "right", "interval_low", "interval_high", *measured])
    for values in classes:
        counts = [values[name] for name in ("num_clips", "num_answers", "right")]
        shares = [*(values["interval"] or (None, None)), *(values[name] for name in measured)]
        writer.writerow([values["name"], *counts, *("" if share is None else f"{share:.6f}" for share in shares)])
    return text.getvalue().encode()


def _confusion_csv(matrix: np.ndarray, names: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row.tolist()] for name, row in zip(names, matrix, strict=True))
    return text.getvalue().encode()


def _equal(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))
