"""The official lists of Kinetics: which clips there are, at which times of which YouTube video, of which class."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kinema.data.listing import hint, shortened, split_of
from kinema.data.official_lists import find_lists, numbered_lines
from kinema.types import SPLITS, ConfigError, DataError, Split

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

_SHIPPED = resources.files("kinema.data") / "class_lists"
_WORDS = "train|training|val|validate|validation|test|testing"
_COLUMNS = ("youtube_id", "time_start", "time_end")
_KNOWN_COLUMNS = frozenset({*_COLUMNS, "label", "split"})


class Listed(NamedTuple):
    """A row of a list. `label` is None in an unlabelled test list; `others` are further columns."""

    youtube_id: str
    start_s: float
    stop_s: float
    label: str | None
    others: Mapping[str, str]


class Lists(NamedTuple):
    """What was found: split -> list, and the label map (a line per class), if there is one."""

    files: Mapping[Split, Path]
    label_map: Path | None


@lru_cache(maxsize=1024)  # asked for every row
def kinetics_split(word: str) -> Split | None:
    """Like `split_of`, which does not know the word `validate`."""
    return "validation" if word.strip().casefold() == "validate" else split_of(word)


def spelling(name: str) -> str:
    """The same for all ways in which people write a class: `riding_a_bike`, `massaging persons head`, ..."""
    return re.sub(r"[^0-9a-z]+", " ", name.casefold().replace("'", "")).strip()


def find_kinetics_lists(root: Path, annotations: str | None, version: int) -> Lists:
    """The lists of one version in the names and places that people have them in.

    Args:
        root: `data.root`.
        annotations: `data.annotations`.
        version: 400, 600 or 700.

    Raises:
        ConfigError: `annotations` is not a folder.
        DataError: Two files in one place may be the list of the same split, or `annotations` holds none.
    """
    folders = [f"{name}{dash}{version}" for name in ("kinetics", "k") for dash in ("", "-", "_")]
    folders += [f"{name}{dash}2020" for name in folders for dash in ("-", "_")] if version == 700 else []
    beside = [root, *(root / name for name in folders)]
    places = [place / name for place in beside for name in ("", "annotations")]
    place = find_lists(root, annotations, places=places, holds=lambda place: bool(_csv_files(place, version)))
    if place is None and annotations is not None:
        raise DataError(
            f"{root / annotations}: holds no list of Kinetics-{version} (train.csv, kinetics-{version}_val.csv, ...)"
        )
    maps = [_label_map(folder, version) for folder in ([place] if place else []) + places if folder.is_dir()]
    return Lists(
        files=_csv_files(place, version) if place else {},
        label_map=next((path for path in maps if path is not None), None),
    )


def _csv_files(folder: Path, version: int) -> dict[Split, Path]:
    name = re.compile(
        rf"(?P<source>(?:kinetics|k)(?:[-_]?(?P<version>{version}))?(?:[-_]?2020)?[-_])?(?P<word>{_WORDS})\.csv", re.I
    )
    found: dict[Split, list[tuple[bool, Path]]] = {}
    for path in sorted(folder.iterdir()):
        match = name.fullmatch(path.name)
        split = kinetics_split(match["word"]) if match else None
        if match and split:
            found.setdefault(split, []).append((match["version"] is None, path))
    files = {}
    for split in SPLITS:
        if split not in found:
            continue
        best = min(vague for vague, _ in found[split])
        paths = [path for vague, path in found[split] if vague == best]
        if len(paths) > 1:
            raise DataError(
                f"{folder}: both {paths[0].name} and {paths[1].name} may be the list of the {split} split; "
                "keep one, or name another folder in data.annotations"
            )
        files[split] = paths[0]
    return files


def _label_map(folder: Path, version: int) -> Path | None:
    name = re.compile(rf"(?:kinetics[-_]?)?(?:k?{version}[-_]?)?label[-_]?map(?:[-_]?k?{version})?\.txt", re.I)
    return next((path for path in sorted(folder.iterdir()) if name.fullmatch(path.name)), None)


def read_kinetics_list(file: Path, split: Split) -> list[Listed]:
    """The rows of an official CSV file.

    Raises:
        DataError: It is not such a file, a label or a time is missing, or a row belongs to another split.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            columns = [column.strip() for column in next(reader, [])]
            missing = [column for column in _COLUMNS if column not in columns]
            if split != "test" and "label" not in columns:
                missing.append("label")
            if missing:
                raise DataError(
                    f"{file}: is not an official list of Kinetics: no column {missing[0]!r} in its first line; "
                    "lists of 'path label' lines are read by data.name=table"
                )
            return _rows(reader, columns, file, split)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _rows(reader: CsvReader, columns: list[str], file: Path, split: Split) -> list[Listed]:
    video, start, stop = (columns.index(column) for column in _COLUMNS)
    label, said = (columns.index(column) if column in columns else None for column in ("label", "split"))
    others = [(column, i) for i, column in enumerate(columns) if column and column not in _KNOWN_COLUMNS]
    kept: dict[tuple[str, ...], dict[str, str]] = {}  # a handful of mappings, shared by all rows
    labels: dict[str, str] = {}  # one string per class
    rows = []
    for cells in reader:
        where = f"{file}: line {reader.line_num}"
        if not cells:
            continue
        if len(cells) != len(columns):
            raise DataError(f"{where}: has {len(cells)} fields and the first line {len(columns)}")
        name = "" if label is None else cells[label].strip()
        if not name and split != "test":
            raise DataError(f"{where}: the label is empty")
        if said is not None and kinetics_split(cells[said]) not in (None, split):
            raise DataError(f"{where}: belongs to the split {cells[said]!r}, but the file is named for {split}")
        start_s, stop_s = _times(cells[start], cells[stop], where)
        further = tuple(cells[i] for _, i in others)
        if further not in kept:
            kept[further] = {column: cells[i] for column, i in others}
        rows.append(
            Listed(
                youtube_id=cells[video].strip(),
                start_s=start_s,
                stop_s=stop_s,
                label=labels.setdefault(name, name) if name else None,
                others=kept[further],
            )
        )
    return rows


def _times(start: str, stop: str, where: str) -> tuple[float, float]:
    try:
        start_s, stop_s = float(start), float(stop)
    except ValueError:
        raise DataError(f"{where}: {start!r} and {stop!r} are not times in seconds") from None
    if not 0 <= start_s < stop_s < float("inf"):
        raise DataError(f"{where}: the clip cannot last from {start} to {stop} s")
    return start_s, stop_s


def kinetics_classes(rows: Iterable[Listed], label_map: Path | None) -> tuple[str, ...]:
    """All class names: those of the label map in its order, or else those of the lists in the order of characters,
    which is the official one.

    Raises:
        DataError: The lists have a class that the label map does not have.
    """
    labels = {row.label for row in rows if row.label is not None}
    if label_map is None:
        return tuple(sorted(labels))
    names = tuple(dict.fromkeys(line for _, line in numbered_lines(label_map)))
    for label in sorted(labels.difference(names)):
        raise DataError(f"{label_map}: does not have the class {label!r} of the lists{hint(label, names)}")
    return names


def chosen_classes(value: str | list[str], known: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """The classes that `data.classes` chooses, in the order of the whole list.

    Args:
        value: Names, a text file with a name a line, or a shipped name such as `kinetics400_15`. Underscores,
            quotes and parentheses do not matter.
        known: The whole list.
        root: Where a relative path of a file may start, beside the working folder.

    Raises:
        ConfigError: There is no such file, it is empty, or a name is no class or comes twice.
    """
    wanted, source = _class_file(value, root) if isinstance(value, str) else (value, "data.classes")
    if not wanted:
        raise ConfigError(f"{source}: names no class")
    by_spelling = {spelling(name): name for name in known}
    chosen: set[str] = set()
    for name in wanted:
        found = by_spelling.get(spelling(name))
        if found is None:
            raise ConfigError(f"{source}: there is no class {name!r}{hint(name, known)}")
        if found in chosen:
            raise ConfigError(f"{source}: class {found!r} is named twice")
        chosen.add(found)
    return tuple(name for name in known if name in chosen)


def _class_file(value: str, root: Path) -> tuple[list[str], str]:
    shipped = sorted(Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".txt"))
    if value in shipped:
        lines = (_SHIPPED / f"{value}.txt").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")], f"data.classes: {value}"
    places = [Path(value).expanduser(), root / value]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ConfigError(
            f"data.classes: {value}: no such file, nor a shipped list ({shortened(shipped)}); "
            "a list of names is written [first name, second name]"
        )
    return [line for _, line in numbered_lines(file) if not line.startswith("#")], f"data.classes: {file}"
