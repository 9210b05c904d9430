"""`kinema evaluate`: numbers of a trained recogniser, with what they have to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import JOINT
from kinema.wording import percent, percent_range


class _Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


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
    json_file: JsonOption = None,
) -> None:
    """Evaluate a recogniser, with chance, majority baseline and the gap to its training clips beside it."""
    output = Output(json_file)
    output.finish(run_evaluation(weights, overrides or [], output, split=split))


def run_evaluation(path: Path, overrides: list[str], output: Output, *, split: str | None = None) -> dict[str, Any]:
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
    )
    record = dict(evaluation.record)
    _print(record, output)
    if run is not None:
        folder = run.new_evaluation(record["split"])
        save_evaluation(folder, record, evaluation.predictions)
        write_page(run.folder)
        record |= {"folder": str(folder), "report": str(run.report)}
        output.say(f"kept in {folder}; report: {run.report}")
    return record


def _print(record: Mapping[str, Any], output: Output) -> None:
    from kinema.evaluation.frequency import GROUPS
    from kinema.evaluation.subsets import SUBSETS

    rows = dict(record["tasks"])
    if JOINT in record:
        rows[JOINT] = record[JOINT]
    columns = ["top3", "top5", "mean_class", "chance", "majority", "train_top1", "gap"]
    titles = ["top-1", "95 % interval", "top-3", "top-5", "mean class", "chance", "majority", "training clips", "gap"]
    output.table(
        ["task", *titles],
        [
            [
                task,
                percent(values.get("top1")),
                percent_range(values["interval"]),
                *(percent(values.get(column)) for column in columns),
            ]
            for task, values in rows.items()
        ],
        title=f"{record['split']} split: {record['num_clips']:,} clips, {record['num_skipped']:,} skipped",
    )
    for task, values in rows.items():
        if values["above_majority"] is not None and values["above_majority"][0] <= 0:
            output.say(
                f"{task}: these clips do not show that it is better than always answering the commonest class "
                f"(the difference may be {percent_range(values['above_majority'])})"
            )
    others = ["precision_macro", "recall_macro", "f1_macro", "f1_weighted", "average_precision", "auroc"]
    output.table(
        ["task", "precision", "recall", "F1", "F1, by clips", "mean AP", "AUROC", "calibration error", "as predicted"],
        [
            [
                task,
                *(percent(values[name]) for name in others),
                *_calibration_errors(values["calibration"], fitted_here=record["temperature_fitted_here"]),
            ]
            for task, values in record["tasks"].items()
        ],
        title="means over classes that have clips (F1 also by clips), and calibration",
    )
    if record["gap_unknown"]:
        output.say(f"accuracy on training clips, and the gap to it, are unknown: {record['gap_unknown']}")
    by_frequency = [[task, *_groups(values)] for task, values in rows.items() if "frequency" in values]
    if by_frequency:
        output.table(
            ["task", *GROUPS],
            by_frequency,
            title="mean class accuracy, by how many training clips a class has",
        )
    if "subsets" in record:
        parts = [(name, task, values) for name, tasks in record["subsets"].items() for task, values in tasks.items()]
        output.table(
            ["clips", "task", "top-1", "number"],
            [[SUBSETS[name], task, percent(of["top1"]), f"{of['num_clips']:,}"] for name, task, of in parts],
            title="clips that this data set asks to be looked at apart",
        )
    if "pairs" in record:
        output.say(
            f"within pairs that show the same frames in opposite order: {percent(record['pairs'])} (chance 50 %)"
        )


def _calibration_errors(values: Mapping[str, Any], *, fitted_here: bool) -> tuple[str, str]:
    """Before and after the temperature of the weights."""
    after = percent(values["after"]["ece"]) if "after" in values else "-"
    return percent(values["ece"]), f"{after} (fitted on these)" if fitted_here else after


def _groups(values: Mapping[str, Any]) -> list[str]:
    said = []
    for group, facts in values["frequency"].items():
        few, many = facts["fewest_training_clips"], facts["most_training_clips"]
        clips = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        share = percent(values[group])
        said.append(f"{share} ({facts['num_classes']:,} with {clips})" if facts["num_classes"] else share)
    return said
