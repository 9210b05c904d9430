"""A server that breaks off, lies and changes its mind: in the end the right file is there, or one line and the part."""

from __future__ import annotations

import hashlib
import io
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.data.download.facts import CONTENT, left, sha256
from tests.loopback import (
    Request,
    Site,
    dead_address,
    in_turn,
    redirect,
    status,
    whole,
)

from kinema.data.download import checks
from kinema.data.download import fetch as fetch_module
from kinema.data.download.fetch import PartFile, fetch
from kinema.progress import Task
from kinema.types import DataError

OTHER = CONTENT[::-1]


def test_tests_reach_no_other_machine() -> None:
    with pytest.raises(AssertionError, match=r"^a test tried to look up "):
        socket.create_connection(("localhost", 80), timeout=0.1)
    with socket.socket() as own:
        for connect in (own.connect, own.connect_ex):
            with pytest.raises(AssertionError, match=r"^a test tried to reach "):
                connect(("192.0.2.1", 80))


def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = whole(CONTENT)
    fetched = fetch(f"{site.url}/a.zip", tmp_path / "a.zip", num_bytes=len(CONTENT), checksum=sha256(CONTENT), copies=2)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert fetched == checks.Fetched(num_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    assert left(tmp_path) == ["a.zip"]
    ((_, headers),) = site.asked
    assert headers["User-Agent"].startswith("kinema/")


def test_a_connection_that_breaks_off_is_gone_on_with(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.pages["/a"] = whole(CONTENT, breaks={0: 3000, 1: 4000})
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=3000-", "bytes=7000-"]
    assert all(headers["If-Range"].startswith('"') for _, headers in site.asked[1:])
    assert waits == [2, 4]


def test_the_next_run_goes_on(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, breaks={0: 5000} | dict.fromkeys(range(1, 9), 0))
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "a")
    assert str(error.value) == (
        f"{site.url}/a: the connection ended after 5,000 of 10,240 bytes; gave up after 5 attempts; "
        "a.part is kept and gone on with next time"
    )
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:5000]
    site.pages["/a"] = whole(CONTENT)
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges()[-1] == "bytes=5000-"


def test_a_date_does_where_there_is_no_strong_tag(site: Site, tmp_path: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    site.pages["/a"] = whole(CONTENT, etag='W/"weak"', modified=date, breaks={0: 100})
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.asked[1][1]["If-Range"] == date


def test_without_a_sign_of_the_version_it_begins_anew(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = in_turn(whole(OTHER, etag=None, breaks={0: 100}), whole(CONTENT, etag=None))
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges() == [None, None]


def test_a_server_that_ignores_ranges_begins_anew(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, ranges=False, breaks={0: 9000})
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=9000-"]


@pytest.mark.parametrize("heeds", [True, False])
def test_pieces_of_two_versions_are_not_put_together(site: Site, tmp_path: Path, heeds: bool) -> None:
    site.pages["/a"] = in_turn(whole(CONTENT, breaks={0: 5000}), whole(OTHER, heed_if_range=heeds))
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == OTHER


def test_another_piece_than_was_asked_for_is_not_taken(site: Site, tmp_path: Path) -> None:
    def from_the_start(request: Request, _number: int) -> None:
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        request.wfile.write(CONTENT)

    site.pages["/a"] = in_turn(whole(CONTENT, breaks={0: 5000}), from_the_start, whole(CONTENT))
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=5000-", None]


def test_a_file_that_became_shorter_begins_anew(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = in_turn(
        whole(CONTENT, etag='"same"', breaks={0: 9000}), whole(CONTENT[:100], etag='"same"', heed_if_range=False)
    )
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[:100]


def test_a_part_of_another_address_is_not_gone_on_with(site: Site, tmp_path: Path) -> None:
    part = PartFile(tmp_path / "a")
    part.begin(f"{site.url}/elsewhere/a", {"ETag": '"x"'}, len(CONTENT))
    part.path.write_bytes(OTHER[:77])
    site.pages["/a"] = whole(CONTENT)
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges() == [None]


@pytest.mark.parametrize("notes", ["", "{", "[]", '{"url": 3}', None])
def test_a_part_that_nobody_knows_is_not_gone_on_with(site: Site, tmp_path: Path, notes: str | None) -> None:
    (tmp_path / "a.part").write_bytes(OTHER[:77])
    if notes is not None:
        (tmp_path / "a.part.json").write_text(notes)
    site.pages["/a"] = whole(CONTENT)
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert left(tmp_path) == ["a"]


def test_a_part_that_is_whole_already_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    part = PartFile(tmp_path / "a")
    part.begin(f"{site.url}/a", {"ETag": '"x"'}, len(CONTENT))
    part.path.write_bytes(CONTENT)
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert not site.asked


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_checksum_is_refused(site: Site, tmp_path: Path, algorithm: str) -> None:
    site.pages["/a"] = whole(CONTENT)
    right = hashlib.new(algorithm, CONTENT).hexdigest()
    fetch(f"{site.url}/a", tmp_path / "right", checksum=f"{algorithm}:{right.upper()}")
    wrong = hashlib.new(algorithm, OTHER).hexdigest()
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "a", checksum=f"{algorithm}:{wrong}")
    assert str(error.value) == (
        f"{site.url}/a: what came is not the published file: its checksum is {algorithm}:{right}, "
        f"published is {algorithm}:{wrong}; it was removed"
    )
    assert left(tmp_path) == ["right"]


def test_pieces_that_do_not_fit_are_fetched_whole_once_more(site: Site, tmp_path: Path) -> None:
    part = PartFile(tmp_path / "a")
    site.pages["/a"] = whole(CONTENT, etag='"same"')
    part.begin(f"{site.url}/a", {"ETag": '"same"'}, len(CONTENT))
    part.path.write_bytes(OTHER[:5000])
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.ranges() == ["bytes=5000-", None]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_is_not_there_is_not_asked_for_again(site: Site, tmp_path: Path, code: int, waits: list[float]) -> None:
    site.pages["/a"] = status(code, then=whole(CONTENT))
    with pytest.raises(
        DataError, match=rf"^{site.url}/a: the server answers {code} \w.*; see whether it has moved, or"
    ):
        fetch(f"{site.url}/a", tmp_path / "a")
    assert len(site.asked) == 1
    assert not waits


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again_after_growing_waits(
    site: Site, tmp_path: Path, code: int, waits: list[float]
) -> None:
    site.pages["/a"] = status(code, times=3, then=whole(CONTENT))
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert waits == [2, 4, 8]


def test_a_server_that_stays_down(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.pages["/a"] = status(500, then=whole(CONTENT))
    with pytest.raises(DataError, match=r"answers 500 Internal Server Error; gave up after 5 attempts$"):
        fetch(f"{site.url}/a", tmp_path / "a")
    assert len(site.asked) == 5
    assert waits == [2, 4, 8, 16]


def test_a_server_s_own_wait_is_kept(site: Site, tmp_path: Path, waits: list[float]) -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    site.pages["/a"] = in_turn(
        status(503, retry_after="30", then=whole(CONTENT)),
        status(503, retry_after=soon, then=whole(CONTENT)),
        status(503, retry_after="nonsense", then=whole(CONTENT)),
        whole(CONTENT),
    )
    fetch(f"{site.url}/a", tmp_path / "a")
    assert waits[0] == 30
    assert 90 < waits[1] <= 100
    assert waits[2] == 8


def test_a_server_that_asks_to_come_back_tomorrow(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.pages["/a"] = status(503, retry_after="86400", then=whole(CONTENT))
    with pytest.raises(DataError, match=r"503 .*, and asks to wait for 24 h 00 min; try again then$"):
        fetch(f"{site.url}/a", tmp_path / "a")
    assert not waits


def test_redirects_are_followed_and_named(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/a": redirect("/b"), "/b": whole(CONTENT, breaks={0: 100})}
    fetch(f"{site.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert site.paths() == ["/a", "/b", "/a", "/b"]
    assert site.ranges() == [None, None, "bytes=100-", "bytes=100-"]
    dead = dead_address()
    site.pages["/a"] = redirect(f"{dead}/b")
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "c")
    assert f"no connection to {dead}/b, where it sends one on: Connection refused; gave up" in str(error.value)


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a", "/a"])
def test_redirects_lead_nowhere_but_to_the_web(site: Site, tmp_path: Path, place: str) -> None:
    site.pages["/a"] = redirect(place)
    with pytest.raises(DataError) as error:
        fetch(f"{site.url}/a", tmp_path / "a")
    assert "\n" not in str(error.value)
    assert left(tmp_path) == []


def test_an_encrypted_connection_is_not_left() -> None:
    request = fetch_module.urllib.request.Request("https://127.0.0.1/a")
    with pytest.raises(DataError, match=r"sends one on to http://127\.0\.0\.1/a, which is not encrypted; refused$"):
        fetch_module._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://127.0.0.1/a")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "a.zip", "http:///a"])
def test_only_the_web_is_fetched_from(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=r": not an address that begins with http:// or https://$"):
        fetch(url, tmp_path / "a")


def test_nobody_answers(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(DataError, match=r"no connection: Connection refused; gave up after 5 attempts$"):
        fetch(f"{dead_address()}/a", tmp_path / "a")
    assert len(waits) == 4


def test_a_server_that_stops_speaking(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_TIMEOUT_S", 0.1)
    site.pages["/a"] = in_turn(whole(CONTENT, pause_s=0.3), whole(CONTENT))
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert site.ranges() == [None, "bytes=2560-"]


def test_a_slow_server_is_waited_for(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, pause_s=0.05)
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert len(site.asked) == 1


class Reporter:
    """Notes what it is told, and can interrupt."""

    def __init__(self, *, interrupt: bool = False) -> None:
        self.tasks: list[tuple[str, int | None, str, int]] = []
        self.counts: list[int] = []
        self._interrupt = interrupt

    @contextmanager
    def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        self.tasks.append((description, total, unit, done))
        self.counts.append(done)
        yield self

    def advance(self, num: int = 1, **facts: str) -> None:
        self.counts[-1] += num
        if self._interrupt:
            raise KeyboardInterrupt


def test_progress_is_counted_from_where_it_goes_on(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, breaks={0: 4096})
    reporter = Reporter()
    fetch(f"{site.url}/a", tmp_path / "a", reporter=reporter)
    assert reporter.tasks == [
        ("Fetching a", 11, "kB", 0),
        ("Fetching a", 11, "kB", 4),
        ("Checking a.part", 11, "kB", 0),
    ]
    assert reporter.counts == [5, 11, 11]


def test_an_interruption_leaves_the_part(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = whole(CONTENT, pause_s=0.02)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{site.url}/a", tmp_path / "a", reporter=Reporter(interrupt=True))
    done = (tmp_path / "a.part").stat().st_size
    assert 0 < done < len(CONTENT)
    fetch(f"{site.url}/a", tmp_path / "a", checksum=sha256(CONTENT))
    assert site.ranges()[-1] == f"bytes={done}-"


def test_attempts_are_announced(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site.pages["/a"] = status(503, times=1, then=whole(CONTENT))
    with caplog.at_level(logging.INFO, logger="kinema"):
        fetch(f"{site.url}/a", tmp_path / "a")
    assert caplog.messages == [
        f"{site.url}/a: the server answers 503 Service Unavailable; trying again in 2 s",
    ]
