"""What a recogniser does with clips that are not as they were filmed, and with clips of nothing that it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kinema.evaluation.time_test import meaning, no_use, uses_time
from kinema.report.figure_files import FigureFiles
from kinema.report.figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    STROKE,
    TOP,
    WIDTH,
    Reading,
    Series,
    bars,
    line_key,
    mark_key,
    text,
    y_axis,
)
from kinema.report.markup import Child, Markup, counted, element, join, number, percent, percent_range, table
from kinema.report.record import Evaluation
from kinema.report.roc import roc_figure

_SCORES = {
    "max_probability": "probability of the answer",
    "energy": "energy of the logits",
    "background": "probability that it is not the background class",
}
_MOST_CLASSES = 40


def time_section(evaluation: Evaluation, files: FigureFiles | None = None) -> Markup | None:
    """What other orders of the frames cost; None of an evaluation that did not look."""
    found: Mapping[str, Any] = evaluation.record.get("time") or {}
    if not found:
        return None
    tasks = [task for task in evaluation.tasks if task in next(iter(found.values()))]
    return join([_time_of_task(evaluation, task, found, several=len(tasks) > 1, files=files) for task in tasks])


def _time_of_task(
    evaluation: Evaluation, task: str, found: Mapping[str, Any], *, several: bool, files: FigureFiles | None
) -> Markup:
    values, moving = evaluation.tasks[task], evaluation.record.get("moving", ())
    of_task = {order: tasks[task] for order, tasks in found.items()}
    marks = [("chance", "chance", values.get("chance")), ("majority baseline", "majority", values.get("majority"))]
    readings = [
        Reading(name="as filmed", value=values.get("top1"), marks=marks),
        *(Reading(name=order, value=of["top1"], marks=marks) for order, of in of_task.items()),
    ]
    keys = [("value", "top-1"), ("chance", "chance"), ("majority", "majority baseline")]
    legend = element("span", [element("span", mark_key(style), name) for style, name in keys], class_="legend")
    rows: list[list[Child]] = [
        [
            order,
            meaning(order, moving),
            percent(of["top1"]),
            percent(of["drop"]),
            percent_range(of["interval"]),
            percent(of["same"]),
        ]
        for order, of in of_task.items()
    ]
    head = ["frames", "which is", "top-1", "drop", "95 % interval", "same answers"]
    return join(
        element("h3", task) if several else None,
        element("p", _verdict(of_task, moving)),
        bars(readings, legend=legend, files=files),
        table(head, rows, text_columns=(0, 1)),
        _drops(of_task) if any("classes" in of for of in of_task.values()) else None,
    )


def _verdict(of_task: Mapping[str, Any], moving: Sequence[str]) -> str:
    uses = uses_time(dict(of_task))
    if uses is None:
        return "The clips are of too few groups to say whether a difference is more than chance."
    if uses:
        return "The order of the frames matters to it: at least one other order costs more than chance would."
    return f"No other order of the frames costs anything that is not chance: {no_use(moving)} on these clips."


def _drops(of_task: Mapping[str, Any]) -> Markup:
    """By how much each class gets worse."""
    by_class: dict[str, dict[str, Any]] = {}
    for order, of in of_task.items():
        for one in of.get("classes", ()):
            by_class.setdefault(one["name"], {"num_clips": one["num_clips"]})[order] = one["drop"]
    ordered = sorted(by_class.items(), key=lambda item: -max(item[1].get(order, 0) for order in of_task))
    rows: list[list[Child]] = [
        [name, f"{values['num_clips']:,}", *(percent(values.get(order)) for order in of_task)]
        for name, values in ordered[:_MOST_CLASSES]
    ]
    left_out = len(ordered) - len(rows)
    return join(
        element("h4", "Drop of each class"),
        table(["class", "clips", *of_task], rows, text_columns=(0,)),
        element("p", f"{counted(left_out, 'class')} with smaller drops are in metrics.json.", class_="note")
        if left_out
        else None,
    )


def rejection_section(evaluation: Evaluation, files: FigureFiles | None = None) -> Markup | None:
    """How clips of none of the classes are told apart, and what the kept threshold does; None where nothing of that
    was looked at."""
    found: Mapping[str, Any] = evaluation.record.get("rejection") or {}
    if not found:
        return None
    parts: list[Markup | None] = []
    if "threshold" in found:
        said = (
            f"With the threshold of the weights ({_SCORES[found['method']]} of at least {number(found['threshold'])}), "
            f"{percent(found['known_accepted'])} of the clips of the classes are answered, and "
            f"{percent(found['top1_accepted'])} of these rightly"
        )
        if "unknown_accepted" in found:
            said += f"; of the clips of none of them {percent(found['unknown_accepted'])} are answered"
        parts.append(element("p", said, "."))
    if "methods" in found:
        rows: list[list[Child]] = [
            [_SCORES[method], percent(of["auroc"]), percent(of["fpr95"])] for method, of in found["methods"].items()
        ]
        head = ["score", "AUROC", "unknown let through with 95 % of the known"]
        parts.append(table(head, rows, text_columns=(0,)))
        figures = [roc_figure(found, _SCORES, files), _histogram(found, files)]
        parts.append(element("div", figures, class_="columns figures"))
        note = (
            "AUROC: the probability that a clip of the classes has a higher score than one of none; 50 % is chance. "
            "The unknown clips are those of " + str(evaluation.record.get("unknown")) + "."
        )
        parts.append(element("p", note, class_="note"))
    return join(parts)


def _histogram(found: Mapping[str, Any], files: FigureFiles | None) -> Markup:
    scores = found["scores"]
    edges: Sequence[float] = scores["edges"]
    totals = {name: sum(scores[name]) for name in ("known", "unknown")}
    shares = {name: [count / max(1, totals[name]) for count in scores[name]] for name in totals}
    top = max(0.1, *(max(values) for values in shares.values()))

    def x_at(x: float) -> float:
        share = (x - edges[0]) / (edges[-1] - edges[0]) if edges[-1] > edges[0] else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    lines = [
        Series(name=f"{counted(totals[name], 'clip')} of {words}", style=style, points=[])
        for name, words, style in (("known", "the classes", "s0"), ("unknown", "none of them", "s1"))
    ]
    parts = [y_axis(y_at, 0.1 if top <= 0.5 else 0.2, top, shares=True)]
    for line, values in zip(lines, shares.values(), strict=True):
        path = f"M{x_at(edges[0]):.6g} {y_at(0):.6g}"
        for value, right in zip(values, edges[1:], strict=True):
            path += f"V{y_at(value):.6g}H{x_at(right):.6g}"
        parts.append(element("path", class_=f"line {line.style}", d=f"{path}V{y_at(0):.6g}"))
    for i in range(5):
        value = edges[0] + i / 4 * (edges[-1] - edges[0])
        parts.append(text(f"{value:.3g}", x=x_at(value), y=HEIGHT - BOTTOM + 15, anchor="middle"))
    parts.append(text(_SCORES[scores["method"]], x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, anchor="middle"))
    if "threshold" in found and found["method"] == scores["method"]:
        x = min(max(x_at(found["threshold"]), LEFT), WIDTH - RIGHT)
        parts.append(element("line", class_="kept", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM))
    words = "; ".join(
        f"{line.name}: {percent(max(values))} at the most" for line, values in zip(lines, shares.values(), strict=True)
    )
    drawing = element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label=f"Shares of clips by {_SCORES[scores['method']]}: {words}",
    )
    links = None
    if files is not None:
        rows = list(zip(edges[:-1], edges[1:], scores["known"], scores["unknown"], strict=True))
        keys = [(f"line {line.style}", STROKE, str(line.name)) for line in lines]
        links = files.keep(
            "scores of known and unknown clips", drawing, ("from", "to", "known", "unknown"), rows, legend=keys
        )
    legend = element("span", [line_key(line) for line in lines], class_="legend")
    caption = element("figcaption", element("b", "scores"), legend, links)
    return element("figure", caption, drawing, class_="panel")
