"""Recipes that ship with kinema, `<dataset>/<name>.yaml`, and finding a recipe by its shipped name or its path.

A recipe may say by `base:` which other recipe it is a variation of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinema.config import parse_yaml
from kinema.registry import suggest
from kinema.types import ConfigError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped recipes, such as `motion/cnn_lstm`."""
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.glob("*/*.yaml"))


def find(recipe: str) -> Path:
    """The file of a recipe.

    Args:
        recipe: A shipped name or the path of a YAML file. A path wins where both are there.

    Raises:
        ConfigError: There is neither.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    if recipe in names():
        return _FOLDER / f"{recipe}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"{recipe}: no such file")
    raise ConfigError(f"{recipe}: no such recipe{suggest(recipe, names())}")


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
    return _varied(_read(found, (path.resolve(), *variations)), content)


def _varied(base: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Keys and values within keys replaced; another model or data set takes none of the keys of the one before."""
    varied = dict(base)
    for key, value in content.items():
        before = varied.get(key)
        if key == "augmentation" and isinstance(before, str):
            before = {"preset": before}  # keys may be put beside its name
        if isinstance(before, dict) and isinstance(value, dict) and value.get("name") in (None, before.get("name")):
            value = _varied(before, value)
        varied[key] = value
    return varied
