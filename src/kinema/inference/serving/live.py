"""A camera that is watched over a WebSocket: pictures come, actions go.

A message of the browser is a picture: 8 bytes that say when it was taken, in milliseconds of a clock of its own (a
little-endian float64), and a JPEG. It is answered with what is known now. Who sends faster than is answered is answered
for the newest picture: what waits is dropped, so that the delay stays that of one answer. Where only answers are dear,
some pictures are kept for the window that they belong to, and still only the newest is answered.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from numpy.typing import NDArray
from PIL import Image

from kinema.inference.deciding import Decider, top
from kinema.inference.live_types import Decision, Picture, Segment
from kinema.inference.serving.service import Service
from kinema.types import UserError

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<d")
_MOST_PX = 2048 * 2048
"""Of one picture. All that wait are decoded together, and models look at far fewer."""
_GAP_S = 2.0
"""Where no picture came for so long, the stream begins anew."""
_TOP = 5
_MOST_KEPT = 16
"""Pictures that wait for a model to which only answers are dear."""

FULL, IDLE, BROKEN, UNKNOWN_TOKEN = 1013, 4408, 1011, 4401
"""Why a connection is closed; those from 4000 on are our own, in the manner of HTTP's."""


class PictureError(UserError):
    """A message is no picture."""


class Inbox:
    """The newest messages that have come: where there is no room for another, the oldest gives way.

    Args:
        num_kept: Pictures that may wait.
    """

    def __init__(self, num_kept: int = 1) -> None:
        self.num_dropped = 0
        self._pictures: deque[bytes] = deque()
        self._num_kept = num_kept
        self._word: str | None = None
        self._is_over = False
        self._came = asyncio.Event()

    def put(self, message: bytes | str) -> int:
        """Keep a message. Words take the place of all pictures that wait.

        Returns:
            How many pictures were dropped for it.
        """
        before = self.num_dropped
        if isinstance(message, str):
            self._word = message
            self.num_dropped += len(self._pictures)
            self._pictures.clear()
        else:
            if len(self._pictures) == self._num_kept:
                self._pictures.popleft()
                self.num_dropped += 1
            self._pictures.append(message)
        self._came.set()
        return self.num_dropped - before

    def end(self) -> None:
        """No more will come."""
        self._is_over = True
        self._came.set()

    async def take(self) -> list[bytes] | str | None:
        """A word, or all pictures that wait, when there are any; None when no more will come."""
        await self._came.wait()
        self._came.clear()
        if self._is_over:
            return None
        if self._word is not None:
            word, self._word = self._word, None
            if self._pictures:
                self._came.set()
            return word
        pictures = list(self._pictures)
        self._pictures.clear()
        return pictures


@dataclass(eq=False)
class Session:
    """One camera. All of it is run in the model's thread."""

    service: Service

    def __post_init__(self) -> None:
        recogniser = self.service.recogniser
        self.heads = recogniser.config.heads
        self.follower = self.service.follower(recogniser, self.service.live)
        self.decider = Decider(self.heads, self.service.live, recogniser.rejection, nothing=recogniser.nothing)
        self._zero_ms: float | None = None
        self._newest_ms = 0.0
        self._newest_s = -math.inf
        self._last_s: float | None = None  # None where the stream begins anew
        self._step_s = 1 / 30
        self._is_whole = False

    @property
    def num_kept(self) -> int:
        """Pictures that may wait while others are answered."""
        return _MOST_KEPT if self.follower.is_dear else 1

    def see(self, messages: Sequence[bytes]) -> tuple[dict[str, Any], int]:
        """What pictures change, as JSON; the newest of them is answered. And how many of them were none.

        Raises:
            UserError: None of them is a picture that can be read.
        """
        began_s = time.monotonic()
        ended: list[Segment] = []
        pictures: list[Picture] = []
        errors: list[PictureError] = []
        for message in messages:
            try:
                time_ms, image = read_picture(message)
                time_s = self._place(time_ms)
            except PictureError as error:
                errors.append(error)
                continue
            if self._last_s is not None and time_s - self._last_s > _GAP_S:
                pictures.clear()
                ended += self._begin_anew()
            if self._last_s is not None:
                self._step_s += 0.2 * (time_s - self._last_s - self._step_s)
            self._last_s = self._newest_s = time_s
            self._newest_ms = time_ms
            pictures.append(Picture(image=image, time_s=time_s, duration_s=self._step_s, captured_s=began_s))
        if not pictures:
            raise errors[0]
        record: dict[str, Any] = {"type": "seen", "time_ms": self._newest_ms, "began_ms": self._zero_ms}
        decision: Decision | None = None
        for answer in self.follower.see(pictures, only_newest=True):
            self._is_whole = answer.is_whole
            decision = self.decider.take(answer)
            ended += decision.ended
        if decision is not None:
            record |= {"type": "answer", **self._record(decision)}
        seconds = time.monotonic() - began_s
        record |= {"ended": [_segment(each) for each in ended], "num_seen": len(pictures), "seconds": seconds}
        return record, len(errors)

    def _place(self, time_ms: float) -> float:
        """Seconds from the first picture.

        Raises:
            PictureError: A newer one has come before.
        """
        if self._zero_ms is None:
            self._zero_ms = time_ms
        time_s = (time_ms - self._zero_ms) / 1000
        if time_s <= self._newest_s:
            raise PictureError("a picture is not newer than the one before")
        return time_s

    def finish(self) -> dict[str, Any]:
        """The stream is over, or paused: what had not ended, as JSON."""
        ended = self._begin_anew()
        return {"type": "finished", "began_ms": self._zero_ms or 0.0, "ended": [_segment(each) for each in ended]}

    def _begin_anew(self) -> tuple[Segment, ...]:
        ended = self.decider.finish()
        self.follower.reset()
        self._last_s = None
        return ended

    def _record(self, decision: Decision) -> dict[str, Any]:
        found = top(decision.probabilities, self.heads, _TOP)
        return {
            "whole": self._is_whole,
            "known": decision.known,
            "score": decision.score if decision.score is not None and math.isfinite(decision.score) else None,
            "tasks": {
                task: [{"class": name, "probability": probability} for name, probability in classes]
                for task, classes in found.items()
            },
            "current": None if decision.current is None else _segment(decision.current),
        }


def read_picture(message: bytes) -> tuple[float, NDArray[np.uint8]]:
    """When a picture was taken, in milliseconds, and the picture: RGB (H, W, 3).

    Raises:
        PictureError: The message is no such thing.
    """
    if len(message) <= _HEADER.size:
        raise PictureError("a message is 8 bytes of time and a JPEG")
    (time_ms,) = _HEADER.unpack_from(message)
    if not math.isfinite(time_ms) or abs(time_ms) > 1e15:
        raise PictureError("the time of a picture is no number of milliseconds")
    try:
        with Image.open(io.BytesIO(memoryview(message)[_HEADER.size :]), formats=("JPEG",)) as image:
            width_px, height_px = image.size
            if width_px * height_px > _MOST_PX:
                raise PictureError(f"a picture of {width_px} x {height_px} pixels is too large")
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError("a picture is not a JPEG that can be read") from None
    return time_ms, pixels


async def watch(websocket: WebSocket, service: Service, *, may: bool) -> None:
    """Serve one camera until it goes.

    Args:
        websocket: Its connection, not yet accepted.
        service: What it is shown to.
        may: It has shown the token, or needs none. Where it may not, or there is no room, the connection is accepted
            all the same, as a page learns nothing of one that was not.
    """
    await websocket.accept()
    if not may:
        await websocket.close(UNKNOWN_TOKEN, "the token is missing or wrong")
        return
    if service.num_live >= service.limits.num_live:
        await websocket.close(FULL, f"{service.num_live} cameras are watched already; try again later")
        return
    service.num_live += 1
    service.metrics.live_sessions.set(service.num_live)
    receiver: asyncio.Task[None] | None = None
    try:
        session = await service.in_model(partial(Session, service), kind="live")
        inbox = Inbox(session.num_kept)
        receiver = asyncio.create_task(_receive(websocket, inbox, service))
        await _answer(websocket, inbox, session)
    except WebSocketDisconnect:
        pass
    except TimeoutError:
        await _close(websocket, IDLE, f"no picture came for {service.limits.idle_s:.0f} s")
    except Exception:
        log.exception("a camera is no longer watched, for a mistake of ours")
        await _close(websocket, BROKEN, "a mistake of the service; its log says more")
    finally:
        if receiver is not None:
            receiver.cancel()
        service.num_live -= 1
        service.metrics.live_sessions.set(service.num_live)


async def _answer(websocket: WebSocket, inbox: Inbox, session: Session) -> None:
    service = session.service
    hello = {
        "type": "hello",
        "picture_px": service.picture_px,
        "picture_bytes": service.limits.picture_bytes,
        "ahead": session.num_kept,
        "tasks": {task: len(names) for task, names in session.heads.items()},
        "how": session.follower.how,
    }
    await _send(websocket, hello)
    while True:
        async with asyncio.timeout(service.limits.idle_s):
            message = await inbox.take()
        if message is None:
            return
        try:
            if isinstance(message, str):
                _check_word(message)
                record = await service.in_model(session.finish, kind="live")
            else:
                record, num_bad = await service.in_model(partial(session.see, message), kind="live")
                service.metrics.frames.inc(len(message) - num_bad)
                service.metrics.malformed.inc(num_bad)
        except UserError as error:
            service.metrics.malformed.inc(1 if isinstance(message, str) else len(message))
            record = {"type": "error", "error": str(error)}
        await _send(websocket, record | {"dropped": inbox.num_dropped})


async def _receive(websocket: WebSocket, inbox: Inbox, service: Service) -> None:
    """Take messages as they come, so that none waits in a buffer that nobody sees."""
    try:
        while True:
            message = await websocket.receive()
            if message["type"] != "websocket.receive":
                return
            content = message.get("bytes")
            service.metrics.dropped.inc(inbox.put(message.get("text") or "" if content is None else content))
    finally:
        inbox.end()


def _check_word(message: str) -> None:
    if message != "finish":
        raise PictureError("of words only 'finish' is understood")


async def _send(websocket: WebSocket, record: dict[str, Any]) -> None:
    await websocket.send_text(json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    try:
        await websocket.close(code, reason)
    except (RuntimeError, WebSocketDisconnect):
        log.debug("the other end had gone before it could be told why: %s", reason)


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": segment.start_s,
        "stop_s": segment.stop_s,
        "labels": dict(segment.labels),
        "label": segment.label,
        "confidence": segment.confidence,
    }
