"""The numbers of a run's evaluations, in words, as a picture and as a table; and the curves of its training."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kinema.evaluation.asked import views_words
from kinema.evaluation.frequency import GROUPS
from kinema.evaluation.metrics import main_task
from kinema.evaluation.subsets import SUBSETS
from kinema.report.figure_files import FigureFiles
from kinema.report.figures import Reading, Series, bars, line_chart, mark_key
from kinema.report.markup import (
    DASH,
    Child,
    Markup,
    counted,
    details,
    element,
    join,
    percent,
    percent_range,
    signed_percent,
    table,
)
from kinema.report.other_evaluations import WITH_PRIOR, all_ks, others_section
from kinema.report.record import Evaluation, RunRecord
from kinema.types import JOINT

LARGE_GAP = 0.15
PAIR_CHANCE = 0.5
PAIR_MARGIN = 0.05
"""Within so much of chance, pairs are called not told apart."""


def results_section(run: RunRecord, files: FigureFiles | None = None) -> Markup:
    """Verdicts, the headline, all numbers."""
    headline = run.headline
    if headline is None:
        return _not_evaluated(run)
    shown = run.plain or [headline]
    others = [other for other in run.others if other not in shown]
    first = verdicts(shown)
    only_validation = None
    if all(evaluation.split != "test" for evaluation in run.plain):
        only_validation = element(
            "p",
            "There is no evaluation on the test split yet. Where the data set has one: ",
            element("code", f"kinema evaluate {shlex.quote(str(run.folder))}"),
            class_="note",
        )
    return join(
        element("ul", [element("li", verdict) for verdict in first], class_="verdicts"),
        _headline(headline),
        only_validation,
        _bars(shown, files),
        numbers_table(shown),
        frequency_table(shown),
        subset_table(shown),
        _pairs(headline),
        others_section(others, [verdict for verdict in verdicts(others) if verdict not in first]),
    )


def verdicts(evaluations: Sequence[Evaluation]) -> list[str]:
    """What one has to know before believing the numbers, one sentence each."""
    return list(dict.fromkeys(sentence for evaluation in evaluations for sentence in _verdicts(evaluation)))


def numbers_table(evaluations: Sequence[Evaluation]) -> Markup:
    """One row per evaluation and task."""
    ks = all_ks(evaluations)
    columns = [*(f"top{k}" for k in ks), "mean_class", "chance", "majority", "train_top1"]
    titles = ["top-1", "95 % interval", *(f"top-{k}" for k in ks)]
    titles += ["mean class", "chance", "majority", "training clips", "gap"]
    with_pairs = any("pairs" in evaluation.record for evaluation in evaluations)
    rows: list[list[Child]] = []
    for evaluation in evaluations:
        for task, values in evaluation.tasks.items():
            row: list[Child] = [evaluation.name, task]
            row += [f"{evaluation.record.get(key, 0):,}" for key in ("num_clips", "num_skipped")]
            row += [element("b", percent(values.get("top1"))), percent_range(values.get("interval"))]
            row += [percent(values.get(key)) for key in columns]
            row.append(signed_percent(values.get("gap")))
            if with_pairs:
                first = task == next(iter(evaluation.tasks))
                row.append(percent(evaluation.record.get("pairs")) if first else "")
            rows.append(row)
            if task == JOINT and "with_prior" in values:
                of_prior = [percent(values["with_prior"].get(f"top{k}")) for k in ks]
                row = [*row[:1], WITH_PRIOR, *row[2:4], element("b", percent(values["with_prior"].get("top1"))), DASH]
                rows.append([*row, *of_prior, *[DASH] * (len(rows[-1]) - len(row) - len(of_prior))])
    head = ["evaluation", "task", "clips", "skipped", *titles, *(["within pairs"] if with_pairs else [])]
    note = (
        "With prior: probabilities multiplied by how much oftener the classes came together in training than by chance."
    )
    has_prior = any("with_prior" in evaluation.tasks.get(JOINT, {}) for evaluation in evaluations)
    return join(table(head, rows, text_columns=(0, 1)), element("p", note, class_="note") if has_prior else None)


def frequency_table(evaluations: Sequence[Evaluation]) -> Markup | None:
    """Accuracy on classes that were common in training and on those that were rare; None where none were."""
    rows: list[list[Child]] = []
    for evaluation in evaluations:
        for task, values in evaluation.tasks.items():
            groups: Mapping[str, Mapping[str, int]] = values.get("frequency") or {}
            if groups:
                row: list[Child] = [evaluation.name, task]
                for group, facts in groups.items():
                    few, many = facts["fewest_training_clips"], facts["most_training_clips"]
                    row += [percent(values[group]), f"{facts['num_classes']:,}", f"{few:,} to {many:,}"]
                rows.append(row)
    if not rows:
        return None
    columns = [(group, "classes", "training clips") for group in GROUPS]
    note = (
        "Mean class accuracy on the third of the classes with the most training clips (head), on that with the fewest "
        "(tail), and on those between."
    )
    head = ["evaluation", "task", *(title for columns_of_group in columns for title in columns_of_group)]
    return join(table(head, rows, text_columns=(0, 1)), element("p", note, class_="note"))


def subset_table(evaluations: Sequence[Evaluation]) -> Markup | None:
    """Accuracy on the clips that the data set asks to be looked at apart; None where it asks nothing."""
    rows: list[list[Child]] = [
        [evaluation.name, SUBSETS[subset], task, percent(values["top1"]), f"{values['num_clips']:,}"]
        for evaluation in evaluations
        for subset, tasks in (evaluation.record.get("subsets") or {}).items()
        for task, values in tasks.items()
    ]
    if not rows:
        return None
    note = "Clips that this data set asks to be looked at apart. What has one rare class is of the tail in joint."
    head = ["evaluation", "clips", "task", "top-1", "number"]
    return join(table(head, rows, text_columns=(0, 1, 2)), element("p", note, class_="note"))


def curves_section(run: RunRecord, files: FigureFiles | None = None) -> Markup:
    """Loss and accuracies over the epochs."""
    if not run.history:
        return element("p", "No epoch has been finished yet.")
    kept = None if run.training is None else float(run.training["epoch"])
    names = dict.fromkeys(column.partition("/")[2] for row in run.history for column in row if "/" in column)
    charts = []
    for name in sorted(names, key=lambda name: name != "loss"):
        series = [
            Series(name=title, style=style, points=points)
            for style, title in (("train", "training"), ("validation", "validation"))
            if (points := _points(run.history, f"{style}/{name}"))
        ]
        if not series:
            continue
        task = name.removesuffix("_top1")
        charts.append(
            line_chart(
                series,
                title="loss" if name == "loss" else f"top-1, {task}",
                shares=name != "loss",
                kept=kept,
                reference=("chance", chance) if (chance := _chance(run, task)) is not None else None,
                files=files,
            )
        )
    note = (
        "Training values are means over an epoch on augmented clips while the weights were changing, so they can lie "
        "below those of validation."
    )
    return join(element("div", charts, class_="columns"), element("p", note, class_="note"))


def _verdicts(evaluation: Evaluation) -> Iterator[str]:
    for task, values in evaluation.tasks.items():
        where = f"{evaluation.name}, {task}" if len(evaluation.tasks) > 1 else evaluation.name
        top1 = _finite(values.get("top1"))
        if top1 is None:
            yield f"{where}: no accuracy, because no clip was evaluated."
            continue
        beaten_by = [
            f"{name} ({percent(share)})"
            for name, share in (
                ("always answering the commonest training class", _finite(values.get("majority"))),
                ("chance", _finite(values.get("chance"))),
            )
            if share is not None and top1 <= share
        ]
        above = values.get("above_majority")
        if beaten_by:
            yield f"{where}: top-1 {percent(top1)} is not better than {' or '.join(beaten_by)}."
        elif above is not None and above[0] <= 0:
            yield (
                f"{where}: these clips do not show that it is better than always answering the commonest training "
                f"class; the difference may be {percent_range(above)}."
            )
    gaps = [
        (f"{task}, " if len(evaluation.tasks) > 1 else "")
        + f"{signed_percent(gap)}: {percent(values['train_top1'])} there, {percent(values['top1'])} here"
        for task, values in evaluation.tasks.items()
        if (gap := _finite(values.get("gap"))) is not None and gap > LARGE_GAP
    ]
    if gaps:
        yield f"{evaluation.name}: the gap to the training clips is large ({'; '.join(gaps)})."
    if evaluation.record.get("inputs_unknown"):
        unknown = evaluation.record["inputs_unknown"]
        yield f"{evaluation.name}: whether clips are prepared as in training could not be looked at: {unknown}."
    for finding in evaluation.record.get("findings", ()):
        if finding["fault"] == "training":  # of the run, whatever was evaluated
            yield f"{finding['message'][0].upper()}{finding['message'][1:]}."
        elif finding["fault"] != "selected":  # which the head of the page says
            yield f"{evaluation.name}: {finding['message']}."
    pairs = _finite(evaluation.record.get("pairs"))
    if pairs is not None and pairs <= PAIR_CHANCE + PAIR_MARGIN:
        yield (
            f"{evaluation.name}: within pairs of classes that show the same frames in opposite order, "
            f"{percent(pairs)} is no better than guessing (50.0 %): the order of frames does not help the model."
        )


def _headline(evaluation: Evaluation) -> Markup:
    record = evaluation.record
    task = main_task(record["tasks"])
    values = evaluation.tasks.get(task, {})
    clips = counted(record.get("num_clips", 0), "clip")
    if not evaluation.is_plain:
        looks = "" if evaluation.is_own else f" of {evaluation.record['list']['source']}"
        clips += f"{looks}, looked at {views_words(record)}" if "views" in record else looks
    name = "top-1" if len(record["tasks"]) == 1 else "right in all tasks"
    interval = values.get("interval")
    sure = clips if interval is None else f"{clips}; 95 % interval {percent_range(interval)}"
    tiles = [
        _tile(percent(values.get("top1")), f"{name} on {evaluation.name}", sure, style="main"),
        _tile(percent(values.get("chance")), "chance", f"one of {_num_answers(record, values):,} answers"),
        _tile(percent(values.get("majority")), "majority", "always the commonest training class"),
        _tile(percent(values.get("train_top1")), "training clips", "without augmentation"),
        _tile(signed_percent(values.get("gap")), "gap", "training clips less these"),
    ]
    if "pairs" in record:
        tiles.append(_tile(percent(record["pairs"]), "within pairs", "same frames, opposite order; chance 50\xa0%"))
    return element("div", tiles, class_="tiles")


def _num_answers(record: Mapping[str, Any], headline: Mapping[str, Any]) -> int:
    """Less than there are classes where one of them stands for nothing and no clip is of it."""
    chance = _finite(headline.get("chance"))
    if chance is not None and chance > 0:
        return round(1 / chance)
    return math.prod(values["num_classes"] for values in record["tasks"].values())


def _tile(value: str, name: str, note: str | None = None, *, style: str | None = None) -> Markup:
    return element(
        "div",
        element("div", value, class_="tile-value"),
        element("div", name, class_="tile-name"),
        element("div", note, class_="tile-note") if note else None,
        class_=f"tile {style}" if style else "tile",
    )


def _bars(evaluations: Sequence[Evaluation], files: FigureFiles | None) -> Markup:
    readings = [
        Reading(
            name=[element("b", evaluation.name), f" {task}" if len(evaluation.tasks) > 1 else ""],
            value=values.get("top1"),
            marks=(
                ("training clips", "train", values.get("train_top1")),
                ("chance", "chance", values.get("chance")),
                ("majority", "majority", values.get("majority")),
            ),
        )
        for evaluation in evaluations
        for task, values in evaluation.tasks.items()
    ]
    keys = (("value", "top-1"), ("train", "training clips"), ("chance", "chance"), ("majority", "majority baseline"))
    legend = element("span", [element("span", mark_key(style), name) for style, name in keys], class_="legend")
    return bars(readings, legend=legend, files=files)


def _pairs(evaluation: Evaluation) -> Markup | None:
    by_name: Mapping[str, float] = evaluation.record.get("pairs_by_name", {})
    if not by_name:
        return None
    rows = [[name, percent(share)] for name, share in by_name.items()]
    return details(
        f"Within pairs on {evaluation.name}: only the two classes of a pair offered", table(["pair", "right"], rows)
    )


def _not_evaluated(run: RunRecord) -> Markup:
    folder = shlex.quote(str(run.folder))
    if run.training is None:
        say = ["Training is not finished. Go on with ", element("code", f"kinema train --resume {folder}"), "."]
    else:
        say = ["Not evaluated yet. Run ", element("code", f"kinema evaluate {folder}"), "."]
    return element("p", say, class_="empty")


def _points(history: Sequence[Mapping[str, float]], column: str) -> list[tuple[float, float]]:
    rows = [(row["epoch"], row.get(column, math.nan)) for row in history if _finite(row.get("epoch")) is not None]
    return rows if any(math.isfinite(y) for _, y in rows) else []


def _chance(run: RunRecord, task: str) -> float | None:
    """1 / classes of a task, or of all combinations for the joint accuracy."""
    sizes = {name: len(classes) for name, classes in run.heads.items()}
    if task in sizes:
        return 1 / sizes[task]
    return 1 / math.prod(sizes.values()) if task == JOINT and sizes else None


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
