"""`kinema serve`: a recogniser as a service, and a page that shows it a camera."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import Output
from kinema.types import UserError

_NEEDED = {
    "fastapi": "FastAPI",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "websockets": "websockets",
    "prometheus_client": "prometheus-client",
}


def serve(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A weights folder, or a run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="How a camera's pictures become actions, such as enter=0.7."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of the same keys; a key=value overrides it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="KINEMA_TOKEN", show_envvar=True, help="A secret that every request has to show."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For https, which cameras of other machines need.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Key of the certificate.")] = None,
    max_upload_mb: Annotated[float, typer.Option(help="Largest clip, in 10^6 bytes.")] = 64.0,
    timeout_s: Annotated[float, typer.Option(help="A clip is answered in so long, or not at all.")] = 60.0,
    queue: Annotated[int, typer.Option(min=0, help="Clips that may wait while one is worked on.")] = 8,
    live: Annotated[int, typer.Option(min=0, help="Cameras that may be watched at once.")] = 4,
) -> None:
    """Serve a recogniser: clips by POST /predict, a camera on the page. Stops with Ctrl-C."""
    for name, title in _NEEDED.items():
        if importlib.util.find_spec(name) is None:
            raise UserError(f'kinema serve needs {title}: pip install "kinema[serve]"')
    from kinema.inference.live_settings import live_settings
    from kinema.inference.recogniser import load
    from kinema.inference.serving.server import Place, check_certificate, listen, run
    from kinema.inference.serving.service import Limits, opened

    output = Output(None)
    section = live_settings(overrides or (), settings)
    if token is not None and not token.strip():
        raise UserError("--token: it is empty; give one, or none at all")
    _check_range("--max-upload-mb", max_upload_mb, 0.001, 1e6)
    _check_range("--timeout-s", timeout_s, 0.1, 86_400)
    place = Place(host=host, port=port, certificate=certificate, key=key)
    check_certificate(place)
    recogniser = load(weights)
    limits = Limits(upload_bytes=int(max_upload_mb * 10**6), timeout_s=timeout_s, num_waiting=queue, num_live=live)
    absolute = weights.resolve()
    name = absolute.parent.name if absolute.name == "weights" else absolute.name
    with listen(place) as listener, opened(recogniser, name=name, live=section, limits=limits, token=token) as service:
        port = listener.getsockname()[1]

        def ready() -> None:
            output.say(f"{name}: {service.how}")
            if not place.is_local:
                _warn_of_others(output, place.certificate is not None, token is not None)
            output.say(f"serving at {place.url(port, token)} (Ctrl-C stops)")

        run(service, listener, place, ready=ready)


def _check_range(option: str, value: float, least: float, most: float) -> None:
    # Not by Typer's `min` and `max`: they let "nan" through.
    if not least <= value <= most:
        raise UserError(f"{option}: {value:g} is not between {least:g} and {most:,.0f}")


def _warn_of_others(output: Output, is_encrypted: bool, has_token: bool) -> None:
    if not has_token:
        output.say("warning: whoever reaches this machine can use it; give a --token")
    if not is_encrypted:
        output.say("warning: browsers give pages of other machines no camera without https; see --certificate")
