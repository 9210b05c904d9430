"""Classes of a data set: how many clips each has, and how evenly they are spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kinema.report.confusion import MAX_LABELLED
from kinema.report.data_figures import class_bars, falling, keep_class_bars, long_tail
from kinema.report.figure_files import FigureFiles
from kinema.report.markup import DASH, NBSP, Child, Markup, counted, details, element, join, number, percent, table

_MAX_ROWS = 1000
"""Of the table of classes."""

_WHICH = ("listed", "there")


def classes_section(record: Mapping[str, Any], files: FigureFiles) -> Markup:
    """Measures of balance, and a figure per task and split."""
    several = len(record["tasks"]) > 1
    return join(
        [_task(record, task, files, several=several) for task in record["tasks"]],
        element(
            "p",
            "Imbalance factor: clips of the largest class / of the smallest that has any. Evenness: entropy of the "
            f"classes / its highest possible value; 100{NBSP}% where all classes are of the same size. Head: "
            "the commonest fifth of the classes; tail: all others. Majority baseline: accuracy of always answering the "
            "commonest class of the training split, and of clips that are there, those that can be used.",
            class_="note",
        ),
    )


def _balance_table(of_task: Mapping[str, Any]) -> Markup:
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for split, facts in of_task.items():
        some_absent = facts["listed"]["counts"] != facts["there"]["counts"]
        if facts["listed"]["num_clips"]:
            columns += [(f"{split}, {which}" if some_absent else split, facts[which]) for which in _kinds(facts)]
    has_rare = any(values["num_rare_classes"] is not None for _, values in columns)
    rows = [
        [title, *(show(values) for _, values in columns)]
        for title, show in (_MEASURES | _RARE if has_rare else _MEASURES).items()
    ]
    return table(["", *(title for title, _ in columns)], rows, sortable=False)


_MEASURES: dict[str, Callable[[Mapping[str, Any]], Child]] = {
    "clips with a label": lambda values: f"{values['num_clips']:,}",
    "commonest class": lambda values: element("span", values["commonest"] or DASH, class_="name"),
    "its share": lambda values: percent(values["majority_share"]),
    "majority baseline": lambda values: percent(values["majority_baseline"]),
    "imbalance factor": lambda values: factor(values["imbalance_factor"]),
    "evenness": lambda values: percent(values["evenness"]),
    "head share": lambda values: percent(values["head_share"]),
    "tail share": lambda values: percent(values["tail_share"]),
    f"classes that hold 80{NBSP}% of the clips": lambda values: _count_of(values, "num_classes_for_80_percent"),
    "classes with fewer than 10 clips": lambda values: _count_of(values, "num_classes_below_10"),
    "classes without clips": lambda values: _count_of(values, "num_classes_without_clips"),
}
_RARE: dict[str, Callable[[Mapping[str, Any]], Child]] = {
    "tail classes that the data set names": lambda values: _count_of(values, "num_rare_classes"),
    "their clips": lambda values: _count(values["num_clips_of_rare_classes"]),
    "their share": lambda values: percent(values["rare_share"]),
}


def _task(record: Mapping[str, Any], task: str, files: FigureFiles, *, several: bool) -> Markup:
    names: Sequence[str] = record["classes"][task]
    of_task: Mapping[str, Any] = record["tasks"][task]
    figures = []
    for split, facts in of_task.items():
        there, listed = facts["there"]["counts"], facts["listed"]["counts"]
        if not sum(listed):
            continue
        title = f"clips per class, {f'{task}, ' if several else ''}{split}"
        if len(names) <= MAX_LABELLED:
            links = keep_class_bars(names, there, listed, title=title, files=files)
            caption = element("figcaption", element("b", title), links)
            figures.append(element("figure", caption, class_bars(names, there, listed), class_="panel"))
        else:
            num_for_80 = facts["listed"]["num_classes_for_80_percent"]
            figures.append(long_tail(there, listed, title=title, num_for_80=num_for_80, files=files))
    if not figures:
        return join(element("h3", task) if several else None, element("p", "No clip has a label.", class_="empty"))
    return join(
        element("h3", task) if several else None,
        _balance_table(of_task),
        element("div", figures, class_="columns figures"),
        details("Every class, the commonest first", _class_table(names, of_task))
        if len(names) > MAX_LABELLED
        else None,
    )


def _class_table(names: Sequence[str], of_task: Mapping[str, Any]) -> Markup:
    columns: list[tuple[str, Sequence[int]]] = []
    for split, facts in of_task.items():
        some_absent = facts["listed"]["counts"] != facts["there"]["counts"]
        if some_absent:
            columns.append((f"{split}, listed", facts["listed"]["counts"]))
        columns.append((f"{split}, there" if some_absent else split, facts["there"]["counts"]))
    totals = {
        which: [sum(f[which]["counts"][i] for f in of_task.values()) for i in range(len(names))] for which in _WHICH
    }
    order = falling(totals["there"], totals["listed"])
    rows: list[list[Child]] = [[names[i], *(f"{counts[i]:,}" for _, counts in columns)] for i in order[:_MAX_ROWS]]
    left_out = len(order) - len(rows)
    return join(
        table(["class", *(title for title, _ in columns)], rows),
        element("p", f"{counted(left_out, 'class')} more are not listed here.", class_="note") if left_out else None,
    )


def _kinds(facts: Mapping[str, Any]) -> Sequence[str]:
    """Listed and there, where they differ and anything is there."""
    if facts["listed"]["counts"] == facts["there"]["counts"]:
        return ("there",)
    return _WHICH if facts["there"]["num_clips"] else ("listed",)


def kind_shown(facts: Mapping[str, Any]) -> str:
    """Which of a split's numbers stand for it: of the clips that are there, or else of those listed."""
    return _kinds(facts)[-1]


def factor(value: float | None) -> str:
    """An imbalance factor."""
    return DASH if value is None else number(value)


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _count_of(values: Mapping[str, Any], key: str) -> str:
    return DASH if values[key] is None else f"{values[key]:,} of {values['num_classes']:,}"
