"""Servers that lie about a file's length, or do not know it, and disks without room for it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.data.download.facts import CONTENT, left, sha256
from tests.loopback import Behaviour, Request, Site, whole

from kinema.data.download import checks
from kinema.data.download import fetch as fetch_module
from kinema.data.download.fetch import fetch
from kinema.types import DataError


def test_a_server_that_promises_too_much(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, ranges=False, length=len(CONTENT) + 1)
    with pytest.raises(DataError, match=r"the connection ended after 10,240 of 10,241 bytes; gave up after 5 attempts"):
        fetch(f"{site.url}/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_server_that_promises_too_little(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, length=10_000)
    with pytest.raises(DataError, match=r"the server has 10,000 bytes where 10,240 are published, so"):
        fetch(f"{site.url}/a", tmp_path / "a", num_bytes=len(CONTENT))
    with pytest.raises(DataError, match=r"its checksum is sha256:\w+, published is sha256:\w+; it was removed$"):
        fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert left(tmp_path) == []


def test_a_wrong_size_is_noticed_before_it_is_fetched(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT)
    with pytest.raises(DataError, match="the server has 10,240 bytes where 7 are published"):
        fetch(f"{site.url}/a", tmp_path / "a", num_bytes=7)
    assert left(tmp_path) == []


def test_an_answer_of_unknown_length(site: Site, tmp_path: Path) -> None:
    def chunked(request: Request, number: int) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n%s\r\n" % (len(CONTENT), CONTENT) if number else b"2800\r\nabc")
        request.wfile.write(b"0\r\n\r\n" if number else b"")
        request.close_connection = True

    site.pages["/a"] = chunked
    fetch(f"{site.url}/a", tmp_path / "a", num_bytes=len(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(site.asked) == 2


def endless(pieces: int) -> Behaviour:
    """Sends on and on without saying how long it is; after so many pieces the connection ends."""

    def answer(request: Request, _number: int) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(pieces):
            request.wfile.write(CONTENT)

    return answer


def test_no_more_is_taken_than_is_published(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = fetch_module._write

    def counted(file: Any, chunk: bytes) -> None:
        written.append(len(chunk))
        write(file, chunk)

    monkeypatch.setattr(fetch_module, "_write", counted)
    site.pages["/a"] = endless(2000)
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "a", num_bytes=len(CONTENT))
    assert str(error.value) == (
        f"{site.url}/a: the server sends more than the 10,240 bytes that are published, so it is another file; it was "
        "removed; name another place with --mirror"
    )
    assert sum(written) == len(CONTENT) + 1
    assert left(tmp_path) == []


def test_less_than_is_published_is_not_taken(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site.pages["/a"] = endless(1)
    with pytest.raises(DataError, match=r"the connection ended after 10,240 of 10,241 bytes; gave up after 5 attempts"):
        fetch(f"{site.url}/a", tmp_path / "a", num_bytes=len(CONTENT) + 1)
    fetch(f"{site.url}/a", tmp_path / "a", num_bytes=len(CONTENT))
    fetch(f"{site.url}/a", tmp_path / "b", checksum=sha256(CONTENT))
    assert left(tmp_path) == ["a", "b"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_file_whose_length_nobody_knows_is_named(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.pages["/a"] = endless(1)
    fetch(f"{site.url}/a", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == CONTENT
    assert caplog.messages == [
        "the server did not say how long a.csv is: look at it with kinema data check",
    ]


def test_an_answer_in_chunks_says_where_it_ends(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def chunked(request: Request, _number: int) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))
        request.close_connection = True

    site.pages["/a"] = chunked
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert not caplog.messages


def test_an_endless_answer_leaves_a_reserve_on_the_disk(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_RESERVE_BYTES", 5000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=35_000))
    site.pages["/a"] = endless(2000)
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "a")
    assert str(error.value) == (
        f"{site.url}/a: the server does not say how long it is, and after 30 kB the disk is nearly full; make room and "
        f"run it again, or delete {tmp_path / 'a.part'} if it should not be that long"
    )
    assert (tmp_path / "a.part").stat().st_size == 30_000
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=8000))
    assert checks.room_for_unknown(tmp_path) == 4000


def test_room_is_looked_for_first(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/a"] = whole(CONTENT)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=15_000))
    fetch(f"{site.url}/a", tmp_path / "a")
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "b", copies=2)
    assert str(error.value) == f"{tmp_path}: 15 kB are free and b needs 20.5 kB; make room"
    assert left(tmp_path) == ["a"]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Files may not grow beyond so many bytes, as on a disk that fills up."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_refuses_to_take_more(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT)
    with small_files(7000), pytest.raises(DataError, match=r"a\.part: cannot be written: File too large$"):
        fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:7000]
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert site.ranges() == [None, "bytes=7000-"]


def test_a_full_disk_keeps_the_part(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/a"] = whole(CONTENT, pause_s=0.01)
    write = fetch_module._write

    def full(file: Any, chunk: bytes) -> None:
        if file.tell() > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, chunk)

    monkeypatch.setattr(fetch_module, "_write", full)
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "a")
    assert str(error.value) == (
        f"{tmp_path / 'a.part'}: cannot be written: No space left on device; make room and run it again: "
        "it goes on where it stopped"
    )
    done = (tmp_path / "a.part").stat().st_size
    assert done > 5000
    monkeypatch.setattr(fetch_module, "_write", write)
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert site.ranges()[-1] == f"bytes={done}-"
