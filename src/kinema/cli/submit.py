"""`kinema submit`: a challenge's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output


def submit(
    weights: Annotated[Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run, or a weights folder.")],
    out: Annotated[Path, typer.Option(metavar="ZIP", help="The file.")],
    pre_training: Annotated[
        int,
        typer.Option(
            min=0,
            max=5,
            help="0 none, 1 public images, 2 public images and video, 3 self-supervised on public data, 4 the same and "
            "on EPIC-KITCHENS, 5 private data.",
        ),
    ],
    training_labels: Annotated[
        int,
        typer.Option(
            min=0,
            max=5,
            help="0 none, 1 of whole videos, 2 narration timestamps, 3 start and stop, 4 and space, 5 more.",
        ),
    ],
    training_data: Annotated[
        int,
        typer.Option(
            min=0,
            max=5,
            help="0 zero-shot, 1 few-shot, 2 a quarter at most, 3 training list, 4 and validation list, 5 more.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="data.root and other data.*; clips.batch_size, ..."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Answer EPIC-KITCHENS-100's official test list, and write the file that its challenge takes."""
    from kinema.evaluation.submit import submit as compute
    from kinema.models.weights import weights_folder
    from kinema.training.run_folder import Run

    output = Output(json_file)
    recipe = Run(weights).recipe() if (weights / "config.yaml").is_file() else None
    num = compute(
        weights_folder(weights),
        overrides or [],
        out,
        levels={"sls_pt": pre_training, "sls_tl": training_labels, "sls_td": training_data},
        defaults={"workers": recipe.clips.workers, "batch_size": recipe.clips.batch_size} if recipe else {},
        reporter=output.reporter,
    )
    output.say(f"{out}: {num:,} segments, all of the test list")
    output.finish({"file": str(out), "num_segments": num})
