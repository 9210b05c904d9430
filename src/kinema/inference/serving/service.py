"""What the service's parts share: the recogniser with its thread, the reader of clips, limits and counters."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from kinema.inference.following import Follower
from kinema.inference.live_settings import LiveSection
from kinema.inference.recogniser import Prediction, Recogniser
from kinema.inference.serving.metrics import Metrics
from kinema.inference.serving.model_thread import Kind, ModelThread
from kinema.inference.serving.reading import ClipReader, ClipRequest

T = TypeVar("T")

_BEGIN_S = 300.0
"""For processes to begin, however busy the machine is."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one user of the service can take from the others.

    Attributes:
        upload_bytes: Of one clip.
        timeout_s: From the first byte of a request to its answer.
        num_waiting: Clips that may wait while one is worked on.
        num_live: Cameras that may be watched at once.
        picture_bytes: Of one picture of a camera.
        idle_s: A camera that sends nothing for so long makes room for another.
    """

    upload_bytes: int = 64 * 10**6
    timeout_s: float = 60.0
    num_waiting: int = 8
    num_live: int = 4
    picture_bytes: int = 2 * 10**6
    idle_s: float = 120.0


class FullError(Exception):
    """There is no room for another clip now.

    Attributes:
        retry_s: When there may be.
    """

    def __init__(self, retry_s: int) -> None:
        super().__init__(retry_s)
        self.retry_s = retry_s


@dataclass(kw_only=True, eq=False)
class Service:
    """A recogniser that is served. `opened` makes one, and tidies up behind it.

    Attributes:
        recogniser: Run in `thread` alone.
        name: Of the weights, for people.
        live: How streams become actions.
        limits: For uploads and cameras.
        token: Who knows it may ask; None: everybody.
        follower: Makes what follows a stream.
        how: In one line, what is done with each picture of a stream.
        folder: For uploads while they are worked on.
    """

    recogniser: Recogniser
    name: str
    live: LiveSection
    limits: Limits
    token: str | None
    follower: Callable[[Recogniser, LiveSection], Follower]
    thread: ModelThread
    reader: ClipReader
    folder: Path
    metrics: Metrics = field(default_factory=Metrics)
    began_s: float = field(default_factory=time.monotonic)
    how: str = ""
    num_live: int = 0
    num_clips: int = 0
    _clip_s: float = 1.0
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="kinema-clip"))
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @contextmanager
    def room(self) -> Iterator[None]:
        """A clip's place in the queue.

        Raises:
            FullError: There is none.
        """
        most = self.limits.num_waiting + 1
        if self.num_clips >= most:
            raise FullError(max(1, math.ceil(self._clip_s * most)))
        self.num_clips += 1
        self.metrics.queue_depth.set(self.num_clips)
        try:
            yield
        finally:
            self.num_clips -= 1
            self.metrics.queue_depth.set(self.num_clips)

    async def predict(
        self, request: ClipRequest, *, ends_s: float, is_wanted: Callable[[], Awaitable[bool]]
    ) -> Prediction | None:
        """Recognise the action in a clip, when it is its turn.

        Args:
            request: The clip.
            ends_s: By the clock of the event loop, when the answer comes too late.
            is_wanted: Asked before work begins; one who has gone away is not worked for.

        Raises:
            DataError: It is no clip that can be read.
            TimeoutError: It took too long.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(ends_s):
            async with self._turn:
                if not await is_wanted():
                    return None
                began_s = time.monotonic()
                read = partial(self.reader.read, request, timeout_s=ends_s - loop.time())
                found = await loop.run_in_executor(self._pool, read)
            frames = {stream: torch.from_numpy(values)[None] for stream, values in found.frames.items()}
            (answer,) = await self.in_model(partial(self.recogniser.predict_frames, frames), kind="clip")
        self._clip_s += 0.2 * (time.monotonic() - began_s - self._clip_s)
        return replace(answer, damaged=found.damaged)

    async def in_model(self, job: Callable[[], T], *, kind: Kind) -> T:
        """Have something done in the model's thread."""

        def timed() -> T:
            with self.metrics.model_seconds.labels(kind).time():
                return job()

        return await asyncio.wrap_future(self.thread.submit(timed, kind=kind))

    @property
    def picture_px(self) -> int:
        """Short side of the pictures that a camera should send: twice what the model looks at, and no more."""
        return max(2 * each.resize_px for each in self.recogniser.config.preprocessing.values())

    def warm_up(self) -> None:
        """Let the model see a clip of nothing, so that the first one who asks does not wait for what is done once.

        Raises:
            ConfigError: The model cannot follow a stream as it is asked to.
        """
        shapes = self.recogniser.config.preprocessing
        frames = {
            stream: torch.zeros((1, each.num_frames, *each.frame_shape), dtype=torch.uint8)
            for stream, each in shapes.items()
        }
        self.thread.submit(partial(self.recogniser.predict_frames, frames), kind="clip").result()
        self.reader.wait(timeout_s=_BEGIN_S)
        self.how = self.follower(self.recogniser, self.live).how


@contextmanager
def opened(
    recogniser: Recogniser,
    *,
    name: str,
    live: LiveSection | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    follower: Callable[[Recogniser, LiveSection], Follower] = Follower,
) -> Iterator[Service]:
    """A service, as long as the block lasts. Then its processes are ended and its temporary folder is gone."""
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="kinema-serve-", ignore_cleanup_errors=True) as folder:
        reader = ClipReader(recogniser.config.preprocessing)
        thread = ModelThread()
        service = Service(
            recogniser=recogniser,
            name=name,
            live=live or LiveSection(),
            limits=limits,
            token=token,
            follower=follower,
            thread=thread,
            reader=reader,
            folder=Path(folder),
        )
        service.metrics.queue_limit.set(limits.num_waiting + 1)
        try:
            service.warm_up()
            yield service
        finally:
            reader.close()
            thread.close()
            service._pool.shutdown(wait=True, cancel_futures=True)
