"""Pictures of frames, words and curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from kinema.explain.palette import GROUND, HEAT, INK, ORANGE, RULE, SOFT, coloured

TEXT_PX = 13
_FINER = 3
"""Curves are drawn so many times larger, then scaled: their edges are smooth."""

_OPAQUE = 0.75
"""Of the strongest heat."""


@cache
def font(size_px: int) -> Any:
    """The face that comes with Pillow, at a size."""
    return ImageFont.load_default(size_px)


def canvas(width_px: int, height_px: int) -> Image.Image:
    """An empty page."""
    return Image.new("RGB", (width_px, height_px), GROUND)


def write(
    image: Image.Image,
    words: str,
    x_px: float,
    y_px: float,
    *,
    size_px: int = TEXT_PX,
    colour: str = INK,
    anchor: str = "la",
    most_px: float | None = None,
) -> None:
    """Put words into a picture.

    Args:
        image: Changed in place.
        words: In one line.
        x_px: Where `anchor` is.
        y_px: Like `x_px`.
        size_px: Of the letters.
        colour: Of the letters.
        anchor: As Pillow has it: `la` is left and top, `rm` right and middle.
        most_px: Words that are wider end in three dots.
    """
    face = font(size_px)
    if most_px is not None and face.getlength(words) > most_px:
        while words and face.getlength(words + "...") > most_px:
            words = words[:-1]
        words += "..."
    ImageDraw.Draw(image).text((x_px, y_px), words, font=face, fill=colour, anchor=anchor)


def overlaid(
    frame: UInt8[np.ndarray, "H W 3"], heat: Float[np.ndarray, "H W"], *, colours: tuple[str, ...] = HEAT
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame under its heat: grey and darker where there is none, coloured where there is much."""
    grey = frame.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    alpha = _OPAQUE * np.clip(heat, 0, 1)[..., None]
    below = 0.35 * frame + 0.45 * grey[..., None]
    return ((1 - alpha) * below + alpha * coloured(0.25 + 0.75 * heat, colours)).round().clip(0, 255).astype(np.uint8)


def scaled(image: UInt8[np.ndarray, "H W 3"], width_px: int, height_px: int | None = None) -> Image.Image:
    """A picture in another size."""
    size = width_px, height_px or round(width_px * image.shape[0] / image.shape[1])
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


def curve(
    values: Sequence[float],
    *,
    centres_px: Sequence[float],
    width_px: int,
    height_px: int,
    level: float | None = None,
    marker: int | None = None,
) -> Image.Image:
    """A line over moments, filled below it.

    Args:
        values: 0 and more.
        centres_px: Where each of them is.
        width_px: Of the picture.
        height_px: Of the picture.
        level: Draw a level line there.
        marker: Mark one of the values.
    """
    image = Image.new("RGB", (width_px * _FINER, height_px * _FINER), GROUND)
    draw = ImageDraw.Draw(image)
    top = max([*values, level or 0.0, 1e-12]) * 1.08
    bottom = (height_px - 2) * _FINER

    def at(x_px: float, value: float) -> tuple[float, float]:
        return x_px * _FINER, bottom - value / top * (bottom - 4 * _FINER)

    points = [at(x, value) for x, value in zip(centres_px, values, strict=True)]
    first, last = centres_px[0] * _FINER, centres_px[-1] * _FINER
    if len(points) > 1:
        draw.polygon([(first, bottom), *points, (last, bottom)], fill="#f7dcc8")
        draw.line(points, fill=ORANGE, width=2 * _FINER, joint="curve")
    draw.line([(0, bottom), (width_px * _FINER, bottom)], fill=RULE, width=_FINER)
    if level is not None:
        y = at(0, level)[1]
        for dash in range(round(first), round(last), 10 * _FINER):
            draw.line([(dash, y), (dash + 5 * _FINER, y)], fill=SOFT, width=_FINER)
    for number, (x, y) in enumerate(points):
        large = marker == number
        if marker is None or large:
            if large:
                draw.line([(x, 0), (x, bottom)], fill=INK, width=_FINER)
            radius = (4.5 if large else 2.6) * _FINER
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=INK if large else ORANGE)
    return image.resize((width_px, height_px), Image.Resampling.LANCZOS)


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def evenly(num: int, most: int) -> list[int]:
    """At most so many of `num` things, evenly spread."""
    return list(range(num)) if num <= most else np.linspace(0, num - 1, most).round().astype(int).tolist()
