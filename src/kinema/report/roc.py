"""How well scores tell clips of the classes from others, at every threshold: the receiver operating characteristic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinema.report.figure_files import DOT, FigureFiles
from kinema.report.figures import BOTTOM, LEFT, RIGHT, STROKE, TOP, WIDTH, Series, line_key, text, y_axis
from kinema.report.markup import Markup, element, number, percent

_HEIGHT = 300


def roc_figure(found: Mapping[str, Any], names: Mapping[str, str], files: FigureFiles | None) -> Markup:
    """The curve of each score, and where the threshold of the weights lies on that of its own.

    Args:
        found: `rejection` of an evaluation that looked at unknown clips.
        names: Score -> what it is called.
        files: Where the figure is kept.
    """

    def x_at(share: float) -> float:
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_at(share: float) -> float:
        return _HEIGHT - BOTTOM - share * (_HEIGHT - TOP - BOTTOM)

    curves: Mapping[str, Mapping[str, list[float]]] = found["roc"]
    parts = [y_axis(y_at, 0.2, 1.0, shares=True)]
    parts += [
        text(f"{20 * i}\N{NO-BREAK SPACE}%", x=x_at(0.2 * i), y=_HEIGHT - BOTTOM + 15, anchor="middle")
        for i in range(6)
    ]
    parts.append(text("unknown clips let through", x=(LEFT + WIDTH - RIGHT) / 2, y=_HEIGHT - 4, anchor="middle"))
    parts.append(text("clips of the classes let through", x=LEFT + 8, y=TOP - 3))
    parts.append(element("line", class_="reference", x1=x_at(0), y1=y_at(0), x2=x_at(1), y2=y_at(1)))
    lines, rows, keys = [], [], []
    for place, (score, curve) in enumerate(curves.items()):
        area = percent(found["methods"][score]["auroc"])
        points = [(0.0, 0.0), *zip(curve["unknown"], curve["known"], strict=True)]
        line = Series(name=f"{names[score]}, AUROC {area}", style=f"s{place}", points=points)
        path = "".join(f"{'L' if i else 'M'}{x_at(x):.6g} {y_at(y):.6g}" for i, (x, y) in enumerate(points))
        parts.append(element("path", class_=f"line {line.style}", d=path))
        lines.append(line)
        keys.append((f"line {line.style}", STROKE, str(line.name)))
        rows += [
            (names[score], threshold, x, y) for threshold, (x, y) in zip(curve["threshold"], points[1:], strict=True)
        ]
    legend = [line_key(line) for line in lines]
    if "unknown_accepted" in found and found["method"] in curves:
        x, y = found["unknown_accepted"], found["known_accepted"]
        style = f"dot s{list(curves).index(found['method'])}"
        words = (
            f"threshold {number(found['threshold'])}: {percent(y)} of the clips of the classes and {percent(x)} of the "
            "others are let through"
        )
        title = element("title", words)
        parts.append(element("circle", title, class_=f"{style} chosen", cx=x_at(x), cy=y_at(y), r=5.5))
        dot = element("path", class_=style, d=DOT, transform="translate(7 8)")
        key = element("svg", dot, class_="key", width=14, height=16, aria_hidden="true")
        legend.append(element("span", key, "the threshold of the weights"))
        keys.append((style, DOT, "the threshold of the weights"))
    drawing = element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {_HEIGHT}",
        class_="chart",
        role="img",
        aria_label="ROC curves: " + "; ".join(str(line.name) for line in lines),
    )
    links = None
    if files is not None:
        head = ("score", "threshold", "unknown let through", "known let through")
        links = files.keep("roc of known and unknown clips", drawing, head, rows, legend=keys)
    caption = element("figcaption", element("b", "ROC"), element("span", legend, class_="legend"), links)
    return element("figure", caption, drawing, class_="panel")
