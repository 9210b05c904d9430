"""From a clip to the uint8 frames that a model's preprocessing asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from kinema.config import Augmentation
from kinema.data.decoding import Video, read_frames
from kinema.data.geometry import Box, centre_box, random_box
from kinema.data.sampling import clip_interval_s, sample_times_s
from kinema.types import Clip, Preprocessing


def read_clip(
    clip: Clip,
    video: Video,
    preprocessing: Preprocessing,
    *,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> UInt8[Tensor, "T C H W"]:
    """Frames of a clip at their times, cropped and resized, RGB.

    Args:
        clip: Which stretch of which video.
        video: What probing that video found.
        preprocessing: How many frames, how large, cut how.
        augmentation: Random times and geometry, for training; needs `rng`.
        rng: Source of that randomness. All frames of the clip share what is drawn.

    Raises:
        DataError: A frame does not decode, or the clip's times lie outside its video.
    """
    start_s, stop_s = clip_interval_s(clip, video)
    jitter = rng if augmentation is not None and augmentation.jitter else None
    times_s = sample_times_s(start_s, stop_s, num_frames=preprocessing.num_frames, rng=jitter)
    indices = video.frames_at(times_s)
    flip = False
    if augmentation is None:
        box = centre_box(video.height_px, video.width_px, preprocessing)
    else:
        assert rng is not None
        box = random_box(video.height_px, video.width_px, preprocessing, min_scale=augmentation.min_scale, rng=rng)
        flip = bool(rng.random() < augmentation.flip)
    frames = to_size(read_frames(video, indices), box, preprocessing.size_px)
    return frames.flip(-1) if flip else frames


def to_size(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]], box: Box, size_px: int) -> UInt8[Tensor, "T 3 S S"]:
    """Cut `box` out of RGB frames of one size and scale it to a square, with antialiasing.

    Args:
        frames: (H, W, 3) each.
        box: What to cut out, inside the frames.
        size_px: Height and width of the result.
    """
    rows = slice(box.top_px, box.top_px + box.height_px)
    columns = slice(box.left_px, box.left_px + box.width_px)
    cropped = torch.from_numpy(np.stack([frame[rows, columns] for frame in frames])).permute(0, 3, 1, 2)
    if cropped.shape[-2:] == (size_px, size_px):
        return cropped.contiguous()
    resized = F.interpolate(cropped, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
    return resized.contiguous()
