"""`kinema study`: recipes compared, run by run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import ConfigError, StoppedBySignal
from kinema.wording import byte_size, percent

if TYPE_CHECKING:
    from kinema.studies.jobs import Job
    from kinema.studies.outcomes import Outcomes, Row
    from kinema.studies.study import Study

app = typer.Typer(
    help="Studies: recipes compared over settings, seeds and folds.", no_args_is_help=True, rich_markup_mode=None
)

File = Annotated[str, typer.Argument(metavar="FILE|NAME", help="A study's file, or a shipped name (kinema studies).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Settings of every run, before all that the file says."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="The study's folder; by default runs/studies/NAME.")
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Runs at once, each in a process of its own.")]


@app.command("run")
def run(
    file: File,
    overrides: Overrides = None,
    jobs: Jobs = 1,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="RUN", help="Do this run alone; may be given several times.")
    ] = None,
    out: Out = None,
    json_file: JsonOption = None,
) -> None:
    """Do the runs that are not done yet. What was interrupted goes on where it was; a run that fails stops no other."""
    from kinema.studies.study import read_study

    study = read_study(file, overrides or [], output=out)
    if study.file.space:
        raise ConfigError(f"{study.path}: has a space to search; use kinema sweep {file}")
    output = Output(json_file)
    wanted = study.chosen(only) if only else [setting.name for setting in study.settings]
    record = run_study(study, output, overrides or [], wanted, num=jobs, again=f"kinema study run {file}")
    output.finish(record)
    if any(row["failures"] for row in record["rows"]):
        raise typer.Exit(1)


def run_study(
    study: Study, output: Output, overrides: list[str], wanted: list[str], *, num: int, again: str
) -> dict[str, Any]:
    """Do the runs of those settings of a study, print its table, and write its page; the facts that `--json` gives."""
    from kinema.studies.jobs import Place, jobs_of, write_study
    from kinema.studies.running import open_jobs, run_in_processes

    every = jobs_of(study, build=wanted, reporter=output.reporter)
    place = Place(study.folder)
    chosen = [job for job in every if job.setting in wanted]
    todo = open_jobs(chosen, place)
    some = "" if len(chosen) == len(every) else f", {len(chosen)} of them wanted"
    output.say(f"study: {study.folder}; {len(every)} runs{some}, {len(todo)} of them to be done")
    write_study(study.folder, study, overrides)
    if todo:
        try:
            run_in_processes(chosen, place, num=num, reporter=output.reporter, say=output.say)
        except BaseException:
            output.say(f"go on with: {again}")
            raise
    return show_outcomes(study, every, output)


@app.command("show")
def show(file: File, overrides: Overrides = None, out: Out = None, json_file: JsonOption = None) -> None:
    """Print the table of a study: all of it that is done."""
    study, jobs = _there(file, overrides or [], out)
    output = Output(json_file)
    output.finish(show_outcomes(study, jobs, output, write=False))


@app.command("report")
def report(file: File, overrides: Overrides = None, out: Out = None, json_file: JsonOption = None) -> None:
    """Write the page of a study: all of it that is done."""
    from kinema.studies.outcomes import outcomes_of
    from kinema.studies.page import write_study_page

    study, jobs = _there(file, overrides or [], out)
    output = Output(json_file)
    found = outcomes_of(study, jobs)
    page = write_study_page(found)
    output.say(f"report: {page}")
    output.finish({**found.facts(), "report": page})


@app.command("work", hidden=True)
def work(folder: Path, own: Path, trials: Annotated[int | None, typer.Option("--trials")] = None) -> None:
    """Do runs of the study in a folder, by the plan in another; started by `kinema study run` and `kinema sweep`."""
    from kinema.studies.running import end_with_input, read_plan
    from kinema.studies.running import work as do_work
    from kinema.studies.study import read_study
    from kinema.studies.sweep import search_on

    Output(None)
    end_with_input()
    try:
        plan = read_plan(own)
        if trials is None:
            do_work(folder, plan)
        else:
            search_on(read_study(plan["file"], plan["overrides"], output=folder), num_trials=trials)
    except StoppedBySignal as stop:
        raise typer.Exit(128 + stop.signum) from None


def _there(file: str, overrides: list[str], out: Path | None) -> tuple[Study, list[Job]]:
    """A study with what it was last run with, where nothing else is said."""
    from kinema.studies.jobs import jobs_of, read_overrides
    from kinema.studies.study import read_study

    study = read_study(file, overrides, output=out)
    if study.file.space:
        raise ConfigError(
            f"{study.path}: has a space to search; kinema sweep {file} shows what was tried, and {study.folder} has "
            "its page (report.html)"
        )
    if not (study.folder / "study.json").is_file():
        raise ConfigError(f"{study.folder}: nothing of this study is there; begin with kinema study run {file}")
    if not overrides:
        study = read_study(file, read_overrides(study.folder), output=out)
    return study, jobs_of(study)


def show_outcomes(study: Study, jobs: list[Job], output: Output, *, write: bool = True) -> dict[str, Any]:
    """Print what is there of a study; the facts that `--json` gives."""
    from kinema.studies.beside_source import beside_source
    from kinema.studies.outcomes import outcomes_of
    from kinema.studies.page import write_study_page

    found = outcomes_of(study, jobs)
    source = study.file.source
    columns = ["run", "done", *(name for name, _ in _COLUMNS), found.measured_on, "gap", "chance", "majority", "p"]
    groups = list(dict.fromkeys(group for row in found.rows for group in row.groups))
    columns += groups
    rows = []
    for row in found.rows:
        of_groups = [percent(row.groups[group].mean) if group in row.groups else "-" for group in groups]
        rows.append([*_cells(row, found), *of_groups])
    output.table(columns, rows, title=study.file.name, wide=True)
    if source is not None:
        output.table(*beside_source(found), title=f"beside {source.title}", wide=True)
    for line in _notes(found):
        output.say(line)
    record = found.facts()
    if write:
        page = write_study_page(found)
        output.say(f"report: {page}")
        record["report"] = page
    return record


_COLUMNS = (
    ("parameters", "parameters"),
    ("trained", "trainable"),
    ("GFLOPs", "gflops"),
    ("clips/s", "clips_per_s"),
    ("memory", "memory_bytes"),
)


def _cells(row: Row, found: Outcomes) -> list[str]:
    costs = []
    for _, key in _COLUMNS:
        value = row.cost(key)
        costs.append(byte_size(value) if value and key == "memory_bytes" else _number(value))
    train = "" if row.train is None else f" (training {percent(row.train.mean)})"
    score = "-" if row.score is None else percent(row.score.mean)
    spreads = ((row.score, "seeds"), (row.between_folds, "folds"))
    known = [f"± {100 * s.std:.1f} between {of}" for s, of in spreads if s is not None and s.std is not None]
    spread = " " + ", ".join(known) if known else ""
    comparison = found.comparisons.get(row.name)
    p = "best" if row is found.best else "" if comparison is None else f"{comparison.p_holm:.2g}"
    failed = f", {len(row.failures)} failed" if row.failures else ""
    return [
        row.name,
        f"{len(row.outcomes)}/{row.num_runs}{failed}",
        *costs,
        f"{score}{spread}{train}",
        percent(row.gap),
        percent(row.chance),
        percent(row.majority),
        p,
    ]


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _notes(found: Outcomes) -> list[str]:
    from kinema.studies.beside_source import NOTE, below_majority

    lines = [f"{run}: failed: {why}" for row in found.rows for run, why in row.failures.items()]
    if found.comparisons:
        tests = " and ".join(sorted({comparison.test for comparison in found.comparisons.values()}))
        lines.append(f"p: the best beside each other setting, {tests} over clips, corrected by Holm's method")
    if found.measured_on == "test":
        lines.append("measured on the test split: choose none of these settings by it")
    lines += [
        f"{row.name}, {task}: {percent(top1)} is not better than always answering the commonest training class "
        f"({percent(majority)})"
        for row in found.rows
        for task, top1, majority in below_majority(row)
    ]
    source = found.study.file.source
    if source is not None:
        lines += [NOTE, *source.notes]
    return lines
