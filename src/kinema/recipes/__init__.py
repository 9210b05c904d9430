"""Recipes that ship with kinema, `<dataset>/<name>.yaml`, and finding a recipe by its shipped name or its path."""

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
    """Content of a recipe, unchecked.

    Raises:
        ConfigError: It is not there, or not a mapping in YAML.
    """
    path = find(recipe)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    content = parse_yaml(text, source=str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections (data:, model:, ...), found {type(content).__name__}")
    return content
