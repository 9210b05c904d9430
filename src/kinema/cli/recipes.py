"""`kinema recipes`: what ships, and checking one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output

app = typer.Typer(
    help="Shipped recipes: list, show, copy; check a recipe; a JSON schema for editors.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped name, or a path.")]


@app.callback()
def default(context: typer.Context, json_file: JsonOption = None) -> None:
    from kinema.types import UserError

    if context.invoked_subcommand is None:
        list_recipes(json_file)
    elif json_file is not None:
        raise UserError(f"--json: goes behind the command: kinema recipes {context.invoked_subcommand} --json FILE")


@app.command("ls")
def list_recipes(json_file: JsonOption = None) -> None:
    """List the shipped recipes."""
    from kinema import recipes
    from kinema.config import resolve

    output = Output(json_file)
    rows = []
    for name in recipes.names():
        recipe = resolve(recipes.read(name))
        rows.append(
            {"name": name, "data": recipe.data.name, "model": recipe.model.name, "epochs": recipe.trainer.epochs}
        )
    output.table(list(rows[0]), [list(row.values()) for row in rows])
    output.finish(rows)


@app.command("show")
def show(name: _Name, json_file: JsonOption = None) -> None:
    """Print a recipe as it is written."""
    from kinema import recipes

    output = Output(json_file)
    path = recipes.find(name)
    text = path.read_text(encoding="utf-8")
    if json_file is None:
        output.say(text.rstrip())
    output.finish({"name": name, "path": path, "text": text, "settings": recipes.read(name)})


@app.command("cp")
def copy(
    name: _Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    json_file: JsonOption = None,
) -> None:
    """Copy a recipe to change it."""
    from kinema import recipes
    from kinema.types import UserError

    output = Output(json_file)
    source = recipes.find(name)
    if file.is_dir():
        file = file / source.name
    if file.exists():
        raise UserError(f"{file}: exists already; give another name")
    try:
        file.write_bytes(source.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None
    output.say(f"written to {file}; train it with: kinema train {file}")
    output.finish({"name": name, "file": file})


@app.command("validate")
def validate(
    file: _Name,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    json_file: JsonOption = None,
) -> None:
    """Check a recipe and print it with every default filled in."""
    from kinema import recipes
    from kinema.config import resolve

    output = Output(json_file)
    recipe = resolve(recipes.read(file), overrides or [])
    if json_file is None:
        output.say(recipe.to_yaml().rstrip())
    output.finish(recipe.to_dict())


@app.command("schema")
def schema(json_file: JsonOption = "-") -> None:
    """Write the JSON schema of a recipe, to standard output if no file is given."""
    from kinema.config import json_schema

    Output(json_file).finish(json_schema())
