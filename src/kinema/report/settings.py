"""What a run was made of: settings, preprocessing, environment, messages."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kinema.report.markup import DASH, Child, Markup, details, element, join
from kinema.report.recipe_changes import changes_section
from kinema.report.record import RunRecord

_MAX_LINES = 200


def settings_section(run: RunRecord) -> Markup:
    """Everything but the results."""
    return join(
        element(
            "div",
            element("div", element("h3", "Settings"), changes_section(run)),
            _preprocessing(run),
            class_="columns",
        ),
        details(
            "config.yaml, with every default filled in", element("pre", run.config_text, class_="recipe", tabindex="0")
        ),
        element("h3", "Environment"),
        _environment(run.environment),
        _notes(run),
    )


def _preprocessing(run: RunRecord) -> Markup | None:
    if run.model is None:
        return None
    streams = []
    for stream, values in run.model["preprocessing"].items():
        shown = {key: value for key, value in values.items() if key != "fingerprint"}
        rows = [
            ("fingerprint", element("code", values["fingerprint"])),
            *((key, _plain(v)) for key, v in shown.items()),
        ]
        streams.append(join(element("h4", stream) if len(run.model["preprocessing"]) > 1 else None, _facts(rows)))
    note = "Saved with the weights; evaluation and prediction read nothing else."
    return element("div", element("h3", "Preprocessing"), streams, element("p", note, class_="note"))


def _environment(environment: Mapping[str, Any]) -> Markup:
    if not environment:
        return element("p", "environment.json is not there.")
    hardware: Mapping[str, Any] = environment.get("hardware") or {}
    versions: Mapping[str, Any] = environment.get("versions") or {}
    memory = hardware.get("memory_gib")
    rows: list[tuple[str, Child]] = [
        ("command", element("code", shlex.join(str(word) for word in environment.get("command", ())))),
        ("started", _plain(environment.get("started"))),
        ("seed", _plain(environment.get("seed"))),
        ("versions", ", ".join(f"{name} {version or DASH}" for name, version in versions.items()) or DASH),
        ("processor", f"{_plain(hardware.get('processor'))}, {_plain(hardware.get('cores'))} cores"),
        ("memory", f"{memory}\xa0GiB" if memory else DASH),
        ("GPU", ", ".join(hardware.get("gpus") or ()) or "none"),
        ("system", _plain(hardware.get("system"))),
        ("git, working folder", _git(environment.get("git"))),
        ("git, kinema", _git(environment.get("kinema_git"))),
    ]
    return _facts(rows)


def _git(state: Mapping[str, Any] | None) -> Child:
    if not state:
        return "not a repository"
    return [
        element("code", str(state.get("commit"))),
        ", with changes that are not committed" if state.get("changed") else "",
    ]


def _notes(run: RunRecord) -> Markup | None:
    """Warnings in full view, the rest of the log folded away."""
    warnings = list(dict.fromkeys(line for line in run.log if " WARNING " in line or " ERROR " in line))
    shown = [element("li", line) for line in warnings[:_MAX_LINES]]
    log = None
    if run.log:
        title = "log.txt" if len(run.log) <= _MAX_LINES else f"log.txt, the last {_MAX_LINES} lines"
        log = details(title, element("pre", "\n".join(run.log[-_MAX_LINES:]), tabindex="0"))
    if not shown and log is None:
        return None
    return join(element("h3", "Notes"), element("ul", shown, class_="log") if shown else None, log)


def _facts(rows: Sequence[tuple[str, Child]]) -> Markup:
    return element("dl", [join(element("dt", name), element("dd", value)) for name, value in rows])


def _plain(value: Any) -> str:
    if value is None:
        return DASH
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
