"""Cross-validation of one recipe: a study of one setting, whose folds hold out every clip once."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema import recipes
from kinema.config import apply_overrides, checked, resolve
from kinema.files import parse_yaml
from kinema.sections import Recipe
from kinema.studies.jobs import recipe_fingerprint
from kinema.studies.outcomes import Outcome, Outcomes
from kinema.studies.study import Folds, Setting, Study, StudyFile, refuse_holdout
from kinema.types import ConfigError

_KEYS = ("by", "k")


def crossval_study(
    recipe: str, arguments: Iterable[str], *, seeds: Sequence[int] | None = None, output: Path | None = None
) -> Study:
    """A recipe with `by=COLUMN`, `k=n` and `section.key=value` as a study.

    Args:
        recipe: A shipped name or a path.
        arguments: As they stand on the command line.
        seeds: Random seeds; by default that of the recipe.
        output: The study's folder; by default one that is called after recipe and settings, so that what was
            interrupted is found again.

    Raises:
        ConfigError: An argument is not of these forms, or the recipe is impossible.
    """
    folds: dict[str, Any] = {}
    overrides = []
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if separator and key.strip() in _KEYS:
            folds[key.strip()] = parse_yaml(text, source=argument)
        elif separator and "." not in key and key.strip() not in Recipe.model_fields:
            raise ConfigError(f"{argument!r}: expected by=COLUMN, k=n or section.key=value")
        else:
            overrides.append(argument)
    refuse_holdout(overrides, folds="by=")
    settings = checked(Folds, folds, source="crossval")
    values = apply_overrides(recipes.read(recipe), overrides)
    resolved = resolve(values)
    file = StudyFile(name=recipe, base=recipe, folds=settings, seeds=None if seeds is None else tuple(seeds))
    name = f"{resolved.data.name}_{resolved.model.name}_{recipe_fingerprint(resolved)}"
    return Study(
        file=file,
        path=Path(recipe),
        settings=(Setting(name=resolved.model.name, values=values, changes=tuple(overrides)),),
        folder=output or resolved.output or Path("runs") / "crossval" / name,
    )


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """What `kinema crossval --json` gives.

    top1_mean      mean over folds, and over seeds
    top1_std       standard deviation over folds of their accuracies (each the mean over seeds)
    pooled_top1    of all held-out clips together: the mean over seeds, and `pooled_std` its deviation over seeds
    seeds          the same of each seed
    folds          of each fold: what it held out, and its numbers
    """
    (row,) = outcomes.rows
    done = row.outcomes
    folds = [_fold(name, [o for o in done if o.job.fold == name]) for name in row.folds]
    seeds = [_seed(seed, [o for o in done if o.job.seed == seed]) for seed in dict.fromkeys(o.job.seed for o in done)]
    accuracies = [fold["top1"] for fold in folds]
    num_clips = sum(fold["num_clips"] for fold in folds)
    train = None if row.train is None else row.train.mean
    mean = statistics.fmean(accuracies) if accuracies else None
    return {
        "top1_mean": mean,
        "top1_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "seeds_std": _deviation([seed["top1_mean"] for seed in seeds]),
        "pooled_top1": None if row.score is None else row.score.mean,
        "pooled_std": None if row.score is None else row.score.std,
        "chance": row.chance,
        "majority": row.majority,
        "train_top1": train,
        "gap": None if train is None or mean is None else train - mean,
        "num_clips": num_clips,
        "runs": row.num_runs,
        "done": len(done),
        "failures": dict(row.failures),
        "seeds": seeds,
        "folds": folds,
        "folder": str(outcomes.study.folder),
    }


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _fold(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    first = outcomes[0].measured
    top1 = [outcome.measured["top1"] for outcome in outcomes]
    return {
        "fold": name,
        "top1": statistics.fmean(top1),
        "top1_by_seed": {str(outcome.job.seed): outcome.measured["top1"] for outcome in outcomes},
        "num_clips": first["num_clips"],
        "chance": first["chance"],
        "majority": first["majority"],
        "train_top1": statistics.fmean(outcome.record["train_top1"] for outcome in outcomes),
    }


def _seed(seed: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    measured: list[Mapping[str, Any]] = [outcome.measured for outcome in outcomes]
    num = sum(values["num_clips"] for values in measured)
    top1 = [values["top1"] for values in measured]
    return {
        "seed": seed,
        "top1_mean": statistics.fmean(top1),
        "top1_std": _deviation(top1),
        "pooled_top1": sum(values["num_clips"] * values["top1"] for values in measured) / num,
    }
