"""Pairs of grey pictures whose optical flow is known: a smooth random texture that is moved, turned or zoomed.

The texture is a sum of waves of several lengths and all directions, which is known between pixels as well: the second
picture is the texture at the places that its pixels came from, so that nothing is interpolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WAVELENGTHS_PX = (6.0, 12.0, 24.0, 48.0)
"""Fine enough to say where things are, coarse enough that 8 pixels are no whole wave."""
_WAVES = 12
"""Of each length, about."""
_GREY = 50.0
"""Standard deviation of the grey values around the middle: few are cut off at black and white."""

Pixels = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How the texture moves around the middle of the picture.

    Attributes:
        right_px: Then to the right.
        down_px: And down.
        turn_deg: First clockwise, as seen.
        zoom: And by this factor.
    """

    right_px: float = 0.0
    down_px: float = 0.0
    turn_deg: float = 0.0
    zoom: float = 1.0

    def flow(self, height_px: int, width_px: int) -> NDArray[np.float64]:
        """(H, W, 2): where each pixel of the first picture goes, less where it is; right, down."""
        x, y = _grid(height_px, width_px)
        cos, sin = self._turn()
        along = self.zoom * (cos * x - sin * y) + self.right_px - x
        down = self.zoom * (sin * x + cos * y) + self.down_px - y
        return np.stack([along, down], axis=-1)

    def origin(self, x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
        """Where what is at a place, counted from the middle, was before."""
        cos, sin = self._turn()
        x, y = (x - self.right_px) / self.zoom, (y - self.down_px) / self.zoom
        return cos * x + sin * y, cos * y - sin * x

    def _turn(self) -> tuple[float, float]:
        angle = math.radians(self.turn_deg)
        return math.cos(angle), math.sin(angle)


def pair(
    motion: Motion, height_px: int, width_px: int, *, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture of a texture, and one of the texture moved: uint8 (H, W) each."""
    x, y = _grid(height_px, width_px)
    return _texture(x, y, seed), _texture(*motion.origin(x, y), seed)


def stays(motion: Motion, height_px: int, width_px: int, *, margin_px: int) -> NDArray[np.bool_]:
    """Which pixels of the first picture (H, W) can be found in the second.

    Args:
        motion: Of the texture.
        height_px: Of both pictures.
        width_px: Of both pictures.
        margin_px: So far from the edges of either picture; what is beside them is not known to any method.
    """
    flow = motion.flow(height_px, width_px)
    ends = np.array([width_px, height_px]) / 2 - margin_px
    before = np.stack(_grid(height_px, width_px), axis=-1)
    inside = (np.abs(before) < ends) & (np.abs(before + flow) < ends)
    return inside[..., 0] & inside[..., 1]


def end_point_error(found: NDArray[np.float32], motion: Motion, *, margin_px: int) -> float:
    """Mean distance in pixels between flow (H, W, 2) and the true one, over the pixels that stay."""
    height_px, width_px = found.shape[:2]
    distance_px = np.linalg.norm(found - motion.flow(height_px, width_px), axis=-1)
    return float(distance_px[stays(motion, height_px, width_px, margin_px=margin_px)].mean())


def _grid(height_px: int, width_px: int) -> tuple[Pixels, Pixels]:
    """x and y of each pixel, counted from the middle of the picture."""
    rows, columns = np.mgrid[:height_px, :width_px]
    return columns - (width_px - 1) / 2, rows - (height_px - 1) / 2


def _texture(x: Pixels, y: Pixels, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    waves, power = np.zeros_like(x), 0.0
    for length_px in np.repeat(WAVELENGTHS_PX, _WAVES):
        direction, phase = rng.uniform(0, 2 * np.pi, 2)
        number = 2 * np.pi / (length_px * rng.uniform(0.8, 1.25))
        waves += math.sqrt(length_px) * np.sin(number * (x * np.cos(direction) + y * np.sin(direction)) + phase)
        power += length_px / 2
    return np.rint(np.clip(127.5 + waves * (_GREY / math.sqrt(power)), 0, 255)).astype(np.uint8)
