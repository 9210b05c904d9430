"""Which files a table is made of, and what their paths start at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from kinema.data import quarantine
from kinema.data.csv_table import Row, Table, read_csv
from kinema.data.listing import Presence, hint, shortened, split_names, split_of, subfolders
from kinema.data.path_lists import is_file_name, is_path_list, read_path_list
from kinema.types import SPLITS, ConfigError, DataError, Split

Files = Mapping[Split | None, Path]
"""Split -> its file. Under None, one file that says itself which rows belong where."""


def table_files(root: Path, csv: str | Mapping[str, str] | None, *, class_files: set[str]) -> Files:
    """The files that `data.root` and `data.csv` mean.

    Args:
        root: A file, or the folder with it.
        csv: Name of a file in it, or split -> name.
        class_files: Names of files with class names, which are none.

    Raises:
        ConfigError: A file is not there, or one of several has to be named.
        DataError: The folder holds none.
    """
    if root.is_file():
        if csv is not None:
            raise ConfigError(f"data.csv: data.root is a file already ({root}); leave data.csv out")
        return {None: root}
    if isinstance(csv, str):
        return {None: _existing(root / Path(csv).expanduser(), "data.csv")}
    if csv is not None:
        files: dict[Split | None, Path] = {}
        for word, name in csv.items():
            split = split_of(word)
            if split is None or split in files:
                problem = "is not a split" if split is None else "comes twice"
                raise ConfigError(f"data.csv: {word!r} {problem}{hint(word, split_names())}")
            files[split] = _existing(root / Path(name).expanduser(), f"data.csv.{word}")
        if not files:
            raise ConfigError("data.csv: names no file")
        return files
    return _found(root, class_files)


def _existing(file: Path, key: str) -> Path:
    if not file.is_file():
        raise ConfigError(f"{key}: {file}: no such file")
    return file


def _found(root: Path, class_files: set[str]) -> Files:
    left_out = {*class_files, quarantine.FILE_NAME}
    # Hidden ones are none of the user's: macOS puts a ._clips.csv beside clips.csv on disks of other systems.
    files = sorted(p for p in root.iterdir() if p.is_file() and p.name not in left_out and p.name[0] != ".")
    tables = [path for path in files if path.suffix.lower() in (".csv", ".tsv")]
    lists = tables or [path for path in files if path.suffix.lower() == ".txt" and is_path_list(path)]
    if not lists:
        raise DataError(
            f"{root}: holds no CSV file and no list of 'path label' lines; data.root has to be the file or the folder "
            "with it"
        )
    if len(lists) == 1:
        return {_split_in(lists[0].stem) if is_path_list(lists[0]) else None: lists[0]}
    by_split = {_split_in(path.stem): path for path in lists}
    if "train" in by_split and None not in by_split and len(by_split) == len(lists):
        return {split: by_split[split] for split in SPLITS if split in by_split}
    raise ConfigError(
        f"data.csv: missing; {root} holds {len(lists)} {'CSV files' if tables else 'lists'}, name one, or one for each "
        f"split ({shortened(path.name for path in lists)})"
    )


def _split_in(name: str) -> Split | None:
    """The split that a name such as `kinetics400_val_list_videos` means, or None if none or several are named."""
    splits = {split_of(word) for word in re.split(r"[^a-z]+", name.lower())} - {None}
    return splits.pop() if len(splits) == 1 else None


def read_tables(files: Files, *, fps: float | None, group: str | list[str] | None) -> tuple[Table, bool]:
    """All files as one table. Where there is a file for each split, it has a column `split`.

    Args:
        files: Split -> file.
        fps: `data.fps`.
        group: `data.group`: for lists without a header a regular expression, as these have no columns.

    Returns:
        The table, and whether `group` was made a column of that name.

    Raises:
        ConfigError: Columns differ from file to file, or a setting is impossible.
        DataError: A file is not a table, or has no column `path`.
    """
    lists = {path for path in files.values() if is_path_list(path)}
    pattern = group if lists and isinstance(group, str) else None
    tables = {
        split: read_path_list(path, fps=fps, group=pattern) if path in lists else read_csv(path)
        for split, path in files.items()
    }
    for table in tables.values():
        if "path" not in table.columns:
            is_kinetics = {"youtube_id", "time_start"} <= set(table.columns)
            advice = (
                "; this looks like a Kinetics list: use data.name=kinetics400 (or -600, -700)" if is_kinetics else ""
            )
            raise DataError(f"{table.path}: no column 'path' (columns: {', '.join(table.columns)}){advice}")
    first = next(iter(tables.values()))
    if None in tables:
        return first, pattern is not None
    columns = tuple(dict.fromkeys(column for table in tables.values() for column in table.columns))
    rows: list[Row] = []
    for split, table in tables.items():
        if table.is_list != first.is_list or (not table.is_list and set(table.columns) != set(columns)):
            raise ConfigError(f"data.csv: {first.path} and {table.path} do not have the same columns")
        if "split" in table.columns:
            raise ConfigError(f"data.csv: {table.path} has a column 'split', so it cannot be the file of one split")
        for row in table.rows:
            values = {column: row.values.get(column, "") for column in columns} | {"split": str(split)}
            rows.append(Row(row.number, values, table.path))
    return Table(first.path, (*columns, "split"), tuple(rows), is_list=first.is_list), pattern is not None


def path_folders(table: Table, files: Files, prefix: str | Mapping[str, str] | None) -> dict[Path, Path]:
    """File -> folder that its paths start at.

    For lists without a header that is, where `prefix` does not say it, the folder of the list or one in it called
    like `videos`, `videos_train` or the split: the first in which something that is listed is there.

    Raises:
        ConfigError: A folder is not there, or is given for a split that has no file.
    """
    if isinstance(prefix, str):
        return {file: _folder(file.parent / Path(prefix).expanduser(), "data.prefix") for file in files.values()}
    folders = {}
    if prefix is not None:
        for word, name in prefix.items():
            file = files.get(split_of(word))
            if file is None or split_of(word) is None:
                raise ConfigError(f"data.prefix: {word!r} is not a split that data.csv names a file for")
            folders[file] = _folder(file.parent / Path(name).expanduser(), f"data.prefix.{word}")
    for split, file in files.items():
        if file not in folders:
            paths = [row.values["path"] for row in table.rows if row.file in (None, file)]
            folders[file] = _guessed(file.parent, split, paths) if table.is_list else file.parent
    return folders


def _folder(folder: Path, key: str) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"{key}: {folder}: no such folder")
    return folder


def _guessed(folder: Path, split: Split | None, paths: Iterable[str]) -> Path:
    places = [folder]
    for place in subfolders(folder):
        said = _split_in(place.name)
        is_named_so = re.match(r"videos|rawframes", place.name, re.IGNORECASE) or split_of(place.name)
        if is_named_so and (said is None or split is None or said == split):
            places.append(place)
    files, frames = Presence(), Presence(folders=True)
    paths = list(paths)
    for place in places:
        if any((place / path) in (files if is_file_name(path) else frames) for path in paths):
            return place
    return folder
