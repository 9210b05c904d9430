"""How windows of a stream are looked at: what is kept of its pictures, and what the model says of some of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from kinema.data.device import to_model_input
from kinema.data.sampling import sample_times_s
from kinema.inference.recogniser import Recogniser
from kinema.inference.taking import Taken
from kinema.models.frame_model import FrameModel, FramePart
from kinema.models.layers.stepping import State
from kinema.models.streaming import OfFrames
from kinema.models.tsm import ShiftModel
from kinema.types import Preprocessing

_MOST_BYTES = 2**28
"""Of what is kept of one stream. Of longer windows every second of the older frames is left out, again and again."""

_AT_ONCE = 16
"""Windows that a temporal module sees at once; of whole clips or of maps, one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A window of a stream.

    Attributes:
        start_s: Where it begins.
        stop_s: Where it ends.
        newest_s: Frames that come on display later had not been seen then.
    """

    start_s: float
    stop_s: float
    newest_s: float


class Kept:
    """Values with their times, the newest of a stream."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._values: list[Tensor] = []
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._times)

    def add(self, time_s: float, value: Tensor) -> None:
        self._times.append(time_s)
        self._values.append(value)
        self._num_bytes += value.numel() * value.element_size()
        if self._num_bytes > _MOST_BYTES:
            half = len(self._times) // 2
            self._times[:half] = self._times[:half:2]
            self._values[:half] = self._values[:half:2]
            self._count()

    def forget(self, before_s: float) -> None:
        """What is not on display from a time on."""
        num = bisect_right(self._times, before_s) - 1
        if num > 0:
            del self._times[:num], self._values[:num]
            self._count()

    def at(self, times_s: Sequence[float], newest_s: float) -> Shaped[Tensor, "T *value"]:
        """What is on display at some times, of what had been seen; the oldest where all of it is newer."""
        last = max(bisect_right(self._times, newest_s) - 1, 0)
        chosen = [min(max(bisect_right(self._times, time_s) - 1, 0), last) for time_s in times_s]
        return torch.stack([self._values[index] for index in chosen])

    def _count(self) -> None:
        self._num_bytes = sum(value.numel() * value.element_size() for value in self._values)


class Sight(Protocol):
    """What looks at windows."""

    is_dear: bool
    """Answers take long beside pictures: better fewer answers than fewer pictures."""

    def keep(self, taken: Mapping[str, Sequence[Taken]]) -> None:
        """See what is new of each stream."""

    def look(self, looks: Sequence[Look], reach_s: Mapping[str, float]) -> list[dict[str, Float[Tensor, "_K"]]] | None:
        """Logits for some windows; None where too little of a stream was seen.

        Args:
            looks: Windows.
            reach_s: Stream -> for how long behind a frame it had to be seen for the frame to be known.
        """

    def forget(self, before_s: float | None) -> None:
        """What is not needed from a time on; None: everything."""


class FeatureSight:
    """Each picture passes the backbones once; of a window, the temporal modules see the features.

    Args:
        recogniser: The model and its preprocessing.
        parts: Of the model.
    """

    is_dear = False

    def __init__(self, recogniser: Recogniser, parts: Mapping[str, FramePart]) -> None:
        assert isinstance(recogniser.model, OfFrames)
        self._model: OfFrames = recogniser.model
        self._device = recogniser.device
        self._preprocessing = recogniser.config.preprocessing
        self._parts = {name: recogniser.quick_part(name, part) for name, part in parts.items()}
        self._at_once = 1 if any(part.has_maps for part in parts.values()) else _AT_ONCE
        self.forget(None)

    def forget(self, before_s: float | None) -> None:
        if before_s is None:
            self._kept = {name: Kept() for name in self._parts}
            return
        for kept in self._kept.values():
            kept.forget(before_s)

    def keep(self, taken: Mapping[str, Sequence[Taken]]) -> None:
        for stream, new in taken.items():
            if not new:
                continue
            frames = _input(stream, new, self._preprocessing[stream], self._device)
            for name, part in self._parts.items():
                if part.stream == stream:
                    for one, feature in zip(new, part.features(frames)[0], strict=True):
                        self._kept[name].add(one.time_s, feature.clone())

    def look(self, looks: Sequence[Look], reach_s: Mapping[str, float]) -> list[dict[str, Float[Tensor, "_K"]]] | None:
        if not all(map(len, self._kept.values())):
            return None
        found = []
        for start in range(0, len(looks), self._at_once):
            some = looks[start : start + self._at_once]
            features = {
                name: _windows(self._kept[name], some, self._preprocessing[part.stream], reach_s[part.stream])
                for name, part in self._parts.items()
            }
            found += _rows(self._model.classify_parts(features), len(some))
        return found


class ClipSight:
    """Pictures are kept as they go into the model, which sees all of a window's again.

    Args:
        recogniser: The model and its preprocessing.
    """

    is_dear = True

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._preprocessing = recogniser.config.preprocessing
        self.forget(None)

    def forget(self, before_s: float | None) -> None:
        if before_s is None:
            self._kept = {stream: Kept() for stream in self._preprocessing}
            return
        for kept in self._kept.values():
            kept.forget(before_s)

    def keep(self, taken: Mapping[str, Sequence[Taken]]) -> None:
        for stream, new in taken.items():
            for one in new:
                self._kept[stream].add(one.time_s, torch.from_numpy(one.values))

    def look(self, looks: Sequence[Look], reach_s: Mapping[str, float]) -> list[dict[str, Float[Tensor, "_K"]]] | None:
        if not all(map(len, self._kept.values())):
            return None
        at_once = 1 if self._recogniser.device.type == "cpu" else _AT_ONCE
        found = []
        for start in range(0, len(looks), at_once):
            some = looks[start : start + at_once]
            frames = {
                stream: _windows(kept, some, self._preprocessing[stream], reach_s[stream])
                for stream, kept in self._kept.items()
            }
            found += _rows(self._recogniser.logits(frames), len(some))
        return found


class StateSight:
    """Goes on from a state, in steps of even length.

    Args:
        recogniser: A model that can, and its preprocessing.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._model = recogniser.model
        self._device = recogniser.device
        ((self._stream, self._preprocessing),) = recogniser.config.preprocessing.items()
        self._part: FramePart | None = None
        if isinstance(self._model, FrameModel):
            ((name, part),) = self._model.frame_parts([self._stream]).items()
            self._part = recogniser.quick_part(name, part)
        self.forget()

    def forget(self) -> None:
        """The stream begins anew."""
        self._state: State = None

    def step(self, taken: Sequence[Taken], counts: Sequence[int]) -> list[dict[str, Float[Tensor, "_K"]] | None]:
        """Logits behind each frame.

        Args:
            taken: Frames.
            counts: How many steps each is on display for; a frame that is for none is not seen.

        Returns:
            None of a frame that is not seen.
        """
        seen = [one for one, num in zip(taken, counts, strict=True) if num]
        found: list[dict[str, Float[Tensor, "_K"]] | None] = []
        given: list[Tensor] = []
        if seen:
            frames = _input(self._stream, seen, self._preprocessing, self._device)
            given = list((frames if self._part is None else self._part.features(frames)).unbind(dim=1))
        model = self._model
        assert isinstance(model, FrameModel | ShiftModel)
        for num in counts:
            if not num:
                found.append(None)
                continue
            value = given.pop(0)
            for _ in range(num):
                logits, self._state = model.step(value, self._state)
            found.append({task: values[0] for task, values in logits.items()})
        return found


def _input(
    stream: str, taken: Sequence[Taken], preprocessing: Preprocessing, device: torch.device
) -> Float[Tensor, "1 N C H W"]:
    """Frames as one clip."""
    frames = torch.from_numpy(np.stack([one.values for one in taken]))[None].to(device)
    return to_model_input({stream: frames}, {stream: preprocessing})[stream]


def _windows(
    kept: Kept, looks: Sequence[Look], preprocessing: Preprocessing, reach_s: float
) -> Shaped[Tensor, "A T *value"]:
    """The frames of each window, as they are taken of a clip from its start to its end."""
    found = []
    for look in looks:
        times_s = sample_times_s(look.start_s, look.stop_s, num_frames=preprocessing.num_frames)
        found.append(kept.at(times_s.tolist(), look.newest_s - reach_s + 1e-6))
    return torch.stack(found)


def _rows(logits: Mapping[str, Float[Tensor, "A _K"]], num: int) -> list[dict[str, Float[Tensor, "_K"]]]:
    return [{task: values[row] for task, values in logits.items()} for row in range(num)]
