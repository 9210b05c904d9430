"""A run is a folder that is never overwritten.

config.yaml          the recipe with every default filled in
environment.json     command, versions, hardware, git state, seed, when it began
log.txt              what was printed
metrics.csv          one row per epoch
tensorboard/         the same for TensorBoard
checkpoints/         last.ckpt (to go on from), best.ckpt
weights/             the result, to share
evaluations/<split>/ metrics.json, predictions.csv, ...; of other clips evaluations/other/
report.html          a page about all of it
figures/             its figures as SVG, their numbers as CSV
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kinema.config import parse_yaml, resolve
from kinema.data.processes import available_cores
from kinema.files import write_atomically, write_json
from kinema.sections import Recipe
from kinema.types import ConfigError, DataError
from kinema.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "lightning", "av", "numpy")


@dataclass(frozen=True)
class Run:
    """Paths inside a run's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def evaluations(self) -> Path:
        return self.folder / "evaluations"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def is_finished(self) -> bool:
        """Training is over and its result is written."""
        return (self.weights / "training.json").is_file()

    def recipe(self) -> Recipe:
        """The run's own recipe.

        Raises:
            DataError: The folder holds no run.
            ConfigError: Its recipe is not of this version.
        """
        if not self.config.is_file():
            raise DataError(f"{self.folder}: not a run, config.yaml is missing")
        return resolve(parse_yaml(self.config.read_text(encoding="utf-8"), source=str(self.config)))

    def new_evaluation(self, record: Mapping[str, Any]) -> Path:
        """Make a folder for an evaluation, named by what was evaluated: `test`, `test_10x3`, or
        `other` of clips that are not of a split of the run's own; a second one is `test-2`, ...

        Args:
            record: Its numbers.
        """
        name = str(record["split"]) if record["list"]["own"] else "other"
        if "views" in record:
            views = record["views"]
            name += f"_{views['clips']}x{views['crops']}" + ("_flip" if views["flip"] else "")
        while True:
            folder = fresh_folder(self.evaluations / name)
            with contextlib.suppress(FileExistsError):  # another process took the same name just now
                folder.mkdir(parents=True)
                return folder

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed in the middle of writing left of its temporary files."""
        for folder in (self.folder, self.last_checkpoint.parent):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)


def check_output(recipe: Recipe) -> None:
    """Make sure that a run can be put where the recipe says: known before the data are looked at, not behind it.

    Raises:
        ConfigError: `output` exists and is not an empty folder.
    """
    folder = recipe.output
    if folder is None or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ConfigError(
            f"output: {folder} exists already and a run is never overwritten; give another folder, "
            f"or go on with that run by --resume {folder}"
        )


def create_run(recipe: Recipe) -> Run:
    """Make the folder of a new run and write what is known before it begins.

    Raises:
        ConfigError: `output` exists already, or cannot be made.
    """
    check_output(recipe)
    folder = recipe.output or Path("runs")
    was_there = recipe.output is not None and recipe.output.exists()
    run = None
    try:
        if recipe.output is None:
            folder = _new_folder_of_today(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder)
        write_atomically(run.config, recipe.to_yaml().encode())
        write_json(folder / "environment.json", environment(recipe))
    except OSError as error:
        if run is not None:
            discard_empty_run(run, keep_folder=was_there)
        raise ConfigError(f"output: {folder} cannot be written: {error.strerror or error}") from None
    return run


def _new_folder_of_today(recipe: Recipe) -> Path:
    today = datetime.datetime.now(tz=datetime.UTC).astimezone().date().isoformat()
    while True:
        folder = fresh_folder(Path("runs") / f"{today}_{recipe.data.name}_{recipe.model.name}")
        with contextlib.suppress(FileExistsError):  # another run took the same name just now
            folder.mkdir(parents=True)
            return folder


def discard_empty_run(run: Run, *, keep_folder: bool) -> None:
    """Remove what a new run wrote that failed before it had trained anything.

    Args:
        run: Its folder was empty or was not there before (`check_output`): all that is in it is the run's own.
        keep_folder: The empty folder was there before; it may be a mount, and stays.
    """
    if run.last_checkpoint.exists() or run.weights.exists():
        return
    for path in list(run.folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    if not keep_folder:
        with contextlib.suppress(OSError):
            run.folder.rmdir()


def fresh_folder(folder: Path) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ... if that exists."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def environment(recipe: Recipe) -> dict[str, Any]:
    """What a run depends on beside its recipe."""
    return {
        "started": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": recipe.trainer.seed,
        "versions": {
            "kinema": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "hardware": hardware(),
        "git": _git_state(Path.cwd()),
        "kinema_git": _git_state(Path(__file__).parent),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and GPUs."""
    import torch

    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether anything differs from it, or None outside a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
