"""`kinema data download`: fetch a data set after its licence was accepted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.wording import byte_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kinema.data.download.download import PartReport
    from kinema.data.download.sources import Part, Source


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set: see kinema datasets.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that it becomes.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="The licence was read and is accepted.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Folder on the web with the same files, instead of the makers' addresses."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="This part only; several times for several.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Fetch a data set and unpack it. What was stopped goes on when it is run again."""
    from kinema.data.download.download import download as fetch
    from kinema.data.download.download import licence_accepted, missing_parts
    from kinema.data.download.fetch import is_url
    from kinema.data.download.sources import choose_parts, find_source
    from kinema.types import ConfigError

    source = find_source(name, key="NAME")
    root = root.expanduser()
    if root.exists() and not root.is_dir():
        raise ConfigError(f"ROOT: {root} is a file; give a folder")
    if mirror is not None and not is_url(mirror):
        raise ConfigError(f"--mirror: {mirror} is not an address that begins with http:// or https://")
    output = Output(json_file)
    _introduce(source, output, only or ())
    parts = choose_parts(name, source, only or ())
    missing = missing_parts(root, parts)
    if missing and not licence_accepted(root, name, source):
        _ask(name, root, source, accept_licence)
    _say_plan(parts, missing, root, output)
    reports: list[PartReport] = []
    if missing:
        try:
            reports = fetch(name, root, parts, mirror=mirror, reporter=output.reporter)
        except KeyboardInterrupt:
            command = shlex.join(["kinema", *sys.argv[1:]])
            output.say(f"what came so far is kept; go on with: {command}")
            raise
    _say_result(name, root, source, reports, output)
    by_name = {report.name: report for report in reports}
    output.finish(
        {
            "name": name,
            "root": root,
            "page": source.page,
            "licence": {"text": source.licence, "address": source.licence_url},
            "parts": [_record(part, by_name.get(part.name), root) for part in parts],
            "by_hand": source.by_hand,
        }
    )


def _introduce(source: Source, output: Output, only: Sequence[str]) -> None:
    output.say(f"{source.title}: {source.page}")
    output.say(f"licence: {source.licence}\n         {source.licence_url}")
    for name, lines in source.by_hand.items():
        if not only or name in only:
            output.say("\n".join([f"{name}: not fetched by kinema.", *(f"  {line}" for line in lines)]))


def _ask(name: str, root: Path, source: Source, accepted: bool) -> None:
    """Nothing may be fetched before the licence was accepted.

    Raises:
        ConfigError: It was not.
    """
    from kinema.data.download.download import accept_licence
    from kinema.types import ConfigError

    if not accepted:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"--accept-licence: missing; read the licence of {name} at {source.licence_url} and give it; "
                "nothing was fetched"
            )
        if not typer.confirm("Do you accept this licence?", default=False, err=True):
            raise ConfigError(f"{name}: the licence was not accepted; nothing was fetched")
    accept_licence(root, name, source)


def _say_plan(parts: Sequence[Part], missing: Sequence[Part], root: Path, output: Output) -> None:

    rows = []
    for part in parts:
        sizes = [file.num_bytes for file in part.files]
        size = "not published" if None in sizes else byte_size(sum(size or 0 for size in sizes))
        names = part.files[0].name if len(part.files) == 1 else f"{len(part.files)} files"
        checked = "yes" if all(file.checksum for file in part.files) else "no"
        rows.append([part.name, names, size, checked, part.folder, "to fetch" if part in missing else "is there"])
    if rows:
        output.table(["part", "file", "size", "checksum published", f"becomes, in {root}", ""], rows)


def _say_result(name: str, root: Path, source: Source, reports: Sequence[PartReport], output: Output) -> None:

    for report in reports:
        if report.status == "fetched":
            assert report.num_bytes is not None
            output.say(f"{report.name}: {report.num_files:,} files, {byte_size(report.num_bytes)}, in {report.place}")
    if not reports:
        output.say(f"everything is there already in {root}")
    if not source.by_hand:
        output.say(f"next: kinema data check {name} {shlex.quote(str(root))}")


def _record(part: Part, report: PartReport | None, root: Path) -> dict[str, object]:
    return {
        "name": part.name,
        "status": "there" if report is None else report.status,
        "place": root / part.folder,
        "num_files": None if report is None else report.num_files,
        "num_bytes": None if report is None else report.num_bytes,
        "files": [{"url": file.url, "num_bytes": file.num_bytes, "checksum": file.checksum} for file in part.files],
    }
