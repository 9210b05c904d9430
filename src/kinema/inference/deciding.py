"""From answers to actions: smoothing, hysteresis, least duration, rejection and cool-down, all over time and not over
answers, so that they mean the same at any rate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
from jaxtyping import Float32

from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Decision, Segment
from kinema.models.weights import Rejection
from kinema.types import Heads

_TICK_S = 1e-6
"""Times that differ by less are the same."""

_HOLE_S = 1.0
_HOLE = 3.0
"""Of a time without an answer nothing is known if it is longer than this, and than so many times what is usual."""
_USUAL = 5
"""Times between answers whose median is what is usual."""


@dataclass(slots=True)
class _Going:
    """An action that may have begun.

    Attributes:
        labels: Task -> index of its class.
        start_s: Where.
        seen_s: Up to where it was there.
        weight: Seconds that its probabilities were summed over.
        total: Their sum.
    """

    labels: dict[str, int]
    start_s: float
    seen_s: float
    weight: float = 0.0
    total: float = 0.0

    @property
    def confidence(self) -> float:
        return self.total / self.weight if self.weight else 0.0


class Decider:
    """Follows the answers of one stream, in the order of time.

    An action begins when its classes are the most probable of every task, each with at least `enter`, and the score is
    not below the threshold; it ends when one of them falls below `leave`, the score below the threshold, or another
    begins. One that was shorter than `min_duration_s` is none. One that begins again within `cool_down_s` goes on.

    Args:
        heads: Task -> class names.
        settings: Thresholds and times.
        rejection: Threshold beside the weights; `settings.threshold` goes before.
        nothing: Task -> class that stands for nothing, which ends an action as another would, and is none.
    """

    def __init__(
        self,
        heads: Heads,
        settings: LiveSection,
        rejection: Rejection | None = None,
        *,
        nothing: Mapping[str, int] | None = None,
    ) -> None:
        self.heads = heads
        self.settings = settings
        kept = None if rejection is None else rejection.threshold
        self.threshold = kept if settings.threshold is None else settings.threshold
        self._nothing = dict(nothing or {})
        self.reset()

    def reset(self) -> None:
        """Forget all: the stream begins anew. What goes on is dropped; `finish` gives it."""
        self._time_s: float | None = None
        self._gaps_s: deque[float] = deque(maxlen=_USUAL)
        self._smooth: dict[str, Float32[np.ndarray, "_K"]] = {}
        self._score: float | None = None
        self._going: _Going | None = None
        self._paused: _Going | None = None  # over, unless it begins again

    def take(self, answer: Answer) -> Decision:
        """What an answer changes."""
        passed_s = 0.0 if self._time_s is None else max(0.0, answer.time_s - self._time_s)
        # What begins has begun since the last answer; behind a hole nobody knows when, nor whether anything went on.
        is_hole = self._is_hole(passed_s)
        before_s = answer.time_s if self._time_s is None or is_hole else self._time_s
        self._time_s = answer.time_s
        ended: list[Segment] = []
        if is_hole:
            self._smooth, self._score, passed_s = {}, None, 0.0
            self._stop(ended)
        self._average(answer, passed_s)
        known = self.threshold is None or self._score is None or self._score >= self.threshold
        going = self._going
        found = self._candidate() if known and answer.is_whole else None
        if going is not None:
            probabilities = [float(self._smooth[task][label]) for task, label in going.labels.items()]
            is_other = found is not None and found != going.labels
            if known and not is_other and min(probabilities) >= self.settings.leave:
                going.seen_s = answer.time_s
                going.weight += passed_s
                going.total += passed_s * math.prod(probabilities)
            else:
                self._stop(ended)
        if self._going is None and found is not None and not self._is_nothing(found):
            self._begin(found, before_s, answer.time_s, passed_s)
        if self._going is not None and self._is_long(self._going):
            self._over(ended)  # what another has taken the place of
        if self._paused is not None and answer.time_s - self._paused.seen_s > self.settings.cool_down_s + _TICK_S:
            self._over(ended)
        return Decision(
            time_s=answer.time_s,
            probabilities=dict(self._smooth),
            score=self._score,
            known=known,
            current=self._current(),
            ended=tuple(ended),
        )

    def finish(self, until_s: float | None = None) -> tuple[Segment, ...]:
        """The stream is over: what had not ended.

        Args:
            until_s: What still goes on is taken to go on so far.
        """
        ended: list[Segment] = []
        if self._going is not None and until_s is not None:
            self._going.seen_s = max(self._going.seen_s, until_s)
        self._stop(ended)
        self._over(ended)
        self.reset()
        return tuple(ended)

    def _is_hole(self, passed_s: float) -> bool:
        usual_s = median(self._gaps_s) if self._gaps_s else _HOLE_S
        if self._time_s is not None:
            self._gaps_s.append(passed_s)
        return passed_s > max(_HOLE_S, _HOLE * usual_s) + _TICK_S

    def _average(self, answer: Answer, passed_s: float) -> None:
        tau_s = self.settings.smoothing_s
        share = 1.0 if not self._smooth or tau_s == 0 else 1 - math.exp(-passed_s / tau_s)
        for task, values in answer.probabilities.items():
            old = self._smooth.get(task)
            self._smooth[task] = values if old is None else (old + np.float32(share) * (values - old))
        if answer.score is not None:
            # Scores of very unlike clips may be infinite; a mean with one would stay so.
            is_number = self._score is not None and math.isfinite(self._score) and math.isfinite(answer.score)
            self._score = self._score + share * (answer.score - self._score) if is_number else answer.score  # type: ignore[operator]

    def _candidate(self) -> dict[str, int] | None:
        """The classes that would begin."""
        found = {task: int(values.argmax()) for task, values in self._smooth.items()}
        if any(self._smooth[task][label] < self.settings.enter for task, label in found.items()):
            return None
        return found

    def _is_nothing(self, labels: Mapping[str, int]) -> bool:
        return bool(self._nothing) and all(labels[task] == label for task, label in self._nothing.items())

    def _begin(self, labels: dict[str, int], before_s: float, time_s: float, passed_s: float) -> None:
        paused = self._paused
        if (
            paused is not None
            and paused.labels == labels
            and before_s - paused.seen_s <= self.settings.cool_down_s + _TICK_S
        ):
            self._going, self._paused = paused, None
            paused.seen_s = time_s
            return
        probability = math.prod(float(self._smooth[task][label]) for task, label in labels.items())
        self._going = _Going(
            labels=labels, start_s=before_s, seen_s=time_s, weight=passed_s, total=passed_s * probability
        )

    def _stop(self, ended: list[Segment]) -> None:
        going, self._going = self._going, None
        if going is not None and self._is_long(going):
            self._over(ended)
            self._paused = going

    def _over(self, ended: list[Segment]) -> None:
        """What was paused does not come back."""
        if self._paused is not None:
            ended.append(self._segment(self._paused))
            self._paused = None

    def _is_long(self, going: _Going) -> bool:
        return going.seen_s - going.start_s >= self.settings.min_duration_s - _TICK_S

    def _current(self) -> Segment | None:
        return self._segment(self._going) if self._going is not None and self._is_long(self._going) else None

    def _segment(self, going: _Going) -> Segment:
        return Segment(
            start_s=going.start_s,
            stop_s=going.seen_s,
            labels={task: self.heads[task][label] for task, label in going.labels.items()},
            confidence=going.confidence,
        )


def top(
    probabilities: Mapping[str, Float32[np.ndarray, "_K"]], heads: Heads, k: int
) -> dict[str, list[tuple[str, float]]]:
    """Task -> the k most probable classes with their probabilities."""
    found = {}
    for task, values in probabilities.items():
        order = np.argsort(-values, kind="stable")[:k]
        found[task] = [(heads[task][index], float(values[index])) for index in order]
    return found
