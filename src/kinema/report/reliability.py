"""Whether a confidence can be taken at its word: a reliability diagram of each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kinema.report.figure_files import FigureFiles
from kinema.report.figures import BOTTOM, HEIGHT, LEFT, RIGHT, STROKE, TOP, WIDTH, Series, line_key, text, y_axis
from kinema.report.markup import Markup, counted, element, join, number, percent
from kinema.report.record import Evaluation


def calibration_section(evaluation: Evaluation, files: FigureFiles | None = None) -> Markup | None:
    """One diagram for each task, and what it comes to; None of an evaluation that has no such numbers."""
    found = {
        task: values["calibration"]
        for task, values in evaluation.record["tasks"].items()
        if values.get("calibration", {}).get("bins")
    }
    if not found:
        return None
    fitted_here = bool(evaluation.record.get("temperature_fitted_here"))
    panels = [
        _panel(task, values, several=len(found) > 1, fitted_here=fitted_here, files=files)
        for task, values in found.items()
    ]
    note = (
        "Each circle is the clips whose confidence lies in one of 15 bins, the larger the more of them. On the line "
        "a confidence is right as often as it says; below it the model is too sure. The calibration error is the "
        "distance from the line, mean over clips."
    )
    return join(element("div", panels, class_="columns figures"), element("p", note, class_="note"))


def _panel(
    task: str, values: Mapping[str, Any], *, several: bool, fitted_here: bool, files: FigureFiles | None
) -> Markup:
    before = _series("the model's own", "train", values["bins"])
    after = _series("as predicted", "validation", values["after"]["bins"]) if "after" in values else None
    lines = [before] if after is None else [before, after]
    title = f"confidence, {task}" if several else "confidence"
    said = [f"Calibration error {percent(values['ece'])}"]
    if after is not None:
        where = "which was fitted on these very clips" if fitted_here else "fitted on validation clips"
        said.append(
            f"; {percent(values['after']['ece'])} with the temperature {number(values['temperature'])}, {where}"
        )
    legend = element("span", [line_key(line) for line in lines], class_="legend")
    shown = [(before, values["bins"]), *([] if after is None else [(after, values["after"]["bins"])])]
    drawing = _diagram(shown)
    links = None
    if files is not None:
        head = ("line", "num_clips", "confidence", "accuracy")
        rows = [
            (line.name, one["num_clips"], one["confidence"], one["accuracy"]) for line, bins in shown for one in bins
        ]
        keys = [(f"line {line.style}", STROKE, line.name) for line in lines]
        links = files.keep(f"calibration {task}", drawing, head, rows, legend=keys)
    return element(
        "figure",
        element("figcaption", element("b", title), legend, links),
        drawing,
        element("p", *said, ".", class_="note"),
        class_="panel",
    )


def _series(name: str, style: str, bins: Sequence[Mapping[str, Any]]) -> Series:
    return Series(name=name, style=style, points=[(one["confidence"], one["accuracy"]) for one in bins])


def _diagram(lines: Sequence[tuple[Series, Sequence[Mapping[str, Any]]]]) -> Markup:
    def x_at(x: float) -> float:
        return LEFT + x * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    parts = [y_axis(y_at, 0.2, 1.0, shares=True)]
    parts += [
        text(f"{20 * i}\N{NO-BREAK SPACE}%", x=x_at(0.2 * i), y=HEIGHT - BOTTOM + 15, anchor="middle") for i in range(6)
    ]
    parts.append(text("confidence", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, anchor="middle"))
    parts.append(element("line", class_="reference", x1=x_at(0), y1=y_at(0), x2=x_at(1), y2=y_at(1)))
    for line, bins in lines:
        total = sum(one["num_clips"] for one in bins)
        path = "".join(f"{'L' if i else 'M'}{x_at(x):.6g} {y_at(y):.6g}" for i, (x, y) in enumerate(line.points))
        parts.append(element("path", class_=f"line {line.style}", d=path))
        for one, (x, y) in zip(bins, line.points, strict=True):
            words = f"{line.name}: {counted(one['num_clips'], 'clip')}, confidence {percent(x)}, right {percent(y)}"
            radius = 2.6 + 8 * math.sqrt(one["num_clips"] / total)
            parts.append(
                element(
                    "circle", element("title", words), class_=f"dot {line.style}", cx=x_at(x), cy=y_at(y), r=radius,
                    fill_opacity=0.55,
                )
            )  # fmt: skip
    words = "; ".join(
        f"{line.name}: " + ", ".join(f"{percent(x)} sure, {percent(y)} right" for x, y in line.points)
        for line, _ in lines
    )
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label=f"Reliability diagram: {words}",
    )
