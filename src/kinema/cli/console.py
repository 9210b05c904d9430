"""What a command prints: messages, tables, progress and JSON. The only place that prints."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.files import write_atomically
from kinema.progress import Task
from kinema.types import StoppedBySignal, UserError
from kinema.wording import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the same facts as JSON; - is standard output."),
]

_FILE_WIDTH = 140
"""Characters per line of tables that go into a file or a pipe."""

_LINE_EVERY_S = 10.0
"""Where nobody watches a terminal, progress is a line this often."""


def _level() -> int:
    """What `KINEMA_LOG` asks for.

    Raises:
        UserError: It is none of the levels.
    """
    name = os.environ.get("KINEMA_LOG", "info")
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
    if name.lower() not in levels:
        raise UserError(f"KINEMA_LOG: {name!r} is no level; known: {', '.join(levels)}")
    return levels[name.lower()]


class Output:
    """Where a command's words go. With `--json -` standard output holds the JSON alone, and words go to standard
    error.

    Args:
        json_file: Value of `--json`.
        words_aside: Words always go to standard error: standard output is for what `lines` prints.

    Raises:
        UserError: It cannot be written: known before the work begins, not behind it.
    """

    def __init__(self, json_file: str | None, *, words_aside: bool = False) -> None:
        from rich.console import Console

        if json_file not in (None, "-"):
            _check_writable(Path(json_file))
        self.json_file = json_file
        aside = words_aside or json_file == "-"
        self.console: Console = Console(stderr=aside, highlight=False, emoji=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = _FILE_WIDTH
        self.reporter = ConsoleReporter(self.console)
        handler = self._handler = _ConsoleHandler(self.console)
        logger = logging.getLogger("kinema")
        logger.handlers = [handler]
        logger.setLevel(_level())
        logger.propagate = False
        self._log = _Log()
        logger.addHandler(self._log)

    def only_warnings(self) -> None:
        """Of what the library says, show warnings alone: many runs say the same, each in a log of its own."""
        self._handler.setLevel(logging.WARNING)

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False)
        self._log.add("INFO", text)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", wide: bool = False
    ) -> None:
        """Print a table; numbers stand to the right.

        Args:
            columns: Their titles.
            rows: Their cells.
            title: Above it.
            wide: In a file or a pipe lines are as long as the cells need.
        """
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for position, column in enumerate(columns):
            numbers = any(isinstance(row[position], int | float) for row in rows)
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_text(value)) for value in row))
        width = self.console.width
        if wide and not self.console.is_terminal:
            endless = self.console.options.update(max_width=10**4)
            self.console.width = max(width, self.console.measure(table, options=endless).maximum)
        self.console.print(table)
        if not self.console.is_terminal:
            self.console.width = width

    def lines(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table of any length to standard output, a row a line: aligned in a terminal, else with tabs."""
        everything = [[_one_line(cell) for cell in row] for row in (columns, *rows)]
        separator = "\t"
        if sys.stdout.isatty():
            separator = "  "
            widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
            everything = [[*map(str.ljust, row, widths)] for row in everything]
        sys.stdout.writelines(f"{separator.join(row).rstrip(' ')}\n" for row in everything)
        sys.stdout.flush()

    def finish(self, record: Any) -> None:
        """Write the command's facts as JSON, where `--json` was given.

        Raises:
            UserError: The file cannot be written.
        """
        if self.json_file is not None:
            self._write_json(self.json_file, json.dumps(_plain(record), indent=2, ensure_ascii=False))

    def finish_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Like `finish`, of a list of any length: a row a line, never all of them in memory but as text.

        Args:
            rows: Of JSON types, without NaN.

        Raises:
            UserError: The file cannot be written.
        """
        if self.json_file is not None:
            encode = json.JSONEncoder(ensure_ascii=False).encode
            self._write_json(self.json_file, "[\n" + ",\n".join(encode(row) for row in rows) + "\n]")

    def _write_json(self, place: str, text: str) -> None:
        text = text.encode(errors="backslashreplace").decode()  # names of files need not be text; so JSON has them
        if place == "-":
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            return
        path = Path(place)
        try:
            if path.exists() and not path.is_file():  # a pipe or a device
                path.write_text(text + "\n", encoding="utf-8")
            else:
                write_atomically(path, f"{text}\n".encode())
        except OSError as error:
            raise UserError(f"--json: {path} cannot be written: {error.strerror}") from None

    @contextmanager
    def log_to(self, path: Path) -> Iterator[None]:
        """Write all messages, those up to here too, into a file as well. What ends the block is the last of them."""
        self._log.open(path)
        try:
            yield
        except (UserError, StoppedBySignal) as end:
            self._log.add("ERROR", str(end))
            raise
        finally:
            self._log.path = None


class ConsoleReporter:
    """Progress as a bar in a terminal, and as a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        task = _ConsoleTask(self._console, description, total, unit, done)
        if not self._console.is_terminal:
            yield task
            task.line(final=True)
            return
        from rich.progress import BarColumn, Progress, TextColumn

        columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}")]
        with Progress(*columns, console=self._console, transient=False) as progress:
            task.show_in(progress)
            yield task
            task.line(final=True)


class _ConsoleTask:
    def __init__(self, console: Console, description: str, total: int | None, unit: str, done: int) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._unit = unit
        self._before = done
        self._done = done
        self._facts: dict[str, str] = {}
        self._began = self._printed = time.monotonic()
        self._progress: Progress | None = None
        self._id: TaskID | None = None

    def show_in(self, progress: Progress) -> None:
        self._progress = progress
        self._id = progress.add_task(self._description, total=self._total, completed=self._done, state="")

    def advance(self, num: int = 1, **facts: str) -> None:
        self._done += num
        self._facts |= facts
        if self._progress is not None and self._id is not None:
            self._progress.update(self._id, completed=self._done, state=self._state())
        elif time.monotonic() - self._printed >= _LINE_EVERY_S:
            self.line()

    def line(self, *, final: bool = False) -> None:
        """One line of progress; a terminal's bar keeps its own last state."""
        self._printed = time.monotonic()
        if self._progress is None and (not final or self._printed - self._began >= 1.0):
            self._console.print(f"{self._description}: {self._state()}", markup=False)

    def _state(self) -> str:
        seconds = time.monotonic() - self._began
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        parts = [f"{self._done:,}" + (f"/{self._total:,}" if self._total else "") + f" {self._unit}"]
        parts.append(f"{rate:.3g} {self._unit}/s" if rate < 100 else f"{rate:,.0f} {self._unit}/s")
        if self._total and rate > 0 and self._done < self._total:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        else:
            parts.append(duration(seconds))
        return ", ".join(parts + [f"{name.replace('_', ' ')} {value}" for name, value in self._facts.items()])


class _Log(logging.Handler):
    """Keeps messages until there is a file for them. A file that cannot be written stops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.levelname, record.getMessage())

    def add(self, level: str, text: str) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._lines += [f"{now} {level} {line}\n" for line in text.splitlines() if line]
        self._flush()

    def open(self, path: Path) -> None:
        self.path = path
        self._flush()

    def _flush(self) -> None:
        if self.path is None:
            return
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.writelines(self._lines)
        self._lines = []


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self._console.print(prefix + record.getMessage(), markup=False)


def _check_writable(path: Path) -> None:
    folder = path.parent
    if path.is_dir():
        raise UserError(f"--json: {path} is a folder; give a file")
    if not folder.is_dir():
        raise UserError(f"--json: {path} cannot be written: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"--json: {path} cannot be written: no permission")


def _one_line(text: str) -> str:
    return " ".join(text.split()) if not text.isprintable() else text


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"  # so that points stand below each other
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
