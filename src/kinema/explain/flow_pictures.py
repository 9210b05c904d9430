"""Optical flow to look at: u, v, magnitude and the colour wheel, as a strip of frames and as a video."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from kinema.data.flow_colours import flow_colours
from kinema.data.optical_flow import quantise, quantise_magnitude
from kinema.explain.drawing import canvas, scaled, write
from kinema.explain.flow import FlowClip, FlowPair
from kinema.explain.movies import mp4
from kinema.explain.palette import HEAT, RULE, SOFT, coloured

_MOST_PX, _LEAST_PX = 200, 96
"""Width of a column of the strip."""
_WIDTH_PX = 1400
"""Of all columns together, about."""
_GAP_PX, _MARGIN_PX, _NAMES_PX = 4, 16, 92
_WHEEL_PX, _CORNER_PX = 120, 52
"""Of the strip and of the video."""
_VIDEO_PX = 336
"""Width of each of a video's two pictures, at least; large ones are not scaled."""
_SLOWEST_FPS, _FASTEST_FPS = 2.0, 60.0

Pixels = UInt8[np.ndarray, "_ _ 3"]
ROWS = ("frame", "u, to the right", "v, down", "magnitude", "direction")


def views(pair: FlowPair, bound_px: float) -> list[Pixels]:
    """What `ROWS` names: the frame, u and v as their 8 bits (grey is no motion), magnitude, and the colour wheel."""
    grey = [np.repeat(quantise(pair.flow[..., axis], bound_px)[..., None], 3, axis=-1) for axis in (0, 1)]
    magnitude = coloured(quantise_magnitude(pair.flow, bound_px) / 255, HEAT)
    return [pair.frame, *grey, magnitude, flow_colours(pair.flow, bound_px)]


def strip(found: FlowClip, bound_px: float, *, name: str) -> Image.Image:
    """A column for each pair, a row for each of `ROWS`, and what the colours mean.

    Args:
        found: The pairs.
        bound_px: Of the colours.
        name: Of the video.
    """
    num = len(found.pairs)
    height_px, width_px = found.pairs[0].frame.shape[:2]
    column = min(_MOST_PX, max(_LEAST_PX, _WIDTH_PX // num - _GAP_PX))
    row = max(1, round(column * height_px / width_px))
    left, top = _MARGIN_PX + _NAMES_PX, 54
    legend_y = top + len(ROWS) * (row + _GAP_PX) + 30
    width = max(left + num * (column + _GAP_PX) - _GAP_PX + _MARGIN_PX, 620)
    image = canvas(width, legend_y + _WHEEL_PX + 40)
    write(image, f"Optical flow of {name}", _MARGIN_PX, 12, size_px=17, most_px=width - 2 * _MARGIN_PX)
    words = (
        f"{found.method}, {width_px} x {height_px} px; {num} of {found.num_all} pairs of neighbouring frames, "
        f"1/{found.fps:.4g} s apart"
    )
    write(image, words, _MARGIN_PX, 34, colour=SOFT, most_px=width - 2 * _MARGIN_PX)
    for number, label in enumerate(ROWS):
        y = top + number * (row + _GAP_PX) + row / 2
        write(image, label, left - 8, y, size_px=11, colour=SOFT, anchor="rm", most_px=_NAMES_PX - 8)
    for number, pair in enumerate(found.pairs):
        x = left + number * (column + _GAP_PX)
        for place, view in enumerate(views(pair, bound_px)):
            image.paste(scaled(view, column, row), (x, top + place * (row + _GAP_PX)))
        time = f"{pair.time_s:.2f} s"
        write(image, time, x + column / 2, legend_y - 28, size_px=11, colour=SOFT, anchor="ma")
    _legend(image, bound_px, left, legend_y)
    return image


def video(found: FlowClip, bound_px: float) -> bytes:
    """Frames beside their flow in the wheel's colours, the wheel in a corner, as fast as the frames are: MP4."""
    height_px, width_px = found.pairs[0].frame.shape[:2]
    width_px, height_px = max(_VIDEO_PX, width_px), round(height_px * max(1.0, _VIDEO_PX / width_px))
    fps = found.fps * len(found.pairs) / found.num_all
    fps = min(max(fps, _SLOWEST_FPS), _FASTEST_FPS)
    wheel, disc = _disc(_CORNER_PX)
    top = _CORNER_PX + 12
    frames = []
    for pair in found.pairs:
        image = canvas(2 * width_px + 8, top + height_px)
        write(image, f"{found.method}, {pair.time_s:.2f} s", 8, top / 2, size_px=15, anchor="lm")
        words = f"edge of the wheel: {bound_px:g} px from frame to frame"
        right = image.width - _CORNER_PX - 16
        write(image, words, right, top / 2, colour=SOFT, anchor="rm", most_px=right - 120)
        image.paste(wheel, (right + 8, 6), disc)
        image.paste(scaled(pair.frame, width_px, height_px), (0, top))
        image.paste(scaled(flow_colours(pair.flow, bound_px), width_px, height_px), (width_px + 8, top))
        frames.append(np.asarray(image))
    return mp4(frames, fps=fps)


def _legend(image: Image.Image, bound_px: float, x: int, y: int) -> None:
    wheel, disc = _disc(_WHEEL_PX)
    image.paste(wheel, (x, y), disc)
    write(
        image,
        f"direction; edge: {bound_px:g} px",
        x + _WHEEL_PX / 2,
        y + _WHEEL_PX + 4,
        size_px=11,
        colour=SOFT,
        anchor="ma",
    )
    across = np.linspace(-bound_px, bound_px, 256, dtype=np.float32)
    bars = (
        ("u: left to right; v: up to down", np.repeat(quantise(across, bound_px)[:, None], 3, axis=-1), -bound_px),
        ("magnitude", coloured(np.linspace(0, 1, 256), HEAT), 0.0),
    )
    x += _WHEEL_PX + 40
    for label, colours, least_px in bars:
        write(image, label, x, y, size_px=11, colour=SOFT)
        image.paste(scaled(colours[None], 256, 16), (x, y + 16))
        ImageDraw.Draw(image).rectangle((x - 1, y + 15, x + 256, y + 32), outline=RULE)
        marks = (least_px, (least_px + bound_px) / 2, bound_px)
        for place, mark in enumerate(marks):
            words = f"{mark:g} px"
            write(image, words, x + 128 * place, y + 36, size_px=11, colour=SOFT, anchor=("la", "ma", "ra")[place])
        y += 62


def _disc(size_px: int) -> tuple[Image.Image, Image.Image]:
    """The wheel, and a mask with a smooth edge."""
    finer = 3 * size_px
    at = (np.arange(finer, dtype=np.float32) + 0.5) / finer * 2 - 1
    flow = np.stack(np.broadcast_arrays(at[None, :], at[:, None]), axis=-1)
    # What lies outside the circle is masked; within, rounding must not reach the darker colours beyond the bound.
    length = np.maximum(np.linalg.norm(flow, axis=-1, keepdims=True), 1)
    wheel = scaled(flow_colours(flow / length * np.float32(1 - 1e-6), 1.0), size_px, size_px)
    mask = Image.new("L", (finer, finer))
    ImageDraw.Draw(mask).ellipse((0, 0, finer - 1, finer - 1), fill=255)
    return wheel, mask.resize((size_px, size_px), Image.Resampling.LANCZOS)
