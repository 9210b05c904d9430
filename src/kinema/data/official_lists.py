"""Finding and reading the lists that come with a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from kinema.types import ConfigError, DataError


def find_lists(
    root: Path, annotations: str | None, *, places: Iterable[Path], holds: Callable[[Path], bool]
) -> Path | None:
    """The folder with the lists of a data set, or None where there is none.

    Args:
        root: `data.root`.
        annotations: `data.annotations`: the only folder to look in, if it is given; a relative path starts at `root`.
        places: Where to look else, best first.
        holds: Whether a folder has the lists.

    Raises:
        ConfigError: `annotations` is not a folder.
    """
    if annotations is not None:
        given = root / Path(annotations).expanduser()
        if not given.is_dir():
            raise ConfigError(f"data.annotations: {given} is not a folder")
        places = [given]
    return next((place for place in places if place.is_dir() and holds(place)), None)


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """(line number from 1, line without spaces around it) of a text file, without empty lines.

    Raises:
        DataError: It is not there or cannot be read.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; it belongs to the official lists") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
