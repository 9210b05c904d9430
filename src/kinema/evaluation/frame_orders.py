"""Does a recogniser use time? The same frames in another order say: who answers as well has not seen what moved.

After Huang et al., "What Makes a Video a Video", CVPR 2018, and Sevilla-Lara et al., "Only Time Can Tell", WACV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

FrameOrder = Literal["reversed", "shuffled", "still"]
FRAME_ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)

_SEED = 20_180_618


def frame_places(order: FrameOrder, num_frames: int, clips: Sequence[int]) -> Int64[np.ndarray, "B T"]:
    """Which frame comes when.

    Args:
        order: `reversed`: the last frame first. `shuffled`: in an order drawn for each clip, the same whenever it is
            asked. `still`: the middle one throughout.
        num_frames: Of a clip.
        clips: Number of each clip: shuffled orders are drawn by it.
    """
    if order == "reversed":
        return np.tile(np.arange(num_frames)[::-1], (len(clips), 1)).astype(np.int64)
    if order == "still":
        return np.full((len(clips), num_frames), num_frames // 2, dtype=np.int64)
    return np.stack([_shuffled(num_frames, clip) for clip in clips]).reshape(len(clips), num_frames)


def _shuffled(num_frames: int, clip: int) -> Int64[np.ndarray, "T"]:
    """Not as filmed, where there are two frames to be exchanged."""
    rng = np.random.default_rng([_SEED, clip])
    while True:
        places = rng.permutation(num_frames).astype(np.int64)
        if num_frames < 2 or not np.array_equal(places, np.arange(num_frames)):
            return places


def reorder(values: Float[Tensor, "B T *rest"], places: Int64[np.ndarray, "B T"]) -> Float[Tensor, "B T *rest"]:
    """Frames, or their features, in another order."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, torch.from_numpy(places).to(values.device)]
