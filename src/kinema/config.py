"""A recipe: the typed sections of a training run, checked before anything heavy is imported.

`resolve` turns the mapping of a YAML file, and `section.key=value` overrides, into a `Recipe` whose every value is
known. `data:` and `model:` take the keyword arguments of the function that they name (see `kinema.registry`), so the
pydantic model of those two sections is made from the function's signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import Field, ValidationError, create_model

from kinema import registry
from kinema.files import parse_yaml
from kinema.registry import REQUIRED, Entry, suggest
from kinema.section import Keys, Section, choices, words
from kinema.sections import (
    ClipsSection,
    DataSection,
    InitSection,
    ModelSection,
    OptimSection,
    Recipe,
    TaskSection,
    TrainerSection,
)
from kinema.types import ConfigError

S = TypeVar("S", bound=Section)

_READING = ("batch_size", "workers", "decoder", "store")
"""Settings of `clips:` that say how clips are read, not what a model is given."""

_NAMED = {"clips.augmentation": "preset", "optim.schedule": "name", "task.imbalance": "name"}
"""Keys and values, or a name that stands for some, and under which key; others may be given beside it."""


def resolve(values: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Check a recipe and fill in every default.

    Args:
        values: Content of a recipe file.
        overrides: `section.key=value`, each value in YAML.

    Raises:
        ConfigError: A key is unknown, of the wrong type, or impossible beside another.
    """
    merged = apply_overrides(values, overrides)
    unknown = [key for key in merged if key not in Recipe.model_fields]
    if unknown:
        raise ConfigError(f"{unknown[0]}: unknown section{suggest(unknown[0], Recipe.model_fields)}")
    sections: dict[str, Any] = {}
    for name, model in _section_models(merged).items():
        content = merged.get(name)
        if content is not None and not isinstance(content, Mapping):
            raise ConfigError(f"{name}: expected keys and values, got {content!r}")
        sections[name] = _validated(model, content or {}, prefix=name)
    return _validated(Recipe, {**sections, "output": merged.get("output")}, prefix="")


def resolve_evaluation(
    data: Mapping[str, Any], overrides: Iterable[str], *, clips: Mapping[str, Any]
) -> tuple[DataSection, ClipsSection]:
    """The `data:` section of an evaluation, and how its clips are read.

    Args:
        data: The section that a model was trained with.
        overrides: `data.key=value`, and `clips.key=value` of how clips are read. Another data set's name drops the
            other keys of the one before.
        clips: Settings of reading that hold where no override says otherwise.

    Raises:
        ConfigError: A key is unknown, or belongs to the weights and cannot be changed.
    """
    overrides = list(overrides)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key == "data.modality" or (key.startswith("clips.") and key.removeprefix("clips.") not in _READING):
            raise ConfigError(f"{key}: belongs to the weights; a model is only ever run as it was trained")
        if not key.startswith(("data.", "clips.")):
            known = ", ".join(f"clips.{name}" for name in _READING)
            raise ConfigError(f"{key}: an evaluation takes data.*, {known}")
    name = apply_overrides({}, [o for o in overrides if o.partition("=")[0].strip() == "data.name"])
    if name and name["data"]["name"] != data["name"]:
        data = {}
    merged = apply_overrides({"data": data, "clips": clips}, overrides)
    entry = registry.entry("dataset", str(merged["data"].get("name")), key="data.name")
    section = _validated(section_model(entry), merged["data"], prefix="data")
    return cast("DataSection", section), _validated(ClipsSection, merged["clips"], prefix="clips")


_MADE: dict[tuple[str, str], tuple[Entry, type[DataSection | ModelSection]]] = {}
"""Kind and name -> what was registered, and what was made of it: making one takes as long as checking ten recipes."""


def section_model(entry: Entry) -> type[DataSection | ModelSection]:
    """The pydantic model of a `data:` or `model:` section, from the signature of the function that it names.

    Raises:
        ConfigError: A parameter of the function would hide a key that every such section has.
    """
    known, model = _MADE.get((entry.kind, entry.name), (None, None))
    if known is not entry or model is None:  # a user's module may have been read again
        model = _made(entry)
        _MADE[entry.kind, entry.name] = entry, model
    return model


def _made(entry: Entry) -> type[DataSection | ModelSection]:
    base = DataSection if entry.kind == "dataset" else ModelSection
    fields: dict[str, Any] = {"name": (Literal[entry.name], Field(description=entry.summary))}
    for parameter in entry.parameters:
        if parameter.name in base.model_fields:
            section = "data" if base is DataSection else "model"
            raise ConfigError(f"{section}.{parameter.name}: {entry.name} has a parameter of that name; rename it there")
        default = ... if parameter.default is REQUIRED else parameter.default
        fields[parameter.name] = (parameter.annotation, Field(default, description=parameter.doc))
    # Every field comes with its description: nobody has to look for the source of a class that has none.
    plain = {"use_attribute_docstrings": False}
    made = create_model(entry.name, __base__=base, __cls_kwargs__=plain, **fields)
    return cast("type[DataSection | ModelSection]", made)


def model_section(values: Mapping[str, Any], *, key: str) -> ModelSection:
    """A `model:` section, checked, with every default filled in.

    Args:
        values: Its content.
        key: Where it stands in the recipe.

    Raises:
        ConfigError: A key is unknown, of the wrong type or missing.
    """
    if values.get("name") is None:
        raise ConfigError(
            f"{key}.name: missing; give the name of a model (known: {', '.join(registry.entries('model'))})"
        )
    entry = registry.entry("model", str(values["name"]), key=f"{key}.name")
    return cast("ModelSection", _validated(section_model(entry), values, prefix=key))


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors: completion and checks of every key, `data:` and `model:` by their name."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for section, kind in (("data", "dataset"), ("model", "model")):
        names = []
        for entry in registry.entries(cast("registry.Kind", kind)).values():
            part = section_model(entry).model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(part.pop("$defs", {}))
            names.append(f"{kind}.{entry.name}")
            definitions[names[-1]] = part
        schema["properties"][section] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    definitions.pop("DataSection", None)
    definitions.pop("ModelSection", None)
    # Before anything is checked, `kinema.recipes` puts the base in, with all that has to be there.
    description = "A recipe, by name or path, that holds where this one says nothing."
    schema["properties"]["base"] = {"type": "string", "description": description}
    schema.pop("required")
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kinema recipe",
        **schema,
    }
    return found


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Values with `section.key=value` applied, each value read as YAML.

    Raises:
        ConfigError: An override is not of that form, or goes below something that has no keys.
    """
    merged = _copy(values)
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.strip().split(".")
        if not separator or not all(keys):
            raise ConfigError(f"{override!r}: expected section.key=value, as in optim.lr=1e-4")
        place = merged
        for depth, key in enumerate(keys[:-1]):
            if place.get(key) is None:
                place[key] = {}
            named = _NAMED.get(".".join(keys[: depth + 1]))
            if named is not None and isinstance(place[key], str):
                place[key] = {named: place[key]}
            place = place[key]
            if not isinstance(place, dict):
                raise ConfigError(f"{path}: {'.'.join(keys[: depth + 1])} is a value, it has no keys below it")
        place[keys[-1]] = parse_yaml(text, source=override)
    return merged


def _section_models(values: Mapping[str, Any]) -> dict[str, type[Section]]:
    models: dict[str, type[Section]] = {
        "clips": ClipsSection,
        "init": InitSection,
        "task": TaskSection,
        "optim": OptimSection,
        "trainer": TrainerSection,
    }
    for section, kind in (("data", "dataset"), ("model", "model")):
        content = values.get(section)
        if not isinstance(content, Mapping) or content.get("name") is None:
            known = ", ".join(registry.entries(cast("registry.Kind", kind)))
            raise ConfigError(f"{section}.name: missing; give the name of a {kind} (known: {known})")
        entry = registry.entry(cast("registry.Kind", kind), str(content["name"]), key=f"{section}.name")
        models[section] = section_model(entry)
    return models


def checked(model: type[S], values: Any, *, source: str) -> S:
    """Values of a file that is no recipe, checked like one.

    Raises:
        ConfigError: A key is unknown, of the wrong type, or impossible beside another.
    """
    try:
        return _validated(model, values, prefix="")
    except ConfigError as error:
        lines = [line.removeprefix(": ").removeprefix(".") for line in str(error).splitlines()]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None


def _validated(model: type[S], values: Any, *, prefix: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [line for problem in error.errors() if (line := _line(model, values, problem, prefix)) is not None]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _line(model: type[Section], values: Any, problem: Any, prefix: str) -> str | None:
    """One problem as one line: the key, what was expected, what was given, the nearest key. None for a problem that
    says no more than another one."""
    annotation: Any = model
    names: list[str] = []
    num_known = 0
    for num_known, part in enumerate([*problem["loc"], None]):  # noqa: B007 - where it ends is what is asked for
        chosen = next((choice for choice in choices(annotation) if choice.model_fields["name"].default == part), None)
        if chosen is not None:
            annotation = chosen
            continue
        if not (isinstance(annotation, type) and issubclass(annotation, Keys) and part in annotation.model_fields):
            break
        names.append(part)
        annotation, values = _without_null(annotation.model_fields[part].annotation), values.get(part)
    inside = [str(part) for part in problem["loc"][num_known:]]
    several = get_origin(annotation) in (Union, UnionType) and len(set(get_args(annotation)) - {type(None)}) > 1
    if inside and isinstance(values, Mapping) and several:
        # Of several types, pydantic says why the value is none of them; keys and values were meant as such.
        if not inside[0].startswith("dict"):
            return None
        inside = inside[1:]
    key = ".".join([*([prefix] if prefix else []), *names])
    if problem["type"] == "extra_forbidden":
        return f"{key}.{inside[0]}: unknown key{suggest(inside[0], annotation.model_fields)}"
    wrong_type = problem["type"].endswith(("_type", "_parsing")) and not inside
    if wrong_type or (inside and not isinstance(values, Mapping)):
        # Pydantic tells what is wrong with each item, and why it is none of the types of a union: one line is enough.
        return f"{key}: expected {words(annotation)}, got {values!r}"
    key = ".".join([key, *inside])
    if problem["type"] == "missing":
        return f"{key}: missing; it has to be given"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = "" if isinstance(problem["input"], Mapping | Section) else f", got {problem['input']!r}"
    return f"{key}: {message}{given}"


def _without_null(annotation: Any) -> Any:
    """Of a section that may be left out, the section."""
    rest = [part for part in get_args(annotation) if part is not type(None)]
    is_section = len(rest) == 1 and isinstance(rest[0], type) and issubclass(rest[0], Keys)
    return rest[0] if is_section else annotation


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value
