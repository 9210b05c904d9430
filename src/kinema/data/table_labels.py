"""What the labels in a table mean: class names, and the class index of each text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinema.data.csv_table import Table, read_csv, read_text
from kinema.data.listing import hint, natural_key, shortened
from kinema.types import DataError, Split

_INTEGER = re.compile(r"-?[0-9]+")
_MOST_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class Codes:
    """Class names of a label column, and the class index of each text that may stand in it."""

    names: tuple[str, ...]
    index: Mapping[str, int]


def label_codes(rows: Table, column: str, splits: list[Split], file: Path | None) -> Codes:
    """Class names and indices of a label column.

    Args:
        rows: The table.
        column: One of its columns.
        splits: The split of each row.
        file: Class names: a line per class, or a CSV file with the columns `id` and `name` (or `key`). Without it,
            the classes are those of the training rows, or in a list of `path label` lines all integers up to the
            largest.

    Raises:
        DataError: A label is empty, or no class.
    """
    for row in rows.rows:
        if not row.values[column]:
            raise DataError(f"{rows.at(row, column)}: the label is empty")
    if file is not None:
        names = _read_classes(file)
        # A name wins over a number, for classes that are called by numbers.
        codes = Codes(names, {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)})
        place = str(file)
    elif rows.is_list:
        names = _numbers(rows, column)
        codes = Codes(names, {name: i for i, name in enumerate(names)})
        place = "the lists"
    else:
        texts = {row.values[column] for row in rows.rows}
        # Without training rows, which an evaluation does not need, all labels are known that are there.
        known: Sequence[Split] = ["train"] if "train" in splits else splits
        trained = {row.values[column] for row, split in zip(rows.rows, splits, strict=True) if split in known}
        codes = _codes_of(rows, column, texts, trained)
        place = "the training split"
    unknown = [pair for pair in zip(rows.rows, splits, strict=True) if pair[0].values[column] not in codes.index]
    if unknown:
        row, split = unknown[0]
        label = row.values[column]
        others = dict.fromkeys(other.values[column] for other, _ in unknown[1:])
        more = f"; {len(unknown) - 1} more rows have unknown labels ({shortened(others)})" if others else ""
        raise DataError(
            f"{rows.at(row, column)}: label {label!r} of the {split} split is unknown in {place}"
            f"{hint(label, codes.names)}{more}"
        )
    return codes


def _codes_of(rows: Table, column: str, texts: set[str], trained: set[str]) -> Codes:
    """Codes without a file of class names: integers from 0 without a gap, or else names."""
    if not all(_INTEGER.fullmatch(text) for text in texts):
        names = tuple(sorted(trained, key=natural_key))
        return Codes(names, {name: i for i, name in enumerate(names)})
    numbers = {int(text) for text in texts}
    missing = [number for number in range(len(numbers)) if number not in numbers]
    if missing:
        raise DataError(
            f"{rows.path}: column {column!r}: the integers are not 0, 1, 2, ... without a gap ({missing[0]} is "
            f"missing); give a file with the class names in data.classes.{column}"
        )
    return Codes(tuple(str(number) for number in range(len(numbers))), {text: int(text) for text in trained})


def _numbers(rows: Table, column: str) -> tuple[str, ...]:
    last = max(rows.rows, key=lambda row: int(row.values[column]))
    if int(last.values[column]) >= _MOST_CLASSES:
        raise DataError(f"{rows.at(last, column)}: {last.values[column]} is too large for the number of a class")
    return tuple(str(number) for number in range(int(last.values[column]) + 1))


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
