"""From the name of a data set to its files in a folder.

The folder keeps a record, `.kinema-download.json`: which data set it is, which licence was accepted, and what was
fetched. Its files are written one after the other, so a download that was stopped goes on with the part that it was at.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kinema import registry
from kinema.data.download.checks import Fetched, check_file
from kinema.data.download.fetch import check_url, fetch
from kinema.data.download.rar import NO_PROGRAM, can_read_rar
from kinema.data.download.sources import SOURCES, File, Part, Source, choose_parts, find_source
from kinema.data.download.unpack import unpack
from kinema.files import read_json_object, write_json
from kinema.progress import SILENT, Reporter
from kinema.sections import DataSection
from kinema.types import ConfigError, DataError, fingerprint

_LOG = logging.getLogger(__name__)

RECORD = ".kinema-download.json"

MIRROR_VARIABLE = "KINEMA_MIRROR"
LICENCE_VARIABLE = "KINEMA_ACCEPT_LICENCE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What became of a part.

    Attributes:
        name: The part.
        status: `there`: it was there before.
        place: Where it is.
        num_files: Files in it, and `num_bytes` their sizes; None where it was there before.
    """

    name: str
    status: Literal["fetched", "there"]
    place: Path
    num_files: int | None = None
    num_bytes: int | None = None


def missing_parts(root: Path, parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts that are not in a folder yet. A folder that somebody else filled counts as there: what is in it is his.

    Args:
        root: The folder.
        parts: Which parts to look for.
    """
    return tuple(part for part in parts if not _is_there(root, part))


def licence_accepted(root: Path, name: str, source: Source) -> bool:
    """Whether the licence, as kinema gives it today, was accepted for this folder.

    Raises:
        ConfigError: The folder is another data set's.
        DataError: The record cannot be read.
    """
    return bool(_read_record(root, name).get("licence", {}).get("fingerprint") == _licence_fingerprint(source))


def accept_licence(root: Path, name: str, source: Source) -> None:
    """Note that it was accepted.

    Raises:
        ConfigError: The folder is another data set's.
        DataError: The folder cannot be written.
    """
    record = _read_record(root, name)
    record["licence"] = {
        "text": source.licence,
        "address": source.licence_url,
        "fingerprint": _licence_fingerprint(source),
        "accepted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    _write_record(root, record)


def download(
    name: str,
    root: Path,
    parts: Sequence[Part],
    *,
    mirror: str | None = None,
    reporter: Reporter = SILENT,
) -> list[PartReport]:
    """Fetch and unpack parts of a data set whose licence was accepted, one address at a time. What is there stays.

    Args:
        name: The data set.
        root: Folder that it becomes.
        parts: Of its source.
        mirror: Address of a folder on the web that has the same files, instead of the makers' addresses.
        reporter: Where to show progress.

    Raises:
        ConfigError: The licence was not accepted for this folder.
        DataError: Something could not be fetched or unpacked. What came so far is kept and gone on with next time.
    """
    if not licence_accepted(root, name, SOURCES[name]):
        raise ConfigError(f"{name}: the licence was not accepted for {root}; nothing was fetched")
    if mirror is not None:
        check_url(mirror)
    reports = []
    with _alone(root):
        for part in parts:
            if _is_there(root, part):
                reports.append(PartReport(name=part.name, status="there", place=root / part.folder))
            elif part.archive:
                reports.append(_download_archive(name, root, part, mirror, reporter))
            else:
                reports.append(_download_files(name, root, part, mirror, reporter))
    return reports


def ensure(section: DataSection, *, reporter: Reporter = SILENT) -> None:
    """Fetch what `data.root` lacks, for `data.download: true`. Lists that lie elsewhere are not fetched. A data set of
    which nothing may be fetched has to be there.

    Raises:
        ConfigError: There is no root, the data set is not fetched by kinema, or its licence was not accepted yet.
        DataError: Something could not be fetched or unpacked.
    """
    source = find_source(section.name, key="data.download")
    root = section.root
    if root is None:
        raise ConfigError("data.root: missing; data.download needs a folder to fetch the data into")
    if not source.parts:
        _check_it_is_there(section, source)
        return
    elsewhere = getattr(section, "annotations", None) is not None
    wanted = [part for part in choose_parts(section.name, source) if not (part.annotations and elsewhere)]
    lacking = missing_parts(root, wanted)
    if not lacking:
        return
    if not licence_accepted(root, section.name, source):
        if os.environ.get(LICENCE_VARIABLE) != "1":
            raise ConfigError(
                f"data.download: the licence of {source.title} was not accepted yet; read it and accept it once with: "
                f"kinema data download {section.name} {root}"
            )
        accept_licence(root, section.name, source)
    download(section.name, root, lacking, mirror=os.environ.get(MIRROR_VARIABLE) or None, reporter=reporter)


def _check_it_is_there(section: DataSection, source: Source) -> None:
    try:
        registry.entry("dataset", section.name, key="data.name").load()(section.root, **section.arguments())
    except DataError as error:
        raise ConfigError(
            f"data.download: {section.name} is not fetched by kinema but by hand, from {source.page}, and is not there "
            f"yet: {error}"
        ) from None


def _is_there(root: Path, part: Part) -> bool:
    folder = root / part.folder
    if part.archive:
        return folder.is_dir() and any(folder.iterdir())
    return all((folder / file.name).is_file() for file in part.files)


def _download_archive(name: str, root: Path, part: Part, mirror: str | None, reporter: Reporter) -> PartReport:
    (file,) = part.files
    archive = root / file.name
    record = _read_record(root, name)
    ours = file.name in record.get("archives", {})
    if file.name.endswith(".rar") and not can_read_rar():
        _LOG.warning("%s; %s is fetched and kept until then", NO_PROGRAM, file.name)
    if not archive.is_file():
        fetched = _fetch(file, archive, mirror, reporter, copies=2)
        record.setdefault("archives", {})[file.name] = _facts(file, fetched, mirror)
        _write_record(root, record)
        ours = True
    elif not ours:  # somebody put it there, perhaps as the server could not be reached from here
        _, other = check_file(archive, file.checksum, reporter=reporter)
        if other is not None:
            raise DataError(
                f"{archive}: is not the published file: its checksum is {other}, published is {file.checksum}; "
                "remove it or give it another name"
            )
        _LOG.info("%s is there already and is used as it is", archive)
    unpacked = unpack(archive, root / part.folder, nested=part.nested, reporter=reporter)
    record.setdefault("parts", {})[part.name] = {
        "folder": part.folder,
        "num_files": unpacked.num_files,
        "num_bytes": unpacked.num_bytes,
        "files": [record.get("archives", {}).pop(file.name, {"name": file.name})],
    }
    _write_record(root, record)
    if ours:
        with suppress(OSError):
            archive.unlink()
    return PartReport(
        name=part.name,
        status="fetched",
        place=root / part.folder,
        num_files=unpacked.num_files,
        num_bytes=unpacked.num_bytes,
    )


def _download_files(name: str, root: Path, part: Part, mirror: str | None, reporter: Reporter) -> PartReport:
    folder = root / part.folder
    record = _read_record(root, name)
    entry = record.setdefault("parts", {}).setdefault(part.name, {"folder": part.folder, "files": []})
    folder.mkdir(parents=True, exist_ok=True)
    with reporter.track(f"Fetching {part.name}", total=len(part.files), unit="files") as task:
        for file in part.files:
            if not (folder / file.name).is_file():
                fetched = _fetch(file, folder / file.name, mirror, SILENT)
                entry["files"].append(_facts(file, fetched, mirror))
                _write_record(root, record)
            task.advance()
    sizes = [(folder / file.name).stat().st_size for file in part.files]
    return PartReport(name=part.name, status="fetched", place=folder, num_files=len(sizes), num_bytes=sum(sizes))


def _fetch(file: File, target: Path, mirror: str | None, reporter: Reporter, *, copies: int = 1) -> Fetched:
    return fetch(
        _address(file, mirror),
        target,
        num_bytes=file.num_bytes,
        checksum=file.checksum,
        copies=copies,
        reporter=reporter,
    )


def _address(file: File, mirror: str | None) -> str:
    return file.url if mirror is None else f"{mirror.rstrip('/')}/{file.name}"


def _facts(file: File, fetched: Fetched, mirror: str | None) -> dict[str, Any]:
    return {
        "name": file.name,
        "url": _address(file, mirror),
        "num_bytes": fetched.num_bytes,
        "sha256": fetched.sha256,
        "published_checksum": file.checksum,
    }


def _licence_fingerprint(source: Source) -> str:
    return fingerprint([source.licence, source.licence_url])


def _read_record(root: Path, name: str) -> dict[str, Any]:
    if not (root / RECORD).exists():
        return {"name": name}
    record = read_json_object(root / RECORD)
    if record.get("name") != name:
        raise ConfigError(f"{root}: holds {record.get('name')} already, as {RECORD} says; give {name} another folder")
    return record


def _write_record(root: Path, record: dict[str, Any]) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / RECORD, record)
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be written: {error.strerror}") from None


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Two at once would write into one part file. The second waits, and finds everything there."""
    try:
        import fcntl
    except ImportError:  # Windows has other locks
        yield
        return
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.info("another download into %s is at work; waiting for it", root)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a disk on the network may not know locks
        yield
    finally:
        os.close(descriptor)
