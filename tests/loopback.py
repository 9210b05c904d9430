"""A server on this machine that misbehaves as told, and no way to any other machine."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Request = http.server.BaseHTTPRequestHandler
Behaviour = Callable[[Request, int], None]
"""Answers a request, which is the how-manieth for its path, from 0."""


@dataclass
class Site:
    """What the server does, and what it was asked.

    Attributes:
        url: Its address, without a slash behind it.
        pages: Path -> what to do. Other paths are 404.
        asked: Path and headers of each request.
        most_at_once: How many requests were under way at the same time.
    """

    url: str
    pages: dict[str, Behaviour] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    most_at_once: int = 0

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]

    def folder(self, root: Path) -> None:
        """Serve the files of a folder."""
        for path in root.iterdir():
            self.pages[f"/{path.name}"] = whole(path.read_bytes())


def whole(
    content: bytes,
    *,
    etag: str | None = "",
    modified: str | None = None,
    ranges: bool = True,
    breaks: dict[int, int] | None = None,
    length: int | None = None,
    heed_if_range: bool = True,
    pause_s: float = 0.0,
) -> Behaviour:
    """Serves bytes.

    Args:
        content: The bytes.
        etag: Entity tag; by default one of the content; None: none.
        modified: `Last-Modified`.
        ranges: Whether `Range` is heeded.
        breaks: Number of a request -> after so many bytes of the answer the connection breaks off.
        length: What `Content-Length` says instead of the truth.
        heed_if_range: Whether pieces are sent of the right version only.
        pause_s: Time between pieces of the answer.
    """
    tag = f'"{hashlib.md5(content).hexdigest()}"' if etag == "" else etag

    def answer(request: Request, number: int) -> None:
        start = 0
        asked = request.headers.get("Range")
        if asked and ranges and (not heed_if_range or request.headers.get("If-Range") in (None, tag, modified)):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        body = content[start:]
        request.send_header("Content-Length", str(len(body) if length is None else length))
        if tag is not None:
            request.send_header("ETag", tag)
        if modified is not None:
            request.send_header("Last-Modified", modified)
        request.end_headers()
        if breaks and number in breaks:
            body = body[: breaks[number]]
        step = max(1, len(body) // 4) if pause_s else max(1, len(body))
        for begin in range(0, len(body), step):
            request.wfile.write(body[begin : begin + step])
            time.sleep(pause_s)

    return answer


def status(code: int, *, retry_after: str | None = None, times: int | None = None, then: Behaviour) -> Behaviour:
    """Answers with a status, so many times or always, and afterwards with something else."""

    def answer(request: Request, number: int) -> None:
        if times is not None and number >= times:
            then(request, number)
            return
        request.send_response(code)
        if retry_after is not None:
            request.send_header("Retry-After", retry_after)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def redirect(place: str) -> Behaviour:
    def answer(request: Request, _number: int) -> None:
        request.send_response(302)
        request.send_header("Location", place)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first for the first request, and so on; the last for all that follow."""

    def answer(request: Request, number: int) -> None:
        behaviours[min(number, len(behaviours) - 1)](request, number)

    return answer


def dead_address() -> str:
    """An address on this machine where nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can reach another machine, not even by asking for its address."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    def guarded_resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "127.0.0.1":
            raise AssertionError(f"a test tried to look up {host}")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def serving() -> Iterator[Site]:
    """A server, as long as the block lasts."""
    counts: Counter[str] = Counter()
    busy: list[int] = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            busy[0] += 1
            made.most_at_once = max(made.most_at_once, busy[0])
            made.asked.append((self.path, dict(self.headers)))
            number = counts[self.path]
            counts[self.path] += 1
            behaviour = made.pages.get(self.path)
            try:
                if behaviour is None:
                    self.send_error(404)
                else:
                    behaviour(self, number)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                busy[0] -= 1

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Site(url=f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()
