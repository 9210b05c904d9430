"""Building HTML so that text is escaped unless it is markup already, and how numbers are written in it."""

from __future__ import annotations

import html
import math
from collections.abc import Container, Iterable, Sequence

from kinema import wording

NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

_VOID = frozenset({"br", "col", "img", "link", "meta", "source", "wbr"})


class Markup(str):
    """HTML that was made by this module, or is trusted as if it were."""

    __slots__ = ()


Child = str | int | None | Iterable["str | int | None"]
"""What may stand inside an element: text (which is escaped), markup, nothing, or several of these."""


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element of HTML or SVG.

    Args:
        name: Its name.
        children: What stands inside it.
        attributes: `class_` is written `class`, `data_x` is written `data-x`. None and False leave one out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        assert not children, name
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after the other, as one piece of markup."""
    return Markup("".join(_flat(children)))


def percent(share: float | None) -> str:
    """`83.3 %`, or a dash where there is no number."""
    return wording.percent(share, missing=DASH).replace(" ", NBSP)


def percent_range(interval: Sequence[float] | None) -> str:
    """`72.1 to 90.4 %`."""
    return wording.percent_range(interval, missing=DASH).replace(" ", NBSP)


def signed_percent(share: float | None) -> str:
    """Like `percent`, with a sign."""
    if share is None or math.isnan(share):
        return DASH
    return f"{share:+.1%}".replace("%", f"{NBSP}%").replace("-", MINUS)


def number(value: float | None, *, digits: int = 3) -> str:
    """A number with so many significant digits, or a dash where there is none."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:,.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:,.0f}"


def counted(num: int, noun: str) -> str:
    """`1 clip`, `2 clips`, `1,000 clips`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    return f"{num:,}{NBSP}{noun if num == 1 else plural}"


def duration(seconds: float) -> str:
    """`45 s`, `5 min 55 s`, `2 h 10 min`, never torn at the end of a line."""
    return wording.duration(seconds).replace(" ", NBSP)


def shortened(text: str, length: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def table(
    head: Iterable[Child],
    rows: Iterable[Iterable[Child]],
    *,
    text_columns: Container[int] = (0,),
    sortable: bool = True,
) -> Markup:
    """A table that scrolls sideways where the page is narrow, and that the page's script sorts and, if it is long,
    filters by the first column.

    Args:
        head: Titles of the columns.
        rows: Cells. The first of a row is its heading. A number that is not written as one (`valued`) says which it is.
        text_columns: Which columns hold text; the others hold numbers.
        sortable: Not where rows belong together, or differ in what they measure.
    """

    def kind(position: int) -> str | None:
        return None if position in text_columns else "number"

    titles = [element("th", title, scope="col", class_=kind(i)) for i, title in enumerate(head)]
    body = []
    for row in rows:
        first, *others = row
        cells = [element("td", cell, class_=kind(i)) for i, cell in enumerate(others, start=1)]
        body.append(join(element("tr", element("th", first, scope="row"), cells), "\n"))
    style = "sortable" if sortable and len(body) > 2 else None
    content = element("table", element("thead", element("tr", titles)), "\n", element("tbody", body), class_=style)
    return scrollable(content)


def valued(words: Child, value: float) -> Markup:
    """Words for a number that a table is to be sorted by: `2 h 10 min`, `1.5 GB`."""
    return element("data", words, value=f"{value:.9g}")


def scrollable(content: Child) -> Markup:
    """Something that may be wider than the page. It takes the focus so that it scrolls by keyboard as well."""
    return element("div", content, class_="scroll", tabindex="0")


def details(summary: Child, *content: Child, is_open: bool = False) -> Markup:
    """Something that can be folded away."""
    return element("details", element("summary", summary), *content, open=is_open)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text, quote=True)}"'


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str | int):
            yield html.escape(str(child), quote=False)
        else:
            yield from _flat(child)
