"""Flow of clips without kinema, for `flow_preparation.py`: OpenCV decodes, cuts, scales and computes DIS, and writes u
and v as JPEG (quality 95, which is OpenCV's own).

    python benchmarks/plain_flow.py CLIPS OUT FIELDS SIZE_PX BOUND_PX PROCESSES
"""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def main() -> None:
    root, out, num_fields, size_px, bound_px, processes = sys.argv[1:]
    paths = sorted(Path(root).rglob("*.mp4"))
    store_one = partial(
        store, folder=Path(out), num_fields=int(num_fields), size_px=int(size_px), bound_px=float(bound_px)
    )
    with multiprocessing.Pool(int(processes)) as pool:
        for _ in pool.imap_unordered(store_one, paths, chunksize=4):
            pass


def store(path: Path, folder: Path, *, num_fields: int, size_px: int, bound_px: float) -> None:
    place = folder / path.stem
    place.mkdir(parents=True)
    for number, flow in enumerate(flow_of_clip(path, num_fields=num_fields, size_px=size_px)):
        values = np.rint((np.clip(flow, -bound_px, bound_px) + bound_px) * (255 / (2 * bound_px))).astype(np.uint8)
        for name, plane in zip("uv", np.moveaxis(values, -1, 0), strict=True):
            cv2.imwrite(str(place / f"{name}_{number:05d}.jpg"), plane)


def flow_of_clip(path: Path, *, num_fields: int, size_px: int) -> list[NDArray[np.float32]]:
    """Of frames that are spread evenly, each to the next: (S, S, 2)."""
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while (found := capture.read())[0]:
        frames.append(np.asarray(found[1], dtype=np.uint8))
    first = [min(int((k + 0.5) * len(frames) / num_fields), len(frames) - 2) for k in range(num_fields)]
    grey = {number: grey_square(frames[number], size_px) for index in first for number in (index, index + 1)}
    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return [np.asarray(estimator.calc(grey[index], grey[index + 1], None)) for index in first]


def grey_square(frame: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    height_px, width_px = frame.shape[:2]
    side = min(height_px, width_px)
    top, left = (height_px - side) // 2, (width_px - side) // 2
    scaled = cv2.resize(frame[top : top + side, left : left + side], (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(cv2.cvtColor(scaled, cv2.COLOR_BGR2GRAY), dtype=np.uint8)


if __name__ == "__main__":
    main()
