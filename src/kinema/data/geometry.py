"""Which rectangle of a frame becomes a model's input. Drawn where frames are read, so that they are cropped before
they are resized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinema.types import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in pixels of the video as displayed."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int


def centre_box(height_px: int, width_px: int, preprocessing: Preprocessing) -> Box:
    """The rectangle used outside training.

    `fit="squash"` takes the whole frame. `fit="crop"` takes what remains of the centre when the short side is scaled
    to `resize_px` and a square of `size_px` is cut out of it.
    """
    if preprocessing.fit == "squash":
        return Box(top_px=0, left_px=0, height_px=height_px, width_px=width_px)
    side_px = max(1, round(min(height_px, width_px) * preprocessing.size_px / preprocessing.resize_px))
    return Box(
        top_px=(height_px - side_px) // 2,
        left_px=(width_px - side_px) // 2,
        height_px=side_px,
        width_px=side_px,
    )


def random_box(
    height_px: int,
    width_px: int,
    preprocessing: Preprocessing,
    *,
    min_scale: float,
    rng: np.random.Generator,
) -> Box:
    """A rectangle for training: the centre box, shrunk to a random share of its area and moved at random.

    With `fit="crop"` the square may lie anywhere in the frame. The aspect ratio is that of the centre box, so that
    training and evaluation distort a frame alike.

    Args:
        height_px: Of the frame.
        width_px: Of the frame.
        preprocessing: What evaluation does.
        min_scale: Smallest share of the centre box's area. 1 gives the centre box itself.
        rng: Source of randomness.
    """
    whole = centre_box(height_px, width_px, preprocessing)
    if min_scale >= 1.0:
        return whole
    factor = rng.uniform(min_scale, 1.0) ** 0.5
    box_height_px = max(1, round(whole.height_px * factor))
    box_width_px = max(1, round(whole.width_px * factor))
    return Box(
        top_px=int(rng.integers(0, height_px - box_height_px + 1)),
        left_px=int(rng.integers(0, width_px - box_width_px + 1)),
        height_px=box_height_px,
        width_px=box_width_px,
    )
