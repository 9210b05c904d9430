"""`kinema ensemble`: several recognisers made into one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import ConfigError


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
    json_file: JsonOption = None,
) -> None:
    """Make one recogniser of several: it answers with their weighted average, and is used like any other."""
    given = _shares(shares, len(weights))
    from kinema.inference.ensemble import make_ensemble

    output = Output(json_file)
    config = make_ensemble(weights, out, shares=given, average=average.value)
    output.say(f"weights: {out}")
    output.say(f"next:    kinema evaluate {out}")
    output.finish({"weights": str(out), "model": config.model, "arguments": config.arguments})


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
