"""`kinema timeline`: what happens when in a long video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import DataError, Heads
from kinema.wording import clock, duration, percent

if TYPE_CHECKING:
    from kinema.evaluation.segment_list import TrueSegment
    from kinema.inference.kept_answers import KeptAnswers
    from kinema.inference.live_settings import LiveSection
    from kinema.inference.long_video import LongVideo
    from kinema.inference.timeline import Found

_ANSWERS, _LOCK = "answers.bin", ".lock"


def timeline(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A weights folder, or a run.")],
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file of any length.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="How answers become actions: slow_s=2, enter=0.6, ..."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the timeline goes; by default VIDEO's name-timeline.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV of what happens (start_s, stop_s, label): how much of it is found."),
    ] = None,
    settings: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML of the same keys.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Find the actions in a long video: a table, JSON, subtitles, and a page that plays it. What was stopped goes on
    with the same command; other thresholds make other actions of the same answers at once."""
    from kinema.inference.live_settings import live_settings
    from kinema.inference.long_video import LongVideo
    from kinema.inference.timeline import answers_of, found, offline
    from kinema.inference.timeline_files import write_files
    from kinema.models.weights import classes_of_nothing, read_config, read_rejection, read_training, weights_folder
    from kinema.report.timeline_page import write_timeline_page

    output = Output(json_file)
    live = offline(live_settings(overrides or [], settings))
    folder = weights_folder(weights)
    config = read_config(folder)
    rejection = read_rejection(folder)
    background = classes_of_nothing(config, read_training(folder), rejection)
    heads = _heads_of_actions(config.heads, background)
    true = None if truth is None else _truth(truth, config.heads, background)
    target = out if out is not None else Path(f"{video.stem}-timeline")
    opened = LongVideo(video)
    of = answers_of(folder, config, live, video, rejection)
    kept = _watched(target, opened, weights, live, of, output)
    result = found(kept, config, live, rejection=rejection, background=background)
    record = _record(result, video=video, weights=weights, of=of, settings=live)
    if true is not None:
        from kinema.evaluation.segments import timeline_scores

        record["scores"] = timeline_scores(true, result.segments, heads, num_frames=result.num_frames, fps=result.fps)
    with _writing(target):
        write_files(target, result.segments, config.heads, video=video, record=record)
        page = write_timeline_page(target, video=video, found=result, heads=heads, record=record, true=true)
    _say(output, result, record)
    output.say(f"kept in {target}; page: {page}")
    output.finish({**record, "segments": _rows(result), "folder": str(target), "page": str(page)})


def _watched(
    target: Path, video: LongVideo, weights: Path, live: LiveSection, of: Mapping[str, Any], output: Output
) -> KeptAnswers:
    """All answers, those of before among them."""
    from kinema.files import locked
    from kinema.inference.kept_answers import KeptAnswers
    from kinema.inference.timeline import watch

    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: a file; name a folder by --out")
    there = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if there - {_LOCK} and _ANSWERS not in there:
        raise DataError(f"{target}: holds something else; name another folder by --out")
    with _writing(target):
        target.mkdir(parents=True, exist_ok=True)
        with locked(target / _LOCK, wait=False) as is_mine:
            if not is_mine:
                raise DataError(f"{target}: another process is at this timeline")
            kept = KeptAnswers(target / _ANSWERS, of)
            if kept.is_finished:
                output.say("all of it was watched before; the answers are used again")
                return kept
            if kept.last is not None:
                output.say(f"goes on at {kept.last.stop_s:.0f} s; what was answered before is used again")
            from kinema.inference.recogniser import load
            from kinema.models.runtime import keep_memory

            keep_memory()
            try:
                watch(load(weights), live, video, kept, reporter=output.reporter)
            except (KeyboardInterrupt, SystemExit):
                output.say("the same command goes on where this one stops")
                raise
    return kept


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """
    Raises:
        DataError: In the place of an error that a folder cannot be written.
    """
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise DataError(f"{error.filename or target}: cannot be written: {error.strerror}") from None


def _heads_of_actions(heads: Heads, background: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Without classes that stand for nothing."""
    return {
        task: tuple(name for index, name in enumerate(names) if index != background.get(task, -1))
        for task, names in heads.items()
    }


def _truth(path: Path, heads: Heads, background: Mapping[str, int]) -> list[TrueSegment]:
    from kinema.evaluation.segment_list import read_segments

    return read_segments(path, heads, background={task: heads[task][index] for task, index in background.items()})


def _record(
    result: Found, *, video: Path, weights: Path, of: Mapping[str, Any], settings: LiveSection
) -> dict[str, Any]:
    from kinema.version import __version__

    return {
        "kinema": __version__,
        "video": {
            "path": str(video),
            "fingerprint": of["video"],
            "duration_s": round(result.duration_s, 6),
            "num_frames": result.num_frames,
            "damaged": result.damaged,
        },
        "weights": {"path": str(weights), "fingerprint": of["weights"]},
        "windows": {name: of["settings"][name] for name in ("fast_s", "slow_s")},
        "settings": settings.model_dump() | {"every_s": of["settings"]["every_s"]},
        "num_answers": result.num_answers,
    }


def _rows(result: Found) -> list[dict[str, Any]]:
    return [
        {"start_s": one.start_s, "stop_s": one.stop_s, "labels": dict(one.labels), "confidence": one.confidence}
        for one in result.segments
    ]


_SHOWN = 40
"""Segments that are printed; the files have all."""


def _say(output: Output, result: Found, record: Mapping[str, Any]) -> None:
    if result.damaged:
        output.say("warning: the video is damaged in places, or ends early; what decodes of it was watched")
    rows = [
        [clock(one.start_s), f"{one.stop_s - one.start_s:.1f} s", one.label, percent(one.confidence)]
        for one in result.segments[:_SHOWN]
    ]
    if rows:
        output.table(["from", "for", "action", "confidence"], rows)
    num = len(result.segments)
    more = f", of which the first {_SHOWN} are shown" if num > _SHOWN else ""
    output.say(f"{num:,} action{'' if num == 1 else 's'} in {duration(result.duration_s)}{more}")
    if "scores" in record:
        _say_scores(output, record["scores"])


def _say_scores(output: Output, scores: Mapping[str, Mapping[str, Any]]) -> None:
    for task, values in scores.items():
        rows = [
            [
                "accuracy, all frames",
                percent(values["accuracy"]),
                percent(values["chance"]),
                percent(values["majority"]),
            ],
            [
                "accuracy, frames of actions",
                percent(values["action_accuracy"]),
                percent(values["chance"]),
                percent(values["action_majority"]),
            ],
            ["edit score", percent(values["edit"]), "", ""],
            *([f"F1@{overlap}", percent(f1), "", ""] for overlap, f1 in values["f1"].items()),
        ]
        title = f"{task}: {values['num_segments']['found']} found, {values['num_segments']['true']} true"
        output.table([title, "", "chance", "majority"], rows)
    output.say("nothing is an answer like any other over all frames, and no segment")
