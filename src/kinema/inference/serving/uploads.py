"""A clip in the body of a request, written to a file while it comes: never all of it in memory, and never more of it
than is allowed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "video"
_FORM = b"multipart/form-data"

_SUFFIXES = frozenset(
    [
        *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
        *(".ts", ".webm", ".wmv", ".y4m"),
        *(".bmp", ".jpeg", ".jpg", ".png", ".webp"),
    ]
)
_MOST_BESIDE = 64 * 1024
"""Bytes of headers and other fields of a form."""


@dataclass(kw_only=True)
class Upload:
    """A clip that has come.

    Attributes:
        path: Where it is.
        name: What its sender calls it.
    """

    path: Path
    name: str


@contextmanager
def place_for_clip(folder: Path) -> Iterator[Path]:
    """A folder for one upload, which is gone behind the block with all that is in it.

    Raises:
        HTTPException: It cannot be made.
    """
    place = folder / secrets.token_hex(8)
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)  # who tidies up temporary files may have taken it away
        place.mkdir(0o700)
    except OSError as error:
        raise HTTPException(503, f"the clip cannot be kept: {error.strerror}") from None
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_headers(request: Request, most_bytes: int) -> None:
    """Refuse a body of which is said beforehand that it is too large, or no clip.

    Raises:
        HTTPException: It is.
    """
    kind = _kind(request)[0]
    if kind != _FORM and not _is_plain(kind):
        raise HTTPException(
            415, f"send the clip as the field {FIELD!r} of a form (multipart/form-data), or as the body"
        )
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > most_bytes + _MOST_BESIDE:
        raise _too_large(most_bytes)


async def receive(request: Request, place: Path, *, most_bytes: int) -> Upload:
    """Write the clip in a request's body into a folder.

    Raises:
        HTTPException: There is no clip, or it is too large.
    """
    kind, options = _kind(request)
    if kind == _FORM:
        return await _receive_form(request, place, options.get(b"boundary", b""), most_bytes)
    assert _is_plain(kind), "check_headers lets no other through"
    return await _receive_plain(request, place, most_bytes)


def _kind(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    return parse_options_header(request.headers.get("content-type"))


def _is_plain(kind: bytes) -> bool:
    return kind.startswith((b"video/", b"image/")) or kind == b"application/octet-stream"


async def _receive_plain(request: Request, place: Path, most_bytes: int) -> Upload:
    upload = Upload(path=place / "clip", name="clip")
    num_bytes = 0
    with upload.path.open("wb") as file:
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > most_bytes:
                raise _too_large(most_bytes)
            file.write(chunk)
    if not num_bytes:
        raise HTTPException(422, "the body is empty; send a clip")
    return upload


async def _receive_form(request: Request, place: Path, boundary: bytes, most_bytes: int) -> Upload:
    form = _Form(place=place, most_bytes=most_bytes)
    try:
        parser = MultipartParser(boundary, form.callbacks(), max_size=most_bytes + _MOST_BESIDE + 1)
        num_bytes = 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > most_bytes + _MOST_BESIDE:
                raise _too_large(most_bytes)
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from None
    finally:
        form.close()
    if not form.is_complete:
        raise HTTPException(400, "the form breaks off")
    if form.upload is None:
        raise HTTPException(422, f"the form has no clip; send it as the file {FIELD!r}")
    return form.upload


@dataclass(kw_only=True)
class _Form:
    """Takes a form apart as it comes. Of its parts only the clip is kept."""

    place: Path
    most_bytes: int
    upload: Upload | None = None
    is_complete: bool = False
    _file: IO[bytes] | None = None
    _num_bytes: int = 0
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self.is_complete = True

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if options.get(b"name") != FIELD.encode() or self.upload is not None:
            return
        name = clean_name(options.get(b"filename", b"").decode(errors="replace"))
        suffix = Path(name).suffix.lower()
        self.upload = Upload(path=self.place / f"clip{suffix if suffix in _SUFFIXES else ''}", name=name)
        self._file = self.upload.path.open("wb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        self._num_bytes += end - start
        if self._num_bytes > self.most_bytes:
            raise _too_large(self.most_bytes)
        self._file.write(data[start:end])


def clean_name(name: str) -> str:
    """The last part of a file's name, as text that can stand in a message."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[-100:] or "clip"


def _too_large(most_bytes: int) -> HTTPException:
    from kinema.wording import byte_size

    return HTTPException(413, f"the clip is too large; at most {byte_size(most_bytes)} are taken")
