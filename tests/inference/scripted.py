"""Sources that do what a test says, and a follower that needs no model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from tests.models.facts import MEAN, STD

from kinema.inference.deciding import Decider
from kinema.inference.following import Follower
from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Picture
from kinema.inference.sources import Feed
from kinema.types import Preprocessing

HEADS = {"action": ("dark", "light")}
RGB = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
SETTINGS = LiveSection(smoothing_s=0.0, min_duration_s=0.0, cool_down_s=0.0, fast_s=0.1, slow_s=0.3)

Step = float | int | tuple[int, int] | Exception | None
"""A number: so many seconds pass; a size: a picture; an exception: it is raised; None: the end."""


class ScriptedSource:
    """Does a list of steps after each opening; an exception in place of a list is raised by the opening.

    Args:
        connections: The lists. Opening it once more than there are fails.
        is_live: See `Source`.
        waits: See `Source`.
        light: Of each picture, dark ones are 0.
    """

    name = "the test"

    def __init__(
        self, *connections: Sequence[Step] | Exception, is_live: bool = True, waits: bool = False, light: int = 255
    ) -> None:
        self.is_live, self.waits, self.light = is_live, waits, light
        self.opened = self.closed = 0
        self.began_s: float | None = None
        self.begins = threading.Event()
        """Before it is set there is no picture."""
        self.begins.set()
        self._connections = connections

    def open(self, stop: threading.Event) -> Feed:
        number, self.opened = self.opened, self.opened + 1
        if number >= len(self._connections):
            raise OSError(19, "No such device")
        steps = self._connections[number]
        if isinstance(steps, Exception):
            raise steps
        return ScriptedFeed(self, iter(steps), stop)


class ScriptedFeed:
    fps: float | None = 30.0
    size_px = (64, 48)

    def __init__(self, source: ScriptedSource, steps: Iterator[Step], stop: threading.Event) -> None:
        self.skipped = 0
        self._source, self._steps, self._stop = source, steps, stop
        self._num = 0

    def read(self) -> Picture | None:
        while not self._source.begins.wait(0.01):
            if self._stop.is_set():
                return None
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if step is None:
                return None
            if isinstance(step, tuple):
                return self._picture(*step)
            self._stop.wait(step)
            if self._stop.is_set():
                return None
        return None

    def close(self) -> None:
        self._source.closed += 1

    def _picture(self, width_px: int, height_px: int) -> Picture:
        now_s = time.monotonic()
        source = self._source
        source.began_s = source.began_s or now_s
        time_s = self._num / 30 if source.waits else now_s - source.began_s
        self._num += 1
        image = np.full((height_px, width_px, 3), source.light, dtype=np.uint8)
        return Picture(image=image, time_s=time_s, duration_s=1 / 30, captured_s=now_s)


class BrightnessFollower(Follower):
    """Says whether it is light or dark.

    Args:
        takes_s: How long it looks at a picture.
        dear: It would rather see all pictures and answer fewer.
    """

    def __init__(self, *, takes_s: float = 0.0, dear: bool = False) -> None:
        config = SimpleNamespace(preprocessing={"rgb": RGB}, heads=HEADS)
        self.recogniser = cast("Any", SimpleNamespace(config=config, rejection=None))
        self.settings = SETTINGS
        self.takes_s, self.dear = takes_s, dear
        self.resets = 0
        self.seen: list[int] = []
        """Sizes of what was seen together."""
        self.threads: set[str] = set()

    @property
    def how(self) -> str:
        return "brightness"

    @property
    def is_dear(self) -> bool:
        return self.dear

    def see(self, pictures: Sequence[Picture], *, only_newest: bool = False) -> list[Answer]:
        time.sleep(self.takes_s * (1 if only_newest else len(pictures)))
        self.seen.append(len(pictures))
        self.threads.add(threading.current_thread().name)
        return [_answer(picture) for picture in (pictures[-1:] if only_newest else pictures)]

    def reset(self) -> None:
        self.resets += 1


def _answer(picture: Picture) -> Answer:
    pixels = picture.image if isinstance(picture.image, np.ndarray) else picture.image.to_ndarray(format="gray")
    light = np.float32(0.98 if pixels.mean() > 140 else 0.02)
    return Answer(time_s=picture.stop_s, probabilities={"action": np.array([1 - light, light], dtype=np.float32)})


def decider() -> Decider:
    return Decider(HEADS, SETTINGS)
