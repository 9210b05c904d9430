"""Optical flow as colours."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Float32, UInt8

_SEGMENTS = (15, 6, 4, 11, 13, 6)
"""Steps from red to yellow, green, cyan, blue, magenta and red again, as many as the eye tells apart."""
_BEYOND = 0.75
"""Brightness of what is faster than the bound."""


@functools.cache
def colour_wheel() -> Float[np.ndarray, "55 3"]:
    """Colours of the directions of flow, in 0..1: the first is that of flow to the right, then clockwise.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011, after the colour circle
    of Simon Baker's and Daniel Scharstein's code for the Middlebury benchmark.
    """
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=np.float64)
    sides = []
    for number, steps in enumerate(_SEGMENTS):
        share = (np.floor(255 * np.arange(steps) / steps) / 255)[:, None]
        sides.append(corners[number] * (1 - share) + corners[number + 1] * share)
    return np.concatenate(sides)


def flow_colours(flow: Float32[np.ndarray, "H W 2"], bound_px: float) -> UInt8[np.ndarray, "H W 3"]:
    """Flow in the colours of the Middlebury benchmark: the hue is the direction, white is no motion.

    Args:
        flow: In pixels: right, down.
        bound_px: Motion of the full colour; what is faster is darker.
    """
    wheel = colour_wheel()
    right, down = np.moveaxis(flow.astype(np.float64) / bound_px, -1, 0)
    length = np.hypot(right, down)[..., None]
    place = (np.arctan2(-down, -right) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = np.floor(place).astype(np.int64)
    share = (place - before)[..., None]
    colour = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    # Rounding alone must not make the bound itself darker.
    shown = np.where(length <= 1 + 1e-9, 1 - np.minimum(length, 1) * (1 - colour), _BEYOND * colour)
    return np.floor(255 * shown).astype(np.uint8)
