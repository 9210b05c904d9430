"""`kinema data stats`: what is in a data set, as a page and as numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.data_section import AnnotationsOption, NameArgument, OverridesArgument, RootArgument, data_section
from kinema.data.processes import available_cores
from kinema.types import UserError
from kinema.wording import duration, percent

if TYPE_CHECKING:
    from collections.abc import Mapping


def stats(
    name: NameArgument,
    root: RootArgument,
    overrides: OverridesArgument = None,
    annotations: AnnotationsOption = None,
    page_file: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE.html", help="Where the page goes; by default kinema-data-NAME.html."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Clips, class balance, durations, frame rates, sizes and codecs, as a page with figures and sample frames."""
    output = Output(json_file)
    section = data_section(name, root, overrides, annotations)
    page = check_page(Path(f"kinema-data-{name}.html") if page_file is None else page_file)

    from kinema.data.load_dataset import load_dataset
    from kinema.report.data_page import examine, write_data_page

    dataset = load_dataset(section, seed=0, for_training=False, some_there=False, reporter=output.reporter)
    workers = available_cores()
    record, pictures = examine(dataset, section, workers=workers, reporter=output.reporter)
    write_data_page(page, record, pictures)
    _print(record, output)
    output.say(f"page: {page}")
    output.finish({**record, "page": str(page)})


def check_page(page: Path) -> Path:
    """The place of the page, if it can be written there: known before the work begins.

    Raises:
        UserError: It is a folder, or in a folder that is not there or not writable.
    """
    if page.is_dir():
        raise UserError(f"--page: {page} is a folder; give a file")
    if not page.parent.is_dir():
        raise UserError(f"--page: {page} cannot be written: there is no folder {page.parent}")
    if not os.access(page.parent, os.W_OK):
        raise UserError(f"--page: {page} cannot be written: no permission; give another file with --page")
    return page


def _print(record: Mapping[str, Any], output: Output) -> None:
    for note in record["notes"]:
        output.say(note)
    splits = record["splits"]
    columns = ["num_listed", "num_there", "num_in_quarantine", "num_unreadable", "num_outside_video", "num_usable"]
    head = ["clips", *(key.removeprefix("num_").replace("_", " ") for key in columns), "duration"]
    hours = record["clips"]["hours"]
    output.table(
        head,
        [[split, *(facts[key] for key in columns), duration(3600 * hours[split])] for split, facts in splits.items()],
    )
    rows = []
    for task, of_task in record["tasks"].items():
        for split, facts in of_task.items():
            for which in ("listed", "there"):
                values = facts[which]
                same = facts["listed"]["counts"] == facts["there"]["counts"]
                if not values["num_clips"] or (same and which == "listed"):
                    continue
                rows.append(
                    [
                        task,
                        split,
                        which,
                        values["num_clips"],
                        values["num_classes"] - values["num_classes_without_clips"],
                        f"{values['commonest']} {percent(values['majority_share'])}",
                        f"{values['imbalance_factor']:.3g}",
                        percent(values["head_share"]),
                        percent(values["tail_share"]),
                        values["num_classes_below_10"],
                    ]
                )
    if rows:
        output.table(
            ["task", "split", "", "clips", "classes", "commonest", "imbalance", "head", "tail", "below 10 clips"], rows
        )
