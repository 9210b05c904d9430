"""`kinema ensemble`: several recognisers made into one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import ConfigError
from kinema.wording import percent


class _Average(StrEnum):
    probabilities = "probabilities"
    logits = "logits"


def ensemble(
    weights: Annotated[
        list[Path], typer.Argument(metavar="RUN|WEIGHTS...", help="Runs, or weights folders, of the same classes.")
    ],
    out: Annotated[Path, typer.Option(help="The new weights folder.")],
    shares: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="How much each one counts, such as 0.6,0.4; by default alike.")
    ] = None,
    average: Annotated[_Average, typer.Option(help="What is averaged.")] = _Average.probabilities,
    measure: Annotated[
        bool, typer.Option(help="Measure it on 2,000 clips at most that all were trained on, for the gap.")
    ] = True,
    json_file: JsonOption = None,
) -> None:
    """Make one recogniser of several: it answers with their weighted average, and is used like any other."""
    given = _shares(shares, len(weights))
    from kinema.inference.ensemble import make_ensemble
    from kinema.models.weights import read_training

    output = Output(json_file)
    config = make_ensemble(
        weights,
        out,
        shares=given,
        average=average.value,
        measure=measure,
        reading=_reading(weights),
        reporter=output.reporter,
    )
    facts = read_training(out)
    if facts.accuracy:
        said = ", ".join(f"{task} {percent(value)}" for task, value in facts.accuracy.items())
        output.say(f"on {facts.num_accuracy_clips:,} training clips: {said}")
    output.say(f"weights: {out}")
    output.say(f"next:    kinema evaluate {out}")
    output.finish(
        {
            "weights": str(out),
            "model": config.model,
            "arguments": config.arguments,
            "train_top1": facts.accuracy,
            "gap_unknown": facts.unmeasured or None,
        }
    )


def _reading(weights: list[Path]) -> dict[str, int]:
    """How the first run among them read its clips."""
    from kinema.training.run_folder import Run

    for path in weights:
        if (path / "config.yaml").is_file():
            clips = Run(path).recipe().clips
            return {"workers": clips.workers, "batch_size": clips.batch_size}
    return {}


def _shares(text: str | None, num_members: int) -> list[float]:
    """The numbers, checked.

    Raises:
        ConfigError: There are not as many as members, or one is not above 0.
    """
    if text is None:
        return []
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shares: expected numbers with commas between them, as in 0.6,0.4, got {text!r}") from None
    if len(numbers) != num_members:
        raise ConfigError(f"--shares: {len(numbers)} of them for {num_members} models; give one for each")
    if any(not 0 < number < float("inf") for number in numbers):
        raise ConfigError(f"--shares: have to be above 0, got {text!r}")
    return numbers
