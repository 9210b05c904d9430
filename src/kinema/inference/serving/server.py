"""The service on a port, until it is told to stop."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn

from kinema.inference.serving.app import make_app
from kinema.inference.serving.guard import is_loopback
from kinema.inference.serving.service import Service
from kinema.types import UserError

_MOST_CONNECTIONS = 256
_GRACE_S = 5
"""What is being answered when the service ends has so long."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the service is found.

    Attributes:
        host: Name or address to listen on.
        port: 0 is any that is free.
        certificate: For https.
        key: Of the certificate.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None

    @property
    def is_local(self) -> bool:
        """Nobody on another machine reaches it."""
        return is_loopback(self.host)

    def url(self, port: int, token: str | None = None) -> str:
        """Address of the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - where all are listened on
        scheme = "http" if self.certificate is None else "https"
        query = "" if token is None else f"?token={quote(token, safe='')}"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{query}"


def check_certificate(place: Place) -> None:
    """Refuse a certificate that cannot be used.

    Raises:
        UserError: It cannot, or one of the two files is not given.
    """
    if (place.certificate is None) != (place.key is None):
        raise UserError("--certificate and --key belong together; give both")
    if place.certificate is None or place.key is None:
        return
    for option, path in (("--certificate", place.certificate), ("--key", place.key)):
        if not path.is_file():
            raise UserError(f"{option}: {path}: no such file")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(place.certificate, place.key)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "not readable"
        raise UserError(f"--certificate: {place.certificate} and {place.key} cannot be used: {reason}") from None


def listen(place: Place) -> socket.socket:
    """A port that is listened on.

    Raises:
        UserError: It is not to be had.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.host, place.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(_why_not(place, error)) from None
    return listener


def _why_not(place: Place, error: OSError) -> str:
    where = f"{place.host}:{place.port}"
    if error.errno == errno.EADDRINUSE:
        return f"--port: {where} is in use; give another, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"--port: {where} is not allowed; give one above 1023"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {place.host} is no address of this machine"
    return f"--host, --port: {where}: {error.strerror or error}"


def run(service: Service, listener: socket.socket, place: Place, *, ready: Callable[[], None]) -> None:
    """Serve until a signal comes. What the signal does otherwise, it then does.

    Args:
        service: What is served.
        listener: Of `listen`.
        place: Where.
        ready: Called when requests are taken.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        make_app(service, is_local=place.is_local),
        http="h11",
        ws="websockets-sansio",
        ws_max_size=service.limits.picture_bytes,
        ws_per_message_deflate=False,  # a JPEG gets no smaller
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
    )
    with listener:
        _Server(config, ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when requests are taken: from then on signals are waited for."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()
