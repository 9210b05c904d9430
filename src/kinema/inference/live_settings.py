"""How a stream of frames becomes answers, and answers become actions: one small section that `kinema watch`, `serve`
and `timeline` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kinema.config import apply_overrides, checked
from kinema.files import parse_yaml
from kinema.section import Probability, Section
from kinema.types import DataError, Preprocessing

FAST_S, SLOW_S = 8 / 30, 24 / 30
"""Windows of an egocentric demonstration (`docs/coming-from.md`): 8 and 24 frames of a camera of 30 frames/s."""

_FAST_SHARE = FAST_S / SLOW_S

Seconds = Annotated[float, Field(ge=0.0)]
Window = Annotated[float, Field(gt=0.0)]


class LiveSection(Section):
    """What is made of a stream. All is in seconds, so that a camera of 15 frames/s and one of 60 are answered alike."""

    fast_s: Window | None = None
    """Length of the short window, which notices soon. null: what 8 frames are at 30 frames/s, or a third of `slow_s`
    where that is given or known."""
    slow_s: Window | None = None
    """Length of the long window, which is surer. null: the window that the model was trained with, if it was; else
    what 24 frames are at 30 frames/s."""
    every_s: Seconds = 0.0
    """Least time from one answer to the next. 0: an answer for every frame; of networks on whole clips, which see all
    frames of a window again for each, one for every half of the short window."""
    slow_every_s: Seconds = 1 / 3
    """Least time from one look at the long window to the next; its last answer counts in between."""
    memory: Literal["window", "state"] = "window"
    """`window`: the temporal module sees the windows' frames again for every answer. `state`: it goes on from its own
    state, which a recurrent network, a causal convolution or an online temporal shift can, and forgets nothing."""
    smoothing_s: Seconds = 0.2
    """Time constant by which probabilities are averaged over time, exponentially. 0: not at all."""
    enter: Probability = 0.5
    """Probability from which on an action begins; of several tasks, of each."""
    leave: Probability = 0.35
    """Probability below which it ends."""
    min_duration_s: Seconds = 0.3
    """What is shorter is no action."""
    cool_down_s: Seconds = 0.5
    """For so long after an action has ended it does not begin again; what lies between is then part of it."""
    threshold: float | None = None
    """Score below which nothing is recognised, in place of the one beside the weights (`kinema threshold`)."""

    @model_validator(mode="after")
    def _leaves_below(self) -> LiveSection:
        if self.leave > self.enter:
            raise ValueError(f"leave: {self.leave:g} is above enter, {self.enter:g}; an action would end as it begins")
        if self.fast_s is not None and self.slow_s is not None and self.fast_s > self.slow_s:
            raise ValueError(f"fast_s: {self.fast_s:g} s is longer than slow_s, {self.slow_s:g} s")
        return self

    def windows_s(self, preprocessing: Mapping[str, Preprocessing]) -> tuple[float, float]:
        """Lengths of the short and of the long window.

        Args:
            preprocessing: Of the weights.
        """
        trained_s = max((each.window_s or 0.0 for each in preprocessing.values()), default=0.0)
        known_s = self.slow_s or trained_s or None
        if known_s is None:
            slow_s = max(SLOW_S, self.fast_s or 0.0)
            return self.fast_s or FAST_S, slow_s
        slow_s = max(known_s, self.fast_s or 0.0)
        return self.fast_s or _FAST_SHARE * slow_s, slow_s


def live_settings(overrides: Sequence[str] = (), file: Path | None = None) -> LiveSection:
    """Settings as a command line gives them.

    Args:
        overrides: `key=value`, as in `slow_s=2`.
        file: YAML of the same keys, which overrides go before.

    Raises:
        ConfigError: A key is unknown, or a value impossible.
        DataError: The file cannot be read.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            found = parse_yaml(file.read_text(encoding="utf-8"), source=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if found is not None and not isinstance(found, dict):
            raise DataError(f"{file}: expected keys and values, such as slow_s: 2")
        values = dict(found or {})
    return checked(LiveSection, apply_overrides(values, overrides), source="live settings")
