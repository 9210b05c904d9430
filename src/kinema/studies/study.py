"""A study: a base recipe, and a list or a grid of settings that replace some of its own, each trained with one or more
random seeds, on one or more folds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kinema import recipes
from kinema.config import apply_overrides, checked, parse_yaml
from kinema.files import to_yaml
from kinema.registry import suggest
from kinema.sections import PositiveInt, Section
from kinema.shipped_files import find_file, names_in
from kinema.types import ConfigError

_SHIPPED = Path(__file__).parent / "shipped"

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]


class RunEntry(Section):
    """One setting of a study."""

    name: str
    """Unique in its study."""
    base: str | None = None
    """A recipe of its own, by name or path."""
    overrides: dict[str, Any] = Field({})
    """`section.key` -> value."""


class Folds(Section):
    """Cross-validation of every setting."""

    by: str | Annotated[tuple[str, ...], Field(min_length=1)] = "group"
    """`group`, a column of the annotations, or several."""
    k: Annotated[int, Field(ge=2)] | None = None
    """So many parts; null: each group is one."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the parts, where `k` is given."""


class Source(Section):
    """The table of whoever did this before, to be printed beside what was measured."""

    title: str
    """Where it is from."""
    columns: tuple[str, ...]
    """Their names there."""
    rows: dict[str, tuple[str | float | int | None, ...]]
    """Name of a run -> what stands in the columns; null where nothing does."""
    notes: tuple[str, ...] = ()
    """What is to be known about it."""


class Range(Section):
    """Numbers to search in."""

    low: float
    """The smallest."""
    high: float
    """The largest."""
    log: bool = False
    """Every order of magnitude is as likely as any other."""
    whole: bool = False
    """Whole numbers."""

    @model_validator(mode="after")
    def _possible(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) has to be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError("log needs low above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("low and high have to be whole numbers where whole is true")
        return self


class StudyFile(Section):
    """The keys of a study's file."""

    name: str
    """Of the study, and of its folder."""
    about: str = ""
    """What it asks."""
    base: str | None = None
    """A recipe, by name or path."""
    overrides: dict[str, Any] = Field({})
    """`section.key` -> value, of every run."""
    runs: tuple[RunEntry, ...] = ()
    """Settings that are compared."""
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field({})
    """`section.key` -> values: every combination; of every run, where runs are given too."""
    space: dict[str, Range | tuple[Any, ...]] = Field({})
    """`section.key` -> {low, high, log, whole} or a list of choices: for `kinema sweep`."""
    trials: PositiveInt = 20
    """How many settings a sweep tries."""
    seeds: Seeds | None = None
    """Random seeds that every setting is trained with."""
    repeat: PositiveInt | None = None
    """So many seeds, from that of the recipe on."""
    folds: Folds | None = None
    """Cross-validation: every setting is trained once for each part of the clips that is held out."""
    split: Literal["validation", "test"] | None = None
    """What settings are compared on. By default the clips that are held out where there are folds, else validation."""
    source: Source | None = None
    """Somebody else's table."""
    output: Path | None = None
    """The study's folder. By default runs/studies/NAME."""

    @model_validator(mode="after")
    def _possible(self) -> StudyFile:
        if self.seeds is not None and self.repeat is not None:
            raise ValueError("seeds and repeat exclude each other; give one")
        if self.folds is not None and self.split is not None:
            raise ValueError("split has no meaning with folds, whose held-out clips are what settings are compared on")
        if self.space and (self.runs or self.grid):
            raise ValueError("space is for kinema sweep, runs and grid for kinema study; give one of them")
        twice = [run.name for place, run in enumerate(self.runs) if run.name in [r.name for r in self.runs[:place]]]
        if twice:
            raise ValueError(f"two runs are called {twice[0]!r}")
        if self.base is None and not (self.runs and all(run.base for run in self.runs)):
            raise ValueError("base: missing; give the name or the path of a recipe")
        if self.source is not None:
            wrong = [name for name, row in self.source.rows.items() if len(row) != len(self.source.columns)]
            if wrong:
                raise ValueError(f"source.rows: {wrong[0]!r} has not as many values as there are columns")
        return self


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one row of a study's table is about.

    Attributes:
        name: Unique in its study.
        values: Content of its recipe, unchecked.
        changes: What is said of it beside the study's base, `section.key=value`.
    """

    name: str
    values: Mapping[str, Any]
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study whose file was read.

    Attributes:
        file: Its keys.
        path: The file.
        settings: Rows of its table.
        folder: Where its runs are.
    """

    file: StudyFile
    path: Path
    settings: tuple[Setting, ...]
    folder: Path

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Settings that are called so, or that come of a run that is.

        Raises:
            ConfigError: There is none of a name.
        """
        known = [setting.name for setting in self.settings]
        runs = [run.name for run in self.file.runs]
        wanted: set[str] = set()
        for name in names:
            of_run = {setting for setting in known if name in runs and setting.startswith(f"{name}, ")}
            found = {setting for setting in known if setting == name} or of_run
            if not found:
                hint = suggest(name, dict.fromkeys([*runs, *known]))
                raise ConfigError(f"--only: {self.file.name} has no run {name!r}{hint}")
            wanted |= found
        return [name for name in known if name in wanted]


def names() -> list[str]:
    """Names of the shipped studies, such as `epic_phase2_motion`."""
    return names_in(_SHIPPED, "**/*.yaml")


def find(study: str) -> Path:
    """The file of a study.

    Args:
        study: A shipped name or the path of a YAML file. A path wins where both are there.

    Raises:
        ConfigError: There is neither.
    """
    return find_file(study, _SHIPPED, names(), kind="study")


def read_study(study: str, overrides: Iterable[str] = (), *, output: Path | None = None) -> Study:
    """Read a study and find out which settings it has.

    Args:
        study: A shipped name or a path.
        overrides: `section.key=value`, of every run; these win over everything that the file says.
        output: Its folder, in place of what the file says.

    Raises:
        ConfigError: The file is not there or not a study, or a recipe that it names is not.
    """
    path = find(study)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values (name:, base:, runs:, ...), got {type(content).__name__}")
    file = checked(StudyFile, content, source=str(path))
    given = list(overrides)
    for override in given:
        apply_overrides({}, [override])
    if file.folds is not None:
        of_runs = [key for run in file.runs for key in run.overrides]
        refuse_holdout([*file.overrides, *of_runs, *file.grid, *given], folds="folds:")
    return Study(
        file=file,
        path=path,
        settings=tuple(_settings(file, path, given)),
        folder=output or file.output or Path("runs") / "studies" / plain_name(file.name),
    )


def refuse_holdout(overrides: Iterable[str], *, folds: str) -> None:
    """See that it is not said in two ways what is held out.

    Args:
        overrides: `section.key=value`, or keys alone.
        folds: What says it already.

    Raises:
        ConfigError: It is.
    """
    keys = [override.partition("=")[0].strip() for override in overrides]
    twice = [key for key in keys if key.startswith(("data.holdout", "data.folds"))]
    if twice:
        raise ConfigError(f"{twice[0]}: what is held out is what {folds} says; choose rows of a table by data.where")


def nested(overrides: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """`{section.key: value}` as keys within keys.

    Raises:
        ConfigError: A key goes below one that has a value.
    """
    found: dict[str, Any] = {}
    for path, value in overrides.items():
        place = found
        *above, last = str(path).split(".")
        for name in above:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key}.{path}: {name} is a value, it has no keys below it")
        place[last] = value
    return found


def _settings(file: StudyFile, path: Path, given: Sequence[str]) -> Iterable[Setting]:
    runs = file.runs or (RunEntry(name=""),)
    for run in runs:
        base = _base(run.base or file.base or "", path)
        common = recipes.varied(base, nested(file.overrides, key="overrides"))
        of_run = nested(run.overrides, key=f"runs: {run.name}")
        own = recipes.varied(common, of_run)
        said = [override for override in given if not (_is_random(of_run) and _is_of_weights(override))]
        for point in itertools.product(*file.grid.values()):
            chosen = dict(zip(file.grid, point, strict=True))
            values = recipes.varied(own, nested(chosen, key="grid"))
            changes = [written(key, value) for key, value in {**run.overrides, **chosen}.items()]
            at = ", ".join(written(key.rpartition(".")[2], value) for key, value in chosen.items())
            name = ", ".join(part for part in (run.name, at) if part) or file.name
            yield Setting(name=name, values=apply_overrides(values, said), changes=tuple(changes))


def _is_random(of_run: Mapping[str, Any]) -> bool:
    """Whether a run says of itself that it starts from scratch: weights that are given for others are none for it."""
    init = of_run.get("init")
    return isinstance(init, Mapping) and "weights" in init and init["weights"] is None


def _is_of_weights(override: str) -> bool:
    return override.partition("=")[0].strip() in ("init.weights", "init.mean", "init.std")


def written(key: str, value: Any) -> str:
    """`key=value`, as it may stand on a command line."""
    text = to_yaml(value).removesuffix("\n...\n").rstrip("\n") if not isinstance(value, dict | list | tuple) else ""
    return f"{key}={text or flow(value)}"


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return to_yaml(value).removesuffix("\n...\n").rstrip("\n")


def _base(base: str, path: Path) -> dict[str, Any]:
    beside = path.parent / base
    return recipes.read(str(beside) if beside.is_file() else base)


def plain_name(name: str) -> str:
    """For a file's name."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name.strip())
    return kept.strip("_.") or "study"
