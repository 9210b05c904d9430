"""Which rectangle of a frame becomes a model's input. Drawn where frames are read, so that they are cropped before
they are resized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kinema.types import Preprocessing

_ATTEMPTS = 10
"""To draw a rectangle that is inside the frame, as torchvision does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in pixels of the video as displayed."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int


def centre_box(height_px: int, width_px: int, preprocessing: Preprocessing, *, along: float = 0.5) -> Box:
    """The rectangle used outside training.

    `fit="squash"` takes the whole frame. `fit="crop"` takes what remains of the centre when the short side is scaled
    to `resize_px` and a square of `size_px` is cut out of it.

    Args:
        height_px: Of the frame.
        width_px: Of the frame.
        preprocessing: What evaluation does.
        along: Where along the frame's longer side the square lies instead, 0 the upper or left end, 1 the other.
    """
    if preprocessing.fit == "squash":
        return Box(top_px=0, left_px=0, height_px=height_px, width_px=width_px)
    side_px = max(1, round(min(height_px, width_px) * preprocessing.size_px / preprocessing.resize_px))
    top_px, left_px = (height_px - side_px) // 2, (width_px - side_px) // 2
    if along != 0.5:
        if width_px >= height_px:
            left_px = round(along * (width_px - side_px))
        else:
            top_px = round(along * (height_px - side_px))
    return Box(
        top_px=top_px,
        left_px=left_px,
        height_px=side_px,
        width_px=side_px,
    )


def random_box(
    height_px: int,
    width_px: int,
    preprocessing: Preprocessing,
    *,
    min_scale: float,
    max_aspect: float = 1.0,
    rng: np.random.Generator,
) -> Box:
    """A rectangle for training: the centre box, shrunk to a random share of its area, stretched and moved at random.

    With `fit="crop"` the rectangle may lie anywhere in the frame. Without `max_aspect` the aspect ratio is that of the
    centre box, so that training and evaluation distort a frame alike.

    Args:
        height_px: Of the frame.
        width_px: Of the frame.
        preprocessing: What evaluation does.
        min_scale: Smallest share of the centre box's area. 1 gives the centre box itself.
        max_aspect: By how much it may be stretched to either side, as torchvision's RandomResizedCrop does it: the
            logarithm is uniform, and what does not fit into the frame is drawn again.
        rng: Source of randomness.
    """
    whole = centre_box(height_px, width_px, preprocessing)
    if max_aspect > 1.0:
        return _stretched(whole, height_px, width_px, min_scale=min_scale, max_aspect=max_aspect, rng=rng)
    if min_scale >= 1.0:
        return whole
    factor = rng.uniform(min_scale, 1.0) ** 0.5
    box_height_px = max(1, round(whole.height_px * factor))
    box_width_px = max(1, round(whole.width_px * factor))
    return _anywhere(box_height_px, box_width_px, height_px, width_px, rng)


def _stretched(
    whole: Box, height_px: int, width_px: int, *, min_scale: float, max_aspect: float, rng: np.random.Generator
) -> Box:
    for _ in range(_ATTEMPTS):
        share = rng.uniform(min_scale, 1.0)
        stretch = math.exp(rng.uniform(-math.log(max_aspect), math.log(max_aspect)))
        box_height_px = round(whole.height_px * math.sqrt(share / stretch))
        box_width_px = round(whole.width_px * math.sqrt(share * stretch))
        if 0 < box_height_px <= height_px and 0 < box_width_px <= width_px:
            return _anywhere(box_height_px, box_width_px, height_px, width_px, rng)
    return whole


def _anywhere(box_height_px: int, box_width_px: int, height_px: int, width_px: int, rng: np.random.Generator) -> Box:
    return Box(
        top_px=int(rng.integers(0, height_px - box_height_px + 1)),
        left_px=int(rng.integers(0, width_px - box_width_px + 1)),
        height_px=box_height_px,
        width_px=box_width_px,
    )


def multi_scale_box(
    height_px: int,
    width_px: int,
    preprocessing: Preprocessing,
    *,
    scales: Sequence[float],
    rng: np.random.Generator,
) -> Box:
    """A rectangle for training as in Temporal Segment Networks (https://arxiv.org/abs/1608.00859): its height and its
    width are each one of some shares of the frame's short side, the two at most one step apart, and it lies in one of
    the corners or in the centre.

    Of `fit="squash"`, which takes the whole frame, they are shares of height and of width.

    Args:
        height_px: Of the frame.
        width_px: Of the frame.
        preprocessing: What evaluation does.
        scales: The shares.
        rng: Source of randomness.
    """
    short_px = min(height_px, width_px)
    whole = (height_px, width_px) if preprocessing.fit == "squash" else (short_px, short_px)
    steps = sorted(scales, reverse=True)
    pairs = [(i, j) for i in range(len(steps)) for j in range(len(steps)) if abs(i - j) <= 1]
    i, j = pairs[int(rng.integers(len(pairs)))]
    box_height_px, box_width_px = max(1, int(whole[0] * steps[i])), max(1, int(whole[1] * steps[j]))
    bottom_px, right_px = height_px - box_height_px, width_px - box_width_px
    # In the centre as there: twice the quarter of the room, in whole pixels.
    corners = [
        (0, 0),
        (0, right_px),
        (bottom_px, 0),
        (bottom_px, right_px),
        (2 * (bottom_px // 4), 2 * (right_px // 4)),
    ]
    top_px, left_px = corners[int(rng.integers(len(corners)))]
    return Box(top_px=top_px, left_px=left_px, height_px=box_height_px, width_px=box_width_px)
