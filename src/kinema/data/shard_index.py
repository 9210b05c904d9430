"""The index of a store: what it holds, and where. `kinema.data.shards` says what files there are."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinema.files import read_json_object, write_json
from kinema.types import DataError

VERSION: Final = 1
"""Of the files. A store of another version is refused."""

KEY_BYTES: Final = 16

FAILED: Final = "failed"
"""In the meta of an entry without data: why there are none."""

_SHARD = re.compile(r"(\d+)-of-(\d+)\.idx")
_HASHED_WORDS = 15
# Odd, so that a change of any one word changes the sum.
_FACTORS: NDArray[np.uint32] = (
    np.frombuffer(hashlib.blake2b(b"kinema index", digest_size=60).digest(), dtype="<u4") | np.uint32(1)
).astype(np.uint32)

RECORD = np.dtype(
    [
        ("key", "u1", (KEY_BYTES,)),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("checksum", "<u8"),
        ("meta_offset", "<u8"),
        ("meta_length", "<u4"),
        ("meta_checksum", "<u4"),
        ("reserved", "<u4"),
        ("record_checksum", "<u4"),
    ]
)
assert RECORD.itemsize == 4 * (_HASHED_WORDS + 1)


def entry_key(facts: Any) -> bytes:
    """Key of an entry: 16 bytes that differ whenever anything differs that determines its bytes.

    Args:
        facts: Of JSON types.
    """
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def file_state(path: Path, root: Path | None = None) -> dict[str, Any]:
    """What tells a file from another, and from itself before it was changed: its path, from `root` where it lies below
    it (a data set can be moved together with its stores), its size and its time of change. Of a folder of frames, how
    many files are in it, and a digest of their names, sizes and times: a file that is written again changes nothing
    about its folder.

    Raises:
        DataError: There is no such file, or it cannot be looked at.
    """
    try:
        stat = path.stat()
        is_folder = path.is_dir()
        state = _folder_state(path) if is_folder else {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    place = path.absolute()
    with suppress(ValueError):
        place = place if root is None else place.relative_to(root.absolute())
    return {"path": _text(place.as_posix()), **state}


def _folder_state(folder: Path) -> dict[str, Any]:
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        stats = sorted((_text(entry.name), (stat := entry.stat()).st_size, stat.st_mtime_ns) for entry in files)
    digest = hashlib.blake2b(json.dumps(stats).encode(), digest_size=16).hexdigest()
    return {"files": len(stats), "digest": digest}


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, of any version."""
    return (folder / "store.json").is_file()


def description(folder: Path) -> dict[str, Any]:
    """What `store.json` says.

    Raises:
        DataError: There is no store, or it is of a version that is not known.
    """
    path = folder / "store.json"
    if not path.is_file():
        raise DataError(f"{folder}: not a store: there is no {path.name} in it; kinema data prepare makes stores")
    found = read_json_object(path)
    version = found.get("version")
    if version != VERSION:
        raise DataError(
            f"{folder}: a store of version {version}, and this kinema reads version {VERSION}; "
            "prepare it again, or use the kinema that made it"
        )
    if not isinstance(found.get("kind"), str) or not isinstance(found.get("settings"), dict):
        raise DataError(f"{path}: does not say what is stored, and how; prepare the store again")
    return found


def agree(folder: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """See to it that a folder is a store of a kind and of settings.

    Raises:
        DataError: It is one of others.
    """
    if not is_store(folder):
        _write_once(folder / "store.json", {"version": VERSION, "kind": kind, "settings": _plain(settings)})
    check_agreement(folder, kind, settings)


def check_agreement(folder: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """See that a store is of a kind and of settings.

    Raises:
        DataError: It is of others.
    """
    plain = _plain(settings)
    found = description(folder)
    if found["kind"] != kind:
        raise DataError(f"{folder}: is a store of {found['kind']}, not of {kind}; give another folder")
    before = found["settings"]
    for name in sorted({*before, *plain}):
        if before.get(name) != plain.get(name):
            raise DataError(
                f"{folder}: was made with {name} = {before.get(name)!r}, not {plain.get(name)!r}; "
                "a store has one of each setting: give another folder"
            )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return plain


def _write_once(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file, unless another job was faster: of jobs that start at once, one makes it and all compare."""
    whole = path.with_name(f".{path.stem}.{platform.node()}.{os.getpid()}.json")
    write_json(whole, value)
    try:
        os.link(whole, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)


def index_files(folder: Path) -> list[Path]:
    """Index files of all jobs, in an order that does not depend on the file system."""
    found = [
        (int(match[2]), int(match[1]), path) for path in folder.iterdir() if (match := _SHARD.fullmatch(path.name))
    ]
    return [path for _, _, path in sorted(found)]


def read_index(path: Path) -> NDArray[np.void]:
    """Records of an index, without one at its end that was only begun.

    Raises:
        DataError: It is damaged before its end, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    records = np.frombuffer(content, dtype=RECORD, count=len(content) // RECORD.itemsize)
    wrong = np.flatnonzero(record_checksums(records) != records["record_checksum"])
    if len(wrong) and len(records) - wrong[0] == len(wrong):  # all that follows is wrong too: never written in full
        return records[: wrong[0]]
    if len(wrong):
        raise DataError(f"{path}: damaged: record {wrong[0]} is not what was written; prepare the store again")
    return records


def joined(shards: list[NDArray[np.void]]) -> NDArray[np.void]:
    return np.concatenate(shards) if shards else np.empty(0, dtype=RECORD)


def record_checksums(records: NDArray[np.void]) -> NDArray[np.uint32]:
    """A number of each record's content, that of zeros is not 0."""
    words = np.ascontiguousarray(records).view("<u4").reshape(len(records), _HASHED_WORDS + 1)
    total = np.full(len(records), 0x9E3779B9, dtype=np.uint32)
    for position in range(_HASHED_WORDS):
        mixed = words[:, position] ^ (words[:, position] >> np.uint32(15))
        total = (total ^ (total >> np.uint32(13))) * np.uint32(0x85EBCA6B) + mixed * _FACTORS[position]
    return total


def rows(records: NDArray[np.void]) -> dict[bytes, int]:
    """Key -> row; of a key that is there twice, the first."""
    keys: list[bytes] = np.ascontiguousarray(records["key"]).view(f"V{KEY_BYTES}").reshape(-1).tolist()
    rows = dict(zip(keys, range(len(keys)), strict=True))
    if len(rows) < len(keys):
        rows = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, row)
    return rows
