"""`kinema train`: from a recipe to a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.training.outside import outside
from kinema.types import JOINT, ConfigError, StoppedBySignal, UserError
from kinema.wording import percent

if TYPE_CHECKING:
    from kinema.sections import Recipe
    from kinema.training.prepare import Prepared
    from kinema.training.run_folder import Run
    from kinema.training.strategy import Spread
    from kinema.training.team import Team

_SPREAD = ("strategy", "devices", "nodes")
"""Keys of `trainer:` that a run can go on with others of: the result is the same but for rounding."""

_PICTURE = "kinema-dry-run.png"
"""What `--dry-run` draws, in the folder where it is called: there is no folder of a run yet."""


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A shipped name (kinema recipes) or a path.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Settings that replace the recipe's."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was interrupted.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check recipe, data and model; say what would be done; draw training clips."),
    ] = False,
    overfit: Annotated[
        int | None,
        typer.Option(
            "--overfit",
            metavar="N",
            min=2,
            help="See whether N clips can be learned by heart: if not, model or data are broken. No run is made.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Train a recogniser. The run's folder holds everything: weights, metrics, a page."""
    from kinema import recipes
    from kinema.config import resolve

    if overfit is not None and (resume is not None or dry_run):
        raise ConfigError(f"--overfit: cannot be used with {'--dry-run' if resume is None else '--resume'}")
    chosen = None
    if resume is not None and recipe is not None and "=" in recipe:  # --resume RUN needs no RECIPE before settings
        from kinema.training.run_folder import Run

        chosen = resolve(Run(resume).recipe().to_dict(), [recipe, *(overrides or [])])
    elif recipe is not None:
        chosen = resolve(recipes.read(recipe), overrides or [])
    elif resume is None:
        raise ConfigError("RECIPE: missing; give a shipped name (see kinema recipes) or a path")
    if (who := outside()) is not None:
        if overfit is not None:
            raise ConfigError(f"--overfit: is done by one process; start it without {who.starter}")
        _train_among_others(chosen, json_file, resume=resume, dry_run=dry_run)
        return
    output = Output(json_file)  # not before: it loads what prints tables, which a wrong key need not wait for
    if overfit is not None:
        assert chosen is not None
        output.finish(_overfit(chosen, overfit, output))
        return
    output.finish(run_recipe(chosen, output, resume=resume, dry_run=dry_run))


def _train_among_others(recipe: Recipe | None, json_file: str | None, *, resume: Path | None, dry_run: bool) -> None:
    """One of several processes that torchrun or srun has started: the first does all of it, the others help it to
    train."""
    from kinema.training.launch import team_of_outside
    from kinema.training.run_folder import Run
    from kinema.training.train import follow

    if recipe is None:
        assert resume is not None
        recipe = Run(resume).recipe()
    with team_of_outside(recipe) as team:
        if team is not None and not team.leads:
            logging.getLogger("kinema").setLevel(logging.WARNING)
            try:
                follow(team)
            except StoppedBySignal as stop:
                raise typer.Exit(128 + stop.signum) from None  # the first one says it
            except UserError:
                raise typer.Exit(2) from None  # what is wrong is wrong in all of them, and said once
            except RuntimeError as error:
                if "gloo" not in str(error):
                    raise
                raise typer.Exit(1) from None  # the first one has gone, and has said why
            return
        output = Output(json_file)
        output.finish(run_recipe(recipe, output, resume=resume, dry_run=dry_run, team=team))


def run_recipe(
    recipe: Recipe | None,
    output: Output,
    *,
    resume: Path | None = None,
    dry_run: bool = False,
    team: Team | None = None,
) -> dict[str, Any]:
    """Train a recipe, or go on with a run; the facts that `--json` gives.

    Args:
        recipe: What to train; None with `resume`.
        output: Where words go.
        resume: A run to go on with.
        dry_run: Only say what would be done.
        team: The processes that torchrun or srun has started.
    """
    from kinema.training.run_folder import Run, check_output, create_run, discard_empty_run

    if resume is not None:
        run = Run(resume)
        recipe = _same(run.recipe(), recipe)
        if run.is_finished and not dry_run:
            output.say(f"{resume} is finished already")
            return _finished(run)
    assert recipe is not None
    if not dry_run and resume is None:
        check_output(recipe)
    from kinema.training.prepare import prepare
    from kinema.training.strategy import spread_of

    spread = spread_of(recipe)
    prepared = prepare(recipe, reporter=output.reporter)
    _introduce(prepared, output)
    if dry_run:
        if spread.num_processes > 1:
            output.say(f"training: {spread}")
        return {**_plan(prepared, spread), "picture": _picture(prepared, output)}
    was_there = recipe.output is not None and recipe.output.exists()
    run = create_run(recipe) if resume is None else Run(resume)
    try:
        with output.log_to(run.folder / "log.txt"):
            output.say(f"run: {run.folder}")
            return _train(prepared, run, output, team)
    finally:
        if resume is None:  # a folder that was there before is not ours to remove
            discard_empty_run(run, keep_folder=was_there)


def _overfit(recipe: Recipe, num_clips: int, output: Output) -> dict[str, Any]:
    from kinema.training.overfit import overfit
    from kinema.training.prepare import prepare

    prepared = prepare(recipe, reporter=output.reporter)
    _introduce(prepared, output)
    found = overfit(prepared, num_clips, reporter=output.reporter)
    classes = ", ".join(f"{num:,} classes of {task}" for task, num in found["classes"].items())
    output.say(
        f"{found['clips']:,} clips of {classes} learned by heart in {found['steps']:,} steps: top-1 100 %; model and "
        "data can be learned"
    )
    return {"overfit": found}


def _train(prepared: Prepared, run: Run, output: Output, team: Team | None) -> dict[str, Any]:
    from kinema.report.page import write_page
    from kinema.training.train import train as fit

    trained = fit(prepared, run, reporter=output.reporter, team=team)
    write_page(run.folder)
    best = trained.best
    output.say(
        f"epoch {best['epoch']} kept; top-1 {percent(best['train_top1'])} on training clips"
        + (f", {percent(best['top1'])} on validation clips" if "top1" in best else "")
    )
    output.say(f"weights: {run.weights}\nreport:  {run.report}")
    if "test" in prepared.dataset.splits:
        output.say(f"next:    kinema evaluate {run.folder}")
    return {"run": str(run.folder), "weights": str(run.weights), "report": str(run.report), "best": dict(best)}


def _finished(run: Run) -> dict[str, Any]:
    from kinema.evaluation.metrics import main_task
    from kinema.models.weights import read_training

    training = read_training(run.weights)
    main = main_task([task for task in training.accuracy if task != JOINT])
    best = {
        "epoch": training.epoch,
        "selected_by": training.selected_by,
        "train_top1": training.accuracy[main],
    }
    metrics = run.evaluations / "validation" / "metrics.json"
    if metrics.is_file():
        record = json.loads(metrics.read_text(encoding="utf-8"))
        headline = record[JOINT] if main == JOINT else record["tasks"][main]
        best |= {"split": "validation", "top1": headline["top1"], "gap": headline["gap"]}
    return {"run": str(run.folder), "weights": str(run.weights), "report": str(run.report), "best": best}


def _same(saved: Recipe, given: Recipe | None) -> Recipe:
    """The saved recipe, if what was given beside `--resume` says the same; over other processes, if it says so."""
    if given is not None:
        spread = {key: getattr(given.trainer, key) for key in _SPREAD}
        saved = saved.model_copy(update={"trainer": saved.trainer.model_copy(update=spread)})
        before, now = saved.to_dict(), given.to_dict()
        difference = _first_difference({**before, "output": None}, {**now, "output": None})
        if difference is not None:
            key, old, new = difference
            raise ConfigError(
                f"{key}: the run was begun with {old!r}, now it is {new!r}; --resume goes on with the same settings. "
                "For other settings start a new run"
            )
    return saved


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Key and both values of the first setting that differs."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else (key, before, now)
    differences = (
        _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        for name in {**before, **now}
    )
    return next((difference for difference in differences if difference is not None), None)


def _introduce(prepared: Prepared, output: Output) -> None:
    total, trainable = prepared.num_parameters
    output.say(f"weights: {prepared.initialisation.summary}")
    output.say(f"model: {prepared.recipe.model.name}, {total:,} parameters, {trainable:,} of them trained")
    for split, clips in prepared.clips.items():
        left_out = len(prepared.skipped[split])
        output.say(f"{split}: {len(clips):,} clips" + (f", {left_out:,} left out" if left_out else ""))


def _picture(prepared: Prepared, output: Output) -> str | None:
    """Where the picture of a training batch is; None where it cannot be had, which is said."""
    from kinema.report.augmented_batch import draw_batch

    path = Path(_PICTURE)
    try:
        path.write_bytes(draw_batch(prepared))
    except (OSError, UserError) as error:
        output.say(f"no picture of a training batch: {error}")
        return None
    output.say(f"picture of a training batch: {path}")
    return str(path)


def _plan(prepared: Prepared, spread: Spread) -> dict[str, Any]:
    total, trainable = prepared.num_parameters
    section = prepared.recipe
    num_clips = len(prepared.clips["train"])
    return {
        "recipe": section.to_dict(),
        "clips": {split: len(clips) for split, clips in prepared.clips.items()},
        "skipped": {split: len(reasons) for split, reasons in prepared.skipped.items()},
        "classes": {task: len(names) for task, names in prepared.dataset.classes.items()},
        "parameters": total,
        "trainable": trainable,
        "steps": section.trainer.epochs * -(-num_clips // section.clips.batch_size),
        "processes": spread.num_processes,
        "strategy": spread.strategy if spread.num_processes > 1 else None,
        "select": prepared.select,
        "fingerprint": {stream: of.fingerprint for stream, of in prepared.preprocessing.items()},
    }
