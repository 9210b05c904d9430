"""`kinema demo`: the whole job on data that it makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output


def demo(
    output_folder: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Where videos and runs are written.")
    ] = Path("kinema_demo"),
    json_file: JsonOption = None,
) -> None:
    """Make a small set of videos, train on it, evaluate, and show where the report is."""
    from kinema import recipes
    from kinema.cli.evaluate import run_evaluation
    from kinema.cli.train import run_recipe
    from kinema.config import resolve
    from kinema.training.run_folder import fresh_folder

    output = Output(json_file)
    run = fresh_folder(output_folder / "cnn_conv1d")
    recipe = resolve(recipes.read("motion/cnn_conv1d"), [f"data.root={output_folder / 'data'}", f"output={run}"])
    trained = run_recipe(recipe, output)
    evaluated = run_evaluation(run, [], output)
    output.say(f"\nopen {trained['report']} in a browser")
    output.finish({**trained, "evaluation": evaluated})
