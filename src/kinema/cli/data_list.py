"""`kinema data list`: the clips of a data set, one a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.data_section import (
    AnnotationsOption,
    NameArgument,
    OverridesArgument,
    RootArgument,
    SplitName,
    data_section,
)
from kinema.cli.memory import no_garbage
from kinema.types import ConfigError

if TYPE_CHECKING:
    from kinema.sections import DataSection
    from kinema.types import Clip, Dataset, Split


def list_clips(
    name: NameArgument,
    root: RootArgument,
    overrides: OverridesArgument = None,
    annotations: AnnotationsOption = None,
    split: Annotated[SplitName | None, typer.Option(help="Only the clips of this split.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also clips whose file is not there, and a column that says which are.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """List the clips of a data set, one a row: on standard output with tabs between columns, or as JSON."""
    section = data_section(name, root, overrides, annotations)
    output = Output(json_file, words_aside=True)
    with no_garbage():
        _list(section, split, everything, output)


def _list(section: DataSection, split: SplitName | None, everything: bool, output: Output) -> None:
    from kinema.data.load_dataset import load_dataset

    dataset = load_dataset(section, seed=0, for_training=False, some_there=not everything, reporter=output.reporter)
    listed = dataset.num_listed if everything else {known: len(clips) for known, clips in dataset.splits.items()}
    if split is not None and split.value not in listed:
        has = ", ".join(listed) or "no clips"
        raise ConfigError(f"--split: {section.root} has no {split.value} split; it has {has}")
    chosen: list[Split] = [known for known in listed if split in (None, known)]
    for note in dataset.notes:
        output.say(note)
    records = _records(dataset, chosen, everything=everything)
    if output.json_file is None:
        output.lines(*_rows(dataset, list(records)))
    num_clips = sum(listed[known] for known in chosen)
    output.say(f"{num_clips:,} clips: " + ", ".join(f"{known} {listed[known]:,}" for known in chosen))
    output.finish_rows(records)


def _records(dataset: Dataset, splits: list[Split], *, everything: bool) -> Iterator[dict[str, Any]]:
    for split in splits:
        for clip in dataset.splits.get(split, ()):
            yield _record(dataset, split, clip) | ({"present": True} if everything else {})
        if everything:
            for clip in dataset.absent.get(split, ()):
                yield _record(dataset, split, clip) | {"present": False}


def _record(dataset: Dataset, split: Split, clip: Clip) -> dict[str, Any]:
    record: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "split": split,
        "labels": {task: dataset.classes[task][index] for task, index in clip.labels.items()},
        "start_s": clip.start_s,
        "stop_s": clip.stop_s,
        "group": clip.group,
        "video": str(clip.video),
    }
    if clip.fps is not None:
        record["fps"] = clip.fps
    if clip.attributes:
        record["attributes"] = dict(clip.attributes)
    if clip.video in dataset.quarantine:
        record["quarantine"] = dataset.quarantine[clip.video]
    return record


def _rows(dataset: Dataset, records: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The records as text. Columns in which no clip has anything are left out."""
    tasks = list(dataset.classes)
    attributes = list(dict.fromkeys(name for record in records for name in record.get("attributes", ())))
    optional = ("start_s", "stop_s", "group", "fps", "quarantine")
    plain = [name for name in optional if any(record.get(name) not in (None, 0.0) for record in records)]
    plain += ["video", *(["present"] if records and "present" in records[0] else [])]
    rows = [
        [
            record["clip_id"],
            record["split"],
            *(record["labels"].get(task, "") for task in tasks),
            *(_cell(record.get(name)) for name in plain),
            *(record.get("attributes", {}).get(name, "") for name in attributes),
        ]
        for record in records
    ]
    return ["clip_id", "split", *tasks, *plain, *attributes], rows


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else str(value)
