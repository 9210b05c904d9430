"""`kinema compare`: which of several runs is better, and whether these clips show it."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.wording import percent, percent_range

_NUM_CLASSES = 5


class _Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Runs that were evaluated.")],
    split: Annotated[
        _Split | None, typer.Option(help="By default test, or validation where not all were tested.")
    ] = None,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A folder below evaluations/: of the first run, whose like is taken of the others; or once for each.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare runs clip by clip, with a paired test, and say where one is right and the other wrong."""
    from kinema.studies.runs_compared import compare_runs

    output = Output(json_file)
    found = compare_runs(runs, split=split, named=evaluation or ())
    for name, taken in found.evaluations.items():
        output.say(f"{name}: evaluation {taken} ({found.asked[name]})")
    if not found.is_same_list:
        output.say("! these were asked about other lists of clips; compared are the clips that all have")
    output.table(
        ["run", "top-1", "95 % interval"],
        [[name, percent(share), percent_range(found.intervals[name])] for name, share in found.accuracy.items()],
        title=f"{found.split} split, {found.task}: the {found.num_clips:,} clips that all were evaluated on"
        + (f"; {found.num_left_out:,} others are left out" if found.num_left_out else ""),
    )
    output.table(
        ["the best less", "difference", "95 % interval", "p", "corrected", "only the best right", "only this right"],
        [
            [
                name,
                percent(one.test.difference),
                percent_range(one.interval),
                f"{one.test.p:.2g}",
                f"{one.test.p_holm:.2g}",
                f"{len(one.only_best):,}",
                f"{len(one.only_other):,}",
            ]
            for name, one in found.differences.items()
        ],
        title=f"the best: {found.best}; exact McNemar tests, corrected by Holm's method",
    )
    for name, one in found.differences.items():
        changed = [(label, value) for label, value in one.classes.items() if value][:_NUM_CLASSES]
        if changed:
            said = ", ".join(f"{label} {value:+.1%}".replace("%", " %") for label, value in changed)
            output.say(f"{found.best} less {name}, by class: {said}")
    output.finish(asdict(found))
