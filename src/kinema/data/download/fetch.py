"""Fetching one file over HTTP so that it can be interrupted, goes on later and is right in the end.

By the standard library. pooch checks hashes but begins anew after every interruption; huggingface_hub resumes, but
privately, and without asking whether the file is still the same; requests, urllib3 and httpx leave all of that to
their caller, and what they would save, urllib has: redirects, proxies, certificates.
"""

from __future__ import annotations

import email.utils
import errno
import http.client
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from kinema.data.download.checks import ByteProgress, Fetched, check_file, check_room, room_for_unknown
from kinema.files import read_json_object, write_json
from kinema.progress import SILENT, Reporter
from kinema.types import DataError
from kinema.version import __version__
from kinema.wording import byte_size, duration

_LOG = logging.getLogger(__name__)

USER_AGENT = f"kinema/{__version__} (download of a research data set)"

_TIMEOUT_S = 60.0  # without a single byte
_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 5  # in a row that brought next to nothing
_NEXT_TO_NOTHING_BYTES = 1 << 20
_FIRST_WAIT_S = 2.0  # doubled each time
_LONGEST_WAIT_S = 600.0  # of those that a server may ask for
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _TryAgainError(Exception):
    """What may go better next time."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class PartFile:
    """What has come of a file so far, and which version of the file it is of.

    Attributes:
        path: The bytes.
        notes: What the server said of the file, beside it.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.notes = target.with_name(f"{target.name}.part.json")

    @property
    def num_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def version(self, url: str) -> dict[str, Any]:
        """What is known of the file that the bytes are of. Empty if there are none that could be gone on with."""
        if not self.num_bytes:
            return {}
        try:
            notes = read_json_object(self.notes)
        except DataError:
            return {}
        return notes if notes.get("url") == url and isinstance(notes.get("num_bytes"), int | None) else {}

    def begin(self, url: str, headers: Mapping[str, str], total: int | None) -> None:
        """Forget the bytes, and note which file the next ones will be of."""
        self.path.write_bytes(b"")
        notes = {"url": url, "etag": headers.get("ETag"), "last_modified": headers.get("Last-Modified")}
        write_json(self.notes, {**notes, "num_bytes": total})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def fetch(
    url: str,
    target: Path,
    *,
    num_bytes: int | None = None,
    checksum: str | None = None,
    copies: int = 1,
    reporter: Reporter = SILENT,
) -> Fetched:
    """Fetch a file, or the rest of it. `target` appears when it is whole and right; until then there is `target.part`,
    which stays whatever happens, and the next call goes on with it if the server still has the same file.

    Args:
        url: Address, http or https.
        target: Where the file shall be.
        num_bytes: Published size.
        checksum: Published checksum, `sha256:...` or `md5:...`.
        copies: How often the file's size has to fit on the disk: 2 where it is unpacked afterwards.
        reporter: Where to show progress.

    Raises:
        DataError: The server does not have it, sends another one, or cannot be reached; or the disk is too small.
    """
    check_url(url)
    part = PartFile(target)
    failures = 0
    while True:
        before = part.num_bytes
        try:
            continued = _transfer(url, part, num_bytes, checksum, copies, reporter)
            fetched = _verified(part, url, checksum, again=continued, reporter=reporter)
            break
        except _TryAgainError as problem:
            failures = 0 if part.num_bytes - before >= _NEXT_TO_NOTHING_BYTES else failures + 1
            if failures >= _ATTEMPTS:
                kept = f"; {part.path.name} is kept and gone on with next time" if part.num_bytes else ""
                raise DataError(f"{url}: {problem}; gave up after {failures} attempts{kept}") from None
            wait_s = max(problem.wait_s or 0.0, _FIRST_WAIT_S * 2 ** max(0, failures - 1))
            if wait_s > _LONGEST_WAIT_S:
                raise DataError(f"{url}: {problem}, and asks to wait for {duration(wait_s)}; try again then") from None
            _LOG.info("%s: %s; trying again in %s", url, problem, duration(wait_s))
            time.sleep(wait_s)
        except OSError as error:  # of the disk; those of the network have been dealt with
            raise _disk_error(part.path, error) from None
    part.path.replace(target)
    part.notes.unlink(missing_ok=True)
    return fetched


def is_url(text: str) -> bool:
    """Whether it is an address on the web."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def check_url(url: str) -> None:
    """Let nothing pass but addresses on the web: `file:` would read this machine's files.

    Raises:
        DataError: It is none.
    """
    if not is_url(url):
        raise DataError(f"{url}: not an address that begins with http:// or https://")


def _transfer(
    url: str, part: PartFile, num_bytes: int | None, checksum: str | None, copies: int, reporter: Reporter
) -> bool:
    """One request, and what comes of it into the part file. Whether it went on with bytes that were there before.

    Raises:
        _TryAgainError: Less came than was promised, or nothing.
        DataError: It will not go better next time.
    """
    version = part.version(url)
    done = part.num_bytes if version else 0
    if done and done == version.get("num_bytes"):
        return True
    validator = _validator(version)
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*"}
    if done and validator:  # without, nobody could say that the bytes are of the file that is there today
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    with _open(url, headers, part) as response:
        try:
            offset, total = _place(response, version, done if "Range" in headers else 0)
        except _OtherVersionError:
            part.remove()
            raise _TryAgainError("the file on the server has changed since it was begun; it begins anew") from None
        if num_bytes is not None and total not in (None, num_bytes):
            raise DataError(
                f"{url}: the server has {total:,} bytes where {num_bytes:,} are published, so it is another file; name "
                "another place with --mirror"
            )
        expected = num_bytes if total is None else total
        name = part.path.name.removesuffix(".part")
        check_room(part.path.parent, (expected or 0) * copies - offset, name)
        if not offset:
            part.begin(url, response.headers, total)
        _copy(response, part, offset, expected, reporter, url=url, ends=total is not None)
        # Of an answer in chunks, the last one says that it is the last.
        if expected is None and checksum is None and not response.chunked:
            _LOG.warning("the server did not say how long %s is: look at it with kinema data check", name)
        return offset > 0


def _open(url: str, headers: Mapping[str, str], part: PartFile) -> Any:
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - `fetch` has checked the scheme
    try:
        return urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(url, error, part, asked="Range" in headers) from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _unreachable(url, error, redirects.place) from None


def _validator(version: Mapping[str, Any]) -> str | None:
    """What `If-Range` may hold: a strong entity tag, else a date (RFC 9110, 13.1.5)."""
    etag = version.get("etag")
    if isinstance(etag, str) and etag.startswith('"'):
        return etag
    date = version.get("last_modified")
    return date if isinstance(date, str) else None


def _place(response: Any, version: Mapping[str, Any], asked: int) -> tuple[int, int | None]:
    """Where in the file the bytes of a response begin, and how long the file is.

    Raises:
        _TryAgainError: It is a piece that nobody asked for.
    """
    length = response.headers.get("Content-Length", "")
    length = int(length) if length.isdecimal() else None
    if response.status == 200:
        return 0, length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if response.status != 206 or match is None or not asked:
        raise _TryAgainError(f"the server answers {response.status} to a plain request")
    total = None if match[2] == "*" else int(match[2])
    # A server may send a piece of another version although it was told not to.
    same = all(
        version.get(key) in (None, response.headers.get(header, version[key]))
        for key, header in (("etag", "ETag"), ("last_modified", "Last-Modified"))
    )
    if int(match[1]) != asked or not same or version.get("num_bytes") not in (None, total):
        raise _OtherVersionError
    return asked, total


class _OtherVersionError(Exception):
    """The server sent a piece of another file than the one that the part file is of."""


def _copy(
    response: Any, part: PartFile, offset: int, total: int | None, reporter: Reporter, *, url: str, ends: bool
) -> None:
    """What the server sends, as long as it may be right and there is room.

    Args:
        total: How long the file should be, if that is known.
        ends: Whether the server has said so too. One that has not may go on for ever.
    """
    name = part.path.name.removesuffix(".part")
    done = offset
    most = offset + room_for_unknown(part.path.parent) if total is None else total if ends else total + 1
    with (
        part.path.open("r+b", buffering=0) as file,  # unbuffered: whatever came is on the disk when something happens
        ByteProgress(reporter, f"Fetching {name}", total, done) as task,
    ):
        file.seek(offset)
        while done < most:
            try:
                chunk = response.read1(min(_CHUNK_BYTES, most - done))
            except (OSError, http.client.HTTPException) as error:  # here, as errors of the disk are OSErrors too
                raise _TryAgainError(f"the connection broke off after {done:,} bytes: {_words(error)}") from None
            if not chunk:
                break
            _write(file, chunk)
            done += len(chunk)
            task.advance(len(chunk))
    if total is not None and done < total:
        raise _TryAgainError(f"the connection ended after {done:,} of {total:,} bytes")
    if total is not None and done > total:
        part.remove()
        raise DataError(
            f"{url}: the server sends more than the {total:,} bytes that are published, so it is another file; it was "
            "removed; name another place with --mirror"
        )
    if total is None and done >= most:
        raise DataError(
            f"{url}: the server does not say how long it is, and after {byte_size(done)} the disk is nearly full; make "
            f"room and run it again, or delete {part.path} if it should not be that long"
        )


def _write(file: IO[bytes], chunk: bytes) -> None:
    """All of it: an unbuffered file may write less than it was given."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _verified(part: PartFile, url: str, checksum: str | None, *, again: bool, reporter: Reporter) -> Fetched:
    fetched, other = check_file(part.path, checksum, reporter=reporter)
    if other is not None:
        part.remove()
        problem = f"what came is not the published file: its checksum is {other}, published is {checksum}"
        if again:
            raise _TryAgainError(f"{problem}; it was put together from pieces, the next attempt takes it whole")
        raise DataError(f"{url}: {problem}; it was removed")
    return fetched


def _refused(url: str, error: urllib.error.HTTPError, part: PartFile, *, asked: bool) -> Exception:
    """What an answer of the server that is not a file comes to."""
    if error.code == 416 and asked:
        part.remove()
        return _TryAgainError("the file has become shorter than what was fetched of it; it begins anew")
    answer = " ".join(f"the server answers {error.code} {error.reason}".split())
    if error.code in _TRY_AGAIN:
        return _TryAgainError(answer, _retry_after_s(error.headers.get("Retry-After")))
    return DataError(f"{url}: {answer}; see whether it has moved, or give another place with --mirror")


def _retry_after_s(text: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    with suppress(ValueError, TypeError):
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return None


def _unreachable(url: str, error: Exception, place: str | None) -> Exception:
    reason: Any = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DataError(
            f"{url}: the server's certificate cannot be verified ({reason.verify_message}); fetch the file with a "
            "browser and put it into ROOT, or give another place with --mirror"
        )
    return _TryAgainError(f"no connection{f' to {place}, where it sends one on' if place else ''}: {_words(reason)}")


def _words(error: Any) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def _disk_error(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"{path}: cannot be written: {reason}; make room and run it again: it goes on where it stopped"
        )
    return DataError(f"{error.filename or path}: cannot be written: {reason}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows where a server sends one, on the web and not out of an encrypted connection."""

    place: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
            if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
                raise DataError(f"{req.full_url}: sends one on to {newurl}, which is not encrypted; refused")
        except DataError:
            fp.close()
            raise
        self.place = newurl
        return super().redirect_request(req, fp, code, msg, headers, newurl)
