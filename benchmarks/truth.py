"""Whether a peer returns the frames that were asked for: those of a full sequential decode, by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import media
from peers import Frames, Read, Request, by_torch

_SIDE = 56
_MARGIN = 0.05
"""Levels of 255, mean over a frame, by which another frame has to fit better for the answer to be called wrong: peers
convert and scale a little differently, but the same for all frames."""


class Truth:
    """Every frame of the videos of some requests, small and grey.

    Args:
        requests: What is going to be asked.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self._all = [_every_frame(request) for request in requests]

    def right(self, read: Read) -> NDArray[np.bool_]:
        """For each request, whether every frame of the answer is the one asked for. An error is no right answer."""
        found = [_is_right(read, request, every) for request, every in zip(self.requests, self._all, strict=True)]
        return np.array(found, dtype=bool)


def _is_right(read: Callable[[Request], Frames], request: Request, every: NDArray[np.float32]) -> bool:
    try:
        answer = _grey(read(request))
    except (RuntimeError, ValueError, IndexError, OSError):  # decord's and torchcodec's own are RuntimeErrors
        return False
    for picture, index in zip(answer, request.indices, strict=True):
        differences = np.abs(every - picture).mean(axis=(1, 2))
        if differences[index] > differences.min() + _MARGIN:
            return False
    return True


def _every_frame(request: Request) -> NDArray[np.float32]:
    images = (
        cast("Frames", frame.to_ndarray(format="rgb24", threads=1))[None] for frame in media.every_frame(request.path)
    )
    return np.concatenate([_grey(by_torch(image, request)) for image in images])


def _grey(frames: Frames) -> NDArray[np.float32]:
    """(T, 3, S, S) -> (T, side, side)."""
    grey = torch.from_numpy(np.ascontiguousarray(frames)).float().mean(dim=1, keepdim=True)
    return np.asarray(F.adaptive_avg_pool2d(grey, _SIDE)[:, 0].numpy(), dtype=np.float32)
