"""`kinema threshold`: from which score on a recogniser answers, and below it says that it sees nothing it knows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.wording import percent


class _Method(StrEnum):
    max_probability = "max_probability"
    energy = "energy"
    background = "background"


def threshold(
    weights: Annotated[Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run, or a weights folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="As for kinema evaluate."),
    ] = None,
    method: Annotated[
        _Method | None,
        typer.Option(help="Which score; by default background where there is such a class, else max_probability."),
    ] = None,
    recall: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Share of validation clips of known classes that is to be answered."),
    ] = 0.95,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="A class that stands for nothing; one made by data.background is known.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Fit the score below which a clip is rejected, on the validation split, and keep it with the weights: kinema
    predict then says of such clips that they show nothing of the classes."""
    from kinema.evaluation.fit_rejection import fit_rejection
    from kinema.models.weights import weights_folder

    output = Output(json_file)
    folder = weights_folder(weights)
    found = fit_rejection(
        folder,
        overrides or [],
        method=None if method is None else method.value,
        recall=recall,
        background=background,
        reporter=output.reporter,
    )
    output.say(
        f"{found.method} of at least {found.threshold:.4g}: {percent(found.recall)} of {len(found.clip_ids):,} "
        f"{found.split} clips are answered; kept in {folder / 'rejection.json'}"
    )
    output.finish(
        {"method": found.method, "threshold": found.threshold, "recall": found.recall, "clips": len(found.clip_ids)}
    )
