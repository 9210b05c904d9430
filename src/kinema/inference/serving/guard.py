"""What every request passes: who may ask, what a browser may do with the answer, and the count of both."""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinema.inference.serving.service import Service

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
    "connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OPEN = ("/health", "/page/")
"""What is told without the token: that the service is alive, and files that everybody who has kinema has."""

_LOCKED_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>kinema</title><link rel="stylesheet" href="/page/page.css"></head>
<body><main><h1>This page needs its token</h1>
<p>Open it by the address that <code>kinema serve</code> has printed; it ends in <code>?token=</code> and a secret.</p>
</main></body></html>
"""


class Guard:
    """Around the application.

    Args:
        app: The application.
        service: Its token and counters.
        is_local: It listens on this machine's own address alone. Then it answers to this machine's names only: a page
            of elsewhere could have its own name lead here, and would be let in by the browser.
    """

    def __init__(self, app: ASGIApp, *, service: Service, is_local: bool) -> None:
        self.app = app
        self.service = service
        self.is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if self._is_strange(HTTPConnection(scope)) is None:
                await self.app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = time.monotonic()
        status = 500
        request = HTTPConnection(scope)
        headers = security_headers(request)

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                for name, value in headers.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            refusal = self._refusal(request)
            await (self.app if refusal is None else refusal)(scope, receive, send_guarded)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            metrics = self.service.metrics
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            metrics.requests.labels(method, path, str(status)).inc()
            metrics.request_seconds.labels(path).observe(time.monotonic() - began_s)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        strange = self._is_strange(request)
        if strange is not None:
            return strange
        path = request.scope["path"]
        if path.startswith(_OPEN) or has_token(request, self.service.token):
            return None
        authenticate = {"WWW-Authenticate": "Bearer"}
        if path == "/":
            return HTMLResponse(_LOCKED_PAGE, 401, headers=authenticate)
        message = "the token is missing or wrong; send it as Authorization: Bearer TOKEN"
        return JSONResponse({"error": message}, 401, headers=authenticate)

    def _is_strange(self, request: HTTPConnection) -> Response | None:
        """An answer for who asks by another name than this machine's, or from a page of elsewhere."""
        host = request.headers.get("host", "")
        name = None if _HOST.fullmatch(host) is None else _split(f"//{host}")
        if name is None or (self.is_local and not is_loopback(name.hostname or "")):
            return JSONResponse({"error": f"this service is not known by the name {host!r}"}, 400)
        origin = request.headers.get("origin")
        if origin is not None and request.scope.get("method") != "GET":
            place = _split(origin)
            if place is None or place.netloc != host:
                return JSONResponse({"error": "pages of elsewhere are not answered"}, 403)
        return None


def _split(url: str) -> SplitResult | None:
    """The parts of an address; None if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def has_token(request: HTTPConnection, token: str | None) -> bool:
    """Whether a request shows the token, in a header or, as an address that one opens can only, behind a `?`."""
    if token is None:
        return True
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    # Headers are read as Latin-1, whatever they are; so their bytes are had back.
    candidates = [shown.strip().encode("latin-1", errors="replace")] if kind.lower() == "bearer" else []
    query = request.scope.get("query_string", b"").decode("latin-1")
    candidates += [each.encode() for each in parse_qs(query, errors="replace").get("token", [])]
    return any(secrets.compare_digest(each, token.encode()) for each in candidates)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is of this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def security_headers(request: HTTPConnection) -> Mapping[str, str]:
    """What a browser may do with an answer: run the page's own script, show the page's own style, ask this service."""
    host = Headers(scope=request.scope).get("host", "")
    sockets = f"ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return {
        "Content-Security-Policy": _POLICY.format(sockets),
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
