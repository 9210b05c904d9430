"""`kinema sweep`: settings searched on the validation split."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.study import File, Jobs, Out, Overrides
from kinema.wording import percent


def sweep(
    file: File,
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Settings to try, with those tried before; else as the file says."),
    ] = None,
    jobs: Jobs = 1,
    out: Out = None,
    json_file: JsonOption = None,
) -> None:
    """Search the space of a study with Optuna: TPE proposes settings, those that lag behind are given up early. What
    was interrupted goes on where it was; more trials add to those of before."""
    from kinema.studies.jobs import Place, study_facts, write_study
    from kinema.studies.running import watched
    from kinema.studies.study import read_study
    from kinema.studies.sweep import check_sweep, open_storage, take_up, trials_of
    from kinema.studies.sweep_watch import SweepWatch

    study = read_study(file, overrides or [], output=out)
    output = Output(json_file)
    check_sweep(study, reporter=output.reporter)
    num = trials or study.file.trials
    search = open_storage(study, create=True)
    take_up(study, search)
    open_ = num - sum(trial.state != "waiting" for trial in trials_of(search))
    waiting = sum(trial.state == "waiting" for trial in trials_of(search))
    output.say(f"sweep: {study.folder}; {num} trials, {max(open_, waiting)} of them to be done")
    write_study(study.folder, study, overrides or [])
    if open_ > 0 or waiting:
        plan = study_facts(study, overrides or [])
        try:
            with output.reporter.track("trials", total=num, unit="trials", done=num - max(open_, waiting)) as task:
                watch = SweepWatch(study, search, task, output.say)
                how_many = min(jobs, max(open_, waiting))
                watched(Place(study.folder), watch, plan, ["--trials", str(num)], num=how_many)
        except BaseException:
            output.say(f"go on with: kinema sweep {file}")
            raise
    output.finish(_show(study, search, output))


def _show(study: Any, search: Any, output: Output) -> dict[str, Any]:
    from kinema.studies.sweep import best_of, importances, trials_of
    from kinema.studies.sweep_page import write_sweep_page

    trials, shares = trials_of(search), importances(search)
    best = best_of(trials)
    ordered = sorted(trials, key=lambda trial: -(trial.value or 0.0) if trial.state == "complete" else 1.0)
    rows = [
        [str(trial.number), trial.state, percent(trial.value), str(trial.epochs), " ".join(trial.overrides)]
        for trial in ordered[:20]
    ]
    output.table(["trial", "state", "validation", "epochs", "settings"], rows, title=study.file.name)
    for key, share in shares.items():
        output.say(f"importance of {key}: {percent(share)}")
    if best is not None:
        output.say(
            f"best: trial {best.number}, {percent(best.value)} on validation clips, the highest of {len(trials)} and "
            f"so more than new clips will give\n  {' '.join(best.overrides)}"
        )
    page = write_sweep_page(study, trials, shares)
    output.say(f"report: {page}")
    return {
        "name": study.file.name,
        "folder": str(study.folder),
        "best": None if best is None else asdict(best),
        "importances": shares,
        "trials": [asdict(trial) for trial in trials],
        "report": page,
    }
