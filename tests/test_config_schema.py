"""The JSON schema that editors read: it says what kinema says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kinema import recipes
from kinema.config import json_schema, resolve
from kinema.files import parse_yaml
from kinema.registry import entries


def walk(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_the_schema_is_a_json_schema() -> None:
    schema = json_schema()
    assert schema == json.loads(json.dumps(schema))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in walk(schema):
        if isinstance(part.get("$ref"), str):
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        if isinstance(part.get("required"), list):
            assert len(set(part["required"])) == len(part["required"])
            assert set(part["required"]) <= set(part["properties"])
        if isinstance(part.get("type"), str):
            assert part["type"] in {"object", "array", "string", "number", "integer", "boolean", "null"}
    used = {part["$ref"].removeprefix("#/$defs/") for part in walk(schema) if isinstance(part.get("$ref"), str)}
    assert used == set(schema["$defs"])


@pytest.mark.parametrize(("section", "kind"), [("data", "dataset"), ("model", "model")])
def test_the_schema_has_the_keys_of_every_function(section: str, kind: Any) -> None:
    schema = json_schema()
    alternatives = [
        schema["$defs"][alternative["$ref"].removeprefix("#/$defs/")]
        for alternative in schema["properties"][section]["oneOf"]
    ]
    by_name = {alternative["properties"]["name"]["const"]: alternative for alternative in alternatives}
    assert set(by_name) == set(entries(kind))
    for name, alternative in by_name.items():
        assert alternative["additionalProperties"] is False
        assert "name" in alternative["required"]
        assert {p.name for p in entries(kind)[name].parameters} <= set(alternative["properties"])
        assert all(prop.get("description") for key, prop in alternative["properties"].items() if key != "name")


def accepts(schema: Mapping[str, Any], value: Any, definitions: Mapping[str, Any]) -> bool:
    """As much of JSON schema as ours uses."""
    if "$ref" in schema:
        return accepts(definitions[schema["$ref"].removeprefix("#/$defs/")], value, definitions)
    if "anyOf" in schema:
        return any(accepts(part, value, definitions) for part in schema["anyOf"])
    if "oneOf" in schema:
        return sum(accepts(part, value, definitions) for part in schema["oneOf"]) == 1
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type")
    if kind == "object":
        rest = schema.get("additionalProperties", True)
        return (
            isinstance(value, dict)
            and all(
                accepts(schema["properties"][key], item, definitions)
                if key in schema.get("properties", {})
                else rest is True or (isinstance(rest, dict) and accepts(rest, item, definitions))
                for key, item in value.items()
            )
            and set(schema.get("required", [])) <= set(value)
        )
    if kind == "array":
        items = schema.get("prefixItems")
        return isinstance(value, list) and (
            len(value) == len(items) and all(accepts(s, v, definitions) for s, v in zip(items, value, strict=True))
            if items
            else all(accepts(schema["items"], item, definitions) for item in value)
        )
    if kind in ("number", "integer"):
        return (
            isinstance(value, int if kind == "integer" else int | float)
            and not isinstance(value, bool)
            and schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
            and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        ) or (math.isinf(value) if isinstance(value, float) else False)
    types: dict[Any, Any] = {"string": str, "boolean": bool, "null": type(None), None: object}
    return isinstance(value, types[kind])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


@pytest.mark.parametrize("name", recipes.names())
def test_the_schema_accepts_every_shipped_recipe(name: str, schema: dict[str, Any]) -> None:
    content = recipes.read(name)
    path = recipes.find(name)
    assert accepts(schema, parse_yaml(path.read_text(), source=str(path)), schema["$defs"])
    assert accepts(schema, content, schema["$defs"])
    assert accepts(schema, resolve(content).to_dict(), schema["$defs"])
    assert not accepts(schema, {**content, "modle": {}}, schema["$defs"])
    assert not accepts(schema, {**content, "optim": {"lr": 0}}, schema["$defs"])
    assert not accepts(schema, {**content, "model": {"name": "cnn_lstm", "kernel_size": 3}}, schema["$defs"])
