"""The service's addresses: clips, a page, a camera, and how the service is."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from kinema.data.machine import MachineError
from kinema.inference.recogniser import Prediction
from kinema.inference.serving import live, uploads
from kinema.inference.serving.guard import Guard, has_token
from kinema.inference.serving.reading import ClipRequest
from kinema.inference.serving.service import FullError, Service
from kinema.types import DataError
from kinema.version import __version__

log = logging.getLogger(__name__)

_PAGE = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "camera.js": "text/javascript",
    "connection.js": "text/javascript",
    "timeline.js": "text/javascript",
    "bars.js": "text/javascript",
    "clip.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_GONE = 499  # nobody is there to read it; for the count, as nginx has it


class Guess(BaseModel):
    """A class, and how probable it is."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="class")
    probability: float


class ClipAnswer(BaseModel):
    """What is seen in a clip."""

    video: str = Field(description="Name of the file.")
    damaged: bool = Field(description="The file was damaged in places, and what decodes of it was used.")
    tasks: dict[str, list[Guess]] = Field(description="Task -> the most probable classes, best first.")
    known: bool = Field(description="False: the clip shows nothing of the classes.")
    score: float | None = Field(description="How sure it is that it does; null where the weights have no threshold.")
    seconds: float = Field(description="From the request's first byte to the answer.")


class Health(BaseModel):
    """How the service is."""

    status: str
    model: str = Field(description="Name of the weights.")
    tasks: dict[str, int] = Field(description="Task -> number of classes.")
    uptime_s: float
    waiting: int = Field(description="Clips that are received, wait or are worked on.")
    live: int = Field(description="Cameras that are watched.")
    version: str = Field(description="Of kinema.")


class Problem(BaseModel):
    """What went wrong, in one line."""

    error: str


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "The request cannot be read, or asks by a name that the service does not have",
        401: "The token is missing or wrong",
        403: "Asked by a page of elsewhere",
        408: "The clip did not come in time",
        413: "The clip is too large",
        415: "The body is neither a form nor a clip",
        422: "It is no clip that can be read, or a parameter is impossible",
        429: "The queue is full; `Retry-After` says when to come again",
        500: "A mistake of the service",
        503: "The service is ending, or the machine is in trouble: its disk is full, say",
        504: "It took too long",
    }
    return {status: {"model": Problem, "description": words[status]} for status in statuses}


_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [uploads.FIELD],
                "properties": {uploads.FIELD: {"type": "string", "format": "binary"}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


def make_app(service: Service, *, is_local: bool = True) -> FastAPI:
    """The application.

    Args:
        service: What it serves.
        is_local: It listens on this machine's own address alone.
    """
    # No pages of documentation: they would load scripts from elsewhere. The description itself is at /openapi.json.
    app = FastAPI(
        title="kinema serve",
        version=__version__,
        description=f"Recognises actions in videos, with {service.name}.",
        docs_url=None,
        redoc_url=None,
    )
    _add_clips(app, service)
    _add_state(app, service)
    _add_page(app)
    _add_live(app, service)
    _add_errors(app)
    if service.token is not None:
        _describe_token(app)
    app.add_middleware(Guard, service=service, is_local=is_local)
    return app


def _add_clips(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        responses=_problems(400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(
        request: Request,
        start_s: Annotated[float, Query(ge=0, allow_inf_nan=False, description="Where the clip begins.")] = 0.0,
        stop_s: Annotated[
            float | None, Query(gt=0, allow_inf_nan=False, description="Where it ends; by default with the file.")
        ] = None,
        top: Annotated[int, Query(ge=1, le=1000, description="How many classes to name.")] = 5,
    ) -> ClipAnswer:
        """Recognise the action in a clip: a video, or a still image."""
        began_s = time.monotonic()
        if stop_s is not None and stop_s <= start_s:
            raise HTTPException(422, f"stop_s: {stop_s:g} is not behind start_s, {start_s:g}")
        uploads.check_headers(request, service.limits.upload_bytes)  # whether or not there is room
        try:
            with service.room():
                name, prediction = await _predict(request, service, start_s, stop_s)
        except FullError as full:
            message = "too many clips are waiting; try again later"
            raise HTTPException(429, message, headers={"Retry-After": str(full.retry_s)}) from None
        return _clip_answer(name, prediction, top, time.monotonic() - began_s)


async def _predict(request: Request, service: Service, start_s: float, stop_s: float | None) -> tuple[str, Prediction]:
    async def is_wanted() -> bool:
        return not await request.is_disconnected()

    limits = service.limits
    ends_s = asyncio.get_running_loop().time() + limits.timeout_s
    with uploads.place_for_clip(service.folder) as place:
        try:
            async with asyncio.timeout_at(ends_s):
                upload = await uploads.receive(request, place, most_bytes=limits.upload_bytes)
        except TimeoutError:
            raise HTTPException(408, f"the clip did not come within {limits.timeout_s:g} s") from None
        except ClientDisconnect:
            raise HTTPException(_GONE, "gone") from None
        except OSError as error:
            raise HTTPException(503, f"the clip cannot be kept: {error.strerror}") from None
        clip = ClipRequest(path=upload.path, start_s=start_s, stop_s=stop_s)
        try:
            prediction = await service.predict(clip, ends_s=ends_s, is_wanted=is_wanted)
        except DataError as error:
            message = str(error).replace(str(upload.path), upload.name).replace(upload.path.name, upload.name)
            raise HTTPException(503 if isinstance(error, MachineError) else 422, message) from None
        except TimeoutError:
            raise HTTPException(504, f"it took longer than {limits.timeout_s:g} s") from None
        except asyncio.CancelledError:  # it was waited for as long as one waits when one is told to end
            raise HTTPException(503, "the service is ending") from None
    if prediction is None:
        raise HTTPException(_GONE, "gone")
    return upload.name, prediction


def _clip_answer(name: str, prediction: Prediction, top: int, seconds: float) -> ClipAnswer:
    tasks = {
        task: [Guess(name=label, probability=probability) for label, probability in classes]
        for task, classes in prediction.top(top).items()
    }
    return ClipAnswer(
        video=name,
        damaged=prediction.damaged,
        tasks=tasks,
        known=prediction.known,
        score=prediction.score if prediction.score is not None and math.isfinite(prediction.score) else None,
        seconds=seconds,
    )


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses=_problems(400))
    async def health() -> Health:
        """Whether the service is alive, and what it knows."""
        heads = service.recogniser.config.heads
        return Health(
            status="ok",
            model=service.name,
            tasks={task: len(names) for task, names in heads.items()},
            uptime_s=time.monotonic() - service.began_s,
            waiting=service.num_clips,
            live=service.num_live,
            version=__version__,
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_problems(400, 401)},
    )
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    folder = files("kinema.inference.serving").joinpath("page")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(folder.joinpath("page.html").read_bytes(), media_type="text/html; charset=utf-8")

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in _PAGE:
            raise HTTPException(404, "no such file")
        return Response(folder.joinpath(name).read_bytes(), media_type=f"{_PAGE[name]}; charset=utf-8")


def _add_live(app: FastAPI, service: Service) -> None:
    @app.websocket("/live")
    async def watch(websocket: WebSocket) -> None:
        await live.watch(websocket, service, may=has_token(websocket, service.token))


def _add_errors(app: FastAPI) -> None:
    """All errors are JSON of one line, as a command's are one line."""

    @app.exception_handler(AnyHTTPException)
    async def known(_request: Request, error: AnyHTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def unknown(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"error": "a mistake of the service; its log says more"}, 500)


def _describe_token(app: FastAPI) -> None:
    """Say in the description that a token is needed."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        schema = describe()
        schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path == "/health" else [{"token": []}]
        return schema

    app.openapi = described  # type: ignore[method-assign]
