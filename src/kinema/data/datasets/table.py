"""A CSV file with a row per clip, or the lists of other toolkits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinema.data.csv_table import Row, Table
from kinema.data.listing import Presence, coverage_note, existing_root, hint, shortened, some_there, sort_out, split_of
from kinema.data.path_lists import is_file_name
from kinema.data.stored_flow import FOLDER
from kinema.data.table_files import path_folders, read_tables, table_files
from kinema.data.table_labels import Codes, label_codes
from kinema.registry import register_dataset
from kinema.types import JOINT, SPLITS, Clip, ConfigError, DataError, Dataset, Split

_TIMES = ("start_s", "stop_s")


@register_dataset
def table(
    root: Path | None,
    *,
    csv: str | dict[str, str] | None = None,
    prefix: str | dict[str, str] | None = None,
    fps: float | None = None,
    labels: str | list[str] | None = None,
    classes: str | dict[str, str] | None = None,
    where: dict[str, Any] | None = None,
    holdout: dict[str, Any] | None = None,
    group: str | list[str] | None = None,
) -> Dataset:
    """Clips from a CSV file, a row each: `path`, one or more label columns, and what else there is.

    `path` is relative to the folder of the CSV file. `start_s` and `stop_s` (seconds; both may be empty) choose a
    stretch of the video, `split` (train, validation or val, test) says where a row belongs, `flow` names a folder of
    stored optical flow, and further columns are kept as attributes. Labels are class names, or integers from 0. Without
    `split` and `holdout` all rows are training clips. Videos that are listed but not there are counted and left out.
    Values are compared as text.

    Lists of other toolkits can be used as they are: lines of `path label` without a header, or `folder total_frames
    label` or `folder first_frame total_frames label` for folders of frames (mmaction2, SlowFast), a file per split.

    Args:
        root: The CSV file, or the folder with it.
        csv: Name of the CSV file in `root`, or split -> name. May be left out where there is only one, or one for
            each split called like it (`train_list.txt`, `val_list.txt`).
        prefix: Folder that paths start at, if it is not that of the CSV file, or split -> folder. A relative one
            starts at the folder of the CSV file. For lists without a header, `videos`, `videos_train` and the like
            are found.
        fps: Frames per second of folders of frames.
        labels: The label columns: one per task. By default `label`, or `verb` and `noun` where there is no
            `label`. A single task is called `action`, several are called like their columns.
        classes: Label column -> file with its class names, relative to the CSV file: a line per class, or a CSV
            file with the columns `id` and `name` (or `key`). By default the labels of the training rows. Where there
            is one label column, the file alone will do.
        where: Column -> value or list of values. Rows that have another value are left out.
        holdout: Column -> value or list of values. Rows with one of them are the test split, all others the
            training split; a column `split` is then not used.
        group: Column, or columns, whose values (together) say which clips must stay in one split, such as the
            recording. By default `group`, or else the columns of `holdout`. For lists without a header: a regular
            expression; what it finds in a path, or its first parenthesis, is the group.

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
    if fps is not None and not 0 < fps < math.inf:
        raise ConfigError(f"data.fps: {fps:g} is not a frame rate")
    named = {"": classes} if isinstance(classes, str) else classes or {}
    files = table_files(existing_root(root), csv, class_files=set(named.values()))
    rows, has_groups = read_tables(files, fps=fps, group=group)
    group = "group" if has_groups else group
    label_columns = _label_columns(rows, labels)
    class_files = _class_files(rows, named, label_columns)
    notes = []
    num_rows = len(rows.rows)
    rows = _chosen(rows, where or {})
    if len(rows.rows) < num_rows:
        notes.append(f"{len(rows.rows)} of {num_rows} rows are chosen by data.where")
    splits = _splits(rows, holdout or {})
    if holdout and "split" in rows.columns:
        notes.append("the column 'split' is not used: data.holdout says which clips are for testing")
    group_columns = _group_columns(rows, group, holdout or {})
    codes = {column: label_codes(rows, column, splits, class_files.get(column)) for column in label_columns}
    reader = _ClipReader(
        table=rows,
        tasks={"action" if len(label_columns) == 1 else column: column for column in label_columns},
        codes=codes,
        groups=group_columns,
        others=_other_columns(rows, label_columns, group_columns, split_is_used=not holdout),
        folders=path_folders(rows, files, prefix),
        fps=fps,
    )
    clips = reader.clips()
    present, absent = _sort_out(clips, splits)
    notes += [*coverage_note(present, absent, noun="clips"), *_repeats(clips)]
    if fps is not None and not any(clip.fps for clip in clips):
        notes.append("data.fps is not used: no row is a folder of frames")
    if rows.is_list:
        notes += _empty_labels(clips, codes[label_columns[0]])
    dataset = Dataset(
        classes={task: codes[column].names for task, column in reader.tasks.items()},
        splits=present,
        group_name="/".join(group_columns) or None,
        absent=absent,
        notes=tuple(notes),
    )
    return some_there(
        dataset,
        (
            f"{rows.path}: none of the {len(clips)} clips listed is there, such as {clips[0].video}; "
            "paths are relative to the folder of the CSV file, or to data.prefix"
        ),
    )


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
    for given, name in classes.items():
        column = label_columns[0] if not given and len(label_columns) == 1 else given
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
        there = dict.fromkeys(row.values[column] for row in rows.rows)
        texts = {text for item in values for text in _cells(item, there, place)}
        wanted[column] = texts
    return wanted


def _cells(item: Any, there: Iterable[str], place: str) -> set[str]:
    """The texts of a column that a value of a recipe means. Text means itself; but YAML has made a number of an
    unquoted 1.10, true or false of True, and nothing of an empty value."""
    meant: set[str]
    if item is None:
        meant = {text for text in there if not text}
    elif isinstance(item, bool):
        meant = {text for text in there if text.casefold() == str(item).casefold()}
    else:
        meant = set() if isinstance(item, float) else {text for text in there if text == str(item)}
        if not meant and isinstance(item, int | float):
            meant = {text for text in there if _number(text) == item}
        if len(meant) > 1:
            raise ConfigError(f"{place}: {item!r} may mean {' or '.join(map(repr, sorted(meant)))}; put it in quotes")
    if not meant and item is None:
        section, _, column = place.rpartition(".")
        raise ConfigError(
            f"{place}: null is the empty value, which no row has in this column (there are: {shortened(there)}); say "
            f"which rows are meant, as in {section}={{{column}: [{next(iter(there))}]}}, or give {section}=null"
        )
    if not meant:
        raise ConfigError(f"{place}: no row has {str(item)!r} in this column (there are: {shortened(there)})")
    return meant


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _chosen(rows: Table, where: Mapping[str, Any]) -> Table:
    if not rows.rows:
        raise DataError(f"{rows.path}: has a header and no rows")
    wanted = _wanted(rows, where, key="data.where")
    kept = tuple(row for row in rows.rows if all(row.values[column] in texts for column, texts in wanted.items()))
    if not kept:
        raise ConfigError(f"data.where: no row of {rows.path} has all of these values: {dict(where)!r}")
    return replace(rows, rows=kept)


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
    return splits


def _group_columns(rows: Table, group: str | list[str] | None, holdout: Mapping[str, Any]) -> tuple[str, ...]:
    if group is None:
        # Holding out by a column says that clips of one value belong together. It may be coarse: then a validation
        # split cannot be cut, and that is said. It may be too fine: a cut keeps clips of one video together anyway.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipReader:
    """Turns rows into clips. `tasks` is task -> label column, `folders` file -> folder that its paths start at."""

    table: Table
    tasks: Mapping[str, str]
    codes: Mapping[str, Codes]
    groups: tuple[str, ...]
    others: tuple[str, ...]
    folders: Mapping[Path, Path]
    fps: float | None

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
        folder = self.folders[row.file or self.table.path]
        attributes = {column: values[column] for column in self.others}
        if attributes.get(FOLDER):
            attributes[FOLDER] = str(folder / attributes[FOLDER])
        return Clip(
            clip_id=clip_id if seen[clip_id] == 1 else f"{clip_id}~{seen[clip_id]}",
            video=folder / values["path"],
            fps=None if self.fps is None or is_file_name(values["path"]) else self.fps,
            start_s=start_s or 0.0,
            stop_s=stop_s,
            labels={task: self.codes[column].index[values[column]] for task, column in self.tasks.items()},
            group=group if group.strip("/") else None,
            attributes=attributes,
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


def _sort_out(
    clips: list[Clip], splits: list[Split]
) -> tuple[dict[Split, tuple[Clip, ...]], dict[Split, tuple[Clip, ...]]]:
    files, frames = Presence(), Presence(folders=True)
    listed: dict[Split, list[Clip]] = {split: [] for split in SPLITS}
    for clip, split in zip(clips, splits, strict=True):
        listed[split].append(clip)
    return sort_out(listed, lambda clip: clip.video in (files if clip.fps is None else frames))


def _repeats(clips: Iterable[Clip]) -> list[str]:
    counts = Counter((clip.video, clip.start_s, clip.stop_s) for clip in clips)
    num_repeats = counts.total() - len(counts)
    return [f"rows that list the same stretch of a video as an earlier row: {num_repeats}"] if num_repeats else []


def _empty_labels(clips: Iterable[Clip], codes: Codes) -> list[str]:
    """Lists number their labels from 0. One that starts at 1 shows in a class without clips."""
    labels = {label for clip in clips for label in clip.labels.values()}
    empty = [name for label, name in enumerate(codes.names) if label not in labels]
    return [f"{len(empty)} of {len(codes.names)} classes are not in the lists, such as {empty[0]!r}"] if empty else []
