"""Whether a peer returns the frames that were asked for: those of a full sequential decode, by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import media
from peers import Frames, Read, Request, by_torch

Box = tuple[int, int, int, int]

_SIDE = 56
_AROUND = 64
"""Frames before and after those of a request that an answer is compared with."""
_MARGIN = 0.05
"""Levels of 255, mean over a frame, by which another frame has to fit better for the answer to be called wrong: peers
convert and scale a little differently, but the same for all frames."""


class Truth:
    """The frames of the videos of some requests, small and grey: those asked for and their neighbours.

    Args:
        requests: What is going to be asked.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self._found: dict[tuple[Path, Box], dict[int, NDArray[np.float32]]] = {}
        wanted: dict[tuple[Path, Box], set[int]] = {}
        for request in requests:
            near = range(max(0, request.indices[0] - _AROUND), request.indices[-1] + _AROUND + 1)
            wanted.setdefault((request.path, request.box), set()).update(near)
        for request in requests:  # each file is decoded once, however many requests there are of it
            place = request.path, request.box
            if place not in self._found:
                self._found[place] = _small(request, wanted[place])

    def right(self, read: Read) -> NDArray[np.bool_]:
        """For each request, whether every frame of the answer is the one asked for. An error is no right answer."""
        found = [_is_right(read, request, self._found[request.path, request.box]) for request in self.requests]
        return np.array(found, dtype=bool)


def _is_right(read: Callable[[Request], Frames], request: Request, every: dict[int, NDArray[np.float32]]) -> bool:
    try:
        answer = _grey(read(request))
    except (RuntimeError, ValueError, IndexError, OSError):  # decord's and torchcodec's own are RuntimeErrors
        return False
    first, last = request.indices[0] - _AROUND, request.indices[-1] + _AROUND
    numbers = [number for number in range(first, last + 1) if number in every]
    near = np.stack([every[number] for number in numbers])
    for picture, index in zip(answer, request.indices, strict=True):
        differences = np.abs(near - picture).mean(axis=(1, 2))
        if differences[numbers.index(index)] > differences.min() + _MARGIN:
            return False
    return True


def _small(request: Request, wanted: set[int]) -> dict[int, NDArray[np.float32]]:
    """Those of the frames of a sequential decode that are wanted, by number."""
    found = {}
    for number, frame in enumerate(media.every_frame(request.path)):
        if number in wanted:
            image = cast("Frames", frame.to_ndarray(format="rgb24", threads=1))[None]
            found[number] = _grey(by_torch(image, request))[0]
    return found


def _grey(frames: Frames) -> NDArray[np.float32]:
    """(T, 3, S, S) -> (T, side, side)."""
    grey = torch.from_numpy(np.ascontiguousarray(frames)).float().mean(dim=1, keepdim=True)
    return np.asarray(F.adaptive_avg_pool2d(grey, _SIDE)[:, 0].numpy(), dtype=np.float32)
