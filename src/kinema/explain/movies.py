"""Moving pictures as files: H.264 in MP4, and animated WebP."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

_QUALITY = "18"
"""H.264's constant rate factor: no difference to be seen."""
_WEBP_QUALITY = 88


def mp4(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, fps: float) -> bytes:
    """H.264 in MP4, which every browser plays.

    Args:
        frames: RGB, of one size. An odd row or column at the end is left out, as colour has half the resolution.
        fps: Frames per second.
    """
    buffer = io.BytesIO()
    height_px, width_px = (size // 2 * 2 for size in frames[0].shape[:2])
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = height_px, width_px
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"crf": _QUALITY, "preset": "medium"}
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height_px, :width_px]), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


def webp(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, fps: float) -> bytes:
    """An animated WebP that never ends."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    content = io.BytesIO()
    first.save(
        content,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=max(1, round(1000 / fps)),
        loop=0,
        quality=_WEBP_QUALITY,
        method=4,
    )
    return content.getvalue()
