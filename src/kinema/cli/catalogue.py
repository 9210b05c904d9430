"""`kinema datasets` and `kinema models`: what there is, and which keys a recipe may give."""

from __future__ import annotations

from typing import Any

from kinema.cli.console import JsonOption, Output
from kinema.registry import REQUIRED, Entry, Kind, entries


def datasets(json_file: JsonOption = None) -> None:
    """List the data sets and the keys of their `data:` section."""
    _list("dataset", json_file)


def models(json_file: JsonOption = None) -> None:
    """List the models and the keys of their `model:` section."""
    _list("model", json_file)


def _list(kind: Kind, json_file: str | None) -> None:
    output = Output(json_file)
    found = list(entries(kind).values())
    output.table(["name", "summary"], [[entry.name, entry.summary] for entry in found])
    for entry in found:
        rows = [[p.name, _type(p.annotation), _default(p.default), p.doc] for p in entry.parameters]
        if rows:
            output.table(["key", "type", "default", "meaning"], rows, title=entry.name)
    output.finish([_record(entry) for entry in found])


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "arguments": [
            {
                "name": parameter.name,
                "type": _type(parameter.annotation),
                "required": parameter.default is REQUIRED,
                **({} if parameter.default is REQUIRED else {"default": parameter.default}),
                "doc": parameter.doc,
            }
            for parameter in entry.parameters
        ],
    }


def _type(annotation: Any) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    return text.replace("typing.", "").replace("NoneType", "None")


def _default(value: Any) -> str:
    return "(has to be given)" if value is REQUIRED else "null" if value is None else str(value)
