"""Figures of a page as files beside it: each as an SVG that needs no page around it, and its numbers as a CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from kinema.files import write_atomically
from kinema.report.markup import Markup, element, join, shortened
from kinema.types import DataError

Value = str | int | float | None
Key = tuple[str, str, str]
"""Of a legend: class of the style sheet, path around (0, 0), name."""

Mark = tuple[str, str, float, float]
DOT = "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"
"""A circle in a legend."""

_FONT = """svg { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
svg .title { fill: var(--ink); font-weight: 600; }"""
_MARGIN, _LINE = 12, 22
_ROW, _NAME, _BAR = 30, 150, 330
"""Of a drawing of bars: height of a row, width of the names and of the longest bar."""


class FigureFiles:
    """Collects the figures of a page while it is made.

    Args:
        folder: Name of their folder, which lies beside the page.
    """

    def __init__(self, folder: str = "figures") -> None:
        self.folder = folder
        self.contents: dict[str, bytes] = {}

    def keep(
        self,
        name: str,
        drawing: Markup,
        head: Sequence[str],
        rows: Iterable[Sequence[Value]],
        *,
        legend: Sequence[Key] = (),
    ) -> Markup:
        """Keep a figure.

        Args:
            name: What the files are called, in words; a number is added where it is taken.
            drawing: One `svg` element with a `viewBox`.
            head: Titles of the columns of its numbers.
            rows: Its numbers.
            legend: What the page has beside the drawing.

        Returns:
            Links to both files.
        """
        stem = plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "figure"
        count = 1
        while f"{stem}.svg" in self.contents:
            count += 1
            stem = f"{plain}-{count}"
        self.contents[f"{stem}.svg"] = standalone(drawing, title=name, legend=legend).encode("utf-8", errors="replace")
        self.contents[f"{stem}.csv"] = _csv(head, rows)
        svg, numbers = (_link(kind, f"{self.folder}/{stem}.{kind.lower()}", name) for kind in ("SVG", "CSV"))
        return element("span", svg, " ", numbers, class_="files")

    def write(self, beside: Path) -> None:
        """Write all of them.

        Args:
            beside: The page.

        Raises:
            DataError: One cannot be written.
        """
        if not self.contents:
            return
        folder = beside.parent / self.folder
        try:
            folder.mkdir(exist_ok=True)
            for name, content in self.contents.items():
                write_atomically(folder / name, content)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


def standalone(drawing: Markup, *, title: str, legend: Sequence[Key] = ()) -> str:
    """A drawing as a file: with title, legend and styles inside, on white, in colours that every program knows (many
    that read SVG know no variables)."""
    opening, content = re.match(r"<svg([^>]*)>(.*)</svg>$", drawing, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    box = re.search(r'viewBox="([^"]+)"', opening)
    assert box is not None, "a drawing without size"
    x, y, width, height = (float(value) for value in box.group(1).split())
    keys, num_lines = _legend(legend, width)
    top = _LINE * (1 + num_lines) + _MARGIN
    x, y, width, height = x - _MARGIN, y - top, width + 2 * _MARGIN, height + top + _MARGIN
    words = element("text", title, class_="title", x=x + _MARGIN, y=y + _LINE)
    keys = element("g", keys, transform=f"translate({x + _MARGIN:g} {y + 2 * _LINE:g})")
    kept = re.sub(r' (viewBox|width|height|role)="[^"]*"', "", opening)
    size = f'viewBox="{x:g} {y:g} {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    ground = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg"{kept} {size} role="img">\n<style>\n{_style()}\n</style>\n'
        f"{ground}\n{words}{keys}\n{content}\n</svg>\n"
    )


def _legend(keys: Sequence[Key], width: float) -> tuple[Markup, int]:
    """The keys in as many lines as they need, and how many these are."""
    parts = []
    x, line = 0.0, 0
    for style, path, name in keys:
        room = 44 + 6.7 * len(name)
        if x and x + room > width:
            x, line = 0.0, line + 1
        parts.append(element("path", class_=style, d=path, transform=f"translate({x + 12:g} {_LINE * line - 4})"))
        parts.append(element("text", name, x=x + 28, y=_LINE * line))
        x += room
    return join(parts), line + 1 if keys else 0


def bar_drawing(
    rows: Sequence[tuple[str, float | None, str]], *, title: str, marks: Sequence[Sequence[Mark]] = ()
) -> Markup:
    """Horizontal bars as one drawing: on the page they are made of the page's own text.

    Args:
        rows: (name, share of the longest bar or None, what stands behind it).
        title: What they show.
        marks: For each row (class of the style sheet, path around (0, 0), share of the longest bar, how far above the
            bar's middle).
    """
    parts = []
    for place, (name, share, words) in enumerate(rows):
        y = _ROW * place
        middle = y + _ROW / 2
        parts.append(element("text", shortened(name, 22), x=_NAME - 8, y=middle + 4, text_anchor="end"))
        parts.append(element("rect", class_="track", x=_NAME, y=y + 7, width=_BAR, height=_ROW - 14))
        if share is not None:
            width = _BAR * min(max(share, 0.0), 1.0)
            parts.append(element("rect", class_="value", x=_NAME, y=y + 7, width=width, height=_ROW - 14))
        for style, path, at, above in marks[place] if marks else ():
            x = _NAME + _BAR * min(max(at, 0.0), 1.0)
            parts.append(element("path", class_=style, d=path, transform=f"translate({x:.6g} {middle - above:g})"))
        parts.append(element("text", words, x=_NAME + _BAR + 10, y=middle + 4))
    box = f"0 0 {_NAME + _BAR + 90} {_ROW * len(rows)}"
    return element("svg", parts, class_="chart", viewBox=box, role="img", aria_label=title)


def _style() -> str:
    """The rules of figures with the light colours in place of variables."""
    text = files("kinema.report").joinpath("figures.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", text[: text.index("@media")]))
    rules = text[text.index("svg text") :]
    rules = f"{rules.strip()}\n{_FONT}"
    return re.sub(r"var\(--([a-z-]+)\)", lambda found: colours[found.group(1)], rules)


def _link(text: str, address: str, name: str) -> Markup:
    return element("a", text, href=address, aria_label=f"{name} as {text}")


def _csv(head: Sequence[str], rows: Iterable[Sequence[Value]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", errors="replace")


def _plain(value: Value) -> Value:
    return "" if value is None or value != value else float(f"{value:.6g}") if isinstance(value, float) else value
