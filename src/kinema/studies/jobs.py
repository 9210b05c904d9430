"""The runs of a study: every setting with every seed on every fold, each with the recipe that says all of it.

A study's folder:

study.json              what it was last run with
runs/<name>.<print>/    an ordinary run; its name ends in the fingerprint of its recipe, by which it is found again
results/<print>.json    what came of a run that is done
failed/<print>.json     why one failed, until it is tried again
claims/<print>          held by the process that works on it
workers/<number>/       of each command that does runs at the time: its plan, and what its processes say
trials.log              of a sweep: what was tried
report.html             the page
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinema.config import resolve
from kinema.data.folds import divided, fold_name, parts_of
from kinema.data.load_dataset import load_dataset
from kinema.files import locked, read_json_object, write_json
from kinema.progress import SILENT, Reporter
from kinema.sections import DataSection, FoldSection, Recipe
from kinema.studies.study import Folds, Setting, Study, plain_name
from kinema.types import ConfigError, DataError, Dataset, Split, fingerprint

log = logging.getLogger(__name__)

_NAME_LENGTH = 60

PLAN = "plan.json"
"""What the processes of one command are to do, in their folder."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study.

    Attributes:
        setting: Name of its setting.
        seed: Random seed.
        fold: Which part is held out, in words; None where there are no folds.
        recipe: All that determines it, with the folder of the run.
        split: What it is measured on: `validation`, or `test`, which is what is held out where there are folds.
    """

    setting: str
    seed: int
    fold: str | None
    recipe: Recipe
    split: Split

    @property
    def fingerprint(self) -> str:
        return recipe_fingerprint(self.recipe)

    @property
    def folder(self) -> Path:
        assert self.recipe.output is not None
        return self.recipe.output

    @property
    def name(self) -> str:
        """In words."""
        parts = [self.setting, f"seed {self.seed}", *([] if self.fold is None else [self.fold])]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "seed": self.seed,
            "fold": self.fold,
            "recipe": self.recipe.to_dict(),
            "split": self.split,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Inverse of `to_dict`."""
        return cls(**{**values, "recipe": resolve(values["recipe"])})


def recipe_fingerprint(recipe: Recipe) -> str:
    """Differs with every setting but the folder that the run goes to."""
    return fingerprint({key: value for key, value in recipe.to_dict().items() if key != "output"})


def jobs_of(study: Study, *, build: Sequence[str] = (), reporter: Reporter = SILENT) -> list[Job]:
    """All runs of a study, setting by setting.

    Args:
        study: It.
        build: Settings of which to see that their model can be built, where they are not done yet; which takes a second
            or so each.
        reporter: Where to show progress.

    Raises:
        ConfigError: A setting is impossible, or there is nothing that settings could be compared on.
        DataError: Clips cannot be listed.
    """
    file = study.file
    parts = _Parts(reporter)
    found: list[Job] = []
    for setting in study.settings:
        recipe = _resolved(setting)
        first = len(found)
        for seed in _seeds(study, recipe):
            seeded = recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"seed": seed})})
            if file.folds is None:
                split: Split = file.split or "validation"
                parts.check(seeded, split, where=setting.name)
                found.append(_job(study, setting, seeded, seed=seed, split=split))
                continue
            for fold, section in parts.of(seeded, file.folds):
                data = {"folds": section, **({"holdout": None} if _has_holdout(seeded.data) else {})}
                of_fold = seeded.model_copy(update={"data": seeded.data.model_copy(update=data)})
                found.append(_job(study, setting, of_fold, seed=seed, split="test", fold=fold, number=section.fold))
        if setting.name in build and any(Place(study.folder).result(job) is None for job in found[first:]):
            parts.build(recipe, file.folds, where=setting.name)
    return found


def _resolved(setting: Setting) -> Recipe:
    try:
        return resolve(setting.values)
    except ConfigError as error:
        raise _of_run(setting.name, error) from None


def _of_run(name: str, error: ConfigError) -> ConfigError:
    return ConfigError("\n".join(f"run {name!r}: {line}" for line in str(error).splitlines()))


def _seeds(study: Study, recipe: Recipe) -> Sequence[int]:
    if study.file.seeds is not None:
        return study.file.seeds
    return range(recipe.trainer.seed, recipe.trainer.seed + (study.file.repeat or 1))


def _has_holdout(data: DataSection) -> bool:
    return bool(getattr(data, "holdout", None))


def _job(
    study: Study,
    setting: Setting,
    recipe: Recipe,
    *,
    seed: int,
    split: Split,
    fold: str | None = None,
    number: int | None = None,
) -> Job:
    parts = [plain_name(setting.name)[:_NAME_LENGTH], f"seed{seed}", *([] if number is None else [f"fold{number}"])]
    folder = study.folder / "runs" / f"{'_'.join(parts)}.{recipe_fingerprint(recipe)}"
    output = find_run(study.folder, recipe_fingerprint(recipe)) or folder
    recipe = recipe.model_copy(update={"output": output.absolute()})
    return Job(setting=setting.name, seed=seed, fold=fold, recipe=recipe, split=split)


def find_run(folder: Path, print_: str) -> Path | None:
    """The run of a recipe, whatever it was called when it was begun."""
    return next(iter((folder / "runs").glob(f"*.{print_}")), None)


class _Parts:
    """Data sets, each listed once, their parts, and models, each built once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._found: dict[str, list[tuple[str, FoldSection]]] = {}
        self._listed: dict[str, Dataset] = {}
        self._built: set[str] = set()

    def of(self, recipe: Recipe, folds: Folds) -> list[tuple[str, FoldSection]]:
        """Name and section of each part."""
        plain = _undivided(recipe.data)
        key = fingerprint(plain.model_dump(mode="json"))
        if key not in self._found:
            dataset = self._dataset(plain, seed=recipe.trainer.seed)
            section = FoldSection(by=folds.by, k=folds.k, seed=folds.seed)
            parts = parts_of(dataset, section)
            if groups := divided(dataset, section):
                log.warning(
                    "%d groups of the data set have clips in more than one fold, such as %s: results are better than "
                    "on new data",
                    len(groups),
                    groups[0],
                )
            sections = [section.model_copy(update={"fold": number}) for number in range(len(parts))]
            names = [fold_name(section, part) for section, part in zip(sections, parts, strict=True)]
            self._found[key] = list(zip(names, sections, strict=True))
        return self._found[key]

    def check(self, recipe: Recipe, split: Split, *, where: str) -> None:
        """See that there is something to compare on, before hours are spent.

        Raises:
            ConfigError: There is not.
        """
        dataset = self._dataset(recipe.data, seed=recipe.trainer.seed)
        if not dataset.splits.get(split):
            there = ", ".join(dataset.splits)
            advice = (
                "cut one out with data.validation: 0.2, or give folds:, or compare on the test split with split: test"
                if split == "validation"
                else "give split: validation, or folds:"
            )
            raise ConfigError(f"run {where!r}: its data set has no {split} split (it has {there}); {advice}")

    def build(self, recipe: Recipe, folds: Folds | None, *, where: str) -> None:
        """See that a model can be built for these classes and clips, before hours are spent on the runs before it.

        Raises:
            ConfigError: It cannot.
        """
        from kinema.studies.buildable import check_buildable

        data = recipe.data if folds is None else _undivided(recipe.data)
        classes = self._dataset(data, seed=recipe.trainer.seed).classes
        sizes = {task: len(names) for task, names in classes.items()}
        sections = [recipe.model, recipe.init]
        shape = [recipe.clips.num_frames, recipe.clips.size_px]
        key = fingerprint([*(section.model_dump(mode="json") for section in sections), shape, sizes])
        if key in self._built:
            return
        try:
            check_buildable(recipe, classes)
        except ConfigError as error:
            raise _of_run(where, error) from None
        self._built.add(key)

    def _dataset(self, data: DataSection, *, seed: int) -> Dataset:
        """One of each section: which validation clips a seed draws is not asked here."""
        key = fingerprint(data.model_dump(mode="json"))
        if key not in self._listed:
            self._listed[key] = load_dataset(data, seed=seed, reporter=self._reporter)
        return self._listed[key]


def _undivided(data: DataSection) -> DataSection:
    """All clips, of which folds hold some out."""
    update = {"folds": None, "validation": 0.0, "fraction": 1.0}
    return data.model_copy(update={**update, **({"holdout": None} if _has_holdout(data) else {})})


@dataclass(frozen=True)
class Place:
    """A study's folder, and what is known in it about its runs."""

    folder: Path

    def result(self, job: Job) -> dict[str, Any] | None:
        """What came of a run, where it is done and was measured on what it is to be measured on."""
        path = self.folder / "results" / f"{job.fingerprint}.json"
        if not path.is_file() or not job.folder.is_dir():
            return None
        record = read_json_object(path)
        return record if job.split in record.get("measured", {}) else None

    def failure(self, job: Job) -> str | None:
        """Why a run failed the last time, in one line."""
        path = self.folder / "failed" / f"{job.fingerprint}.json"
        return str(read_json_object(path)["error"]) if path.is_file() else None

    def keep_result(self, job: Job, record: Mapping[str, Any]) -> None:
        self._write("results", job, record)
        self.forget_failure(job)

    def keep_failure(self, job: Job, error: str) -> None:
        self._write("failed", job, {"name": job.name, "error": error})

    def forget_failure(self, job: Job) -> None:
        (self.folder / "failed" / f"{job.fingerprint}.json").unlink(missing_ok=True)

    def _write(self, kind: str, job: Job, record: Mapping[str, Any]) -> None:
        path = self.folder / kind / f"{job.fingerprint}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None

    @contextlib.contextmanager
    def claim(self, job: Job) -> Iterator[bool]:
        """Whether this process may work on a run. The system takes the claim back when the process ends, however."""
        path = self.folder / "claims" / job.fingerprint
        try:
            with locked(path, wait=False) as mine:
                yield mine
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None

    @contextlib.contextmanager
    def workers(self, plan: Mapping[str, Any]) -> Iterator[Path]:
        """A folder for the processes that one command starts, with its plan in `plan.json`. Several commands may do
        runs of one study at the same time: each has its own, and those of commands that ended are used again."""
        for number in itertools.count(1):
            folder = self.folder / "workers" / str(number)
            with locked(folder / "claim", wait=False) as mine:
                if mine:
                    write_json(folder / PLAN, plan)
                    yield folder
                    return

    def holder(self, job: Job) -> int | None:
        """The process that last worked on a run."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / "claims" / job.fingerprint).read_text())
        return None

    def epochs_done(self, job: Job) -> int:
        """Epochs that a run's table of metrics has."""
        with contextlib.suppress(OSError):
            return max(0, (job.folder / "metrics.csv").read_bytes().count(b"\n") - 1)
        return 0


def study_facts(study: Study, overrides: Sequence[str]) -> dict[str, Any]:
    """What a study is run with, of JSON types."""
    return {"name": study.file.name, "file": str(study.path.absolute()), "overrides": list(overrides)}


def write_study(folder: Path, study: Study, overrides: Sequence[str]) -> None:
    """Keep what a study is run with, for those who ask for its table without saying it again.

    Raises:
        DataError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "study.json", study_facts(study, overrides))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None


def read_overrides(folder: Path) -> list[str]:
    """With which settings the study in a folder was last run.

    Raises:
        DataError: `study.json` is not there, or broken.
    """
    found = read_json_object(folder / "study.json").get("overrides")
    if not isinstance(found, list):
        raise DataError(f"{folder / 'study.json'}: not what a study writes; run it again")
    return [str(override) for override in found]
