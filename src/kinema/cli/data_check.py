"""`kinema data check`: which files of a data set are there, which decode, and what else is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.data_check_store import check_store, store_folder
from kinema.cli.data_section import AnnotationsOption, OverridesArgument, data_section
from kinema.data.processes import available_cores
from kinema.types import DataError, UserError

if TYPE_CHECKING:
    from kinema.data.checking import Checked
    from kinema.data.quarantine import Entry, Update
    from kinema.sections import DataSection
    from kinema.types import Dataset

_SHOWN = 3
"""Findings of a kind that are named in the table; all of them are in the JSON."""

_MEANING = {
    "absent": ("clips listed whose file is not there", "clips without a file are left out and counted"),
    "empty": ("files of 0 bytes", "download files of 0 bytes again"),
    "unreadable": ("files that do not decode", "download unreadable files again, or do without them"),
    "damaged": ("files that are damaged in places", "what decodes of damaged files is used; see whether it is enough"),
    "times_outside": (
        "clips whose times lie outside their video",
        "mend times that lie outside their video: training and evaluation stop there, or with published lists leave "
        "these clips out",
    ),
    "too_short": ("clips with too few frames", "clips with too few frames show the same frame over and over"),
    "without_flow": (
        "clips whose stored optical flow is not all there",
        "clips without flow are left out where clips.motion.method=stored reads it, and there alone",
    ),
    "copies_across_splits": (
        "files with the same content in different splits",
        "results on clips that are in two splits are better than on new data: take copies out of one of them",
    ),
    "copies_within_splits": (
        "files with the same content in one split",
        "copies in one split count as often as they are there",
    ),
    "groups_across_splits": (
        "groups with clips in more than one split",
        "results on groups that are in two splits are better than on new data",
    ),
    "videos_across_splits": (
        "videos with clips in more than one split",
        "results on videos that are in two splits are better than on new data",
    ),
    "classes_without_training_clips": (
        "classes without a training clip",
        "classes without a training clip cannot be learnt; they stay in the class list",
    ),
}
"""Kind of finding -> what is counted, and what to do or to know about it."""


def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A data set: see kinema datasets. Or the folder of a store, alone.")
    ],
    root: Annotated[Path | None, typer.Argument(metavar="ROOT", help="Its folder (or annotation file).")] = None,
    overrides: OverridesArgument = None,
    annotations: AnnotationsOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode all frames of every video, not only its first and last.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Processes to use. By default one for each core.")
    ] = None,
    min_frames: Annotated[int, typer.Option(min=1, metavar="N", help="Clips with fewer frames are too short.")] = 2,
    quarantine: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the list of unusable files is; by default in ROOT."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where anything was found.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Look at every file of a data set, say what is wrong, and list the files that training has to leave out. A second
    check does only what is new or has changed. Of a store, compare all checksums."""
    if root is None:
        folder = store_folder(name)
        given = {"--deep": deep, "--strict": strict, "--min-frames": min_frames != 2, "--quarantine": quarantine}
        for option in (option for option, value in given.items() if value):
            raise UserError(f"{option}: of a store all checksums are compared; it is for data sets")
        check_store(folder, Output(json_file))
        return
    section = data_section(name, root, overrides, annotations)
    output = Output(json_file)
    from kinema.data.checking import check_videos
    from kinema.data.findings import findings
    from kinema.data.load_dataset import load_dataset
    from kinema.data.probing import frame_rates
    from kinema.data.quarantine import updated

    file, before = _quarantine(section, quarantine)
    dataset = load_dataset(
        section.model_copy(update={"quarantine": file if file.is_file() else None}),
        seed=0,
        for_training=False,
        some_there=False,
        reporter=output.reporter,
    )
    for note in dataset.notes:
        output.say(note)
    clips = [clip for clips in dataset.splits.values() for clip in clips]
    checked = check_videos(
        (clip.video for clip in clips),
        fps=frame_rates(clips),
        deep=deep,
        workers=available_cores() if workers is None else workers,
        root=dataset.root,
        reporter=output.reporter,
    )
    found = findings(dataset, checked, min_frames=min_frames)
    # What may be the machine's fault says nothing about a file.
    reasons = {path: result.error for path, result in checked.items() if not result.passing}
    update = updated(before, reasons, section.root or root)
    record = {
        "data": section.model_dump(mode="json"),
        "deep": deep,
        "min_frames": min_frames,
        **_counts(dataset, checked),
        "findings": found,
        "quarantine": {
            "file": str(file),
            "entries": len(update.entries),
            "added": update.num_added,
            "removed": update.num_removed,
        },
    }
    _print(record, output)
    try:
        _keep(file, before, update, output)
    finally:  # a folder that cannot be written does not cost what was found
        output.finish(record)
    if strict and any(found.values()):
        raise typer.Exit(1)


def _quarantine(section: DataSection, given: Path | None) -> tuple[Path, list[Entry]]:
    """The list of unusable files, and what is in it already."""
    from kinema.data.quarantine import default_file, read_entries

    assert section.root is not None
    file = given.expanduser().absolute() if given is not None else section.quarantine or default_file(section.root)
    if given is not None and (file.is_dir() or not file.parent.is_dir()):
        problem = "is a folder; give a file" if file.is_dir() else f"there is no folder {file.parent}"
        raise UserError(f"--quarantine: {given}: {problem}")
    return file, read_entries(file) if file.is_file() else []


def _counts(dataset: Dataset, checked: Mapping[Path, Checked]) -> dict[str, Any]:
    splits = {}
    for split, num_listed in dataset.num_listed.items():
        clips = dataset.splits.get(split, ())
        splits[split] = {
            "listed": num_listed,
            "present": len(clips),
            "readable": sum(checked[clip.video].error is None for clip in clips),
            "unlabelled": sum(not clip.labels for clip in clips),
            "files": len({clip.video for clip in clips}),
        }
    num_new = sum(result.fresh for result in checked.values())
    videos = [result.video for result in checked.values() if result.video is not None]
    num_slow = sum(not video.is_images and video.packets is None for video in videos)
    return {
        "splits": splits,
        "files": {"checked": len(checked), "new": num_new},
        "without_packet_index": num_slow,
    }


def _print(record: Mapping[str, Any], output: Output) -> None:
    splits, files, found = record["splits"], record["files"], record["findings"]
    columns = ["listed", "present", "readable", "files"]
    if any(counts["unlabelled"] for counts in splits.values()):
        columns.append("unlabelled")
    output.table(
        ["split", *(name if name == "files" else f"clips {name}" for name in columns)],
        [[split, *(counts[name] for name in columns)] for split, counts in splits.items()],
    )
    again = files["checked"] - files["new"]
    output.say(f"{files['checked']:,} files, {again:,} of them as they were when they were checked before")
    if record["without_packet_index"]:
        output.say(
            f"{record['without_packet_index']:,} videos are read from their beginning, as their packets leave a doubt; "
            "KINEMA_LOG=debug says why, when they are looked at"
        )
    root = str(record["data"]["root"])
    rows = [[_MEANING[kind][0], len(items), _such_as(items, root)] for kind, items in found.items() if items]
    if not rows:
        output.say("nothing is wrong")
        return
    output.table(["found", "number", "such as"], rows)
    for kind, items in found.items():
        if items:
            output.say(f"- {_MEANING[kind][1]}")


def _such_as(items: list[dict[str, Any]], root: str) -> str:
    return "\n".join(_name(item) for item in items[:_SHOWN]).replace(f"{root}{os.sep}", "")


def _name(item: Mapping[str, Any]) -> str:
    if "reason" in item:
        return str(item["reason"] if "clip_id" in item else f"{item['video']}: {item['reason']}")
    if "videos" in item:
        return " = ".join(item["videos"])
    return next(str(item[key]) for key in ("clip_id", "video", "group", "class") if key in item)


def _keep(file: Path, before: list[Entry], update: Update, output: Output) -> None:
    """Write the list of unusable files where there is something new to write.

    Raises:
        DataError: It cannot be written.
    """
    from kinema.data.quarantine import write_entries

    if list(update.entries) != before:
        try:
            write_entries(file, update.entries)
        except OSError as error:
            raise DataError(
                f"{file}: the list of unusable files cannot be written: {error.strerror}; "
                "say where with --quarantine FILE, and train with data.quarantine=FILE"
            ) from None
    if update.entries or before:
        changes = f"{update.num_added} new, {update.num_removed} taken away"
        output.say(f"quarantine: {file}: {len(update.entries)} files ({changes}); training does not use them")
