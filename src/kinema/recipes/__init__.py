"""Recipes that ship with kinema, `<dataset>/<name>.yaml`, and finding a recipe by its shipped name or its path.

A recipe may say by `base:` which other recipe it is a variation of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinema.config import parse_yaml
from kinema.shipped_files import find_file, names_in
from kinema.types import ConfigError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped recipes, such as `motion/cnn_lstm`."""
    return names_in(_FOLDER, "*/*.yaml")


def find(recipe: str) -> Path:
    """The file of a recipe.

    Args:
        recipe: A shipped name or the path of a YAML file. A path wins where both are there.

    Raises:
        ConfigError: There is neither.
    """
    return find_file(recipe, _FOLDER, names(), kind="recipe")


def read(recipe: str) -> dict[str, Any]:
    """Content of a recipe, unchecked. What its base says holds where it says nothing.

    Raises:
        ConfigError: It, or its base, is not there, or not a mapping in YAML.
    """
    return _read(find(recipe), ())


def _read(path: Path, variations: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    content = parse_yaml(text, source=str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections (data:, model:, ...), found {type(content).__name__}")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected the name or the path of a recipe, got {base!r}")
    beside = path.parent / base
    found = beside if beside.is_file() else find(base)
    if found.resolve() in (path.resolve(), *variations):
        raise ConfigError(f"{path}: base: {base} is a variation of this recipe itself")
    return varied(_read(found, (path.resolve(), *variations)), content)


_CHOICES = {"model": "name", "data": "name", "schedule": "name", "imbalance": "name"}
"""Where a name says which other keys there are: another name takes none of those of the one before."""
_NAMED = {**_CHOICES, "augmentation": "preset"}
"""Where a name may stand for keys and values, and under which key; others may be put beside it."""


def varied(base: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Keys and values within keys replaced; another model, data set, schedule or method against imbalance takes none of
    the keys of the one before. An optimiser does: its learning rate, schedule and so on are those of `optim`."""
    found = dict(base)
    for key, value in content.items():
        before = found.get(key)
        if key in _NAMED and isinstance(before, str):
            before = {_NAMED[key]: before}
        if isinstance(before, dict) and isinstance(value, dict) and not _is_another(key, before, value):
            value = varied(before, value)
        found[key] = value
    return found


def _is_another(key: str, before: dict[str, Any], value: dict[str, Any]) -> bool:
    return key in _CHOICES and value.get("name") not in (None, before.get("name"))
