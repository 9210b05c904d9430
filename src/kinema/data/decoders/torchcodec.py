"""Decoding by torchcodec, on the CPU or on a GPU.

torchcodec finds frames by timestamps. It is exact where these can be trusted, and if it starts to decode only where
that gives the frames that a full decode gives: left to itself it believes the container's flags of key frames, and
returned frames that were up to 3 places off in H.264 with periodic intra refresh, in MPEG-4 in AVI (7 of 17 files of
UCF101 and UT-Interaction), and none at all at the end of MPEG streams. So it is told times and key frames from what
`probe` found, and refuses containers without trusted timestamps.

On a GPU it decodes in the process that trains (`clips.workers=0`): readers are processes made by forking, in which CUDA
does not work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kinema.data.decoders.common import (
    check_size,
    checked_indices,
    common_refusal,
    failed,
    in_order,
    is_mirrored,
    refused,
    stream_facts,
)
from kinema.data.video import Video
from kinema.types import ConfigError

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

R = TypeVar("R")

_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})


class TorchCodec:
    """See `Decoder`.

    Args:
        device: "cpu", or "cuda".

    Raises:
        ConfigError: torchcodec is not installed, or not for this PyTorch, or does not find FFmpeg; or there is no GPU.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.name = "torchcodec" if device == "cpu" else f"torchcodec_{device}"
        self._device = device
        try:
            import torchcodec
            from torchcodec.decoders import VideoDecoder
        except ImportError as error:
            raise ConfigError(
                f"clips.decoder={self.name} needs torchcodec ({error}): "
                'pip install "kinema[torchcodec]"; or set clips.decoder=pyav'
            ) from None
        except (RuntimeError, OSError):  # where it looks for FFmpeg when it is imported
            raise _no_ffmpeg() from None
        if torchcodec.ffmpeg_major_version is None:
            raise _no_ffmpeg()
        if device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(
                f"clips.decoder={self.name} needs a GPU with CUDA, which is not to be had here; "
                "set clips.decoder=torchcodec or pyav"
            )
        self._open = VideoDecoder

    def refusal(self, video: Video) -> str | None:
        """See `Decoder`."""
        reason = common_refusal(video)
        if reason is not None:
            return reason
        if not _CONTAINERS.intersection(video.container.split(",")):
            return (
                f"torchcodec finds frames by timestamps, and those of {video.codec} in {video.container} are not exact"
            )
        if video.codec not in _CODECS:
            return f"torchcodec is not known to be exact on {video.codec}"
        if video.first_pts is None:
            return "torchcodec finds frames by timestamps, and those of this file cannot be trusted"
        if is_mirrored(video):
            return "torchcodec does not mirror frames where the file says so"
        return None

    def take(self, video: Video, indices: Iterable[int], take: Callable[[NDArray[np.uint8]], R]) -> list[R]:
        """See `Decoder`."""
        asked = checked_indices(video, indices)
        if not asked:
            return []
        reason = self.refusal(video)
        if reason is not None:
            raise refused(self.name, video, reason)
        facts = stream_facts(video)
        if video.first_pts is None or facts.tick_s is None:
            raise refused(self.name, video, "its stream has no time base")
        pts = video.first_pts + _ticks(video, facts.tick_s)
        mappings = _mappings(pts, _key_frames(video))
        results: dict[int, R] = {}
        decoder: VideoDecoder | None = None
        for index in sorted(set(asked)):
            try:
                decoder = decoder or self._open(
                    os.fspath(Path(video.path).absolute()),
                    stream_index=facts.index,
                    dimension_order="NHWC",
                    num_ffmpeg_threads=1,
                    device=self._device,
                    custom_frame_mappings=mappings,
                )
                frame = decoder.get_frame_at(index)
            except (RuntimeError, ValueError, IndexError) as error:
                raise failed(self.name, video, index, f"does not decode ({str(error).splitlines()[0]})") from None
            if abs(frame.pts_seconds - float(int(pts[index]) * facts.tick_s)) > float(facts.tick_s) / 2:
                raise failed(self.name, video, index, f"comes out as that of {frame.pts_seconds:.3f} s")
            pixels = np.ascontiguousarray(frame.data.cpu().numpy())  # rows of odd widths are padded
            check_size(self.name, video, index, pixels)
            results[index] = take(pixels)
        return in_order(asked, results)


def _no_ffmpeg() -> ConfigError:
    return ConfigError(
        "clips.decoder=torchcodec: torchcodec does not load: it needs FFmpeg's shared libraries (version 4 or newer; "
        "in Debian and Ubuntu: apt-get install ffmpeg) and a PyTorch that it was built for; or set clips.decoder=pyav"
    )


def _ticks(video: Video, tick_s: Fraction) -> NDArray[np.int64]:
    """int64 (num_frames,), times in the stream's own unit. They are whole numbers of it, far below 2**52."""
    return np.rint(video.times_s * tick_s.denominator / tick_s.numerator).astype(np.int64)


def _key_frames(video: Video) -> NDArray[np.int64]:
    """Indices of frames at which decoding may start to give them and all that are displayed later."""
    index = None if video.packets is None else video.packets.load()
    if index is None:
        return np.zeros(1, dtype=np.int64)  # nothing is known but this: whatever is asked for, it starts at the first
    # torchcodec starts at a key frame for what is displayed from it on, and for nothing before.
    is_key = (index.starts >= 0) & (index.frames >= index.starts)
    return np.union1d(index.frames[is_key], [0])


def _mappings(pts: NDArray[np.int64], keys: NDArray[np.int64]) -> str:
    """Timestamps and key frames as torchcodec wants to be told them."""
    is_key = np.zeros(len(pts), dtype=np.int64)
    is_key[keys] = 1
    durations = np.diff(pts, append=pts[-1] + 1)
    rows = zip(pts.tolist(), durations.tolist(), is_key.tolist(), strict=True)
    return json.dumps({"frames": [{"pts": p, "duration": d, "key_frame": k} for p, d, k in rows]})
