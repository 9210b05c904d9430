"""A trained recogniser that follows a stream: every picture is seen once, as it comes, and answered.

An answer is what the recogniser says of the clip that ends with the newest picture and is as long as the window: the
same frames of it, at the same times. What counts is time: of a camera of 60 frames/s the same moments are seen as of
one of 15.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Picture
from kinema.inference.recogniser import Recogniser
from kinema.inference.sights import ClipSight, FeatureSight, Look, Sight, StateSight
from kinema.inference.taking import make_taker
from kinema.models.layers.stepping import can_step
from kinema.models.streaming import frame_parts
from kinema.types import ConfigError, Preprocessing, UserError

_TICK_S = 1e-6
"""Times that differ by less are the same."""
_USUAL = 9
"""Pictures whose median distance is what is usual."""
_LONG = 2.0
"""By how much more a picture may last."""

Judged = tuple[dict[str, Float32[np.ndarray, "_K"]], float | None]
"""Task -> probabilities, and the score."""


class Follower:
    """Follows one stream. Not to be shared between threads.

    Args:
        recogniser: What looks at it.
        settings: Windows, and how often they are looked at.

    Attributes:
        fast_s: Length of the short window.
        slow_s: Length of the long one.
        every_s: Least time from one answer to the next.

    Raises:
        ConfigError: The settings ask for what the model cannot do.
    """

    def __init__(self, recogniser: Recogniser, settings: LiveSection | None = None) -> None:
        self.recogniser = recogniser
        self.settings = settings or LiveSection()
        self._preprocessing: Mapping[str, Preprocessing] = recogniser.config.preprocessing
        self.fast_s, self.slow_s = self.settings.windows_s(self._preprocessing)
        self._takers = {stream: make_taker(each) for stream, each in self._preprocessing.items()}
        self._sight: Sight | None = None
        self._state: StateSight | None = None
        with torch.inference_mode(mode=False):
            self._look_how()
        # What is dear to answer is answered as windows that half overlap.
        self.every_s = self.settings.every_s or (min(self.fast_s, self.slow_s) / 2 if self.is_dear else 0.0)
        self.reset()

    def _look_how(self) -> None:
        model = self.recogniser.model
        if self.settings.memory == "state":
            if not can_step(model) or len(self._preprocessing) != 1:
                raise ConfigError(
                    "memory: this model cannot go on from a state, as it looks ahead or at whole clips; use "
                    "memory=window, or train one that can: a recurrent network in one direction, cnn_conv1d with "
                    "model.causal=true, tsm with model.online=true"
                )
            self._state = StateSight(self.recogniser)
            return
        parts = frame_parts(model, tuple(self._preprocessing))
        self._sight = ClipSight(self.recogniser) if parts is None else FeatureSight(self.recogniser, parts)

    @property
    def is_dear(self) -> bool:
        """Answers take long beside pictures, as of networks on whole clips: what falls behind had better take all
        pictures and answer the newest alone (`only_newest`)."""
        return self._sight is not None and self._sight.is_dear

    @property
    def how(self) -> str:
        """One line: what is done with each picture."""
        if self._state is not None:
            return f"every frame once, from a state; a step every {1000 * self._step_s:.0f} ms"
        seen = "whole windows again for every answer" if self.is_dear else "every frame once, its features in a window"
        if self.fast_s >= self.slow_s - _TICK_S:
            return f"{seen} of {self.slow_s:.3g} s"
        return f"{seen} of {self.fast_s:.3g} s, and of {self.slow_s:.3g} s every {self.settings.slow_every_s:.2g} s"

    @property
    def _step_s(self) -> float:
        """From one step of a state to the next: as frames lay that it was trained on, in a clip as long as the long
        window."""
        return self.slow_s / next(iter(self._preprocessing.values())).num_frames

    def reset(self) -> None:
        """Forget all that was seen: the stream begins anew."""
        self._first_s: float | None = None
        self._last_s = -math.inf
        self._answered_s = self._slow_s = -math.inf
        self._slow: Judged | None = None
        self._said: Judged | None = None
        self._num_steps = 0
        self._gaps_s: deque[float] = deque(maxlen=_USUAL)
        for taker in self._takers.values():
            taker.reset()
        if self._sight is not None:
            self._sight.forget(None)
        if self._state is not None:
            self._state.forget()

    @torch.inference_mode()
    def see(self, pictures: Sequence[Picture], *, only_newest: bool = False) -> list[Answer]:
        """Take pictures, in the order of time, one as a camera gives it or many of a file, and answer what is due.

        Args:
            pictures: With times that ascend, from call to call as well.
            only_newest: Answer the last of them alone.

        Raises:
            DataError: Pixels of a picture cannot be read.
            UserError: A picture is older than one that was seen; `reset` begins anew.
        """
        if not pictures:
            return []
        for picture in pictures:
            if picture.time_s > self._last_s:
                self._gaps_s.append(picture.time_s - self._last_s)
            else:
                raise UserError(
                    f"a picture of {picture.time_s:.3f} s came behind one of {self._last_s:.3f} s; reset what follows "
                    "a stream that begins anew"
                )
            self._last_s = picture.time_s
        pictures = [self._bounded(picture) for picture in pictures]
        if self._first_s is None:
            self._first_s = pictures[0].time_s
        if self._state is None:
            return self._from_windows(pictures, only_newest)
        answers = self._from_state(pictures)
        return answers[-1:] if only_newest else answers

    def _bounded(self, picture: Picture) -> Picture:
        """A picture is on display for no longer than is usual: a camera that was held up once is no slower for it."""
        usual_s = median(self._gaps_s)
        is_long = math.isfinite(usual_s) and picture.duration_s > _LONG * usual_s
        return replace(picture, duration_s=usual_s) if is_long else picture

    def _from_windows(self, pictures: Sequence[Picture], only_newest: bool) -> list[Answer]:
        assert self._sight is not None
        taken = {
            stream: [one for picture in pictures for one in taker.take(picture)]
            for stream, taker in self._takers.items()
        }
        self._sight.keep(taken)
        asked, looks = self._due(pictures[-1:] if only_newest else pictures)
        answers = []
        if looks:
            reach_s = {stream: taker.reach_s for stream, taker in self._takers.items()}
            logits = self._sight.look(looks, reach_s)
            if logits is not None:
                judged = self._judge(logits)
                for picture, of_fast, of_slow in asked:
                    self._slow = judged[of_slow] if of_slow is not None else self._slow
                    fast = None if of_fast is None else judged[of_fast]
                    answers.append(self._answer(picture, _mean([one for one in (fast, self._slow) if one])))
        longest_s = max(self.slow_s, self.fast_s) + max(taker.reach_s for taker in self._takers.values())
        self._sight.forget(pictures[-1].stop_s - longest_s)
        return answers

    def _due(self, pictures: Sequence[Picture]) -> tuple[list[tuple[Picture, int | None, int | None]], list[Look]]:
        """Which pictures are answered, by which windows: (picture, place of the short window, of the long)."""
        asked: list[tuple[Picture, int | None, int | None]] = []
        looks: list[Look] = []
        for picture in pictures:
            stop_s = picture.stop_s
            if not _is_due(stop_s, self._answered_s, self.every_s):
                continue
            self._answered_s = stop_s
            places: list[int | None] = [None, None]
            has_fast = self.fast_s < self.slow_s - _TICK_S
            if has_fast:
                places[0] = len(looks)
                looks.append(self._window(picture, self.fast_s))
            if not has_fast or _is_due(stop_s, self._slow_s, self.settings.slow_every_s):
                self._slow_s = stop_s
                places[1] = len(looks)
                looks.append(self._window(picture, self.slow_s))
            asked.append((picture, places[0], places[1]))
        return asked, looks

    def _window(self, picture: Picture, window_s: float) -> Look:
        assert self._first_s is not None
        stop_s = picture.stop_s
        return Look(start_s=max(self._first_s, stop_s - window_s), stop_s=stop_s, newest_s=picture.time_s)

    def _from_state(self, pictures: Sequence[Picture]) -> list[Answer]:
        assert self._state is not None
        assert self._first_s is not None
        (taker,) = self._takers.values()
        counts = []
        for picture in pictures:
            # Steps lie at first, first + step, ...; those that come while the picture is on display see it, and so do
            # those that were missed because pictures were.
            until = math.ceil((picture.stop_s - self._first_s - _TICK_S) / self._step_s)
            most = next(iter(self._preprocessing.values())).num_frames
            counts.append(min(max(until - self._num_steps, 0), most))
            self._num_steps = max(until, self._num_steps)
        taken = [taker.take(picture)[0] for picture in pictures]
        said = self._state.step(taken, counts)
        judged = iter(self._judge([one for one in said if one is not None]))
        answers = []
        for picture, one in zip(pictures, said, strict=True):
            if one is not None:
                self._said = next(judged)
            if self._said is not None and _is_due(picture.stop_s, self._answered_s, self.every_s):
                self._answered_s = picture.stop_s
                answers.append(self._answer(picture, self._said))
        return answers

    def _judge(self, logits: Sequence[Mapping[str, Float[Tensor, "_K"]]]) -> list[Judged]:
        if not logits:
            return []
        together = {task: torch.stack([one[task] for one in logits]) for task in self.recogniser.config.heads}
        probabilities, scores = self.recogniser.judge(together)
        return [
            (
                {task: values[row].numpy() for task, values in probabilities.items()},
                None if scores is None else float(scores[row]),
            )
            for row in range(len(logits))
        ]

    def _answer(self, picture: Picture, judged: Judged) -> Answer:
        assert self._first_s is not None
        probabilities, score = judged
        is_whole = picture.stop_s - self._first_s >= min(self.fast_s, self.slow_s) - _TICK_S
        return Answer(time_s=picture.stop_s, probabilities=probabilities, score=score, is_whole=is_whole)


def _is_due(time_s: float, last_s: float, every_s: float) -> bool:
    """Whether a moment of those that lie so far apart has come since the last time. They are the same for every rate of
    frames."""
    if every_s == 0 or last_s == -math.inf:
        return True
    return math.floor((time_s + _TICK_S) / every_s) > math.floor((last_s + _TICK_S) / every_s)


def _mean(judged: Sequence[Judged]) -> Judged:
    """Of what the windows say."""
    if len(judged) == 1:
        return judged[0]
    num = np.float32(len(judged))
    probabilities = {
        task: np.asarray(sum(probabilities[task] for probabilities, _ in judged) / num) for task in judged[0][0]
    }
    scores = [score for _, score in judged if score is not None]
    return probabilities, sum(scores) / len(scores) if scores else None
