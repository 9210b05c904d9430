"""Draws one scene of the generated data set `motion`: a textured shape that changes in front of a background.

All frames of a scene are drawn at once, from signed distances to the shape's edge, so that edges are smooth at
every size. Lengths are shares of the frame's side unless their name says otherwise, `x` points right, `y` down. In
the shape's own coordinates, `u` points right, `v` up, and the shape reaches about 1 from its centre.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# Where the two halves of an opening shape hang together, in the shape's coordinates: on its axis (every shape is
# its own mirror image), near its lower edge.
_HINGE_V = -0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Where the shape is and how it looks in each frame; every array is (T,).

    Attributes:
        x: Centre.
        y: Centre.
        radius: Size.
        tilt: Angle in radians, anticlockwise as seen, 0 is upright.
        gape: Angle in radians between the two halves; None where the shape is whole.
    """

    x: Floats
    y: Floats
    radius: Floats
    tilt: Floats
    gape: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colours and texture of the shape, and what the camera adds. Colours are RGB in 0..1.

    Attributes:
        body: Colour of the lower part.
        cap: Colour of the upper part, always the lighter one: it shows which way up the shape is.
        texture: A key of `TEXTURES`.
        texture_scale: Periods of the texture over the shape's radius.
        texture_strength: Share by which the texture darkens.
        light: (T,) factor of the brightness of each frame.
        contrast: Factor of the contrast of the whole picture.
        noise: Standard deviation of the noise of a pixel.
        is_plain: The shape has the colour of its body all over, without edge or shadow.
    """

    body: Floats
    cap: Floats
    texture: str
    texture_scale: float
    texture_strength: float
    light: Floats
    contrast: float
    noise: float
    is_plain: bool = False

    def plain(self) -> Look:
        """The same without texture, noise and flicker."""
        return replace(self, is_plain=True, noise=0.0, light=np.ones_like(self.light))


def draw(noun: str, track: Track, look: Look, background: Floats, generator: np.random.Generator) -> Pixels:
    """Draw all frames of a scene.

    Args:
        noun: A key of `SHAPES`.
        track: The motion.
        look: The appearance.
        background: (H, W, 3), RGB in 0..1.
        generator: Draws the noise.

    Returns:
        (T, H, W, 3), RGB.
    """
    size_px = background.shape[0]
    u, v = _own_coordinates(track, size_px)
    if track.gape is None:
        distance = SHAPES[noun](u, v)
    else:
        side = np.sign(u)
        u, v = _unfold(np.abs(u), v, track.gape)
        distance = np.maximum(SHAPES[noun](u, v), -u)
        u = u * side
    radius_px = _per_frame(track.radius) * size_px
    distance_px = distance * radius_px

    # A soft shadow below and to the right. Rolled over the border it does not show: there the shape is far away.
    shadow = np.clip(0.5 - np.roll(distance_px, (2, 2), axis=(1, 2)) / 4, 0, 1)[..., None]
    inside = np.clip(0.5 - distance_px, 0, 1)[..., None]
    outline = np.clip(distance_px + 1.9, 0, 1)[..., None]

    wave = TEXTURES[look.texture](u * look.texture_scale, v * look.texture_scale)
    shade = 1 - look.texture_strength * wave + 0.12 * v
    is_cap = np.clip(0.5 + (v - 0.08) * radius_px, 0, 1)[..., None]
    surface = (look.body + (look.cap - look.body) * is_cap) * shade[..., None]
    surface = surface * (1 - 0.85 * outline)
    if look.is_plain:
        surface, shadow = np.broadcast_to(look.body, surface.shape), np.zeros_like(shadow)

    picture: Floats = background * (1 - 0.4 * shadow)
    picture = picture + (surface - picture) * inside
    picture = 0.5 + (picture * look.light[:, None, None, None] - 0.5) * look.contrast
    picture += look.noise * generator.standard_normal(picture.shape, dtype=np.float32)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


def _per_frame(values: Floats) -> Floats:
    return values[:, None, None]


def _own_coordinates(track: Track, size_px: int) -> tuple[Floats, Floats]:
    """The shape's coordinates (u, v) of every pixel's centre, each (T, H, W)."""
    centres = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    right = (centres[None, None, :] - _per_frame(track.x)) / _per_frame(track.radius)
    up = (_per_frame(track.y) - centres[None, :, None]) / _per_frame(track.radius)
    cosine, sine = _per_frame(np.cos(track.tilt)), _per_frame(np.sin(track.tilt))
    return np.asarray(right * cosine + up * sine), np.asarray(up * cosine - right * sine)


def _unfold(u: Floats, v: Floats, gape: Floats) -> tuple[Floats, Floats]:
    """Coordinates in the closed shape of points of its right half, which is swung right about the hinge."""
    cosine, sine = _per_frame(np.cos(gape / 2)), _per_frame(np.sin(gape / 2))
    v = v - _HINGE_V
    return np.asarray(u * cosine - v * sine), np.asarray(u * sine + v * cosine + _HINGE_V)


def _polygon(corners: list[tuple[float, float]], *, round_by: float) -> Callable[[Floats, Floats], Floats]:
    """Signed distance to a polygon whose corners are rounded, negative inside."""

    def distance(u: Floats, v: Floats) -> Floats:
        nearest = np.full_like(u, np.inf)
        sign = np.ones_like(u)
        for (u1, v1), (u2, v2) in zip(corners, corners[1:] + corners[:1], strict=True):
            du, dv = np.float32(u2 - u1), np.float32(v2 - v1)
            pu, pv = u - np.float32(u1), v - np.float32(v1)
            along = np.clip((pu * du + pv * dv) / (du * du + dv * dv), 0, 1)
            nearest = np.minimum(nearest, (pu - along * du) ** 2 + (pv - along * dv) ** 2)
            # Even-odd rule: a ray to the right changes sides at each edge that it crosses.
            crosses = ((v >= v1) != (v >= v2)) & ((du * pv - dv * pu > 0) == (dv > 0))
            sign = np.where(crosses, -sign, sign)
        return sign * np.sqrt(nearest) - np.float32(round_by)

    return distance


def _disc(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - np.float32(0.95)


def _ring(u: Floats, v: Floats) -> Floats:
    return np.abs(np.hypot(u, v) - np.float32(0.7)) - np.float32(0.3)


def _star_corners(num_points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    steps = np.arange(2 * num_points)
    angles, radii = np.pi / 2 + steps * np.pi / num_points, np.where(steps % 2 == 0, outer, inner)
    return [(float(r * np.cos(a)), float(r * np.sin(a))) for a, r in zip(angles, radii, strict=True)]


def _cross_corners(reach: float, half_width: float) -> list[tuple[float, float]]:
    r, w = reach, half_width
    return [
        (-w, r),
        (w, r),
        (w, w),
        (r, w),
        (r, -w),
        (w, -w),
        (w, -r),
        (-w, -r),
        (-w, -w),
        (-r, -w),
        (-r, w),
        (-w, w),
    ]


SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": _disc,
    "square": _polygon([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)], round_by=0.08),
    "triangle": _polygon([(-0.92, -0.72), (0.92, -0.72), (0.0, 0.92)], round_by=0.1),
    "star": _polygon(_star_corners(5, 1.08, 0.45), round_by=0.06),
    "cross": _polygon(_cross_corners(0.9, 0.26), round_by=0.06),
    "ring": _ring,
}
"""Noun -> signed distance to the shape's edge at (u, v), negative inside."""


TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "bands": lambda u, v: 0.5 + 0.5 * np.sin(2 * np.pi * v) + 0 * u,
    "stripes": lambda u, v: 0.5 + 0.5 * np.cos(2 * np.pi * u) + 0 * v,
    "dots": lambda u, v: np.clip(np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v), 0, 1),
    "checks": lambda u, v: 0.5 + 0.5 * np.tanh(3 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)),
}
"""Texture -> darkness in 0..1 at (u, v); its period is 1."""


def draw_background(size_px: int, generator: np.random.Generator) -> Floats:
    """Draw a background at random: a pattern of two muted colours, unevenly lit.

    Args:
        size_px: Height and width.
        generator: Draws the kind of pattern, its colours and its place.

    Returns:
        (size_px, size_px, 3), RGB in 0..1.
    """
    centres = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px - 0.5
    angle = generator.uniform(0, 2 * np.pi)
    x = centres[None, :] * np.cos(angle) + centres[:, None] * np.sin(angle)
    y = centres[:, None] * np.cos(angle) - centres[None, :] * np.sin(angle)
    x, y = x + generator.uniform(-0.5, 0.5), y + generator.uniform(-0.5, 0.5)
    clouds = _clouds(x, y, generator)
    pattern = _pattern(str(generator.choice(_PATTERNS)), x, y, clouds, generator)
    hue, value = generator.uniform(0, 1), generator.uniform(0.3, 0.75)
    spread = generator.uniform(0.1, 0.25) * generator.choice([-1, 1])
    first = hsv_to_rgb(hue, generator.uniform(0.08, 0.45), value - spread / 2)
    second = hsv_to_rgb(hue + generator.uniform(-0.15, 0.15), generator.uniform(0.08, 0.45), value + spread / 2)
    picture = first + (second - first) * pattern[..., None]
    return np.asarray(np.clip(picture * (0.9 + 0.2 * clouds[..., None]), 0, 1), np.float32)


_PATTERNS = ("clouds", "gradient", "stripes", "checks", "dots", "rings")


def _pattern(kind: str, x: Floats, y: Floats, clouds: Floats, generator: np.random.Generator) -> Floats:
    frequency = 2 * np.pi * generator.uniform(2, 5)
    sharpness = generator.uniform(1, 4)
    if kind == "clouds":
        return clouds
    waves: dict[str, Floats] = {
        "gradient": 0.8 * x,
        "stripes": np.sin(frequency * x + 1.5 * clouds),
        "checks": 2 * np.sin(frequency * x / 2) * np.sin(frequency * y / 2),
        "dots": np.cos(frequency * x) + np.cos(frequency * y) - 0.7,
        "rings": np.sin(frequency * np.hypot(x, y)),
    }
    return np.asarray(0.5 + 0.5 * np.tanh(sharpness * waves[kind]), np.float32)


def _clouds(x: Floats, y: Floats, generator: np.random.Generator) -> Floats:
    """Smooth noise in 0..1: waves in random directions, the finer the weaker."""
    total = np.zeros_like(x)
    for _ in range(8):
        kx, ky = generator.normal(0, 2.2, size=2)
        total += np.sin(2 * np.pi * (kx * x + ky * y) + generator.uniform(0, 2 * np.pi)) / (1 + np.hypot(kx, ky))
    return np.asarray(0.5 + 0.5 * np.tanh(1.2 * total), np.float32)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Floats:
    """Colour of a hue (1 is a full turn), saturation and value in 0..1.

    Returns:
        (3,), RGB in 0..1.
    """
    ramp = np.abs((hue + np.array([1, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return np.asarray(value * (1 - saturation + saturation * np.clip(ramp, 0, 1)), np.float32)
