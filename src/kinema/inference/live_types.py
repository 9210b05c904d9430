"""The words that all that watches shares: a picture goes in, an answer comes out, and answers become actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Float32
from numpy.typing import NDArray

from kinema.data.video import UPRIGHT, Orientation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A frame of a stream.

    Attributes:
        image: As a decoder gave it, or upright RGB (H, W, 3), uint8.
        time_s: When it comes on display, from the beginning of the stream.
        duration_s: Until the next is expected: one by the frame rate.
        captured_s: When it was there, by `time.monotonic`; what delays are measured from.
        orientation: How to make a decoded frame upright.
    """

    image: VideoFrame | NDArray[np.uint8]
    time_s: float
    duration_s: float
    captured_s: float = 0.0
    orientation: Orientation = UPRIGHT

    @property
    def stop_s(self) -> float:
        """When it goes from display."""
        return self.time_s + self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a model says of a stream at one moment.

    Attributes:
        time_s: Up to where the stream was seen: the end of the newest picture.
        probabilities: Task -> probability of each class.
        score: How sure it is that one of the classes is shown, where the weights have a threshold for that.
        is_whole: As much was seen as the short window holds; before, the stream had only begun.
    """

    time_s: float
    probabilities: Mapping[str, Float32[np.ndarray, "_K"]]
    score: float | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An action in a stream.

    Attributes:
        start_s: Its beginning, from that of the stream.
        stop_s: Its end; of one that goes on, up to where it was seen.
        labels: Task -> class.
        confidence: Mean probability of these classes over it, of several tasks the product.
    """

    start_s: float
    stop_s: float
    labels: Mapping[str, str]
    confidence: float

    @property
    def label(self) -> str:
        """The classes of all tasks in one line."""
        return " ".join(self.labels.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What is known at one moment.

    Attributes:
        time_s: That of the answer.
        probabilities: Task -> probability of each class, smoothed over time.
        score: Smoothed; None where the weights have no threshold.
        known: The score is not below the threshold.
        current: The action that goes on, if one does.
        ended: Actions that are over since the last answer.
    """

    time_s: float
    probabilities: Mapping[str, Float32[np.ndarray, "_K"]]
    score: float | None
    known: bool
    current: Segment | None
    ended: tuple[Segment, ...] = ()
