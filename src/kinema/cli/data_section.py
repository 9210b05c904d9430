"""From `NAME ROOT [data.key=value ...] [--annotations DIR]`, as every `kinema data` command takes it, to the `data:`
section of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from kinema.types import ConfigError

if TYPE_CHECKING:
    from kinema.sections import DataSection

NameArgument: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="A data set: see kinema datasets.")]
RootArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="ROOT", help="Its folder (or annotation file).")]
OverridesArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[data.key=value]...", help="Its other settings, as in a recipe."),
]
AnnotationsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--annotations", metavar="DIR", help="Folder with the official lists, if they lie elsewhere."),
]


class SplitName(StrEnum):
    """A split, as an option takes it."""

    train = "train"
    validation = "validation"
    test = "test"


def data_section(
    name: str, root: Path, overrides: Sequence[str] | None = None, annotations: Path | None = None
) -> DataSection:
    """The checked `data:` section that a command line means.

    Args:
        name: A data set.
        root: Its folder or file.
        overrides: `data.key=value` each.
        annotations: What `--annotations` says. Unlike `data.annotations` it starts, where it is relative, in the
            current folder, as every path on a command line does.

    Raises:
        ConfigError: A key is unknown, of the wrong type, or not one of data.*, or the data set has no annotations.
    """
    from kinema.config import resolve_evaluation
    from kinema.registry import entry

    known = {parameter.name for parameter in entry("dataset", name, key="NAME").parameters}
    values: dict[str, object] = {"name": name, "root": str(root)}
    given = list(overrides or [])
    for override in given:
        key = override.partition("=")[0].strip()
        if key in ("data.name", "data.root"):
            raise ConfigError(f"{key}: is given already, as {name if key == 'data.name' else root}")
        if not key.startswith("data."):
            raise ConfigError(f"{override!r}: expected data.key=value, as in data.validation=0.1")
    if annotations is not None:
        if "annotations" not in known:
            raise ConfigError(f"--annotations: {name} has no separate annotations")
        values["annotations"] = str(annotations.expanduser().absolute())
    section, _ = resolve_evaluation(values, given, clips={})
    return section
