"""A long video as a list of actions, watched once, in bounded memory, and from where it was stopped.

The video is watched in parts. Each part is followed anew, from so long before it that its first windows are whole, so
that a part's answers do not depend on which parts were watched by the same process: work that was stopped goes on with
the part that it was at, and its answers are those of work that was not stopped, bit for bit.

Offline there is no reason for the lag of a live answer. An answer at a moment is about the windows before it, so that
it is taken for one about their middle (`shift_s`), and probabilities are averaged over what comes before and after.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from kinema.data.hashing import content_hash
from kinema.inference.deciding import Decider
from kinema.inference.following import Follower
from kinema.inference.kept_answers import KeptAnswers, Part
from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Picture, Segment
from kinema.inference.long_video import LongVideo, mark_of
from kinema.inference.recogniser import Recogniser
from kinema.models.weights import Rejection, WeightsConfig
from kinema.progress import SILENT, Reporter
from kinema.types import ConfigError, DataError, fingerprint
from kinema.wording import clock

log = logging.getLogger(__name__)

EVERY_S = 0.1
"""From one answer to the next, unless the settings say otherwise. Of networks on whole clips, which look at all of a
window again for each answer, it is half of the short window, as for streams."""

BATCH = 16
"""Pictures that are looked at together."""

_PART_S, _PART_LEADS = 30.0, 10
"""Length of a part: at least this, and so many times what is watched twice at its beginning."""

_CURVE_POINTS = 480
"""Of a class's probability over the whole video."""

_REACH = 4.0
"""Time constants from which on an answer counts nothing in the average."""

_ROWS = 512
"""Answers that are averaged at once."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a video shows.

    Attributes:
        segments: Its actions, in the order of time.
        duration_s: Its end.
        num_frames: Its frames.
        num_answers: How often it was answered.
        damaged: Something did not decode in full.
        curve_times_s: Middles of equal parts of the video.
        curves: Task -> class -> mean probability in each of these parts, NaN where there is no answer.
    """

    segments: Sequence[Segment]
    duration_s: float
    num_frames: int
    num_answers: int
    damaged: bool
    curve_times_s: Sequence[float]
    curves: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def fps(self) -> float:
        return self.num_frames / self.duration_s


def offline(settings: LiveSection) -> LiveSection:
    """Settings for a file: unless they say otherwise, no window is looked at less often than the other.

    Raises:
        ConfigError: What they ask for has no meaning for a file.
    """
    if settings.memory == "state":
        raise ConfigError(
            "memory: a timeline looks at windows, so that it can go on where it was stopped; leave out memory=state"
        )
    if "slow_every_s" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"slow_every_s": 0.0})


def answers_of(
    weights: Path, config: WeightsConfig, settings: LiveSection, video: Path, rejection: Rejection | None = None
) -> dict[str, Any]:
    """What answers are of, so that other ones are never gone on with: weights, video, and settings that answers depend
    on. How actions are made of them is decided anew each time.

    Args:
        weights: Their folder.
        config: Theirs.
        settings: From `offline`.
        video: The file.
        rejection: Beside the weights: which score is computed.

    Raises:
        DataError: A file cannot be read.
    """
    fast_s, slow_s = settings.windows_s(config.preprocessing)
    try:
        state = [content_hash(video), video.stat().st_mtime_ns]
        with (weights / "model.safetensors").open("rb") as file:
            tensors = hashlib.file_digest(file, "blake2b").hexdigest()
        calibration = weights / "calibration.json"
        temperatures = calibration.read_text(encoding="utf-8") if calibration.is_file() else None
        about = (weights / "config.json").read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    score = [] if rejection is None else [rejection.method, rejection.background]
    return {
        "weights": fingerprint([tensors, about, temperatures, *score]),
        "video": fingerprint(state),
        "settings": {
            "fast_s": fast_s,
            "slow_s": slow_s,
            "every_s": settings.every_s if "every_s" in settings.model_fields_set else None,
            "slow_every_s": settings.slow_every_s,
        },
        "heads": {task: list(names) for task, names in config.heads.items()},
        "rules": 1,
    }


def shift_s(settings: LiveSection, config: WeightsConfig) -> float:
    """By how much an answer is set back: the mean of where the middles of both windows lie, as they are averaged."""
    return sum(settings.windows_s(config.preprocessing)) / 4


def watch(
    recogniser: Recogniser,
    settings: LiveSection,
    video: LongVideo,
    kept: KeptAnswers,
    *,
    reporter: Reporter = SILENT,
) -> None:
    """Answer what is not answered yet.

    Args:
        recogniser: What looks at it.
        settings: From `offline`.
        video: The file.
        kept: Answers so far; takes the others.
        reporter: Shown how far it is.

    Raises:
        ConfigError: The settings ask for what the model cannot do.
        DataError: No frame decodes.
    """
    if kept.is_finished:
        return
    work = _Watching(recogniser, settings, kept, video)
    log.info(work.how)
    last = kept.last
    total = None if video.header_s is None else max(1, round(video.header_s * video.fps))
    with reporter.track("Watching", total=total, unit="frames", done=0 if last is None else last.num_frames) as task:
        for picture in _pictures(video, last, work.start_s(work.first)):
            if work.take(picture):
                task.advance(1, at=clock(picture.time_s))
        work.finish()


def found(
    kept: KeptAnswers,
    config: WeightsConfig,
    settings: LiveSection,
    *,
    rejection: Rejection | None = None,
    background: Mapping[str, int] | None = None,
    shift: float | None = None,
) -> Found:
    """Make actions of answers.

    Args:
        kept: All answers of a video.
        config: Of the weights.
        settings: From `offline`.
        rejection: Threshold beside the weights.
        background: Task -> index of a class that stands for nothing.
        shift: By how much answers are set back, in place of `shift_s`.
    """
    assert kept.last is not None
    back_s = shift_s(settings, config) if shift is None else shift
    stop_s = kept.last.stop_s
    heads = config.heads
    decider = Decider(heads, settings.model_copy(update={"smoothing_s": 0.0}), rejection, nothing=background)
    curves = {task: _Curves(len(names), stop_s) for task, names in heads.items()}
    segments: list[Segment] = []
    num = 0
    for answer in smoothed(_set_back(kept.parts(), back_s), settings.smoothing_s):
        segments += decider.take(answer).ended
        num += 1
        for task, values in answer.probabilities.items():
            curves[task].add(answer.time_s, values)
    # Nothing speaks of what comes behind the middle of the last window: what goes on there goes on to the end.
    segments += decider.finish(until_s=stop_s)
    return Found(
        segments=segments,
        duration_s=stop_s,
        num_frames=kept.last.num_frames,
        num_answers=num,
        damaged=kept.last.damaged,
        curve_times_s=[(i + 0.5) * stop_s / _CURVE_POINTS for i in range(_CURVE_POINTS)],
        curves={task: dict(zip(names, curves[task].means().T.tolist(), strict=True)) for task, names in heads.items()},
    )


def smoothed(answers: Iterable[Answer], time_constant_s: float) -> Iterator[Answer]:
    """Average answers over time, those before and after one alike, the less the further they are: exp(-|t| / constant).

    Args:
        answers: In the order of time.
        time_constant_s: 0: not at all.
    """
    if time_constant_s <= 0:
        yield from answers
        return
    reach_s = _REACH * time_constant_s
    near: deque[Answer] = deque()
    waiting: deque[Answer] = deque()
    for answer in chain(answers, (None,)):
        if answer is not None:
            near.append(answer)
            waiting.append(answer)
        while waiting and (answer is None or answer.time_s > waiting[0].time_s + reach_s):
            centre = waiting.popleft()
            while near[0].time_s < centre.time_s - reach_s:
                near.popleft()
            yield _average(centre, near, time_constant_s)


def _average(centre: Answer, near: Iterable[Answer], time_constant_s: float) -> Answer:
    others = [one for one in near if abs(one.time_s - centre.time_s) <= _REACH * time_constant_s]
    weights = np.exp([-abs(one.time_s - centre.time_s) / time_constant_s for one in others])
    score = centre.score
    if score is not None and math.isfinite(score):  # scores of very unlike clips may be infinite
        finite = [(w, one.score) for w, one in zip(weights, others, strict=True) if math.isfinite(one.score or 0.0)]
        score = float(np.average([value or 0.0 for _, value in finite], weights=[weight for weight, _ in finite]))
    shares = (weights / weights.sum()).astype(np.float32)
    return replace(
        centre,
        probabilities={
            task: shares @ np.stack([one.probabilities[task] for one in others]) for task in centre.probabilities
        },
        score=score,
    )


def _set_back(parts: Iterable[Part], back_s: float) -> Iterator[Answer]:
    """Answers as such about the middle of what was seen; before the first window is whole it was less."""
    for part in parts:
        for row, time_s in enumerate(part.times_s.tolist()):
            score = float(part.scores[row])
            yield Answer(
                time_s=time_s - min(back_s, time_s / 2),
                probabilities={task: values[row] for task, values in part.probabilities.items()},
                score=None if math.isnan(score) else score,
                is_whole=bool(part.whole[row]),
            )


class _Curves:
    """Mean probabilities of classes over equal parts of a video."""

    def __init__(self, num_classes: int, stop_s: float) -> None:
        self._sums = np.zeros((_CURVE_POINTS, num_classes))
        self._counts = np.zeros(_CURVE_POINTS)
        self._stop_s = stop_s

    def add(self, time_s: float, values: Float32[np.ndarray, "_K"]) -> None:
        place = min(int(time_s / self._stop_s * _CURVE_POINTS), _CURVE_POINTS - 1)
        self._sums[place] += values
        self._counts[place] += 1

    def means(self) -> Float64[np.ndarray, "_N _K"]:
        with np.errstate(invalid="ignore"):
            return self._sums / self._counts[:, None]


def _pictures(video: LongVideo, last: Part | None, start_s: float) -> Iterator[Picture]:
    """Those that are still to be looked at."""
    if last is None:
        yield from video.pictures()
        return
    video.first_pts = last.first_pts
    video.damaged = last.damaged
    marks = dict(zip(last.mark_times_s.tolist(), last.marks.tolist(), strict=True))
    can_seek = bool(marks) and video.is_found_again(marks, start_s)
    if not can_seek:
        log.debug("%s: decoded from its beginning to where it goes on", video.path)
    video.damaged = last.damaged
    yield from video.pictures(start_s, seek=can_seek)


@dataclass(slots=True)
class _Following:
    """A part in the making.

    Attributes:
        follower: Has seen its pictures, but those that wait.
        waiting: Pictures that are not a batch yet.
        num_frames: Pictures of the part itself.
        since_s: Up to here it looked at what comes before the part.
        answers: About the part itself.
    """

    follower: Follower
    waiting: list[Picture] = field(default_factory=list)
    num_frames: int = 0
    since_s: float = -math.inf
    answers: list[Answer] = field(default_factory=list)

    def see(self, picture: Picture, *, is_before: bool) -> None:
        if is_before:
            self.since_s = picture.stop_s
        else:
            self.num_frames += 1
        self.waiting.append(picture)
        if len(self.waiting) == BATCH:
            self.look()

    def look(self) -> None:
        if self.waiting:
            pictures, self.waiting = self.waiting, []
            self.answers += [one for one in self.follower.see(pictures) if one.time_s > self.since_s]


class _Watching:
    """Shares pictures out to the parts that they belong to, and keeps the answers of each part when it is over."""

    def __init__(self, recogniser: Recogniser, settings: LiveSection, kept: KeptAnswers, video: LongVideo) -> None:
        _, slow_s = settings.windows_s(recogniser.config.preprocessing)
        # The long window, how old its answer may be, and some pictures more that motion may be taken from.
        self._lead_s = slow_s + settings.slow_every_s + 0.5
        self._part_s = max(_PART_S, _PART_LEADS * self._lead_s)
        self._heads = recogniser.config.heads
        self._kept, self._video = kept, video
        first = Follower(recogniser, settings)
        if "every_s" not in settings.model_fields_set and not first.is_dear:
            settings = settings.model_copy(update={"every_s": EVERY_S})
            first = Follower(recogniser, settings)
        self.how = first.how
        self._idle = [first, Follower(recogniser, settings)]  # of a part and the next
        self._parts: dict[int, _Following] = {}
        last = kept.last
        self.first = 0 if last is None else last.number + 1
        self._num_frames = 0 if last is None else last.num_frames
        self._stop_s = 0.0 if last is None else last.stop_s
        self._marks: dict[float, int] = {}

    def start_s(self, number: int) -> float:
        """From where on pictures are looked at for a part."""
        return max(0.0, number * self._part_s - self._lead_s)

    def take(self, picture: Picture) -> bool:
        """Look at a picture, or have it wait for others.

        Returns:
            Whether it is a new one, not of a part that is done.
        """
        number = int(picture.time_s // self._part_s)
        for before in sorted(one for one in self._parts if one < number):
            self._close(before)
        is_new = number >= self.first
        if is_new:
            self._part(number).see(picture, is_before=False)
            self._num_frames += 1
            self._stop_s = picture.stop_s
        if picture.time_s >= self.start_s(number + 1):
            self._part(number + 1).see(picture, is_before=True)
            if is_new:
                self._marks[picture.time_s] = mark_of(picture)
        return is_new

    def finish(self) -> None:
        """The video is over.

        Raises:
            DataError: There was nothing in it.
        """
        if not self._num_frames:
            raise DataError(f"{self._video.path}: no frame of it decodes")
        of_video = [number for number, part in self._parts.items() if part.num_frames]
        if of_video:
            (number,) = of_video
            self._close(number, is_last=True)
        else:
            self._keep(self.first, [], is_last=True)

    def _part(self, number: int) -> _Following:
        if number not in self._parts:
            self._parts[number] = _Following(follower=self._idle.pop())
        return self._parts[number]

    def _close(self, number: int, *, is_last: bool = False) -> None:
        part = self._parts.pop(number)
        if part.num_frames:
            part.look()
            self._keep(number, part.answers, is_last=is_last)
        part.follower.reset()
        self._idle.append(part.follower)

    def _keep(self, number: int, answers: Sequence[Answer], *, is_last: bool) -> None:
        marks, self._marks = self._marks, {}
        self._kept.add(
            Part(
                number=number,
                num_frames=self._num_frames,
                stop_s=self._stop_s,
                damaged=self._video.damaged,
                is_last=is_last,
                first_pts=self._video.first_pts,
                times_s=np.array([one.time_s for one in answers], dtype=np.float64),
                whole=np.array([one.is_whole for one in answers], dtype=np.bool_),
                scores=np.array([math.nan if one.score is None else one.score for one in answers], dtype=np.float64),
                probabilities={
                    task: np.array([one.probabilities[task] for one in answers], dtype=np.float32).reshape(
                        -1, len(names)
                    )
                    for task, names in self._heads.items()
                },
                mark_times_s=np.array(list(marks), dtype=np.float64),
                marks=np.array(list(marks.values()), dtype=np.int64),
            )
        )
