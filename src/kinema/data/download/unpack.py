"""Unpacking archives of strangers: nothing is written outside the folder, nothing is left half.

What an archive says about itself is listed and checked first: names, kinds, sizes. Then kinema writes the files
itself, into a temporary folder beside the place, no byte more than was listed; only when all are there the folder gets
its name. Archives with links or devices are refused: no data set needs them, and they are how files get outside.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from kinema.data.download.checks import check_room
from kinema.data.download.rar import SIGNATURE, Listed, open_rar
from kinema.progress import SILENT, Reporter
from kinema.types import DataError
from kinema.wording import byte_size

_MOST_TIMES_LARGER = 100
"""Videos and pictures hardly shrink when they are packed, lists about tenfold. Bombs are a thousand times larger."""
_ALWAYS_ALLOWED_BYTES = 64_000_000
_MOST_ENTRIES = 5_000_000
_CHUNK_BYTES = 1 << 20
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What came out of an archive."""

    num_files: int
    num_bytes: int


def unpack(archive: Path, place: Path, *, nested: bool = False, reporter: Reporter = SILENT) -> Unpacked:
    """Unpack an archive (zip, tar in any compression, RAR) so that it is whole at a place, or not there at all.

    Args:
        archive: The archive.
        place: The folder that it becomes. Where the archive holds a folder of that name, it is that one.
        nested: Archives in it are unpacked as well, each into a folder of its name where it does not bring that folder
            itself.
        reporter: Where to show progress.

    Raises:
        DataError: The archive is damaged or not to be trusted, no program can read it, or the disk is full. The
            archive is kept.
    """
    _remove_remains(place)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.unpacking")
    try:
        temporary.mkdir(parents=True)
        _unpack_into(archive, temporary, reporter)
        if nested:
            _unpack_nested(temporary, reporter)
        inner = temporary / place.name
        result = inner if inner.is_dir() else temporary
        sizes = [path.stat().st_size for path in result.rglob("*") if path.is_file()]
        if not sizes:
            raise DataError(f"{archive}: holds no file that could become {place.name}; delete it and run it again")
        result.rename(place)
    except OSError as error:
        reason = error.strerror or str(error)
        room = "; make room and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DataError(f"{place}: {archive.name} cannot be unpacked: {reason}{room}; the archive is kept") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Unpacked(num_files=len(sizes), num_bytes=sum(sizes))


def _remove_remains(place: Path) -> None:
    """Remove what was left where unpacking was killed."""
    for remains in place.parent.glob(f".{place.name}.*.unpacking"):
        shutil.rmtree(remains, ignore_errors=True)


def _unpack_nested(folder: Path, reporter: Reporter) -> None:
    archives = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".rar", ".zip", ".tar"))
    with reporter.track("Unpacking archives inside", total=len(archives), unit="archives") as task:
        for archive in archives:
            _unpack_into(archive, archive.parent, SILENT, own_folder=archive.stem)
            archive.unlink()
            task.advance()


def _unpack_into(archive: Path, folder: Path, reporter: Reporter, *, own_folder: str | None = None) -> None:
    try:
        with _opened(archive, folder) as (listed, contents):
            paths = [_checked(entry, archive) for entry in listed]
            if own_folder is not None and any(path.parts[:1] != (own_folder,) for path in paths):
                paths = [own_folder / path for path in paths]
            files = [(path, entry.num_bytes) for path, entry in zip(paths, listed, strict=True) if entry.kind == "file"]
            for path, entry in zip(paths, listed, strict=True):
                if entry.kind == "folder":
                    _make_folder(folder / path, archive)
            with reporter.track(f"Unpacking {archive.name}", total=len(files), unit="files") as task:
                for (path, num_bytes), source in zip(files, contents, strict=False):
                    _make_folder((folder / path).parent, archive)
                    _write(source, folder / path, num_bytes, archive)
                    task.advance()
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{archive}: damaged, or not what it should be: {reason}; delete it and run it again") from None


@contextmanager
def _opened(archive: Path, folder: Path) -> Iterator[tuple[list[Listed], Iterator[IO[bytes]]]]:
    """What is in an archive, and its files one after the other, in that order."""
    with archive.open("rb") as file:
        start = file.read(len(SIGNATURE))
    if start == SIGNATURE:
        with open_rar(archive) as (listed, pipe):
            _check_sizes(listed, archive, folder)
            yield listed, (pipe for _ in listed)
            if pipe.read(1):
                raise DataError(f"{archive}: damaged: holds more than it lists")
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            listed = [Listed(member.filename, member.file_size, _zip_kind(member)) for member in opened.infolist()]
            _check_sizes(listed, archive, folder)
            with closing(_zip_files(opened)) as files:
                yield listed, files
    else:
        with tarfile.open(archive, "r:*") as packed:
            entries: list[tarfile.TarInfo] = []
            for entry in packed:  # of a compressed archive that decodes all of it, so the sum is looked at on the way
                entries.append(entry)
                if entry.offset_data + entry.size > _limit(archive):
                    raise _no_data_set(archive, len(entries), entry.offset_data + entry.size)
            listed = [Listed(entry.name, entry.size, _tar_kind(entry)) for entry in entries]
            _check_sizes(listed, archive, folder)
            yield listed, filter(None, (packed.extractfile(entry) for entry in entries if entry.isfile()))


def _zip_files(opened: zipfile.ZipFile) -> Generator[IO[bytes]]:
    for member in opened.infolist():
        if not member.is_dir():
            with opened.open(member) as file:
                yield file


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "other"
    return "folder" if member.is_dir() else "file"


def _tar_kind(entry: tarfile.TarInfo) -> str:
    return "folder" if entry.isdir() else "file" if entry.isfile() and not entry.issparse() else "other"


def _limit(archive: Path) -> int:
    return max(_ALWAYS_ALLOWED_BYTES, _MOST_TIMES_LARGER * archive.stat().st_size)


def _check_sizes(listed: list[Listed], archive: Path, folder: Path) -> None:
    total = sum(entry.num_bytes for entry in listed)
    if total > _limit(archive) or len(listed) > _MOST_ENTRIES or any(entry.num_bytes < 0 for entry in listed):
        raise _no_data_set(archive, len(listed), total)
    check_room(folder, total, f"unpacking {archive.name}")


def _no_data_set(archive: Path, num_entries: int, num_bytes: int) -> DataError:
    packed = byte_size(archive.stat().st_size)
    return DataError(f"{archive}: {num_entries:,} files of {byte_size(num_bytes)} in {packed} are no data set; refused")


def _checked(entry: Listed, archive: Path) -> PurePosixPath:
    """The path of an entry inside the folder.

    Raises:
        DataError: It would be outside, or is no file or folder.
    """
    name = entry.name.replace("\\", "/")  # which Windows takes for the same
    path = PurePosixPath(name)
    if entry.kind == "other":
        raise DataError(f"{archive}: holds a link or device, {entry.name!r}; refused")
    outside = path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name)
    if outside or any(ord(letter) < 32 for letter in name) or (entry.kind == "file" and not path.parts):
        raise DataError(f"{archive}: holds {entry.name!r}, which would not be inside the folder; refused")
    return path


def _make_folder(folder: Path, archive: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"{archive}: holds a file and a folder called {folder.name!r}; refused") from None


def _write(source: IO[bytes], path: Path, num_bytes: int, archive: Path) -> None:
    """Exactly so many bytes: of a zip or tar, the source ends there; of a RAR, the next file begins."""
    try:
        with path.open("xb") as file:
            left = num_bytes
            while left and (chunk := source.read(min(_CHUNK_BYTES, left))):
                file.write(chunk)
                left -= len(chunk)
    except FileExistsError:
        raise DataError(f"{archive}: holds {path.name!r} twice; refused") from None
    if left:
        raise DataError(f"{archive}: damaged: {path.name!r} ends {left:,} bytes early; delete it and run it again")
