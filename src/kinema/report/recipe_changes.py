"""What a run's settings differ in from the recipe that it was started with, or from the defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kinema import recipes
from kinema.config import resolve
from kinema.report.markup import DASH, Child, Markup, element, join, table
from kinema.report.record import RunRecord
from kinema.types import ConfigError

_ABSENT = object()


def changes_section(run: RunRecord) -> Markup:
    """A table of settings that are not the recipe's, or a sentence."""
    name, base = _base(run)
    if base is None:
        return join()
    source: Child = ["the recipe ", element("code", name)] if name else "the defaults"
    found = list(changes(base, run.config))
    if not found:
        return element("p", "Nothing differs from ", source, ".")
    rows = [[element("code", key), _written(before), _written(now)] for key, before, now in found]
    head = ["setting", "recipe" if name else "default", "here"]
    return join(
        element("p", "What differs from ", source, ":"),
        table(head, rows, text_columns=(0, 1, 2)),
    )


def changes(base: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, value there, value here) of settings that are not the same; the folder of a run is no setting."""
    yield from (row for row in _changes(base, config, "") if row[0] != "output")


def _changes(base: Mapping[str, Any], config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*config, *base]):
        before, now = base.get(key, _ABSENT), config.get(key, _ABSENT)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _changes(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key}", before, now


def _base(run: RunRecord) -> tuple[str | None, Mapping[str, Any] | None]:
    """Name and content of the shipped recipe that the command names, with every default; without one, the defaults.
    A recipe of the user's own may have been changed since."""
    command = [str(word) for word in run.environment.get("command") or ()]
    name = next((word for word in command[2:] if word in recipes.names()), None) if command[1:2] == ["train"] else None
    try:
        if name is not None:
            return name, resolve(recipes.read(name)).to_dict()
        named = {section: {"name": run.config[section]["name"]} for section in ("data", "model")}
        return None, resolve(named).to_dict()
    except ConfigError:
        pass
    try:  # some data sets and models have arguments without a default
        return None, resolve({section: run.config[section] for section in ("data", "model")}).to_dict()
    except ConfigError:
        return None, None  # a run of another version, or of a model that is not installed here


def _written(value: Any) -> Child:
    if value is _ABSENT:
        return DASH
    return element("code", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
