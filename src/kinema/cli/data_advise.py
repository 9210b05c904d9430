"""`kinema data advise`: which store pays for a recipe on this machine."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.files import parse_yaml
from kinema.types import ConfigError
from kinema.wording import byte_size, duration

if TYPE_CHECKING:
    from kinema.preparation.advice import Advice, Job, Measured, Way
    from kinema.sections import Recipe


def advise(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name (kinema recipes) or a path.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Settings that replace the recipe's."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, metavar="S", help="How long to measure, about.")] = 10.0,
    json_file: JsonOption = None,
) -> None:
    """Measure disk, memory, decoding and model for some seconds, and say which store pays for a recipe, with the
    arithmetic."""
    from kinema import recipes
    from kinema.config import resolve

    chosen = resolve(recipes.read(recipe), overrides or [])
    output = Output(json_file)
    from kinema.preparation.advice import advise as compare
    from kinema.training.measuring import job_of, measure
    from kinema.training.prepare import prepare

    prepared = prepare(chosen, reporter=output.reporter)
    place = store_place(chosen)
    job = job_of(prepared)
    output.say(f"measuring for about {seconds:g} s ...")
    measured = measure(prepared, seconds=seconds, store=place)
    advice = compare(measured, job)
    commands = commands_of(advice.best, chosen, recipe, overrides or [], place)
    _print(advice, measured, job, commands, output)
    output.finish(_record(advice, measured, job, commands))


def store_place(recipe: Recipe) -> Path:
    """The folder in which stores of the recipe's data set are found without being named."""
    root = _root(recipe)
    return (root.parent if root.is_file() else root) / "kinema-stores"


def _root(recipe: Recipe) -> Path:
    from kinema.data.cache import cache_folder

    return recipe.data.root or cache_folder() / recipe.data.name  # where `motion` is written unless it is told


def commands_of(way: Way, recipe: Recipe, name: str, overrides: list[str], place: Path) -> tuple[str, str] | None:
    """The command that makes a store, and the one that trains from it; None where none is to be made.

    Args:
        way: What is to be stored.
        recipe: What is to be trained.
        name: Of the recipe.
        overrides: That were given with it.
        place: Folder of stores.
    """
    store, root = place / way.name, str(_root(recipe))
    kind = {
        "frames": ["--frames", "--recipe", name],
        "features": ["--features", name],
        "transcode": ["--transcode", "--short-side", str(recipe.clips.resize_px or recipe.clips.size_px)],
    }.get(way.name)
    if kind is None:
        return None
    settings = [f"data.{key}={_yaml(value)}" for key, value in _changed(recipe).items()]
    train = ["kinema", "train", name, *overrides]
    if way.name == "transcode":  # not the same to the bit, and so never taken without being asked
        train.append(f"clips.store={_yaml(str(store))}")
    else:
        # Frames and features depend on how a recipe reads clips, which its own file and settings say.
        settings += [given for given in overrides if not given.startswith("data.")]
    prepare = ["kinema", "data", "prepare", recipe.data.name, root, *settings, "--out", str(store), *kind]
    return shlex.join(prepare), shlex.join(train)


def _changed(recipe: Recipe) -> dict[str, Any]:
    """Settings of the `data:` section that are not what they would be if nothing was said."""
    fields = type(recipe.data).model_fields
    values = recipe.data.model_dump(mode="json")
    return {k: v for k, v in values.items() if k not in ("name", "root") and v != fields[k].get_default()}


def _yaml(value: Any) -> str:
    """A value as it is typed behind `key=`."""
    with suppress(ConfigError):
        if isinstance(value, str) and parse_yaml(value, source="") == value:
            return value
    return json.dumps(value)


def _print(advice: Advice, measured: Measured, job: Job, commands: tuple[str, str] | None, output: Output) -> None:
    rows: list[list[object]] = [
        ["disk", f"{byte_size(measured.disk_bytes)}/s", "videos of this data set, read past the memory"],
        ["decoding", f"{measured.decoded:.3g} clips/s", f"{job.workers} workers, model at rest"],
        ["training step", f"{measured.trained:.3g} clips/s", "workers at rest"],
        ["prediction", f"{measured.predicted:.3g} clips/s", "workers at rest"],
    ]
    if measured.backbone is not None and measured.trained_on_features is not None:
        rows += [
            ["frozen backbone", f"{measured.backbone:.3g} clips/s", "workers at rest"],
            ["training step on features", f"{measured.trained_on_features:.3g} clips/s", ""],
        ]
    rows += [
        ["copying", f"{byte_size(measured.copied_bytes)}/s", "in memory, one thread"],
        ["memory free", byte_size(measured.memory_free), ""],
        ["disk free", byte_size(measured.disk_free), ""],
    ]
    output.table(["measured", "", ""], rows)
    output.table(
        ["derived", "on disk", "to make", "an epoch", f"{job.epochs} epochs", "pays after"],
        [_row(way) for way in advice.ways],
    )
    for way in advice.ways:
        output.say(f"{way.name}:")
        for line in (*way.arithmetic, *([f"not possible: {way.refused}"] if way.refused else [])):
            output.say(f"  {line}")
    if commands is None:
        by_itself = advice.best.num_bytes > 0
        output.say(
            "advice: nothing to prepare: training computes the features once by itself, and keeps them"
            if by_itself
            else "advice: nothing: no store would pay"
        )
        return
    best, plain = advice.best, advice.ways[0]
    output.say(f"advice: {best.name}: {duration(best.total_s)} instead of {duration(plain.total_s)} in all")
    output.say(f"  {commands[0]}")
    output.say("and then" if best.name == "transcode" else "and then, as training takes what lies there by itself")
    output.say(f"  {commands[1]}")


def _row(way: Way) -> list[object]:
    if not way.arithmetic:
        return [way.name, "-", "-", "-", "-", "not possible"]
    pays = "-" if way.name == "no store" else "never" if way.pays_after is None else f"{way.pays_after:,} epochs"
    return [
        way.name,
        byte_size(way.num_bytes) if way.num_bytes else "-",
        _seconds(way.build_s) if way.build_s else "-",
        _seconds(way.epoch_s),
        _seconds(way.total_s),
        pays if way.refused is None else "not possible",
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def _record(advice: Advice, measured: Measured, job: Job, commands: tuple[str, str] | None) -> dict[str, Any]:
    return {
        "measured": asdict(measured),
        "job": asdict(job),
        "derived": [asdict(way) for way in advice.ways],
        "advice": advice.best.name,
        "commands": commands,
    }
