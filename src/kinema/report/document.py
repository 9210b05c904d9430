"""What every page has around its content: one file that needs no network and opens from a disk. All of it is readable
without its script, which sorts tables and shows what is behind a figure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from kinema.files import write_atomically
from kinema.report.markup import Child, Markup, element, join
from kinema.types import DataError
from kinema.version import __version__

# Even if markup slipped through, nothing could be loaded, and nothing run but the one script.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; "
    "form-action 'none'"
)
_MEDIA = "; media-src 'self' file:"


def document(
    *,
    title: str,
    header: Markup,
    sections: Sequence[tuple[str, str, Markup]],
    footer: Child,
    data: Mapping[str, Any] | None = None,
    media: bool = False,
) -> str:
    """A page as HTML.

    Args:
        title: For the window.
        header: What stands on top.
        sections: (identifier, title, content).
        footer: What stands at the end, behind kinema's version.
        data: For the script.
        media: It plays a video from beside it, or from elsewhere on the disk.
    """
    style, script = _shipped("figures.css") + _shipped("style.css"), "\n" + _shipped("script.js")
    policy = _POLICY
    if media:
        style, script, policy = style + _shipped("timeline.css"), script + _shipped("timeline.js"), policy + _MEDIA
    policy = policy.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    head = element(
        "head",
        *("\n", element("meta", charset="utf-8")),
        *("\n", element("meta", http_equiv="Content-Security-Policy", content=policy)),
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
        *([element("script", json_block(data), type="application/json", id="page-data"), "\n"] if data else ()),
        element("script", Markup(script)),
        "\n",
    )
    return "<!DOCTYPE html>\n" + element("html", "\n", head, "\n", body, "\n", lang="en") + "\n"


def links_to(sections: Sequence[tuple[str, str, Markup]]) -> Markup:
    """The way to each section, under the first words of its title."""
    return element("nav", [element("a", title.partition(",")[0], href=f"#{key}") for key, title, _ in sections])


def json_block(data: Mapping[str, Any]) -> Markup:
    """JSON that may stand inside a `script` element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def write_document(target: Path, content: str) -> None:
    """Write a page in place of an older one.

    Raises:
        DataError: It cannot be written.
    """
    try:
        write_atomically(target, content.encode("utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error


def _shipped(name: str) -> str:
    return files("kinema.report").joinpath(name).read_text(encoding="utf-8")


def _section(key: str, title: str, content: Markup) -> Markup:
    return join("\n", element("section", element("h2", title), "\n", content, id=key), "\n")
