"""The clips that a run was trained and evaluated on: how many, of which classes and groups, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kinema.report.confusion import MAX_LABELLED
from kinema.report.figure_files import FigureFiles
from kinema.report.figures import count_bars
from kinema.report.markup import DASH, Child, Markup, counted, details, element, join, number, percent, table
from kinema.report.record import Evaluation, RunRecord

_MAX_REASONS = 10
_MAX_ROWS = 1000
"""Of the tables of classes of all tasks."""


def data_section(run: RunRecord, files: FigureFiles | None = None) -> Markup | None:
    """None before there is anything to say."""
    if run.training is None:
        return None
    latest = run.plain
    tasks = [_task(task, run, latest, files) for task in run.training["class_counts"]]
    skipped = [part for evaluation in run.evaluations if (part := _skipped(evaluation)) is not None]
    return join(_splits(run, latest), skipped, element("div", tasks, class_="columns"))


def _splits(run: RunRecord, latest: Sequence[Evaluation]) -> Markup:
    training = run.training
    assert training is not None
    first = next(iter(training["class_counts"]))
    counts = training["class_counts"][first]
    groups = f"{len(training['groups']):,}" if training["groups"] else DASH
    classes = f"{sum(count > 0 for count in counts):,} of {len(counts):,}"
    rows: list[list[Child]] = [["trained on", f"{training['num_clips']:,}", DASH, groups, classes]]
    for evaluation in latest:
        known = {row["group"] for row in evaluation.predictions() if row.get("group")}
        of_classes = evaluation.record["tasks"][first].get("classes") or ()
        there = sum(values["num_clips"] > 0 for values in of_classes)
        rows.append(
            [
                f"evaluated: {evaluation.name}",
                f"{evaluation.record.get('num_clips', 0):,}",
                f"{evaluation.record.get('num_skipped', 0):,}",
                f"{len(known):,}" if known else DASH,
                f"{there:,} of {len(counts):,}" if of_classes else DASH,
            ]
        )
    measured = ", ".join(f"{task} {percent(share)}" for task, share in training["accuracy"].items())
    note = f"Accuracy on training clips ({measured}) was measured on {counted(training['num_accuracy_clips'], 'clip')}."
    head = ["clips", "used", "could not be read", "groups", "classes with clips"]
    return join(table(head, rows, sortable=False), element("p", note, class_="note"))


def _task(task: str, run: RunRecord, latest: Sequence[Evaluation], files: FigureFiles | None) -> Markup:
    assert run.training is not None
    names, counts = run.heads.get(task, ()), run.training["class_counts"][task]
    title = "Training clips per class" + (f", {task}" if len(run.heads) > 1 else "")
    if len(names) != len(counts):
        return element("div", _summary(title, counts))
    every = _class_table(names, counts, task, latest, most=_MAX_ROWS // len(run.heads))
    if len(counts) <= MAX_LABELLED:
        shown = join(element("h3", title), count_bars(names, counts, title=title.lower(), files=files))
    else:
        shown = _summary(title, counts)
    return element("div", shown, details("Clips of every class in each split", every))


def _summary(title: str, counts: Sequence[int]) -> Markup:
    ordered = sorted(counts)
    rows: list[tuple[str, Child]] = [
        ("classes", f"{len(counts):,}"),
        ("fewest", f"{ordered[0]:,}"),
        ("median", number(_median(ordered), digits=4)),
        ("most", f"{ordered[-1]:,}"),
        ("without clips", f"{sum(count == 0 for count in counts):,}"),
    ]
    facts = element("dl", [join(element("dt", name), element("dd", value)) for name, value in rows])
    return join(element("h3", title), facts)


def _class_table(
    names: Sequence[str], counts: Sequence[int], task: str, latest: Sequence[Evaluation], *, most: int
) -> Markup:
    columns: list[Mapping[str, Any]] = [
        {values["name"]: values["num_clips"] for values in evaluation.record["tasks"][task].get("classes") or ()}
        for evaluation in latest
    ]
    rows = [
        [name, f"{count:,}", *(f"{of_split.get(name, 0):,}" for of_split in columns)]
        for name, count in list(zip(names, counts, strict=True))[:most]
    ]
    left_out = len(names) - len(rows)
    return join(
        table(["class", "trained on", *(evaluation.name for evaluation in latest)], rows),
        element("p", f"{counted(left_out, 'class')} more are not listed here.", class_="note") if left_out else None,
    )


def _skipped(evaluation: Evaluation) -> Markup | None:
    num = evaluation.record.get("num_skipped", 0)
    if not num:
        return None
    rows = evaluation.skipped()
    items = [element("li", element("code", row["clip_id"]), ": ", row["reason"]) for row in rows[:_MAX_REASONS]]
    path = f"evaluations/{evaluation.name}/skipped.csv"
    rest = element("p", "All of them: ", element("a", path, href=path)) if num > len(items) and rows else None
    title = f"{evaluation.name}: {counted(num, 'clip')} could not be read and count nowhere"
    return details(title, element("ul", items), rest, is_open=len(items) <= 3)


def _median(ordered: Sequence[int]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
