"""Saliency to look at: a strip of frames with a curve below it, and a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from kinema.explain.clips import Shown
from kinema.explain.drawing import canvas, curve, evenly, overlaid, scaled, write
from kinema.explain.movies import mp4
from kinema.explain.palette import SOFT
from kinema.explain.saliency import Saliency
from kinema.wording import percent

_MOST = 16
"""Frames of a strip."""
_THUMB_PX, _GAP_PX, _MARGIN_PX = 120, 4, 16
_CURVE_PX = 90
_VIDEO_PX = 336
"""Height and width of each of a video's two pictures."""
_FPS = 2.0, 25.0
"""The slowest and the fastest video."""

Pixels = UInt8[np.ndarray, "_ _ 3"]


def title(found: Saliency) -> str:
    """What is shown, in a line."""
    said = f"{found.label}, {percent(found.probability)}"
    return said if found.label == found.predicted else f"{said} (predicted: {found.predicted})"


def strip(found: Saliency, shown: Shown) -> Image.Image:
    """Frames, the same under their heat, and below them how the heat is spread over time."""
    frames, heat = _arrays(found, shown)
    chosen = evenly(len(frames), _MOST)
    step = _THUMB_PX + _GAP_PX
    width = max(2 * _MARGIN_PX + len(chosen) * step - _GAP_PX, 560)
    top = 54
    below = top + 2 * step
    image = canvas(width, below + 18 + _CURVE_PX + 40)
    write(image, title(found), _MARGIN_PX, 12, size_px=17, most_px=width - 2 * _MARGIN_PX)
    write(image, f"Grad-CAM, {found.layer}", _MARGIN_PX, 34, colour=SOFT, most_px=width - 2 * _MARGIN_PX)
    for column, number in enumerate(chosen):
        x = _MARGIN_PX + column * step
        image.paste(scaled(frames[number], _THUMB_PX, _THUMB_PX), (x, top))
        image.paste(scaled(overlaid(frames[number], heat[number]), _THUMB_PX, _THUMB_PX), (x, top + step))
        time = f"{shown.times_s[found.stream][number]:.2f} s"
        write(image, time, x + _THUMB_PX / 2, below + 2, size_px=11, colour=SOFT, anchor="ma")
    if found.moments is None:
        write(image, "Nothing in this layer speaks for the class.", _MARGIN_PX, below + 30)
        return image
    centres = np.interp(
        np.arange(len(frames)), chosen, [_MARGIN_PX + i * step + _THUMB_PX / 2 for i in range(len(chosen))]
    )
    drawn = curve(
        found.moments,
        centres_px=centres.tolist(),
        width_px=width,
        height_px=_CURVE_PX,
        level=1 / len(frames),
    )
    image.paste(drawn, (0, below + 18))
    words = f"each frame's share of the whole; the most is {percent(max(found.moments))}, dashed: all frames the same"
    write(image, words, _MARGIN_PX, below + 18 + _CURVE_PX + 6, size_px=12, colour=SOFT)
    return image


def video(found: Saliency, shown: Shown) -> bytes:
    """The frames that the model sees, as fast as they are, beside the same under their heat: MP4."""
    frames, heat = _arrays(found, shown)
    low, high = _FPS
    fps = min(max(len(frames) / shown.duration_s, low), high) if shown.duration_s > 0 else low
    return mp4([_video_frame(found, frames, heat, number) for number in range(len(frames))], fps=fps)


def _video_frame(found: Saliency, frames: Sequence[Pixels], heat: Float[np.ndarray, "T H W"], number: int) -> Pixels:
    width, top, curve_px = 2 * _VIDEO_PX + 8, 28, 64
    image = canvas(width, top + _VIDEO_PX + curve_px + 4)
    write(image, title(found), 8, 6, size_px=15, most_px=width - 16)
    image.paste(scaled(frames[number], _VIDEO_PX, _VIDEO_PX), (0, top))
    image.paste(scaled(overlaid(frames[number], heat[number]), _VIDEO_PX, _VIDEO_PX), (_VIDEO_PX + 8, top))
    if found.moments is not None:
        centres = np.linspace(12, width - 12, len(frames)).tolist()
        drawn = curve(
            found.moments,
            centres_px=centres,
            width_px=width,
            height_px=curve_px,
            level=1 / len(frames),
            marker=number,
        )
        image.paste(drawn, (0, top + _VIDEO_PX + 4))
    return np.asarray(image)


def _arrays(found: Saliency, shown: Shown) -> tuple[list[Pixels], Float[np.ndarray, "T H W"]]:
    frames = shown.frames[found.stream].permute(0, 2, 3, 1).cpu().numpy()
    return list(frames), found.heat.double().numpy()
