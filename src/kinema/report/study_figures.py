"""Figures of a study's page: accuracy against cost, and bars of plain shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kinema.report.figure_files import DOT, FigureFiles, bar_drawing
from kinema.report.figures import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, text, y_axis
from kinema.report.markup import Child, Markup, element, join, number, percent

NUM_STYLES = 8
"""Colours that the style sheet has for lines and points of settings: `s0` to `s7`."""

_BOTTOM = 40
_MOST_KEYS = 20
"""Trials of a sweep may be hundreds."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting in a plane.

    Attributes:
        name: For the tooltip.
        label: A few letters beside it.
        style: Class of the style sheet.
        x: Its cost.
        y: Its accuracy, a share of 1.
        spread: Standard deviation of that, or None.
    """

    name: str
    label: str
    style: str
    x: float
    y: float
    spread: float | None = None


def scatter(points: Sequence[Point], *, title: str, x_name: str, log: bool, files: FigureFiles | None = None) -> Markup:
    """Accuracy over something else.

    Args:
        points: At least one; with `log`, all x above 0.
        title: Of the figure.
        x_name: What stands at the x axis, with its unit.
        log: Whether orders of magnitude are equally far apart.
        files: Where it is kept as a file.
    """
    ticks = _log_ticks(points) if log else _ticks(points)
    first, last = ticks[0], ticks[-1]
    low, high, step = _window(points)

    def x_at(x: float) -> float:
        share = math.log(x / first) / math.log(last / first) if log else (x - first) / (last - first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - _BOTTOM)

    parts = [y_axis(y_at, step, high, shares=True, bottom=low)]
    for tick in ticks:
        x = x_at(tick)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=TOP, y2=HEIGHT - _BOTTOM))
        parts.append(text(_short(tick), x=x, y=HEIGHT - _BOTTOM + 15, anchor="middle"))
    parts.append(text(x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, anchor="middle"))
    parts += [_point(point, x_at(point.x), y_at) for point in points]
    words = "; ".join(f"{point.name}: {percent(point.y)} at {number(point.x)}" for point in points)
    drawing = element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img", aria_label=f"{title}: {words}"
    )
    links = None
    if files is not None:
        head = ("name", x_name, "accuracy", "standard deviation")
        keys = [(f"dot {point.style}", DOT, f"{point.label} {point.name}") for point in points]
        numbers = [(point.name, point.x, point.y, point.spread) for point in points]
        links = files.keep(title, drawing, head, numbers, legend=keys if len(keys) <= _MOST_KEYS else ())
    return element("figure", element("figcaption", element("b", title), links), drawing, class_="panel")


def share_bars(
    rows: Sequence[tuple[str, float]], *, title: str, note: Child = None, files: FigureFiles | None = None
) -> Markup:
    """Shares of 1 as horizontal bars, each with its name and number."""
    found = []
    for name, share in rows:
        track = element("rect", class_="track", x="0%", y=3, width="100%", height=10, rx=2)
        bar = element("rect", class_="value", x="0%", y=3, width=f"{100 * min(max(share, 0), 1):.4g}%", height=10, rx=2)
        found.append(
            element(
                "div",
                element("span", name, class_="bar-name"),
                element("svg", track, bar, class_="bar", height=16, aria_hidden="true"),
                element("span", percent(share), class_="bar-value"),
                class_="bar-row",
            )
        )
    links = None
    if files is not None:
        drawing = bar_drawing([(name, share, percent(share)) for name, share in rows], title=title)
        links = files.keep(title, drawing, ("name", "share"), rows)
    caption = element("figcaption", element("b", title), element("span", note) if note else None, links)
    return element("figure", caption, element("div", found, class_="bars counts wide"), class_="panel")


def _point(point: Point, x: float, y_at: Scale) -> Markup:
    y = y_at(point.y)
    parts = []
    if point.spread:
        ends = (y_at(point.y - point.spread), y_at(point.y + point.spread))
        parts.append(element("line", class_=f"line {point.style}", x1=x, x2=x, y1=ends[0], y2=ends[1]))
    spread = f" \N{PLUS-MINUS SIGN} {100 * point.spread:.1f}" if point.spread else ""
    tooltip = element("title", f"{point.name}: {percent(point.y)}{spread} at {number(point.x)}")
    parts.append(element("circle", tooltip, class_=f"dot {point.style}", cx=x, cy=y, r=5))
    right = x > WIDTH - 3 * RIGHT
    parts.append(text(point.label, x=x - 9 if right else x + 9, y=y - 6, anchor="end" if right else None))
    return join(parts)


def _window(points: Sequence[Point]) -> tuple[float, float, float]:
    """Lowest and highest share that are shown, and the step between lines: all of 0 to 1 is mostly empty."""
    lowest = min(point.y - (point.spread or 0) for point in points)
    highest = max(point.y + (point.spread or 0) for point in points)
    step = next(step for step in (0.02, 0.05, 0.1, 0.2) if highest - lowest <= 5 * step or step == 0.2)
    low = max(0.0, step * math.floor(lowest / step - 0.25))
    high = min(1.0, step * math.ceil(highest / step + 0.25))
    return round(low, 6), round(max(high, low + step), 6), step


def _log_ticks(points: Sequence[Point]) -> list[float]:
    lowest, highest = min(point.x for point in points), max(point.x for point in points)
    found = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 1)
        for factor in (1, 2, 5)
    ]
    first = max(tick for tick in found if tick <= lowest * 0.999)
    last = min([tick for tick in found if tick >= highest * 1.001] or [found[-1] * 2])
    inside = [tick for tick in found if first <= tick <= last]
    return inside if len(inside) <= 7 else [t for t in inside if t in (first, last) or _is_power(t)]


def _is_power(value: float) -> bool:
    return abs(math.log10(value) - round(math.log10(value))) < 1e-9


def _ticks(points: Sequence[Point]) -> list[float]:
    lowest, highest = min(point.x for point in points), max(point.x for point in points)
    span = max(highest - lowest, abs(highest) * 0.1, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5 * (1 - 1e-9))
    begin, end = math.floor(lowest / step - 0.25), math.ceil(highest / step + 0.25)
    begin = max(begin, 0) if lowest >= 0 else begin
    return [step * place for place in range(begin, max(end, begin + 1) + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
