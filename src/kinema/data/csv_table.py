"""Reading annotations that people keep in CSV files, with errors that name the file, the row and the column."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kinema.types import DataError

_DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        number: As a spreadsheet counts, with the header (usually) in row 1.
        values: Column -> text, without spaces around it.
        file: Where it stands, if the table is made of several files.
    """

    number: int
    values: Mapping[str, str]
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file, or several as one, in which every row has a value, maybe an empty one, in every column.

    Attributes:
        path: The file, or the first of them.
        columns: Their names.
        rows: In the order of the file.
        is_list: Made of `path label` lines without a header, in which labels are integers.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    is_list: bool = False

    def at(self, row: Row, column: str) -> str:
        """The start of an error message about one cell."""
        return f"{row.file or self.path}: row {row.number}, column {column!r}"


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without the mark that Excel puts in front.

    Raises:
        DataError: It cannot be read or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start + 1}); save it as CSV UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if "\0" in text:
        raise DataError(f"{path}: holds zero bytes, so it is not UTF-8 text; save it as CSV UTF-8")
    return text


def read_csv(path: Path) -> Table:
    """A table with a header, separated by commas, tabs or semicolons: whichever the header has most of.

    Empty rows and columns without a name are left out.

    Raises:
        DataError: It cannot be read, has no header or two columns of one name, or a row has more or fewer fields
            than the header.
    """
    text = read_text(path)
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows: list[Row] = []
    try:
        for number, fields in enumerate(reader, start=1):
            cells = [cell.strip() for cell in fields]
            if not any(cells):
                continue
            if not header:
                header = _header(path, cells)
                continue
            if len(cells) != len(header):
                cells = _fitted(path, number, cells, len(header))
            rows.append(Row(number, {name: cell for name, cell in zip(header, cells, strict=True) if name}))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from None
    if not header:
        raise DataError(f"{path}: is empty; expected a header with the names of the columns")
    return Table(path, tuple(name for name in header if name), tuple(rows))


def _header(path: Path, cells: list[str]) -> list[str]:
    for name in cells:
        if name and cells.count(name) > 1:
            raise DataError(f"{path}: two columns are called {name!r}")
    return cells


def _fitted(path: Path, number: int, cells: list[str], num_columns: int) -> list[str]:
    """Spreadsheets write empty fields behind the last column; those are no mistake."""
    if len(cells) > num_columns and not any(cells[num_columns:]):
        return cells[:num_columns]
    raise DataError(
        f"{path}: row {number} has {len(cells)} fields and the header {num_columns}; "
        "put text that holds the separator in double quotes"
    )
