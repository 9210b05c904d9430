"""Pictures of a source that is lost and comes back: what is counted of those that were skipped."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from av.video.frame import VideoFrame

from kinema.inference import steady
from kinema.inference.live_types import Picture
from kinema.inference.sources import Feed, LostError
from kinema.inference.steady import SteadyFeed
from kinema.inference.watch_figures import Figures


class SkippingFeed:
    """Skips so many pictures ahead of each that it gives, and of being lost."""

    fps: float | None = 30.0
    size_px = (64, 48)

    def __init__(self, skips: list[int]) -> None:
        self.skipped = 0
        self._skips: Iterator[int] = iter(skips)
        self._left = len(skips)

    def read(self) -> Picture | None:
        self.skipped += next(self._skips)
        self._left -= 1
        if not self._left:
            raise LostError("it broke off")
        image = VideoFrame.from_ndarray(np.zeros((72, 64), dtype=np.uint8), format="yuv420p")
        return Picture(image=image, time_s=0.0, duration_s=0.1, captured_s=0.0)

    def close(self) -> None:
        pass


class SkippingSource:
    name = "the test"
    is_live = True
    waits = False

    def __init__(self, *connections: list[int]) -> None:
        self._connections = iter(connections)

    def open(self, stop: threading.Event) -> Feed:
        return SkippingFeed(next(self._connections))


def test_what_was_skipped_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "_FIRST_TRY_S", 0.01)
    stop, counts = threading.Event(), threading.Event()
    counts.set()
    figures = Figures()
    source = SkippingSource([7, 3, 2], [0, 5, 0], [1, 0])
    feed = SteadyFeed(
        source,
        source.open(stop),
        stop,
        retry_s=5,
        figures=figures,
        counts=counts,
        say=lambda what, *, warns=False: None,
    )
    seen = []
    for _ in range(5):
        assert feed.next() is not None
        seen.append(figures.dropped)
    feed.close()
    assert seen == [7, 10, 12, 17, 18]
    assert figures.frames == figures.dropped
    assert figures.reconnections == 2
