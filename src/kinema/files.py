"""Writing files so that a reader never finds half of one, and YAML without its surprises."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kinema.types import ConfigError, DataError


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either whole or not there.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole, as it was before, or not there.

    Raises:
        OSError: It cannot be written. Nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk's error names no file, another's names the temporary one
        raise


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a file for this process alone; it then holds the process's number. The system takes it back when the process
    ends, however it ends.

    Args:
        path: The file; made where it is not there.
        wait: For another process to let go of it.

    Returns:
        Whether it is held; always, where the system has no such locks.

    Raises:
        OSError: It cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        try:
            # Not flock: children that are forked would hold it too, and may live longer.
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            yield False
            return
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        yield True


def parse_yaml(text: str, *, source: str) -> Any:
    """Read YAML in which `1e-4` is a number, and `no`, `010`, `1:30` and `2024-01-31` are text.

    Args:
        text: The YAML.
        source: Where it comes from, for the error message.

    Raises:
        ConfigError: It is not YAML, or gives a key twice.
    """
    # What libyaml makes of a mistake differs from machine to machine, and lies lines behind it.
    with contextlib.suppress(yaml.YAMLError, ValueError):
        return yaml.load(text, Loader=_QuickLoader)  # noqa: S506 - a safe loader
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(f"{source}: not valid YAML{place}: {problem}") from None


def to_yaml(value: Any) -> str:
    """YAML that `parse_yaml` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


_PLAIN: tuple[tuple[str, str, str], ...] = (  # tag, what is read as such, first letters
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", "<<", "<"),
)
"""The core schema of YAML 1.2. PyYAML reads version 1.1, in which `1e-4` is text, `no` is false, `010` is 8, `1:30` is
90 and a date is not text: learning rates, class names and participants would not be what was written."""


class _NoKeyTwice(yaml.constructor.SafeConstructor):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Loader(_NoKeyTwice, yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in its base


class _QuickLoader(_NoKeyTwice, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # where there is one
    """Reads the same some fifteen times as fast."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in its base


class _Dumper(yaml.SafeDumper):
    """Quotes what either version would not read as text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """PyYAML folds some line ends (NEL, U+2028) into spaces, except in double quotes."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


for _tag, _pattern, _first in _PLAIN:
    for _reader_or_writer in (_Loader, _QuickLoader, _Dumper):
        _reader_or_writer.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
        )
