"""Ways to keep decoded clips, as the projects kept them: how each is written, and how all clips are read back.

- `npy`: one array of all clips, loaded whole (the egocentric-vision report, uint8 and float32).
- `npz`: the same, compressed.
- `hdf5`: one file per class, an array of its clips, loaded whole (the Kinetics project).
- `jpeg`: one JPEG file (quality 90) per frame, read by PIL, batch by batch.
- `kinema`: the frame store, planes 4:2:0, batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Clips = Callable[[int], NDArray[np.uint8]]
"""The clip of a number: (T, 3, S, S)."""

BATCH_SIZE = 16
JPEG_QUALITY = 90


def as_type(clip: NDArray[np.uint8], dtype: DTypeLike) -> NDArray[Any]:
    """uint8 as it is; float32 as networks take it, 0 to 1."""
    return clip if np.dtype(dtype) == np.uint8 else clip.astype(dtype) / np.asarray(255, dtype=dtype)


def write_npy(folder: Path, clips: Clips, classes: NDArray[np.int64], dtype: DTypeLike) -> None:
    shape = (len(classes), *clips(0).shape)
    array = np.lib.format.open_memmap(folder / "clips.npy", mode="w+", dtype=np.dtype(dtype), shape=shape)
    for number in range(len(classes)):
        array[number] = as_type(clips(number), dtype)
    array.flush()


def read_npy(folder: Path) -> Iterator[NDArray[Any]]:
    yield np.load(folder / "clips.npy")


def write_npz(folder: Path, clips: Clips, classes: NDArray[np.int64], dtype: DTypeLike) -> None:
    np.savez_compressed(folder / "clips.npz", np.stack([as_type(clips(i), dtype) for i in range(len(classes))]))


def read_npz(folder: Path) -> Iterator[NDArray[Any]]:
    with np.load(folder / "clips.npz") as file:
        yield file["arr_0"]


def write_hdf5(folder: Path, clips: Clips, classes: NDArray[np.int64], dtype: DTypeLike) -> None:
    import h5py

    for name in np.unique(classes):
        members = np.flatnonzero(classes == name)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            array = file.create_dataset("clips", shape=(len(members), *clips(0).shape), dtype=np.dtype(dtype))
            for row, number in enumerate(members):
                array[row] = as_type(clips(int(number)), dtype)


def read_hdf5(folder: Path) -> Iterator[NDArray[Any]]:
    import h5py

    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            yield file["clips"][:]


def write_jpeg(folder: Path, clips: Clips, classes: NDArray[np.int64], _dtype: DTypeLike = np.uint8) -> None:
    from PIL import Image

    for number in range(len(classes)):
        place = folder / f"{number:06d}"
        place.mkdir()
        for t, frame in enumerate(clips(number).transpose(0, 2, 3, 1)):
            Image.fromarray(np.ascontiguousarray(frame)).save(place / f"{t:03d}.jpg", quality=JPEG_QUALITY)


def read_jpeg(folder: Path) -> Iterator[NDArray[Any]]:
    places = sorted(folder.iterdir())
    for start in range(0, len(places), BATCH_SIZE):
        yield np.stack([read_jpeg_clip(place) for place in places[start : start + BATCH_SIZE]])


def read_jpeg_clip(place: Path) -> NDArray[np.uint8]:
    """A clip of JPEG files, as RGB (T, 3, S, S)."""
    from PIL import Image

    frames = []
    for path in sorted(place.iterdir()):
        with Image.open(path) as image:
            frames.append(np.asarray(image.convert("RGB")))
    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))
