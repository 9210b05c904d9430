"""Several looks at one clip, for evaluation: other moments, other cuts of the frame, mirrored.

Simonyan and Zisserman ("Two-Stream Convolutional Networks", 2014) and Feichtenhofer et al. ("SlowFast Networks", 2019,
https://arxiv.org/abs/1812.03982) evaluate with 10 clips of 3 crops each. There a clip is a window of the video, and so
it is here where a model's preprocessing has `window_s`: windows lie evenly spaced from the clip's start to its end. A
model without one sees a clip as a whole; then it is other frames of the whole: each of the equal parts that a clip is
cut into gives its frame at another place, evenly spread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kinema.types import ConfigError, Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at a clip.

    Attributes:
        moment: Where in its part of the clip each frame lies, in 0..1, where the whole clip is seen.
        window: Where in the clip the window lies, if only one is seen: 0 at its start, 1 at its end.
        crop: Where along the frame's longer side the square is cut out, 0 the upper or left end, 1 the other.
        flip: Whether it is mirrored.
    """

    moment: float = 0.5
    window: float = 0.5
    crop: float = 0.5
    flip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """All looks at a clip: every choice of frames with every crop, and each mirrored where that is asked for. One of
    one crop is what evaluation does without any.

    Attributes:
        clips: Choices of frames, or windows.
        crops: Places along the frame's longer side.
        flip: Mirrored too.
    """

    clips: int = 1
    crops: int = 1
    flip: bool = False

    @classmethod
    def parse(cls, text: str, *, flip: bool = False) -> Views:
        """From "10x3": clips x crops.

        Raises:
            ConfigError: It is something else.
        """
        found = re.fullmatch(r"([1-9]\d{0,3})[x×]([1-9]\d{0,2})", text.strip())
        if found is None:
            raise ConfigError(f"--views: {text!r} is not clips x crops, such as 1x1, 5x1 or 10x3")
        return cls(clips=int(found[1]), crops=int(found[2]), flip=flip)

    def check(self, preprocessing: Preprocessing) -> None:
        """
        Raises:
            ConfigError: A model with this preprocessing cannot be given such views.
        """
        if self.crops > 1 and preprocessing.fit == "squash":
            raise ConfigError(
                f"--views: this model sees whole frames, scaled to a square, so there is nothing to crop; "
                f"take {self.clips}x1"
            )

    def __len__(self) -> int:
        return self.clips * self.crops * (2 if self.flip else 1)

    def __iter__(self) -> Iterator[View]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> View:
        if not 0 <= number < len(self):
            raise IndexError(number)
        number, clip = divmod(number, self.clips)
        flip, crop = divmod(number, self.crops)
        return View(
            moment=(clip + 0.5) / self.clips,
            window=_from_end_to_end(clip, self.clips),
            crop=_from_end_to_end(crop, self.crops),
            flip=bool(flip),
        )

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}" + (", each mirrored too" if self.flip else "")


def _from_end_to_end(number: int, count: int) -> float:
    """Evenly spaced places in 0..1, both ends among them; of one the middle."""
    return 0.5 if count == 1 else number / (count - 1)


ONE_VIEW = Views()
