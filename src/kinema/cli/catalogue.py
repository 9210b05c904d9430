"""`kinema datasets` and `kinema models`: what there is, and which keys a recipe may give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.registry import REQUIRED, Entry, entries, entry

_Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one, its keys and configurations.")]

_FIELD = {"flow": 2, "flow_magnitude": 1, "rgb_difference": 3}
"""Channels of a field of motion, in shipped configurations."""


def datasets(json_file: JsonOption = None) -> None:
    """List the data sets and the keys of their `data:` section."""
    output = Output(json_file)
    found = list(entries("dataset").values())
    output.table(["name", "summary"], [[dataset.name, dataset.summary] for dataset in found])
    for dataset in found:
        _keys(output, dataset)
    output.finish([_record(dataset) for dataset in found])


def models(name: _Name = None, json_file: JsonOption = None) -> None:
    """List the models with what they come to; or one, its keys and its configurations."""
    from kinema.models.shipped import records, written_down

    output = Output(json_file)
    if name is not None:
        model = entry("model", name, key="NAME")
        found = records(name)
        _show(output, model, found)
        output.finish(_model_record(model, found))
        return
    known = entries("model").values()
    written = written_down()
    _list(output, [(model, written.get(model.name, [])) for model in known])
    if json_file is not None:
        output.finish([_model_record(model, records(model.name)) for model in known])


def _list(output: Output, found: list[tuple[Entry, list[dict[str, Any]]]]) -> None:
    """A row for each model, with the figures of its default configuration."""
    from kinema.models.shipped import FIGURES, figures

    rows: list[list[object]] = []
    for model, configurations in found:
        default = _default_of(configurations)
        rows.append([model.name, *(figures(default) if default else "-" * len(FIGURES)), model.summary])
    output.table(["name", *FIGURES, "summary"], rows)
    output.say(
        "Figures are those of the default configuration, for one clip of so many frames x pixels. stored: features of\n"
        "its frozen backbone can be. streams: from a state of constant size, or from the features of a window.\n"
        "Keys and further configurations: kinema models NAME"
    )


def _show(output: Output, model: Entry, configurations: list[dict[str, Any]]) -> None:
    from kinema.models.shipped import FIGURES, about, figures

    output.say(f"{model.name}: {model.summary}")
    if source := about(model):
        output.say(source)
    _keys(output, model)
    if not configurations:
        output.say("No configurations are shipped with it.")
        return
    rows = [[one["name"], *figures(one), _classes(one), one["summary"]] for one in configurations]
    output.table(["name", *FIGURES, "classes", "summary"], rows, title="configurations")
    output.say("Behind a recipe of this model they are written so:")
    for one in configurations:
        output.say(f"{one['name']}: {' '.join(_settings(one))}")


def _default_of(configurations: list[dict[str, Any]]) -> dict[str, Any]:
    return next((one for one in configurations if one["name"] == "default"), {})


def _classes(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{num} {task}" for task, num in one["classes"].items())


def _settings(one: Mapping[str, Any]) -> list[str]:
    """A configuration as it is written behind a recipe on the command line."""
    num_frames, _, size_px, _ = next(iter(one["input"].values()))
    given = {f"model.{key}": value for key, value in one["arguments"].items()}
    given |= {"init.freeze": one["freeze"], "clips.num_frames": num_frames, "clips.size_px": size_px}
    if list(one["input"]) != ["rgb"]:
        given["data.modality"] = list(one["input"])
        stack = max((shape[1] // _FIELD[name] for name, shape in one["input"].items() if name in _FIELD), default=1)
        given |= {"clips.motion.stack": stack} if stack > 1 else {}
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]


def _keys(output: Output, found: Entry) -> None:
    rows = [[p.name, _type(p.annotation), _default(p.default), p.doc] for p in found.parameters]
    if rows:
        output.table(["key", "type", "default", "meaning"], rows, title=found.name)


def _model_record(model: Entry, configurations: list[dict[str, Any]]) -> dict[str, Any]:
    from kinema.models.shipped import about

    default = _default_of(configurations)
    facts = {key: default.get(key) for key in ("input", "feature_store", "streams")}
    return _record(model) | {"about": about(model)} | facts | {"configurations": configurations}


def _record(found: Entry) -> dict[str, Any]:
    return {
        "name": found.name,
        "summary": found.summary,
        "arguments": [
            {
                "name": parameter.name,
                "type": _type(parameter.annotation),
                "required": parameter.default is REQUIRED,
                **({} if parameter.default is REQUIRED else {"default": parameter.default}),
                "doc": parameter.doc,
            }
            for parameter in found.parameters
        ],
    }


def _type(annotation: Any) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    return text.replace("typing.", "").replace("NoneType", "None")


def _default(value: Any) -> str:
    """As it is written in a recipe."""
    if value is REQUIRED:
        return "(has to be given)"
    return value if isinstance(value, str) else json.dumps(value, default=str)
