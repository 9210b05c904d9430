"""What is counted while a source is watched, in memory that does not grow."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_SHORTEST_MS, _LONGEST_MS = 0.01, 1e6
_STEP = 1.01
_RECENT = 32


class Delays:
    """Delays, each to one per cent, of which any number takes the same memory."""

    def __init__(self) -> None:
        num_bins = math.ceil(math.log(_LONGEST_MS / _SHORTEST_MS, _STEP)) + 1
        self._counts: NDArray[np.int64] = np.zeros(num_bins, dtype=np.int64)
        self.longest_ms = 0.0

    def add(self, delay_ms: float) -> None:
        """Count one."""
        self.longest_ms = max(self.longest_ms, delay_ms)
        place = math.log(max(delay_ms, _SHORTEST_MS) / _SHORTEST_MS, _STEP)
        self._counts[min(round(place), len(self._counts) - 1)] += 1

    def percentile(self, share: float) -> float | None:
        """What that share of them does not exceed, in milliseconds; None of none."""
        total = int(self._counts.sum())
        if not total:
            return None
        place = int(np.searchsorted(self._counts.cumsum(), max(1, math.ceil(share * total))))
        return min(_SHORTEST_MS * _STEP**place, self.longest_ms)


@dataclass
class Figures:
    """Counts of one watch. Each is written by one thread.

    Attributes:
        frames: Pictures that the source gave.
        dropped: Of these, those that a newer one took the place of before they were looked at, and those that came too
            late to be decoded.
        looked_at: Of these, those that the model saw.
        answers: Of the model.
        broken: Pictures that did not decode, beside `frames`.
        reconnections: How often the source was lost and came back.
        stalls: How often it gave nothing for a while, and went on by itself or was lost.
        size_changes: How often its pictures became others in size.
        actions: That have ended.
        delays: From capture to answer.
    """

    frames: int = 0
    dropped: int = 0
    looked_at: int = 0
    answers: int = 0
    broken: int = 0
    reconnections: int = 0
    stalls: int = 0
    size_changes: int = 0
    actions: int = 0
    delays: Delays = field(default_factory=Delays)
    began_s: float | None = None
    ended_s: float | None = None
    first_answer_s: float | None = None
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def answered(self, now_s: float, delay_ms: float) -> None:
        """Count an answer.

        Args:
            now_s: By `time.monotonic`.
            delay_ms: Of the picture that it is about.
        """
        self.answers += 1
        self.delays.add(delay_ms)
        if self.first_answer_s is None:
            self.first_answer_s = now_s
        self.recent.append((now_s, delay_ms))

    def now(self) -> tuple[float | None, float | None]:
        """Answers per second and mean delay in milliseconds of the last answers."""
        recent = list(self.recent)
        if not recent:
            return None, None
        delay_ms = sum(delay for _, delay in recent) / len(recent)
        passed_s = recent[-1][0] - recent[0][0]
        return ((len(recent) - 1) / passed_s if passed_s > 0 else None), delay_ms

    @property
    def answers_per_s(self) -> float | None:
        """From the first answer to the last."""
        if self.answers < 2 or self.first_answer_s is None:
            return None
        passed_s = self.recent[-1][0] - self.first_answer_s
        return (self.answers - 1) / passed_s if passed_s > 0 else None

    def record(self) -> dict[str, float | int | None]:
        """As `kinema watch --json` gives them."""
        seconds = None if self.began_s is None or self.ended_s is None else self.ended_s - self.began_s
        return {
            "answers_per_s": self.answers_per_s,
            "latency_p50_ms": self.delays.percentile(0.5),
            "latency_p95_ms": self.delays.percentile(0.95),
            "latency_max_ms": self.delays.longest_ms if self.answers else None,
            "dropped": self.dropped,
            "frames": self.frames,
            "looked_at": self.looked_at,
            "answers": self.answers,
            "actions": self.actions,
            "broken_frames": self.broken,
            "reconnections": self.reconnections,
            "stalls": self.stalls,
            "size_changes": self.size_changes,
            "seconds": seconds,
        }
