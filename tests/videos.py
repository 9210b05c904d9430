"""Short real videos for tests, whose frames carry their number in a form that lossy compression does not harm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_BITS = 12  # in 3 rows and 4 columns of black and white blocks
_ROWS, _COLUMNS = 3, 4


def numbered_frames(num_frames: int, *, width_px: int = 64, height_px: int = 48, first: int = 0) -> list[Image]:
    """RGB frames (height_px, width_px, 3) painted with first, first + 1, ...; `read_number` reads it again."""
    return [numbered_frame(first + i, width_px=width_px, height_px=height_px) for i in range(num_frames)]


def numbered_frame(number: int, *, width_px: int = 64, height_px: int = 48) -> Image:
    """One RGB frame that carries `number` (below 4096)."""
    assert 0 <= number < 2**_BITS
    bits = np.array([(number >> bit) & 1 for bit in range(_BITS)], dtype=np.uint8).reshape(_ROWS, _COLUMNS)
    rows = np.arange(height_px) * _ROWS // height_px
    columns = np.arange(width_px) * _COLUMNS // width_px
    return np.repeat((bits[rows][:, columns] * 200 + 28)[:, :, None], 3, axis=2).astype(np.uint8)


def read_number(image: NDArray[np.uint8]) -> int:
    """The number that a frame carries. An image (height, width, 3) may have been scaled, but stands upright."""
    height_px, width_px = image.shape[:2]
    rows = ((np.arange(_ROWS) + 0.5) * height_px / _ROWS).astype(int)
    columns = ((np.arange(_COLUMNS) + 0.5) * width_px / _COLUMNS).astype(int)
    bits = image[rows][:, columns].mean(axis=2).reshape(-1) > 128
    return sum(1 << bit for bit in range(_BITS) if bits[bit])


def write_video(
    path: Path,
    frames: Iterable[Image],
    *,
    fps: float | Fraction,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    times_s: Sequence[float] | None = None,
    rotation_deg: int = 0,
    flip_horizontally: bool = False,
    muxer_options: Mapping[str, str] | None = None,
) -> Path:
    """Encode RGB frames (height, width, 3) into a file whose suffix tells the container.

    Args:
        path: The file.
        frames: All of the same size.
        fps: Frames per second.
        codec: FFmpeg's name of the encoder.
        pix_fmt: How pixels are stored.
        options: Of the encoder.
        times_s: When each frame comes on display; by default regular from 0. Whole multiples of `1 / fps` are
            stored as such, others to 1/90000 s (or what the container can store).
        rotation_deg: Counterclockwise rotation that a player has to apply: the display matrix.
        flip_horizontally: Put a mirror into the display matrix too.
        muxer_options: Of the container.

    Returns:
        `path`.
    """
    rate = Fraction(fps).limit_denominator(100_000)
    ticks = None if times_s is None else [float(time_s * rate) for time_s in times_s]
    regular = ticks is None or all(abs(tick - round(tick)) < 1e-6 for tick in ticks)
    time_base = 1 / rate if regular else Fraction(1, 90_000)
    with av.open(str(path), "w", options=dict(muxer_options or {})) as container:
        stream: VideoStream | None = None
        for i, image in enumerate(frames):
            if stream is None:
                added = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
                assert isinstance(added, VideoStream)
                stream = added
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = time_base
                if rotation_deg or flip_horizontally:
                    stream.set_display_rotation(rotation_deg, hflip=flip_horizontally)
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base = time_base
            frame.pts = i if times_s is None else round(times_s[i] / time_base)
            container.mux(stream.encode(frame))
        assert stream is not None, "no frames"
        container.mux(stream.encode())
    return path
