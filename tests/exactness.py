"""Frames as kinema reads them, held against a plain sequential decode by PyAV: planes and RGB, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from tests.videos import Image

from kinema.data.decoding import read_frames, take_frames
from kinema.data.pictures import Planes
from kinema.data.video import Video


@dataclass(frozen=True)
class Pixels:
    """The pixels of a frame as they are stored, and as RGB."""

    format: str
    planes: list[bytes]
    rgb: NDArray[np.uint8]


def pixels_of(frame: VideoFrame | Image | Planes) -> Pixels:
    assert isinstance(frame, VideoFrame)
    planes: list[bytes] = []
    for plane in frame.planes:
        rows = np.frombuffer(bytes(plane), dtype=np.uint8).reshape(plane.height, -1)
        deep = 2 if frame.format.components[0].bits > 8 else 1
        planes.append(rows[:, : plane.width * deep].tobytes())
    rgb = np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)
    return Pixels(frame.format.name, planes, rgb)


def decode_all(path: Path) -> list[VideoFrame]:
    """The truth."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return list(container.decode(stream))


def requests(num_frames: int, rng: random.Random, num: int) -> list[list[int]]:
    """Single, uniform, dense, repeated, unordered; the first and the last always."""
    found = [[num_frames - 1], [0], np.linspace(0, num_frames - 1, min(20, num_frames)).round().astype(int).tolist()]
    for i in range(num):
        start = rng.randrange(num_frames)
        found.append(
            [
                [start],
                sorted(rng.sample(range(num_frames), min(8, num_frames))),
                list(range(start, min(start + 12, num_frames))),
                [start, start, rng.randrange(num_frames), start],
                rng.sample(range(num_frames), min(5, num_frames)),
                list(range(rng.randrange(3), num_frames, rng.randrange(2, 6))) or [0],
            ][i % 6]
        )
    return found


def check(video: Video, truth: Sequence[VideoFrame], asked: list[list[int]]) -> None:
    """All frames asked for are those of the truth."""
    assert len(video.times_s) == len(truth)
    pixels = cache(lambda index: pixels_of(truth[index]))
    for request in asked:
        taken = take_frames(video, request, pixels_of)
        for index, found in zip(request, taken, strict=True):
            expected = pixels(index)
            where = f"{video.path}: frame {index} of {request}"
            assert (found.format, found.planes) == (expected.format, expected.planes), where
            assert np.array_equal(found.rgb, expected.rgb), where
    images = read_frames(video, asked[-1])
    for index, image in zip(asked[-1], images, strict=True):
        upright = pixels(index).rgb
        if video.orientation.transposed:
            upright = upright.transpose(1, 0, 2)
        rows, columns = (-1 if flip else 1 for flip in video.orientation[1:])
        assert np.array_equal(image, upright[::rows, ::columns])


def moving_frames(num_frames: int, width_px: int, height_px: int) -> list[Image]:
    """Texture that moves and flickers, with a cut: something to predict, in both directions, and never quite."""
    rng = np.random.default_rng(0)
    textures = rng.integers(0, 256, (2, height_px // 4 + 1, width_px // 4 + 1, 3)).repeat(4, axis=1).repeat(4, axis=2)
    frames = []
    for i in range(num_frames):
        texture = np.roll(textures[int(i > num_frames * 0.6)], (i, 2 * i), axis=(0, 1))[:height_px, :width_px]
        grain = rng.integers(-6, 7, texture.shape)
        frames.append(np.clip(texture * (0.7 + 0.3 * np.sin(i / 5)) + grain, 0, 255).astype(np.uint8))
    return frames
