"""Attention over frames to look at: a picture for each layer, and one of all layers."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageDraw

from kinema.explain.attention import Attentions, Look
from kinema.explain.clips import Shown
from kinema.explain.drawing import canvas, curve, evenly, png, scaled, write
from kinema.explain.palette import INK, RULE, SOFT, WEIGHT, coloured
from kinema.wording import percent

_WIDTH_PX = 960
"""Of the columns of all frames together, about."""
_THUMBS = 16
_NAMES_PX, _MARGIN_PX = 150, 16
_ROWS_PX = 520
"""Of the rows of all queries together, at most about."""
_SUMMARY_PX = 64


def pictures(found: Attentions, shown: Shown) -> dict[str, bytes]:
    """Name of a file -> its content: a PNG for each layer, one of all of them, and the weights as NumPy's arrays."""
    files = {}
    for number, look in enumerate(found.looks, start=1):
        name = re.sub(r"[^\w.-]+", "_", look.name)
        files[f"{number:02d}_{name}.png"] = png(heat_map(look, found, shown))
    files["layers.png"] = png(overview(found, shown))
    arrays = io.BytesIO()
    np.savez_compressed(arrays, allow_pickle=False, **{one.layer: one.values.float().numpy() for one in found.weights})
    files["weights.npz"] = arrays.getvalue()
    return files


def heat_map(look: Look, found: Attentions, shown: Shown) -> Image.Image:
    """A row for each query, a column for each frame, which are above; below, the row that counts."""
    num_rows, num_frames = look.frames.shape
    column, thumb = _columns(num_frames)
    row = max(3, min(30, _ROWS_PX // num_rows))
    left, top = _MARGIN_PX + _NAMES_PX, 54 + thumb + 6
    image = canvas(left + num_frames * column + _MARGIN_PX, top + num_rows * row + _SUMMARY_PX + 66)
    heads = f"mean of {look.num_heads} heads; " if look.num_heads > 1 else ""
    highest = float(look.frames.max())
    write(image, look.name, _MARGIN_PX, 12, size_px=17, most_px=image.width - 2 * _MARGIN_PX)
    words = f"{look.who}; {heads}white: none, darkest: {percent(highest)}"
    write(image, words, _MARGIN_PX, 34, colour=SOFT, most_px=image.width - 2 * _MARGIN_PX)
    _thumbs(image, found, shown, left, 54, column, thumb)
    colours = coloured(look.frames.double().numpy() / max(highest, 1e-12), WEIGHT)
    image.paste(
        Image.fromarray(colours).resize((num_frames * column, num_rows * row), Image.Resampling.NEAREST), (left, top)
    )
    frame = left - 1, top - 1, left + num_frames * column, top + num_rows * row
    ImageDraw.Draw(image).rectangle(frame, outline=RULE)
    every = 1 if row >= 14 else -(-14 // row)
    for number in range(0, num_rows, every):
        y = top + (number + 0.5) * row
        write(image, look.rows[number], left - 8, y, size_px=11, colour=SOFT, anchor="rm", most_px=_NAMES_PX - 8)
    below = top + num_rows * row + 8
    _summary(image, look, left, below, column)
    _times(image, found, shown, left, below + _SUMMARY_PX + 4, column)
    return image


def overview(found: Attentions, shown: Shown) -> Image.Image:
    """A row for each layer: what counts of it."""
    num_frames = found.looks[0].frames.shape[1]
    column, thumb = _columns(num_frames)
    row, names = 26, 2 * _NAMES_PX
    left, top = _MARGIN_PX + names, 40 + thumb + 6
    image = canvas(left + num_frames * column + _MARGIN_PX, top + len(found.looks) * row + 36)
    write(image, "Attention over frames, layer by layer", _MARGIN_PX, 12, size_px=17)
    _thumbs(image, found, shown, left, 40, column, thumb)
    highest = max(float(look.summary.max()) for look in found.looks)
    for number, look in enumerate(found.looks):
        y = top + number * row
        colours = coloured(look.summary[None].double().numpy() / max(highest, 1e-12), WEIGHT)
        strip = Image.fromarray(colours).resize((num_frames * column, row - 2), Image.Resampling.NEAREST)
        image.paste(strip, (left, y))
        words = f"{look.name}: {look.who}"
        write(image, words, left - 8, y + row / 2, size_px=11, colour=INK, anchor="rm", most_px=names - 8)
    _times(image, found, shown, left, top + len(found.looks) * row + 2, column)
    return image


def _columns(num_frames: int) -> tuple[int, int]:
    """Width of a frame's column, and of the thumbnails above."""
    column = max(4, min(96, _WIDTH_PX // num_frames))
    return column, max(column, num_frames * column // min(num_frames, _THUMBS)) - 4


def _thumbs(image: Image.Image, found: Attentions, shown: Shown, left: int, y: int, column: int, thumb: int) -> None:
    frames = shown.frames[found.stream].permute(0, 2, 3, 1).cpu().numpy()
    for number in evenly(len(frames), _THUMBS):
        middle = left + (number + 0.5) * column
        x = min(max(left, round(middle - thumb / 2)), left + len(frames) * column - thumb)
        image.paste(scaled(frames[number], thumb, thumb), (x, y))


def _summary(image: Image.Image, look: Look, left: int, y: int, column: int) -> None:
    num_frames = len(look.summary)
    drawn = curve(
        look.summary.tolist(),
        centres_px=[(i + 0.5) * column for i in range(num_frames)],
        width_px=num_frames * column,
        height_px=_SUMMARY_PX,
        level=1 / num_frames,
    )
    image.paste(drawn, (left, y))
    name = look.rows[0] if look.rows[0] == "class" else "mean"
    write(image, f"{name}, at most", left - 8, y + 24, size_px=11, colour=SOFT, anchor="rm")
    write(image, percent(float(look.summary.max())), left - 8, y + 38, size_px=11, colour=SOFT, anchor="rm")


def _times(image: Image.Image, found: Attentions, shown: Shown, left: int, y: int, column: int) -> None:
    times = shown.times_s[found.stream]
    for number in evenly(len(times), _THUMBS):
        x = left + (number + 0.5) * column
        write(image, f"{times[number]:.2f} s", x, y, size_px=11, colour=SOFT, anchor="ma")
