"""Reading RAR archives through a program that is there: no library of Python's unpacks them by itself.

The programs only list and decode. They never write a file: what they decode comes through a pipe, and `unpack` puts it
where it belongs after it has looked at every name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kinema.types import DataError

SIGNATURE = b"Rar!\x1a\x07"


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of an archive, as the archive has it: nothing about it is checked.

    Attributes:
        name: Path inside the archive.
        num_bytes: Size, unpacked.
        kind: What it is. `other` is a link, a device and the like.
    """

    name: str
    num_bytes: int
    kind: str  # file, folder or other


@dataclass(frozen=True, slots=True)
class _Program:
    """How to have a program list an archive, and decode all files of it, in the order of the list, into a pipe.

    Attributes:
        listing: Command that lists; the archive's name is put behind it.
        decoding: Command that decodes, likewise.
        parse: Understands what the first prints.
        harmless: Complaints of the second, line by line, that are none: with these alone all files were decoded.
    """

    listing: tuple[str, ...]
    decoding: tuple[str, ...]
    parse: Callable[[str], list[Listed]]
    harmless: re.Pattern[str] | None = None

    @property
    def is_there(self) -> bool:
        return all(shutil.which(command[0]) for command in (self.listing, self.decoding))


def can_read_rar() -> bool:
    """Whether there is a program for it."""
    return any(program.is_there for program in _PROGRAMS)


NO_PROGRAM = (
    "unpacking RAR needs one of the programs bsdtar, unrar, 7z or unar; install one (on Debian and Ubuntu: "
    "apt install libarchive-tools)"
)


@contextmanager
def open_rar(archive: Path) -> Iterator[tuple[list[Listed], IO[bytes]]]:
    """List a RAR archive, and decode it: all files, one behind the other in the order of the list.

    Raises:
        DataError: There is no program that can read it, or it is damaged.
    """
    archive = archive.absolute()  # no program takes it for an option
    problem = NO_PROGRAM
    for program in _PROGRAMS:
        if not program.is_there:
            continue
        listed = _list(program, archive)
        if isinstance(listed, str):
            problem = f"damaged, or {program.decoding[0]} cannot read it ({listed})"
            continue
        with _decoding(program, archive) as pipe:
            yield listed, pipe
        return
    raise DataError(f"{archive}: {problem}; the archive is kept")


def _list(program: _Program, archive: Path) -> list[Listed] | str:
    """What is in the archive, or what the program complains of."""
    command = [*program.listing, str(archive)]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=_environment(), check=False)  # noqa: S603
    text = done.stdout.decode("utf-8", errors="surrogateescape")
    if done.returncode:
        return _last_line(done.stderr + b"\n" + done.stdout) or f"exit code {done.returncode}"
    try:
        return program.parse(text) or "it lists nothing"
    except (ValueError, KeyError, TypeError) as error:
        return f"its list is not understood: {error}"


@contextmanager
def _decoding(program: _Program, archive: Path) -> Iterator[IO[bytes]]:
    command = [*program.decoding, str(archive)]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=_environment()
        )
        assert process.stdout is not None
        try:
            yield process.stdout
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
        complaints.seek(0)
        said = complaints.read()
        if code and not _is_harmless(said, program.harmless):
            raise DataError(f"{archive}: damaged: {command[0]} says: {_last_line(said) or f'exit code {code}'}")


def _is_harmless(complaints: bytes, harmless: re.Pattern[str] | None) -> bool:
    lines = complaints.decode("utf-8", errors="replace").splitlines()
    return harmless is not None and bool(lines) and all(harmless.fullmatch(line) for line in lines)


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


_LS_LINE = re.compile(r"(?P<mode>[-dlhbcpsD]\S{9,10})\s+\d+\s+\S+\s+\S+\s+(?P<size>\d+)\s+\S+\s+\S+\s+\S+ (?P<name>.+)")
_LS_KINDS = {"-": "file", "d": "folder"}


def _parse_ls(text: str) -> list[Listed]:
    """What `bsdtar -tv` prints, which is what `ls -l` prints."""
    entries = []
    for line in text.splitlines():
        match = _LS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(line)
        kind = _LS_KINDS.get(match["mode"][0], "other")
        if kind == "file" and " link to " in line:
            kind = "other"
        entries.append(Listed(match["name"], int(match["size"]), kind))
    return entries


def _blocks(text: str, separator: str) -> Iterator[dict[str, str]]:
    """Blocks of `key separator value` with empty lines between them."""
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(separator) for line in block.splitlines())
        yield {key.strip(): value.strip() for key, found, value in pairs if found}


def _parse_7z(text: str) -> list[Listed]:
    entries = []
    for block in _blocks(text.replace("\r\n", "\n"), " ="):
        if "Path" not in block:
            continue
        special = re.search(r"(^|\s)[lbcps][-r]", block.get("Attributes", "")) or any(
            block.get(key) for key in ("Symbolic Link", "Hard Link")
        )
        kind = "other" if special else "folder" if block.get("Folder") == "+" else "file"
        entries.append(Listed(block["Path"], int(block.get("Size") or 0), kind))
    return entries


def _parse_unrar(text: str) -> list[Listed]:
    kinds = {"File": "file", "Directory": "folder"}
    return [
        Listed(block["Name"], int(block.get("Size") or 0), kinds.get(block["Type"], "other"))
        for block in _blocks(text, ": ")
        if "Name" in block and "Type" in block
    ]


def _parse_lsar(text: str) -> list[Listed]:
    entries = []
    for entry in json.loads(text)["lsarContents"]:
        special = entry.get("XADIsLink") or entry.get("XADIsHardLink") or entry.get("XADLinkDestination")
        kind = "other" if special else "folder" if entry.get("XADIsDirectory") else "file"
        entries.append(Listed(str(entry["XADFileName"]), int(entry.get("XADFileSize", 0)), kind))
    return entries


# What libarchive 3.6 says when it is asked for the content of a folder, which in RAR 5 is an entry of its own.
_FOLDER_HAS_NO_CONTENT = re.compile(
    r".*: Can't decompress an entry marked as a directory(: .*)?|bsdtar: Error exit delayed from previous errors\."
)

_PROGRAMS = (
    _Program(("bsdtar", "-tvf"), ("bsdtar", "-xOf"), _parse_ls, _FOLDER_HAS_NO_CONTENT),
    _Program(("unrar", "lt", "-c-", "-p-", "--"), ("unrar", "p", "-inul", "-c-", "-p-", "--"), _parse_unrar),
    *(
        _Program((name, "l", "-slt", "-ba", "-sccUTF-8", "-p"), (name, "x", "-so", "-bd", "-p"), _parse_7z)
        for name in ("7z", "7zz")
    ),
    _Program(("lsar", "-j"), ("unar", "-q", "-o", "-"), _parse_lsar),
)
