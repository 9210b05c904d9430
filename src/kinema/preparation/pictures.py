"""What becomes of each frame that is stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from kinema.data.geometry import Box
from kinema.data.pictures import Picture, Planes, resize_i420, take_planes, take_rgb
from kinema.data.reading import to_size
from kinema.data.video import Video


def even_size(video: Video, short_side_px: int | None) -> tuple[int, int]:
    """Height and width, both even, of frames whose short side is to be at most this long."""
    scale = 1.0 if short_side_px is None else min(1.0, short_side_px / min(video.height_px, video.width_px))
    return max(2, 2 * round(video.height_px * scale / 2)), max(2, 2 * round(video.width_px * scale / 2))


def squares(video: Video, box: Box, size_px: int, *, is_i420: bool) -> Callable[[Picture], NDArray[np.uint8]]:
    """A function that makes of a frame what `kinema.data.reading.read_plan` does.

    Args:
        video: What probing found.
        box: What is cut out, in pixels of the video as displayed.
        size_px: Side of the result.
        is_i420: Give an I420 row; else RGB (3, size_px, size_px).
    """
    cut = take_planes(video, box) if is_i420 else take_rgb(video, box)

    def square(picture: Picture) -> NDArray[np.uint8]:
        part = cut(picture)
        if not isinstance(part, Planes):
            pixels: NDArray[np.uint8] = to_size([part], None, size_px).numpy()[0]
            return pixels
        out = np.empty((1, size_px * size_px * 3 // 2), dtype=np.uint8)
        resize_i420([part], size_px, out)
        return out[0]

    return square


def scaler(video: Video, height_px: int, width_px: int, *, is_i420: bool) -> Callable[[Picture], NDArray[np.uint8]]:
    """A function that makes whole frames upright and scales them.

    Args:
        video: What probing found.
        height_px: Of the result; even.
        width_px: Likewise.
        is_i420: Give an I420 row, BT.601 and limited range; else RGB (3, H, W).
    """
    transposed, flip_rows, flip_columns = video.orientation

    def upright(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        plane = plane.swapaxes(-1, -2) if transposed else plane
        plane = plane[..., ::-1, :] if flip_rows else plane
        return plane[..., ::-1] if flip_columns else plane

    def scaled(picture: Picture) -> NDArray[np.uint8]:
        assert not isinstance(picture, Planes), "a store is made of videos, not of a store"
        turn: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = upright
        height, width = (width_px, height_px) if transposed else (height_px, width_px)
        if not isinstance(picture, VideoFrame):  # upright already
            picture, turn = VideoFrame.from_ndarray(picture, format="rgb24"), np.ascontiguousarray
            height, width = height_px, width_px
        frame = picture.reformat(
            width=width,
            height=height,
            format="yuv420p" if is_i420 else "rgb24",
            dst_colorspace=Colorspace.ITU601 if is_i420 else None,
            dst_color_range=ColorRange.MPEG if is_i420 else None,
            interpolation=Interpolation.AREA,
            threads=1,
        )
        pixels: NDArray[np.uint8] = frame.to_ndarray().astype(np.uint8, copy=False)
        if not is_i420:
            return np.ascontiguousarray(turn(pixels.transpose(2, 0, 1)))
        row, num, half = pixels.reshape(-1), height * width, (height // 2, width // 2)
        y, u, v = row[:num].reshape(height, width), row[num : num + num // 4], row[num + num // 4 :]
        return np.concatenate([turn(part).reshape(-1) for part in (y, u.reshape(half), v.reshape(half))])

    return scaled
