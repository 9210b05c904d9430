"""`kinema data`: getting a data set, and looking at it before anything is trained on it."""

from __future__ import annotations

import typer

from kinema.cli import data_advise, data_check, data_download, data_list, data_prepare, data_stats

app = typer.Typer(
    help="Data sets: download one, list its clips, check its files, store them for fast reading, count what is in it.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("download")(data_download.download)
app.command("list")(data_list.list_clips)
app.command("check")(data_check.check)
app.command("prepare")(data_prepare.prepare)
app.command("stats")(data_stats.stats)
app.command("advise")(data_advise.advise)
