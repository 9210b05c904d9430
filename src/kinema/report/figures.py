"""Figures as inline SVG, written by hand: crisp at any size, and coloured by the page's style sheet.

A chart with axes has a fixed drawing area that scales with its place on the page. Bars use percentages as
coordinates, so that their text stays the page's own.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kinema.report.figure_files import FigureFiles, Value, bar_drawing
from kinema.report.markup import Child, Markup, counted, element, join, number, percent

# Drawing area of a chart; about the width of a phone, so that text keeps its size there.
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 34

STROKE = "M-11 0H11"
"""Of a line in a legend."""

Scale = Callable[[float], float]
"""From a value to its place in the drawing."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart.

    Attributes:
        name: For the legend.
        style: Class of the style sheet: `train`, `validation`.
        points: (x, y); y may be NaN.
    """

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A bar with what its length is to be compared with; shares of 1, None or NaN where there is none."""

    name: Child
    value: float | None
    marks: Sequence[tuple[str, str, float | None]]
    """(name, class of the style sheet, share)."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    shares: bool,
    kept: float | None = None,
    reference: tuple[str, float] | None = None,
    files: FigureFiles | None = None,
) -> Markup:
    """Lines over the epochs.

    Args:
        series: At least one.
        title: What the y axis shows.
        shares: y is a share of 1: the axis ends at 100 %. Otherwise it starts at 0 and ends above the highest value.
        kept: The epoch whose weights were kept.
        reference: Name and y of a level line.
        files: Where it is kept as a file.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points if math.isfinite(y)]
    first, last = min(xs), max(xs)
    y_step = 0.2 if shares else _step(max([*ys, 1e-6]), 5)
    y_top = 1.0 if shares else y_step * math.ceil(max([*ys, 1e-6]) / y_step - 1e-9)

    def x_at(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - min(y / y_top, 1.0) * (HEIGHT - TOP - BOTTOM)

    parts = [y_axis(y_at, y_step, y_top, shares=shares), _x_axis(x_at, first, last)]
    if reference is not None:
        name, level = reference
        parts.append(element("line", class_="reference", x1=LEFT, x2=WIDTH - RIGHT, y1=y_at(level), y2=y_at(level)))
        parts.append(text(f"{name} {percent(level)}", x=WIDTH - RIGHT, y=y_at(level) - 5, anchor="end"))
    if kept is not None and first <= kept <= last:
        x = x_at(kept)
        right = x > WIDTH / 2
        parts.append(element("line", class_="kept", x1=x, x2=x, y1=TOP - 6, y2=HEIGHT - BOTTOM))
        # Where curves rarely are (accuracies end high, losses end low), and clear of the reference's label.
        high = reference is not None and reference[1] > 0.15
        y_label = y_at(0.05 if high else 0.3) if shares else TOP + 4
        parts.append(
            text(f"epoch {kept:g} kept", x=x - 6 if right else x + 6, y=y_label, anchor="end" if right else None)
        )
    parts += [_line(line, x_at, y_at, shares=shares) for line in series]
    ends = "; ".join(f"{line.name} ends at {_value(line.points[-1][1], shares)}" for line in series)
    drawing = element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label=f"{title} over {counted(round(last - first) + 1, 'epoch')}: {ends}",
    )
    legend = element("span", [line_key(line) for line in series], class_="legend")
    keys = [(f"line {line.style}", STROKE, line.name) for line in series]
    links = files.keep(title, drawing, *_line_numbers(series), legend=keys) if files is not None else None
    return element("figure", element("figcaption", element("b", title), legend, links), drawing, class_="panel")


def bars(readings: Sequence[Reading], *, legend: Child, files: FigureFiles | None = None) -> Markup:
    """Horizontal bars of shares on one scale from 0 to 100 %, with marks.

    Args:
        readings: One per bar.
        legend: What the marks mean.
        files: Where it is kept as a file.
    """
    rows = []
    for reading in readings:
        known = reading.value is not None and not math.isnan(reading.value)
        parts: list[Markup | None] = [
            element("rect", class_="track", x="0%", y=14, width="100%", height=16, rx=2),
            *(element("line", class_="grid", x1=f"{x}%", x2=f"{x}%", y1=3, y2=41) for x in (0, 25, 50, 75, 100)),
        ]
        if known and reading.value is not None:
            parts.append(element("rect", class_="value", x="0%", y=14, width=_at(reading.value), height=16, rx=2))
        parts += [_mark(name, style, share) for name, style, share in reading.marks]
        drawing = element("svg", parts, class_="bar", role="img", aria_label=_reading_text(reading), height=44)
        rows.append(
            element(
                "div",
                element("span", reading.name, class_="bar-name"),
                drawing,
                element("span", percent(reading.value), class_="bar-value"),
                class_="bar-row",
            )
        )
    scale = [element("span", f"{x}\N{NO-BREAK SPACE}%") for x in (0, 25, 50, 75, 100)]
    axis = element("div", element("span"), element("div", scale, class_="bar-scale"), element("span"), class_="bar-row")
    links = _keep_bars(readings, files) if files is not None else None
    return element("figure", element("figcaption", legend, links), rows, axis, class_="panel bars")


def mark_key(style: str) -> Markup:
    """A mark of `bars`, for a legend."""
    if style == "value":
        shape = element("rect", class_="value", x=1, y=3, width=12, height=10, rx=2)
    else:
        shape = element("path", class_=style, d=_MARKS[style], transform="translate(7 8)")
    return element("svg", shape, class_="key", width=14, height=16, aria_hidden="true")


def count_bars(names: Sequence[str], counts: Sequence[int], *, title: str, files: FigureFiles | None = None) -> Markup:
    """How many training clips each class has.

    Args:
        names: Of the classes.
        counts: Of each.
        title: What they show.
        files: Where it is kept as a file.
    """
    highest = max([*counts, 1])
    rows = []
    for name, count in zip(names, counts, strict=True):
        bar = element("rect", class_="value", x="0%", y=3, width=_at(count / highest), height=10, rx=2)
        rows.append(
            element(
                "div",
                element("span", name, class_="bar-name"),
                element("svg", bar, class_="bar", height=16, aria_hidden="true"),
                element("span", f"{count:,}", class_="bar-value"),
                class_="bar-row",
            )
        )
    figure = element("div", rows, class_="bars counts")
    if files is None:
        return figure
    shown = [(name, count / highest, f"{count:,}") for name, count in zip(names, counts, strict=True)]
    numbers = zip(names, counts, strict=True)
    return join(figure, files.keep(title, bar_drawing(shown, title=title), ["name", "clips"], numbers))


def share_bar(share: float | None) -> Markup:
    """A small bar for a cell of a table."""
    known = share is not None and not math.isnan(share)
    bar = element("rect", class_="value", x=0, y=3, width=_at(share), height=6) if known and share is not None else None
    track = element("rect", class_="track", x=0, y=3, width="100%", height=6)
    return element("svg", track, bar, class_="cell-bar", width=64, height=12, aria_hidden="true")


def data_uri(media_type: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _line_numbers(series: Sequence[Series]) -> tuple[list[str], list[list[Value]]]:
    """Columns and rows of the numbers of a chart."""
    values = [dict(line.points) for line in series]
    rows: list[list[Value]] = [
        [x, *(of_line.get(x) for of_line in values)] for x in sorted({x for v in values for x in v})
    ]
    return ["epoch", *(line.name for line in series)], rows


def _keep_bars(readings: Sequence[Reading], files: FigureFiles) -> Markup:
    names = [html.unescape(re.sub(r"<[^>]*>", "", join(reading.name))) for reading in readings]
    marks = [
        [
            (style, _MARKS[style], share, float(_MARK_Y["train"] - _MARK_Y[style]))
            for _, style, share in one.marks
            if share is not None and not math.isnan(share)
        ]
        for one in readings
    ]
    rows: list[list[Value]] = [
        [name, one.value, *(share for _, _, share in one.marks)] for name, one in zip(names, readings, strict=True)
    ]
    shown = [(name, one.value, percent(one.value)) for name, one in zip(names, readings, strict=True)]
    drawing = bar_drawing(shown, title="accuracy beside what it is to be compared with", marks=marks)
    kinds = {style: name for one in readings for name, style, _ in one.marks}
    keys = [("value", "M-6 -5H6V5H-6Z", "accuracy"), *((style, _MARKS[style], name) for style, name in kinds.items())]
    return files.keep("accuracy", drawing, ["name", "accuracy", *kinds.values()], rows, legend=keys)


def _line(line: Series, x_at: Scale, y_at: Scale, *, shares: bool) -> Markup:
    pieces: list[str] = []
    broken = True
    for x, y in line.points:
        if math.isfinite(y):
            pieces.append(f"{'M' if broken else 'L'}{x_at(x):.6g} {y_at(y):.6g}")
        broken = not math.isfinite(y)
    path = element("path", class_=f"line {line.style}", d="".join(pieces))
    if len(line.points) > 60:
        return path
    dots = [
        element(
            "circle",
            element("title", f"epoch {x:g}, {line.name}: {_value(y, shares)}"),
            class_=f"dot {line.style}",
            cx=x_at(x),
            cy=y_at(y),
            r=2.6,
        )
        for x, y in line.points
        if math.isfinite(y)
    ]
    return join(path, dots)


def y_axis(y_at: Scale, step: float, top: float, *, shares: bool, bottom: float = 0.0) -> Markup:
    """Level lines at multiples of `step`, with their values."""
    parts = []
    lowest = round(bottom / step)
    for i in range(lowest, round(top / step) + 1):
        y = y_at(i * step)
        parts.append(element("line", class_="grid" if i > lowest else "axis", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        label = f"{round(100 * i * step)}\N{NO-BREAK SPACE}%" if shares else f"{i * step:.3g}"
        parts.append(text(label, x=LEFT - 6, y=y + 4, anchor="end"))
    return join(parts)


def _x_axis(x_at: Scale, first: float, last: float) -> Markup:
    step = max(1, round(_step(last - first, 7))) if last > first else 1
    ticks = sorted({first, *(t for t in range(0, int(last) + 1, step) if t >= first + 0.6 * step)})
    parts = [text(f"{tick:g}", x=x_at(tick), y=HEIGHT - BOTTOM + 15, anchor="middle") for tick in ticks]
    return join(parts, text("epoch", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, anchor="middle"))


def text(words: str, *, x: float, y: float, anchor: str | None = None) -> Markup:
    """Words in a drawing."""
    return element("text", words, x=x, y=y, text_anchor=anchor)


def _step(span: float, num_steps: int) -> float:
    """A round number (1, 2 or 5 times a power of ten) that divides a span into about so many steps."""
    rough = span / num_steps
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


_MARKS = {
    "train": "M-6 0L0 -6L6 0L0 6Z",
    "chance": "M-5 -6L5 -6L0 4Z",
    "majority": "M-5 6L5 6L0 -4Z",
}
_MARK_Y = {"train": 22, "chance": 9, "majority": 35}


def _mark(name: str, style: str, share: float | None) -> Markup | None:
    if share is None or math.isnan(share):
        return None
    tooltip = element("title", f"{name} {percent(share)}")
    shape = element("path", tooltip, class_=style, d=_MARKS[style])
    return element("svg", shape, x=_at(share), y=_MARK_Y[style], overflow="visible")


def _reading_text(reading: Reading) -> str:
    marks = ", ".join(f"{name} {percent(share)}" for name, _, share in reading.marks)
    return f"{percent(reading.value)}; {marks}"


def line_key(line: Series) -> Markup:
    """A line's stroke and name, for a legend."""
    stroke = element("path", class_=f"line {line.style}", d="M1 8H23")
    sample = element("svg", stroke, class_="key", width=24, height=16, aria_hidden="true")
    return element("span", sample, line.name)


def _value(y: float, shares: bool) -> str:
    return percent(y) if shares else number(y)


def _at(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.5g}%"
