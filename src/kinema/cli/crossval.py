"""`kinema crossval`: how well a recipe does on groups of clips that it was not trained on, each held out once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import ConfigError, StoppedBySignal
from kinema.wording import percent


def crossval(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name (kinema recipes) or a path.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[by=COLUMN] [k=n] [section.key=value]...",
            help="by: a column of the annotations, several ([a, b]), or group, the default. k: so many parts; without "
            "it each group is held out alone.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="0,1,2", help="Random seeds.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at once; 1: in this process.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Where the runs are kept; by default in runs/crossval."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Train a recipe once for every group of clips, and measure it on the group that was held out. Nothing is selected
    on it. What was interrupted goes on where it was; what is done is not done again."""
    from kinema.studies.crossval import crossval_study, summary
    from kinema.studies.jobs import Place, jobs_of, write_study
    from kinema.studies.outcomes import outcomes_of
    from kinema.studies.page import write_study_page
    from kinema.studies.running import open_jobs, run_here, run_in_processes

    study = crossval_study(recipe, arguments or [], seeds=None if seeds is None else _seeds(seeds), output=out)
    output = Output(json_file)
    every = jobs_of(study, build=[setting.name for setting in study.settings], reporter=output.reporter)
    todo = open_jobs(every, Place(study.folder))
    output.say(f"cross-validation: {study.folder}; {len(every)} runs, {len(todo)} of them to be done")
    write_study(study.folder, study, arguments or [])
    if todo and jobs == 1:
        output.only_warnings()
        try:
            run_here(every, Place(study.folder), reporter=output.reporter)
        except StoppedBySignal as stop:
            output.say("stopped; the same command goes on from here")
            raise typer.Exit(128 + stop.signum) from None
    elif todo:
        run_in_processes(every, Place(study.folder), num=jobs, reporter=output.reporter, say=output.say)
    outcomes = outcomes_of(study, every)
    record = summary(outcomes)
    _print(record, output)
    if record["done"]:
        page = write_study_page(outcomes)
        output.say(f"report: {page}")
        record["report"] = page
    output.finish(record)
    if record["failures"]:
        raise typer.Exit(1)


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds: expected whole numbers with commas between them, got {text!r}") from None


def _print(record: dict[str, Any], output: Output) -> None:
    rows = [
        [fold["fold"], str(fold["num_clips"]), *(percent(fold[key]) for key in ("top1", "majority", "train_top1"))]
        for fold in record["folds"]
    ]
    output.table(["held out", "clips", "top-1", "majority", "training clips"], rows)
    for seed in record["seeds"]:
        output.say(
            f"seed {seed['seed']}: {percent(seed['top1_mean'])} over folds, {percent(seed['pooled_top1'])} of all clips"
        )
    for run, why in record["failures"].items():
        output.say(f"{run}: failed: {why}")
    if record["top1_mean"] is not None:
        between = "" if record["top1_std"] is None else f" ± {100 * record['top1_std']:.1f} between folds"
        seeds = "" if record["seeds_std"] is None else f", ± {100 * record['seeds_std']:.1f} between seeds"
        output.say(
            f"top-1 {percent(record['top1_mean'])}{between}{seeds}; of all {record['num_clips']} held-out clips "
            f"together {percent(record['pooled_top1'])}; chance {percent(record['chance'])}, "
            f"majority {percent(record['majority'])}; training clips {percent(record['train_top1'])}, "
            f"gap {percent(record['gap'])}"
        )
