"""What all sections of a recipe have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from kinema.registry import suggest

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Keys(BaseModel):
    """Base of all that has keys: no unknown ones, no change after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Choice(Keys):
    """One of several, told apart by their `name`, with keys of its own. No number is made of anything else."""

    model_config = ConfigDict(strict=True)


class Section(Keys):
    """A section of a recipe."""

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and {bool, Any}.isdisjoint((annotation, *get_args(annotation))):
            raise ValueError(f"expected {words(annotation)}")
        return value

    def arguments(self) -> dict[str, Any]:
        """The keys that a `data:` or `model:` section adds to those that every such section has."""
        common = next(
            base for base in reversed(type(self).__mro__) if issubclass(base, Section) and base is not Section
        )
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common.model_fields}


def words(annotation: Any) -> str:
    """A type as somebody who writes YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, Choice):
        return str(annotation.model_fields["name"].default)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (list, tuple):
        items = (*arguments, ...) if origin is list else arguments
        return "[" + ", ".join("..." if item is ... else words(item) for item in items) + "]"
    if origin is not None and origin is not dict:
        return " or ".join(words(argument) for argument in arguments)
    named = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
    }
    return named.get(annotation, "keys and values")


def choices(annotation: Any) -> tuple[type[Choice], ...]:
    """Of a union of choices, these; of any other type nothing."""
    return tuple(part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, Choice))


def by_name(value: Any, annotation: Any, *, kind: str) -> Any:
    """What says which of several sections is meant: a bare name stands for one with its defaults.

    Args:
        value: A name, keys and values, or anything else, which is given back.
        annotation: The union of the sections.
        kind: What they are, for the error message.

    Raises:
        ValueError: There is none of that name.
    """
    known = [choice.model_fields["name"].default for choice in choices(annotation)]
    name = value.get("name") if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and name is None:
        raise ValueError(f"name is missing; give one of {', '.join(known)}")
    if isinstance(value, Mapping | str) and name not in known:
        raise ValueError(f"no {kind} {name!r}{suggest(str(name), known)}")
    return {"name": value} if isinstance(value, str) else value
