"""What every section of a recipe is: typed keys, checked, that never change again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of all sections: no unknown keys, no change after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and {bool, Any}.isdisjoint((annotation, *get_args(annotation))):
            raise ValueError(f"expected {words(annotation)}")
        return value


def words(annotation: Any) -> str:
    """A type as somebody who writes YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0])
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
