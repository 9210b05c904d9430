"""YAML files that come with the package, by name, beside those of a user."""

from __future__ import annotations

import functools
from pathlib import Path

from kinema.registry import suggest
from kinema.types import ConfigError


def names_in(folder: Path, pattern: str) -> list[str]:
    """Names of the files in a folder that fit a pattern: their paths without the suffix."""
    return list(_names(folder, pattern))


@functools.cache  # a list of recipes asks for each of them, and for its base; what is shipped stays as it is
def _names(folder: Path, pattern: str) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(pattern)))


def find_file(given: str, folder: Path, names: list[str], *, kind: str) -> Path:
    """A file that is meant by a path or by the name of a shipped one. A path wins where both are there.

    Args:
        given: A name or a path.
        folder: Of the shipped files.
        names: Of these.
        kind: What they are, for the message ("recipe").

    Raises:
        ConfigError: There is neither.
    """
    path = Path(given)
    if path.is_file():
        return path
    if given in names:
        return folder / f"{given}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"{given}: no such file")
    raise ConfigError(f"{given}: no such {kind}{suggest(given, names)}")
