"""Files of optical flow as others write them, of motion that is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOUND_PX = 20.0


def write_flow(
    folder: Path,
    num: int,
    motion: Callable[[int], tuple[float, float]],
    *,
    size: tuple[int, int] = (18, 32),
    first: int = 1,
    names: tuple[str, str] = ("u/frame_%010d.jpg", "v/frame_%010d.jpg"),
) -> Path:
    """Fields of which each moves as a whole.

    Args:
        folder: Where to.
        num: How many.
        motion: Field -> u and v, in pixels of the field.
        size: Height and width of a field.
        first: Number of the first.
        names: Of u and v.
    """
    for field in range(num):
        for name, value in zip(names, motion(field), strict=True):
            write_field(folder / (name % (first + field)), np.full(size, value))
    return folder


def write_field(path: Path, values: NDArray[np.float64]) -> None:
    """u or v of a field as denseflow writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.rint((np.clip(values, -BOUND_PX, BOUND_PX) + BOUND_PX) * (255 / (2 * BOUND_PX)))
    Image.fromarray(grey.astype(np.uint8)).save(path, quality=95)


def write_frames(folder: Path, num: int, *, size: tuple[int, int] = (18, 32), name: str = "frame_%010d.jpg") -> Path:
    """Frames that say their number by their grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num):
        Image.fromarray(np.full((*size, 3), 20 + number, dtype=np.uint8)).save(folder / (name % (number + 1)))
    return folder
