"""`kinema predict`: the actions in videos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import DataError
from kinema.wording import percent


def predict(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A weights folder, or a run.")],
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Videos, still images or folders of frames, one clip each.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    fps: Annotated[float | None, typer.Option(help="Frames per second of folders of frames.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Name the actions in videos. A video that cannot be read is named, and the exit code is then 2."""
    from kinema.inference.recogniser import load
    from kinema.models.runtime import keep_memory

    output = Output(json_file)
    keep_memory()
    recogniser = load(weights)
    rows: list[list[object]] = []
    records: list[dict[str, object]] = []
    failed = False
    for video in videos:
        try:
            prediction = recogniser.predict(video, fps=fps)
        except DataError as error:
            sys.stderr.write(f"error: {error}\n")
            records.append({"video": str(video), "error": str(error)})
            failed = True
            continue
        best = prediction.top(top)
        if not prediction.known:
            rows.append([str(video), "", "-", "nothing of its classes", ""])
        for task, classes in best.items():
            for rank, (name, probability) in enumerate(classes, start=1):
                rows.append(
                    [str(video) if rank == 1 and prediction.known else "", task, rank, name, percent(probability)]
                )
        tasks = {t: [{"class": name, "probability": p} for name, p in classes] for t, classes in best.items()}
        record: dict[str, object] = {"video": str(video), "damaged": prediction.damaged, "tasks": tasks}
        if prediction.score is not None:
            record |= {"known": prediction.known, "score": prediction.score}
        records.append(record)
    if rows:
        output.table(["video", "task", "rank", "class", "probability"], rows)
    output.finish(records)
    if failed:
        raise typer.Exit(2)
