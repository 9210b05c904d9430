"""`kinema evaluate`: numbers of a trained recogniser, with what they have to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.evaluation_tables import print_evaluation
from kinema.types import ConfigError


class _Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


class _Average(StrEnum):
    probabilities = "probabilities"
    logits = "logits"
    vote = "vote"


def evaluate(
    weights: Annotated[Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run, or a weights folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[section.key=value]...",
            help="Other data: data.*; how it is read: clips.batch_size, workers, decoder, store.",
        ),
    ] = None,
    split: Annotated[
        _Split | None, typer.Option(help="By default test, or validation where there is no test split.")
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A CSV file of other clips, as data.name=table reads it."),
    ] = None,
    views: Annotated[
        str, typer.Option(metavar="CLIPSxCROPS", help="Looks at each clip, of which one answer is made.")
    ] = "1x1",
    flip: Annotated[bool, typer.Option("--flip", help="Each look also mirrored.")] = False,
    average: Annotated[_Average, typer.Option(help="What one answer is made of.")] = _Average.probabilities,
    top_k: Annotated[str, typer.Option(metavar="K,K...", help="Numbers of best answers that count.")] = "1,3,5",
    time_test: Annotated[
        bool,
        typer.Option("--time-test", help="Also with frames reversed, shuffled and one repeated: what that costs."),
    ] = False,
    unknown: Annotated[
        Path | None,
        typer.Option(metavar="FILE|FOLDER", help="Clips of none of the classes: whether they are told apart."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Evaluate a recogniser, with chance, majority baseline and the gap to its training clips beside it."""
    from kinema.data.views import Views
    from kinema.evaluation.frame_orders import FRAME_ORDERS

    output = Output(json_file)
    settings: dict[str, Any] = {
        "views": Views.parse(views, flip=flip),
        "average": average.value,
        "ks": _numbers(top_k),
        "orders": FRAME_ORDERS if time_test else (),
        "unknown": unknown,
        "clips": clips,
    }
    output.finish(run_evaluation(weights, overrides or [], output, split=split, settings=settings))


def _numbers(text: str) -> list[int]:
    """
    Raises:
        ConfigError: It is no list of numbers of classes.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--top-k: {text!r} is not numbers from 1 with commas between them, such as 1,5")
    return [int(part) for part in parts]


def run_evaluation(
    path: Path,
    overrides: list[str],
    output: Output,
    *,
    split: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate, print, and keep the result in the run; the facts that `--json` gives."""
    from kinema.evaluation.evaluate import evaluate as compute
    from kinema.evaluation.results import save_evaluation
    from kinema.models.weights import weights_folder
    from kinema.report.page import write_page
    from kinema.training.run_folder import Run

    run = Run(path) if (path / "config.yaml").is_file() else None
    recipe = run.recipe() if run is not None else None
    evaluation = compute(
        weights_folder(path),
        overrides,
        split=split,  # type: ignore[arg-type]
        defaults={"workers": recipe.clips.workers, "batch_size": recipe.clips.batch_size} if recipe else {},
        reporter=output.reporter,
        **(settings or {}),
    )
    record = dict(evaluation.record)
    print_evaluation(record, output)
    if run is not None:
        folder = run.new_evaluation(record)
        save_evaluation(folder, record, evaluation.predictions)
        write_page(run.folder)
        evaluation.forget()
        record |= {"folder": str(folder), "report": str(run.report)}
        output.say(f"kept in {folder}; report: {run.report}")
    return record
