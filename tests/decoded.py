"""Videos of numbered frames in many encodings, and a plain sequential decode by PyAV to hold frames against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import read_frames
from kinema.data.video import Video

B_FRAMES = {"bf": "3", "g": "12"}
VFR_S = [0.0, 0.04, 0.1, 0.3, 0.31, 0.5, 1.0, 1.04, 1.05, 2.0, 2.1, 2.2, 2.5, 2.55, 2.6]
VP9 = {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}

# Name of a file -> how it is made; `write_video` takes 30 numbered frames at 25 fps where nothing else is said.
MADE: dict[str, dict[str, object]] = {
    "b_frames.mp4": {"options": B_FRAMES},
    "fragmented.mp4": {"options": B_FRAMES, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0:scenecut=0"}},
    "variable_rate.mp4": {"times_s": VFR_S, "options": B_FRAMES},
    "variable_rate.mkv": {"times_s": [1 + time_s for time_s in VFR_S], "options": B_FRAMES},
    "late_start.mp4": {"times_s": [5 + i / 25 for i in range(30)], "options": B_FRAMES},
    "odd.mp4": {"size": (61, 47), "fps": Fraction(30000, 1001), "pix_fmt": "yuv444p"},
    "rotated.mp4": {"rotation_deg": 90},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le"},
    "gray.mkv": {"pix_fmt": "gray"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4_gaps.avi": {"codec": "mpeg4", "times_s": [0.0, 0.04, 0.2, 0.24, 1.0]},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {"options": B_FRAMES},
    "h264.ts": {"options": B_FRAMES},
    "vp8.webm": {"codec": "libvpx", "options": {**VP9, "deadline": "good"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "hevc.mkv": {"codec": "libx265", "options": {"x265-params": "keyint=10:log-level=none:pools=none"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@dataclass(frozen=True)
class Truth:
    """A full sequential decode: RGB as stored (not upright) and timestamps."""

    images: list[NDArray[np.uint8]]
    pts_s: list[Fraction | None]
    rate: Fraction | None
    rotation_deg: int


def decode_all(path: Path) -> Truth:
    images: list[NDArray[np.uint8]] = []
    pts_s: list[Fraction | None] = []
    rotation_deg = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            images.append(np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8))
            pts_s.append(None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base)
            rotation_deg = frame.rotation
        return Truth(images, pts_s, stream.average_rate, rotation_deg)


def check(video: Video, truth: Truth, requests: list[list[int]]) -> None:
    """Number of frames, times and the frames asked for are those of the truth."""
    num_frames = len(truth.images)
    assert len(video.times_s) == num_frames
    known_s = [time_s for time_s in truth.pts_s if time_s is not None]
    ascending = len(known_s) == num_frames and all(a < b for a, b in pairwise(known_s))
    if ascending and (video.container, video.codec) != ("avi", "mpeg4"):
        expected_s = [float(time_s - known_s[0]) for time_s in known_s]
    else:
        assert truth.rate is not None
        expected_s = [float(i / truth.rate) for i in range(num_frames)]
    assert video.times_s.dtype == np.float64
    assert video.times_s.tolist() == expected_s
    assert video.times_s[0] == 0
    assert video.duration_s > video.times_s[-1]
    assert video.fps == pytest.approx(num_frames / video.duration_s)
    assert video.rotation_deg == truth.rotation_deg % 360
    for request in requests:
        images = read_frames(video, request)
        assert len(images) == len(request)
        for index, image in zip(request, images, strict=True):
            assert image.shape == (video.height_px, video.width_px, 3)
            assert image.dtype == np.uint8
            upright = np.rot90(truth.images[index], video.rotation_deg // 90)
            assert np.array_equal(image, upright), f"{video.path}: frame {index}"


Make = Callable[[str], Path]


def made_in(folder: Path) -> Make:
    """Gives the file of that name in `MADE`, made once."""

    @cache
    def made(name: str) -> Path:
        settings = {"fps": 25, **MADE[name]}
        width_px, height_px = cast("tuple[int, int]", settings.pop("size", (64, 48)))
        times_s = settings.get("times_s")
        num_frames = len(times_s) if isinstance(times_s, list) else 30
        frames = numbered_frames(num_frames, width_px=width_px, height_px=height_px)
        return write_video(folder / name, frames, **settings)  # type: ignore[arg-type]

    return made
