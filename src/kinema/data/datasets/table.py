"""A CSV file with a row per clip."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinema.data.csv_table import Row, Table, read_csv, read_text
from kinema.data.listing import Presence, coverage_note, existing_root, hint, natural_key, shortened, split_of
from kinema.registry import register_dataset
from kinema.types import JOINT, SPLITS, Clip, ConfigError, DataError, Dataset, Split

_TIMES = ("start_s", "stop_s")
_INTEGER = re.compile(r"-?[0-9]+")


@register_dataset
def table(
    root: Path | None,
    *,
    csv: str | None = None,
    labels: str | list[str] | None = None,
    classes: dict[str, str] | None = None,
    where: dict[str, Any] | None = None,
    holdout: dict[str, Any] | None = None,
    group: str | list[str] | None = None,
) -> Dataset:
    """Clips from a CSV file, a row each: `path`, one or more label columns, and what else there is.

    `path` is relative to the folder of the CSV file. `start_s` and `stop_s` (seconds; both may be empty) choose a
    stretch of the video, `split` (train, validation or val, test) says where a row belongs, and further columns
    are kept as attributes. Labels are class names, or integers from 0. Without `split` and `holdout` all rows are
    training clips. Videos that are listed but not there are counted and left out. Values are compared as text.

    Args:
        root: The CSV file, or the folder with it.
        csv: Name of the CSV file in `root`. May be left out where there is only one.
        labels: The label columns: one per task. By default `label`, or `verb` and `noun` where there is no
            `label`. A single task is called `action`, several are called like their columns.
        classes: Label column -> file with its class names, relative to the CSV file: a line per class, or a CSV
            file with the columns `id` and `name` (or `key`). By default the labels of the training rows.
        where: Column -> value or list of values. Rows that have another value are left out.
        holdout: Column -> value or list of values. Rows with one of them are the test split, all others the
            training split; a column `split` is then not used.
        group: Column, or columns, whose values (together) say which clips must stay in one split, such as the
            recording. By default `group`, or else the columns of `holdout`.

    Raises:
        ConfigError: A setting names a column or value that is not there, or leaves a split empty.
        DataError: The file is missing, is not such a table, or lists no video that is there.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as place:
        ...     _ = Path(place, "clips.csv").write_text("path,label,day\\na.mp4,run,1\\nb.mp4,run,2\\n")
        ...     Path(place, "a.mp4").touch()
        ...     Path(place, "b.mp4").touch()
        ...     {split: len(clips) for split, clips in table(Path(place), holdout={"day": 2}).splits.items()}
        {'train': 1, 'test': 1}
    """
    rows = read_csv(_csv_file(existing_root(root), csv, class_files=set((classes or {}).values())))
    if "path" not in rows.columns:
        raise DataError(f"{rows.path}: no column 'path' (columns: {', '.join(rows.columns)})")
    label_columns = _label_columns(rows, labels)
    class_files = _class_files(rows, classes or {}, label_columns)
    notes = []
    num_rows = len(rows.rows)
    rows = _chosen(rows, where or {})
    if len(rows.rows) < num_rows:
        notes.append(f"{len(rows.rows)} of {num_rows} rows are chosen by data.where")
    splits = _splits(rows, holdout or {})
    if holdout and "split" in rows.columns:
        notes.append("the column 'split' is not used: data.holdout says which clips are for testing")
    group_columns = _group_columns(rows, group, holdout or {})
    codes = {column: _codes(rows, column, splits, class_files.get(column)) for column in label_columns}
    reader = _ClipReader(
        table=rows,
        tasks={"action" if len(label_columns) == 1 else column: column for column in label_columns},
        codes=codes,
        groups=group_columns,
        others=_other_columns(rows, label_columns, group_columns, split_is_used=not holdout),
    )
    clips = reader.clips()
    present = _present(rows, clips, splits)
    num_listed = {split: splits.count(split) for split in SPLITS if split in splits}
    note = coverage_note(num_listed, present, noun="clips")
    notes += [] if note is None else [note]
    notes += _repeats(clips)
    return Dataset(
        classes={task: codes[column].names for task, column in reader.tasks.items()},
        splits=present,
        group_name="/".join(group_columns) or None,
        num_listed=num_listed,
        notes=tuple(notes),
    )


def _csv_file(root: Path, name: str | None, *, class_files: set[str]) -> Path:
    if root.is_file():
        if name is not None:
            raise ConfigError(f"data.csv: data.root is a file already ({root}); leave data.csv out")
        return root
    if name is not None:
        file = root / name
        if not file.is_file():
            raise ConfigError(f"data.csv: {file}: no such file")
        return file
    tables = (path for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv") and path.is_file())
    files = sorted(path for path in tables if path.name not in class_files)
    if not files:
        raise DataError(f"{root}: holds no CSV file; data.root has to be the file or the folder with it")
    if len(files) > 1:
        raise ConfigError(
            f"data.csv: missing; {root} holds {len(files)} CSV files, name one "
            f"({shortened(path.name for path in files)})"
        )
    return files[0]


def _label_columns(rows: Table, labels: str | list[str] | None) -> tuple[str, ...]:
    if labels is None:
        if "label" in rows.columns:
            return ("label",)
        if "verb" in rows.columns and "noun" in rows.columns:
            return ("verb", "noun")
        raise DataError(
            f"{rows.path}: no column 'label', nor 'verb' and 'noun'; name the label columns in data.labels "
            f"(columns: {', '.join(rows.columns)})"
        )
    columns = (labels,) if isinstance(labels, str) else tuple(labels)
    if not columns:
        raise ConfigError("data.labels: is empty; name at least one column")
    for column in columns:
        _known(rows, column, key="data.labels")
        if columns.count(column) > 1:
            raise ConfigError(f"data.labels: {column!r} is named twice")
        if column in ("path", *_TIMES) or (column == JOINT and len(columns) > 1):
            raise ConfigError(f"data.labels: {column!r} has another meaning; it cannot be a label column")
    return columns


def _known(rows: Table, column: str, *, key: str) -> None:
    if column not in rows.columns:
        raise ConfigError(f"{key}: {rows.path} has no column {column!r}{hint(column, rows.columns)}")


def _class_files(rows: Table, classes: Mapping[str, str], label_columns: tuple[str, ...]) -> dict[str, Path]:
    files = {}
    for column, name in classes.items():
        if column not in label_columns:
            raise ConfigError(f"data.classes.{column}: no such label column{hint(column, label_columns)}")
        files[column] = rows.path.parent / Path(name).expanduser()
        if not files[column].is_file():
            raise ConfigError(f"data.classes.{column}: {files[column]}: no such file")
    return files


def _wanted(rows: Table, chosen: Mapping[str, Any], *, key: str) -> dict[str, set[str]]:
    """Column -> texts, each of which some row has."""
    wanted = {}
    for column, value in chosen.items():
        place = f"{key}.{column}"
        if column not in rows.columns:
            raise ConfigError(f"{place}: {rows.path} has no such column{hint(column, rows.columns)}")
        values = value if isinstance(value, list | tuple) else [value]
        if not values or any(isinstance(item, dict | list | tuple) for item in values):
            raise ConfigError(f"{place}: expected a value or a list of values, got {value!r}")
        # YAML turns a bare true into True and an empty value into None.
        texts = [str(item).lower() if isinstance(item, bool) else "" if item is None else str(item) for item in values]
        there = {row.values[column] for row in rows.rows}
        for text in texts:
            if text not in there:
                raise ConfigError(f"{place}: no row has {text!r} in this column (there are: {shortened(there)})")
        wanted[column] = set(texts)
    return wanted


def _chosen(rows: Table, where: Mapping[str, Any]) -> Table:
    if not rows.rows:
        raise DataError(f"{rows.path}: has a header and no rows")
    wanted = _wanted(rows, where, key="data.where")
    kept = tuple(row for row in rows.rows if all(row.values[column] in texts for column, texts in wanted.items()))
    if not kept:
        raise ConfigError(f"data.where: no row of {rows.path} has all of these values: {dict(where)!r}")
    return Table(rows.path, rows.columns, kept)


def _splits(rows: Table, holdout: Mapping[str, Any]) -> list[Split]:
    """The split of each row."""
    if holdout:
        wanted = _wanted(rows, holdout, key="data.holdout")
        held_out = [any(row.values[column] in texts for column, texts in wanted.items()) for row in rows.rows]
        if all(held_out):
            raise ConfigError(f"data.holdout: every row of {rows.path} is held out, none is left to train on")
        return ["test" if out else "train" for out in held_out]
    if "split" not in rows.columns:
        return ["train"] * len(rows.rows)
    splits: list[Split] = []
    for row in rows.rows:
        split = split_of(row.values["split"])
        if split is None:
            raise DataError(
                f"{rows.at(row, 'split')}: {row.values['split']!r} is not a split; "
                "write train, validation or test, or choose rows by data.where.split"
            )
        splits.append(split)
    if "train" not in splits:
        raise DataError(f"{rows.path}: no row is in the train split")
    return splits


def _group_columns(rows: Table, group: str | list[str] | None, holdout: Mapping[str, Any]) -> tuple[str, ...]:
    if group is None:
        # Holding out by a column says that clips of one value belong together. It may be coarse, but it is never
        # too fine: a validation split cut by it leaks nothing.
        return ("group",) if "group" in rows.columns else tuple(holdout)
    columns = (group,) if isinstance(group, str) else tuple(group)
    for column in columns:
        _known(rows, column, key="data.group")
    return columns


def _other_columns(
    rows: Table, label_columns: tuple[str, ...], group_columns: tuple[str, ...], *, split_is_used: bool
) -> tuple[str, ...]:
    used = {"path", *_TIMES, *label_columns}
    used |= {"split"} if split_is_used else set()
    used |= {"group"} if group_columns == ("group",) else set()
    return tuple(column for column in rows.columns if column not in used)


@dataclass(frozen=True, slots=True)
class _Codes:
    """Class names of a label column, and the class index of each text that may stand in it."""

    names: tuple[str, ...]
    index: Mapping[str, int]


def _codes(rows: Table, column: str, splits: list[Split], file: Path | None) -> _Codes:
    for row in rows.rows:
        if not row.values[column]:
            raise DataError(f"{rows.at(row, column)}: the label is empty")
    if file is not None:
        names = _read_classes(file)
        # A name wins over a number, for classes that are called by numbers.
        codes = _Codes(names, {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)})
        place = str(file)
    else:
        texts = {row.values[column] for row in rows.rows}
        trained = {row.values[column] for row, split in zip(rows.rows, splits, strict=True) if split == "train"}
        codes = _codes_of(rows, column, texts, trained)
        place = "the training split"
    for row, split in zip(rows.rows, splits, strict=True):
        label = row.values[column]
        if label not in codes.index:
            raise DataError(
                f"{rows.at(row, column)}: label {label!r} of the {split} split is unknown in {place}"
                f"{hint(label, codes.names)}"
            )
    return codes


def _codes_of(rows: Table, column: str, texts: set[str], trained: set[str]) -> _Codes:
    """Codes without a file of class names: integers from 0 without a gap, or else names."""
    if not all(_INTEGER.fullmatch(text) for text in texts):
        names = tuple(sorted(trained, key=natural_key))
        return _Codes(names, {name: i for i, name in enumerate(names)})
    numbers = {int(text) for text in texts}
    missing = [number for number in range(len(numbers)) if number not in numbers]
    if missing:
        raise DataError(
            f"{rows.path}: column {column!r}: the integers are not 0, 1, 2, ... without a gap ({missing[0]} is "
            f"missing); give a file with the class names in data.classes.{column}"
        )
    return _Codes(tuple(str(number) for number in range(len(numbers))), {text: int(text) for text in trained})


def _read_classes(file: Path) -> tuple[str, ...]:
    if file.suffix.lower() in (".csv", ".tsv"):
        rows = read_csv(file)
        column = next((name for name in ("name", "key") if name in rows.columns), None)
        if "id" not in rows.columns or column is None:
            raise DataError(f"{file}: expected columns 'id' and 'name' (or 'key'), found {', '.join(rows.columns)}")
        by_id = {row.values["id"]: row.values[column] for row in rows.rows}
        if by_id.keys() != {str(number) for number in range(len(rows.rows))}:
            raise DataError(f"{file}: column 'id': expected the integers from 0 to {len(rows.rows) - 1}, once each")
        names = [by_id[str(number)] for number in range(len(by_id))]
    else:
        names = [line.strip() for line in read_text(file).strip().splitlines()]
    for number, name in enumerate(names):
        if not name or names.index(name) != number:
            raise DataError(f"{file}: class {number} is {'empty' if not name else f'{name!r} again'}")
    if not names:
        raise DataError(f"{file}: holds no class names")
    return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipReader:
    """Turns rows into clips. `tasks` is task -> label column."""

    table: Table
    tasks: Mapping[str, str]
    codes: Mapping[str, _Codes]
    groups: tuple[str, ...]
    others: tuple[str, ...]

    def clips(self) -> list[Clip]:
        seen: Counter[str] = Counter()
        return [self._clip(row, seen) for row in self.table.rows]

    def _clip(self, row: Row, seen: Counter[str]) -> Clip:
        values = row.values
        if not values["path"]:
            raise DataError(f"{self.table.at(row, 'path')}: is empty")
        start_s, stop_s = (self._time(row, column) for column in _TIMES)
        if stop_s is not None and stop_s <= (start_s or 0.0):
            raise DataError(
                f"{self.table.at(row, 'stop_s')}: the clip stops at {stop_s:g} s but starts at {start_s or 0.0:g} s"
            )
        clip_id = values["path"]
        if start_s is not None or stop_s is not None:
            clip_id += f"#{start_s or 0.0:.10g}-" + ("" if stop_s is None else f"{stop_s:.10g}")
        seen[clip_id] += 1
        group = "/".join(values[column] for column in self.groups)
        return Clip(
            clip_id=clip_id if seen[clip_id] == 1 else f"{clip_id}~{seen[clip_id]}",
            video=self.table.path.parent / values["path"],
            start_s=start_s or 0.0,
            stop_s=stop_s,
            labels={task: self.codes[column].index[values[column]] for task, column in self.tasks.items()},
            group=group if group.strip("/") else None,
            attributes={column: values[column] for column in self.others},
        )

    def _time(self, row: Row, column: str) -> float | None:
        text = row.values.get(column, "")
        if not text:
            return None
        try:
            time_s = float(text)
        except ValueError:
            time_s = math.nan
        if not math.isfinite(time_s):
            raise DataError(f"{self.table.at(row, column)}: {text!r} is not a number of seconds")
        if time_s < 0:
            raise DataError(f"{self.table.at(row, column)}: {text} is before the start of the video")
        return time_s


def _present(rows: Table, clips: list[Clip], splits: list[Split]) -> dict[Split, tuple[Clip, ...]]:
    presence = Presence()
    kept: dict[Split, list[Clip]] = {split: [] for split in SPLITS}
    for clip, split in zip(clips, splits, strict=True):
        if clip.video in presence:
            kept[split].append(clip)
    if not any(kept.values()):
        raise DataError(
            f"{rows.path}: none of the {len(clips)} clips listed is there, such as {clips[0].video}; "
            "paths are relative to the folder of the CSV file"
        )
    return {split: tuple(found) for split, found in kept.items() if found}


def _repeats(clips: Iterable[Clip]) -> list[str]:
    counts = Counter((clip.video, clip.start_s, clip.stop_s) for clip in clips)
    num_repeats = counts.total() - len(counts)
    return [f"rows that list the same stretch of a video as an earlier row: {num_repeats}"] if num_repeats else []
