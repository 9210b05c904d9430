"""What is said of a stream beside its pictures: in a window, and drawn into a video."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kinema.data.pictures import upright
from kinema.inference.deciding import top
from kinema.inference.live_types import Decision, Picture
from kinema.types import Heads

NOTHING = "nothing of its classes"
WAITING = "looking ..."

_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "Arial.ttf", "segoeui.ttf")
"""Known for their letters; where there is none, Pillow's own, which has Latin ones."""
_LEAST_TEXT_PX = 11

Colour = tuple[int, int, int]
_WHITE: Colour = (255, 255, 255)
_GREY: Colour = (150, 150, 150)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One class.

    Attributes:
        task: Its task, where there are several.
        label: The class, or words in its place.
        confidence: Its probability, smoothed over time.
        is_action: It is going on, as opposed to being the likeliest only.
    """

    task: str
    label: str
    confidence: float | None
    is_action: bool = False


def lines_of(decision: Decision | None, heads: Heads) -> list[Line]:
    """What there is to say, a line for each task."""
    if decision is None:
        return [Line(task="", label=WAITING, confidence=None)]
    if not decision.known:
        return [Line(task="", label=NOTHING, confidence=None)]
    best = top(decision.probabilities, heads, 1)
    lines = []
    for task, ((label, probability),) in best.items():
        name = task if len(heads) > 1 else ""
        current = decision.current
        if current is None:
            lines.append(Line(task=name, label=label, confidence=probability))
            continue
        label = current.labels[task]
        value = float(decision.probabilities[task][heads[task].index(label)])
        lines.append(Line(task=name, label=label, confidence=value, is_action=True))
    return lines


def confidence_colour(confidence: float | None) -> Colour:
    """From red (0) over yellow (a half) to green (1); grey of None."""
    if confidence is None:
        return _GREY
    share = min(max(confidence, 0.0), 1.0)
    red, green = min(1.0, 2 - 2 * share), min(1.0, 2 * share)
    return round(70 + 170 * red), round(70 + 140 * green), 70


def state_line(rate: float | None, delay_ms: float | None, dropped: int) -> str:
    """`30.0 answers/s, 24 ms behind, 3 dropped`."""
    parts = [] if rate is None else [f"{rate:.1f} answers/s"]
    parts += [] if delay_ms is None else [f"{delay_ms:.0f} ms behind"]
    parts += [f"{dropped:,} dropped"] if dropped else []
    return ", ".join(parts)


class Rgb:
    """Makes pictures RGB that a screen or an encoder takes. For one thread."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, picture: Picture, *, within_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3).

        Args:
            picture: A picture.
            within_px: Width and height that it is to fill as far as its shape allows; by default its own.
        """
        image = picture.image
        if isinstance(image, np.ndarray):
            if within_px is None:
                return image
            size = fitted((image.shape[1], image.shape[0]), within_px)
            return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        assert isinstance(image, VideoFrame)
        size = image.width, image.height
        if within_px is not None:
            size = fitted(size, within_px[::-1] if picture.orientation.transposed else within_px)
        frame = self._reformatter.reformat(image, width=size[0], height=size[1], format="rgb24", threads=1)
        pixels = np.asarray(frame.to_ndarray(), dtype=np.uint8)
        return np.ascontiguousarray(upright(pixels, picture.orientation))


def fitted(size_px: tuple[int, int], within_px: tuple[int, int]) -> tuple[int, int]:
    """Width and height of something of a shape that is as large as fits."""
    scale = min(within_px[0] / size_px[0], within_px[1] / size_px[1])
    return max(1, round(scale * size_px[0])), max(1, round(scale * size_px[1]))


def annotated(image: NDArray[np.uint8], lines: list[Line], state: str) -> NDArray[np.uint8]:
    """A picture with what is said of it drawn into its corner: (H, W, 3)."""
    drawn = Image.fromarray(image).convert("RGB")
    height_px = max(_LEAST_TEXT_PX, drawn.height // 18)
    large, small = _font(height_px), _font(max(_LEAST_TEXT_PX, height_px * 2 // 3))
    rows = []
    for line in lines:
        words = f"{line.task}: {line.label}" if line.task else line.label
        percent = "" if line.confidence is None else f"  {line.confidence:.0%}"
        colour = confidence_colour(line.confidence) if line.is_action else _GREY
        rows.append((words + percent, large, colour))
    if state:
        rows.append((state, small, _WHITE))
    painter = ImageDraw.Draw(drawn, "RGBA")
    margin = height_px // 3
    step = round(height_px * 1.35)
    width_px = max((painter.textlength(text, font=font) for text, font, _ in rows), default=0)
    bottom = min(drawn.height, margin + step * len(rows) + margin // 2)
    painter.rectangle((0, 0, min(drawn.width, width_px + 2 * margin), bottom), fill=(0, 0, 0, 170))
    for number, (text, font, colour) in enumerate(rows):
        painter.text((margin, margin // 2 + number * step), text, font=font, fill=colour)
    return np.asarray(drawn)


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return ImageFont.load_default(size_px)
