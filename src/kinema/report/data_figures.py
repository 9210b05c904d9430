"""Figures about a data set. How they are drawn: `kinema.report.figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kinema.report.data_statistics import round_step
from kinema.report.figure_files import FigureFiles, Value, bar_drawing
from kinema.report.markup import Markup, counted, element, join, number

# As wide as the charts of `kinema.report.figures`, so that text keeps its size on a phone.
_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 22, 40

_STEEP = 50
"""Largest / smallest class from which on bars have a logarithmic scale."""
_GAP = 0.12
"""Between bars, as a share of their width, where there is room for one."""


def class_bars(names: Sequence[str], there: Sequence[int], listed: Sequence[int]) -> Markup:
    """A bar per class, the commonest on top; a pale one behind it for clips that are listed but not there.

    Args:
        names: Of the classes.
        there: Clips of each.
        listed: Clips of each, with those that are not there.
    """
    highest = max([*listed, 1])
    some_absent = list(there) != list(listed)
    rows = []
    for i in falling(there, listed):
        text = f"{there[i]:,} of {listed[i]:,}" if some_absent else f"{there[i]:,}"
        drawing = [
            element("rect", class_="track", y=3, width=_percent(listed[i] / highest), height=10, rx=2)
            if some_absent
            else None,
            element("rect", class_="value", y=3, width=_percent(there[i] / highest), height=10, rx=2),
        ]
        rows.append(_row(names[i], drawing, text))
    return element("div", rows, class_="bars counts wide" if some_absent else "bars counts")


def keep_class_bars(
    names: Sequence[str], there: Sequence[int], listed: Sequence[int], *, title: str, files: FigureFiles
) -> Markup:
    """The same as files; links to them."""
    highest = max([*listed, 1])
    order = falling(there, listed)
    shown = [(names[i], there[i] / highest, f"{there[i]:,}") for i in order]
    rows = [(names[i], there[i], listed[i]) for i in order]
    return files.keep(title, bar_drawing(shown, title=title), ("class", "there", "listed"), rows)


def keep_value_bars(rows: Sequence[tuple[str, int]], *, title: str, files: FigureFiles) -> Markup:
    """`value_bars` as files; links to them."""
    highest = max([num for _, num in rows] + [1])
    drawing = bar_drawing([(name, num / highest, f"{num:,}") for name, num in rows], title=title)
    return files.keep(title, drawing, ("value", "number"), rows)


def falling(there: Sequence[int], listed: Sequence[int]) -> list[int]:
    """Classes from the commonest to the rarest."""
    return sorted(range(len(there)), key=lambda i: (-listed[i], -there[i]))


def value_bars(rows: Sequence[tuple[str, int]]) -> Markup:
    """A bar per value, as long as it is frequent."""
    highest = max([num for _, num in rows] + [1])
    bars = [
        _row(name, [element("rect", class_="value", y=3, width=_percent(num / highest), height=10, rx=2)], f"{num:,}")
        for name, num in rows
    ]
    return element("div", bars, class_="bars counts")


def long_tail(
    there: Sequence[int], listed: Sequence[int], *, title: str, num_for_80: int | None, files: FigureFiles | None = None
) -> Markup:
    """Clips of each of many classes, from the commonest to the rarest; pale: listed, but not there.

    Args:
        there: Clips of each class.
        listed: Clips of each class, with those that are not there.
        title: What the clips are.
        num_for_80: So many of the commonest classes hold 80 % of the listed clips.
        files: Where it is kept as a file.
    """
    order = falling(there, listed)
    some_absent = list(there) != list(listed)
    # On a linear scale a tail like EPIC's, 1 clip beside 1937, is not to be seen.
    is_steep = max(listed) > _STEEP * min((count for count in listed if count), default=1)
    y_at, axis = _log_axis(max(listed)) if is_steep else _linear_axis(max([*listed, 1]))
    x_at = _linear(0, len(order), _LEFT, _WIDTH - _RIGHT)
    parts = [axis]
    if some_absent:
        parts.append(element("path", class_="listed", d=_columns([listed[i] for i in order], x_at, y_at)))
    parts.append(element("path", class_="value", d=_columns([there[i] for i in order], x_at, y_at)))
    if num_for_80 is not None:
        x = x_at(num_for_80)
        right = num_for_80 > 0.55 * len(order)
        text = f"{counted(num_for_80, 'class')} hold 80 %" if num_for_80 > 1 else "1\N{NO-BREAK SPACE}class holds 80 %"
        parts.append(element("line", class_="kept", x1=x, x2=x, y1=4, y2=_HEIGHT - _BOTTOM))
        parts.append(_text(text, x=x - 6 if right else x + 6, y=_TOP - 8, anchor="end" if right else None))
    parts += [
        _text(f"{rank:,}", x=x_at(rank - 0.5), y=_HEIGHT - _BOTTOM + 16, anchor="middle") for rank in _ranks(len(order))
    ]
    parts.append(_text("classes, the commonest first", x=_middle(), y=_HEIGHT - 4, anchor="middle"))
    if is_steep:
        title += " (logarithmic)"
    label = f"{title}: {counted(sum(there), 'clip')} of {counted(len(there), 'class')}, at most {max(there):,} of one"
    numbers = [(rank, there[i], listed[i]) for rank, i in enumerate(order, start=1)]
    return _panel(
        title,
        parts,
        label=label,
        legend=_absent_legend() if some_absent else None,
        files=files,
        head=("rank of the class", "there", "listed"),
        rows=numbers,
    )


def histogram_chart(
    edges: Sequence[float],
    counts: Sequence[int],
    above: int,
    *,
    title: str,
    unit: str,
    noun: str,
    files: FigureFiles | None = None,
) -> Markup:
    """How often values lie in each bin.

    Args:
        edges: Of the bins.
        counts: One fewer.
        above: How many lie behind the last edge; they get a bar of their own.
        title: What is counted.
        unit: Of the edges.
        noun: What is counted, in the singular.
        files: Where it is kept as a file.
    """
    y_at, axis = _linear_axis(max([*counts, above, 1]))
    num_bins = len(counts)
    room = num_bins + (2.5 if above else 0)
    x_at = _linear(0, room, _LEFT, _WIDTH - _RIGHT)
    parts = [axis]
    bars = [(i, count, f"{_plain(edges[i])} to {_plain(edges[i + 1])} {unit}") for i, count in enumerate(counts)]
    if above:
        bars.append((num_bins + 1, above, f"{_plain(edges[-1])} {unit} and more"))
    for place, count, where in bars:
        if count:
            left, right = x_at(place + _GAP / 2), x_at(place + 1 - _GAP / 2)
            # A single clip among thousands is seen, too.
            height = max(y_at(0) - y_at(count), 1.0)
            tooltip = element("title", f"{where}: {counted(count, noun)}")
            parts.append(
                element("rect", tooltip, class_="value", x=left, y=y_at(0) - height, width=right - left, height=height)
            )
    ticks = _tick_places(num_bins, most=5)
    parts += [
        _text(_plain(edges[i]), x=x_at(i), y=_HEIGHT - _BOTTOM + 16, anchor="middle")
        for i in ticks
        if not above or i < num_bins - 0.06 * room or i == num_bins
    ]
    if above:
        parts.append(_text("more", x=x_at(num_bins + 1.7), y=_HEIGHT - _BOTTOM + 16, anchor="middle"))
    parts.append(_text(unit, x=_middle(), y=_HEIGHT - 4, anchor="middle"))
    total = sum(counts) + above
    label = f"{title}: {counted(total, noun)} from {_plain(edges[0])} to {_plain(edges[-1])} {unit}"
    numbers: list[tuple[Value, ...]] = [(edges[i], edges[i + 1], count) for i, count in enumerate(counts)]
    numbers += [(edges[-1], None, above)] if above else []
    label += f", {above:,} more" if above else ""
    head = (f"from, {unit}", f"to, {unit}", f"{noun}s")
    return _panel(title, parts, label=label, files=files, head=head, rows=numbers)


def size_chart(points: Sequence[tuple[int, int, int]], *, title: str, files: FigureFiles | None = None) -> Markup:
    """Frame sizes as circles, the larger the more videos have them.

    Args:
        points: (width, height, videos).
        title: What is shown.
        files: Where it is kept as a file.
    """
    height_px = 300
    x_step, x_top = _y_scale(max(width for width, _, _ in points), num_steps=5)
    y_step, y_top = _y_scale(max(height for _, height, _ in points), num_steps=5)
    x_at = _linear(0, x_top, _LEFT, _WIDTH - _RIGHT)
    y_at = _linear(0, y_top, height_px - _BOTTOM, _TOP)
    parts = [_y_axis(y_at, y_step, y_top)]
    parts += [
        _text(f"{i * x_step:,.0f}", x=x_at(i * x_step), y=height_px - _BOTTOM + 16, anchor="middle")
        for i in range(1, round(x_top / x_step) + 1)
    ]
    total = sum(num for _, _, num in points)
    for width, height, num in sorted(points, key=lambda point: -point[2]):  # small ones over large ones
        tooltip = element("title", f"{width} × {height}: {counted(num, 'video')}")
        radius = 2.5 + 18 * math.sqrt(num / total)
        parts.append(element("circle", tooltip, class_="bubble", cx=x_at(width), cy=y_at(height), r=radius))
    parts.append(_text("width, pixels", x=_middle(), y=height_px - 4, anchor="middle"))
    parts.append(_text("height", x=_LEFT, y=_TOP - 8))
    label = f"{title}: {counted(len(points), 'size')}"
    head = ("width, pixels", "height, pixels", "videos")
    return _panel(title, parts, label=label, height=height_px, files=files, head=head, rows=points)


def _panel(
    title: str,
    parts: Sequence[Markup],
    *,
    label: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Value]],
    files: FigureFiles | None,
    legend: Markup | None = None,
    height: int = _HEIGHT,
) -> Markup:
    drawing = element("svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", class_="chart", role="img", aria_label=label)
    keys = [(style, "M-6 -5H6V5H-6Z", name) for style, name in _ABSENT] if legend is not None else []
    links = None if files is None else files.keep(title, drawing, head, rows, legend=keys)
    return element("figure", element("figcaption", element("b", title), legend, links), drawing, class_="panel")


_ABSENT = (("value", "there"), ("listed", "listed, not there"))


def _absent_legend() -> Markup:
    keys = []
    for style, name in _ABSENT:
        shape = element("rect", class_=style, x=1, y=3, width=12, height=10, rx=2)
        keys.append(element("span", element("svg", shape, width=14, height=16, aria_hidden="true"), name))
    return element("span", keys, class_="legend")


def _row(name: str, drawing: Sequence[Markup | None], text: str) -> Markup:
    return element(
        "div",
        element("span", name, class_="bar-name"),
        element("svg", drawing, class_="bar", height=16, aria_hidden="true"),
        element("span", text, class_="bar-value"),
        class_="bar-row",
    )


def _columns(values: Sequence[int], x_at: Callable[[float], float], y_at: Callable[[float], float]) -> str:
    """Bars side by side as one shape; hundreds of single ones would leave gaps of changing width."""
    steps = [f"V{y_at(value):.5g}H{x_at(i + 1):.5g}" for i, value in enumerate(values)]
    return f"M{x_at(0):.5g} {y_at(0):.5g}{''.join(steps)}V{y_at(0):.5g}Z"


def _linear(low: float, high: float, at_low: float, at_high: float) -> Callable[[float], float]:
    return lambda value: at_low + (value - low) / (high - low) * (at_high - at_low)


def _linear_axis(highest: int) -> tuple[Callable[[float], float], Markup]:
    step, top = _y_scale(highest)
    y_at = _linear(0, top, _HEIGHT - _BOTTOM, _TOP)
    return y_at, _y_axis(y_at, step, top)


def _log_axis(highest: int) -> tuple[Callable[[float], float], Markup]:
    """Powers of ten. The axis begins at a half, so that a class of one clip has a bar; none is at the axis."""
    exponent = math.ceil(math.log10(highest) - 1e-9)
    place = _linear(math.log10(0.5), max(exponent, math.log10(highest)), _HEIGHT - _BOTTOM, _TOP)

    def y_at(value: float) -> float:
        return place(math.log10(max(value, 0.5)))

    parts = [element("line", class_="axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y_at(0), y2=y_at(0))]
    for power in range(exponent + 1):
        y = y_at(10**power)
        parts.append(element("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y))
        parts.append(_text(_short(10**power), x=_LEFT - 6, y=y + 4, anchor="end"))
    return y_at, join(parts)


def _y_scale(highest: float, *, num_steps: int = 4) -> tuple[float, float]:
    """Step and end of an axis of whole numbers from 0."""
    step = max(round_step(highest / num_steps), 1.0)
    return step, step * math.ceil(highest / step - 1e-9)


def _y_axis(y_at: Callable[[float], float], step: float, top: float) -> Markup:
    parts = []
    for i in range(round(top / step) + 1):
        y = y_at(i * step)
        parts.append(element("line", class_="grid" if i else "axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y))
        parts.append(_text(_short(i * step), x=_LEFT - 6, y=y + 4, anchor="end"))
    return join(parts)


def _tick_places(last: int, *, most: int) -> list[int]:
    step = max(round(round_step(last / most)), 1) if last > most else 1
    return list(range(0, last + 1, step))


def _ranks(num: int) -> list[int]:
    """1 and round numbers, and the last where it is clear of them."""
    step = max(round(round_step(num / 5)), 1)
    ranks = [1, *range(step, num + 1, step)]
    return ranks if num - ranks[-1] < 0.12 * num else [*ranks, num]


def _short(value: float) -> str:
    """A whole number that fits beside an axis."""
    return f"{value / 1000:,.3g}k" if value >= 10_000 else f"{value:,.0f}"


def _plain(value: float) -> str:
    return number(value, digits=4)


def _middle() -> float:
    return (_LEFT + _WIDTH - _RIGHT) / 2


def _percent(share: float) -> str:
    return f"{100 * share:.5g}%"


def _text(text: str, *, x: float, y: float, anchor: str | None = None) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor)
