"""`kinema data check STORE`: whether a store still is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kinema.cli.console import Output
from kinema.types import UserError
from kinema.wording import byte_size

if TYPE_CHECKING:
    from kinema.data.shards import Store

_SHOWN = 20


def check_store(folder: Path, output: Output) -> None:
    """Compare the checksums of a store.

    Raises:
        DataError: There is no store, of a version that is not known, or its index is damaged.
        typer.Exit: With 2, where an entry is damaged.
    """
    from kinema.data import transcoded
    from kinema.data.shards import Store
    from kinema.types import DataError

    store = Store.open(folder)
    is_files = store.kind == transcoded.KIND
    num_bytes = transcoded.num_bytes(store) if is_files else store.num_bytes
    settings = ", ".join(f"{name} {value}" for name, value in store.settings.items())
    output.say(f"{folder}: {len(store):,} entries of {store.kind}, {byte_size(num_bytes)} ({settings})")
    find = transcoded.damaged if is_files else Store.damaged
    with output.reporter.track("Checking", total=num_bytes, unit="bytes") as task:
        damaged = find(store, checked=task.advance)
    names = []
    for key in damaged:
        try:
            meta = store.meta(key)
            names.append(str(meta.get("clip") or meta.get("video", {}).get("path") or key.hex()))
        except (DataError, ValueError, AttributeError):
            names.append(key.hex())
    # What could not be read when it was to be stored is no damage: the store says so of it.
    failed = {str(store.meta(key).get("clip")): why for key, why in store.failures().items() if key not in damaged}
    absent = _absent_parts(store)
    output.finish(
        {
            "store": folder,
            "kind": store.kind,
            "settings": store.settings,
            "entries": len(store),
            "bytes": num_bytes,
            "damaged": names,
            "failed": failed,
            "absent_parts": absent,
        }
    )
    _list(output, [f"could not be read when it was to be stored: {name}: {why}" for name, why in failed.items()])
    _list(output, [f"damaged: {name}" for name in names])
    if absent:
        output.say(
            f"parts that no job has stored yet: {', '.join(absent)}; kinema data prepare with --shard makes them"
        )
    if not names:
        output.say("nothing that is there is damaged" if absent or failed else "nothing is wrong")
        return
    output.say(f"{len(names):,} of {len(store):,} entries are damaged; delete the store and prepare it again")
    raise typer.Exit(2)


def _absent_parts(store: Store) -> list[str]:
    """Of a store that was made by `--shard i/n`: the parts that are not there."""
    from kinema.preparation.storing import AT_A_TIME

    of_cache = store.kind == "features"  # where processes take one of so many parts by themselves
    parts = {num: made for num, made in store.parts.items() if not (of_cache and num == AT_A_TIME)}
    if 1 in parts:  # all of it was asked for at once
        return []
    return [f"{part}/{num}" for num, made in parts.items() for part in range(1, num + 1) if part not in made]


def _list(output: Output, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        output.say(line)
    if len(lines) > _SHOWN:
        output.say(f"and {len(lines) - _SHOWN:,} more")


def store_folder(name: str) -> Path:
    """The folder that stands alone on a command line.

    Raises:
        UserError: There is no such folder.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{name}: give a data set and its ROOT, or the folder of a store")
    return folder
