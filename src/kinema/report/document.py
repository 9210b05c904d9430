"""What every page has around its content: one file that needs nothing else, no network and no script, and opens from a
disk."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kinema.files import write_atomically
from kinema.report.markup import Child, Markup, element, join
from kinema.types import DataError
from kinema.version import __version__

# Even if markup slipped through, nothing could be loaded or run.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(*, title: str, header: Markup, sections: Sequence[tuple[str, str, Markup]], footer: Child) -> str:
    """A page as HTML.

    Args:
        title: For the window.
        header: What stands on top.
        sections: (identifier, title, content).
        footer: What stands at the end, behind kinema's version.
    """
    style = files("kinema.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        *("\n", element("meta", charset="utf-8")),
        *("\n", element("meta", http_equiv="Content-Security-Policy", content=_POLICY)),
        *("\n", element("meta", name="viewport", content="width=device-width, initial-scale=1")),
        *("\n", element("meta", name="generator", content=f"kinema {__version__}")),
        *("\n", element("title", f"{title} \N{MIDDLE DOT} kinema")),
        *("\n", element("style", Markup("\n" + style))),
        "\n",
    )
    body = element(
        "body",
        "\n",
        header,
        "\n",
        element("main", [_section(*section) for section in sections]),
        element("footer", f"kinema {__version__}. ", footer),
        "\n",
    )
    return "<!DOCTYPE html>\n" + element("html", "\n", head, "\n", body, "\n", lang="en") + "\n"


def links_to(sections: Sequence[tuple[str, str, Markup]]) -> Markup:
    """The way to each section, under the first words of its title."""
    return element("nav", [element("a", title.partition(",")[0], href=f"#{key}") for key, title, _ in sections])


def write_document(target: Path, content: str) -> None:
    """Write a page in place of an older one.

    Raises:
        DataError: It cannot be written.
    """
    try:
        write_atomically(target, content.encode("utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error


def _section(key: str, title: str, content: Markup) -> Markup:
    return join("\n", element("section", element("h2", title), "\n", content, id=key), "\n")
