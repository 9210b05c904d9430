"""Still images and folders of frames, as videos.

A still image is a video of one frame, which is on display for a second. In a folder, frame `i` is on display from
`i / fps`. Its number is that of its name, counted from the first one, which is 0 or 1: a folder that starts later, or
in which a number is missing, was not unpacked in full, and all times behind the gap would be wrong. Images of optical
flow (`flow_x_00001.jpg`), which mmaction2 keeps beside the frames, are passed over.
"""

from __future__ import annotations

import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kinema.data.machine import data_error
from kinema.data.video import FRAMES, IMAGE, Video
from kinema.types import DataError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

# What is inside is often not what the suffix says. None of these can start another program, as EPS would.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
_IMAGE_S = 1.0
_NUMBERED = re.compile(r"(?P<start>.*?)(?P<digits>[0-9]+)(?P<suffix>\.[^.]+)", flags=re.DOTALL)
_FLOW = re.compile(r"flow_[xy]")
_EXIF_ORIENTATION = 0x0112
_ROTATIONS_DEG = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}


def is_image(path: Path) -> bool:
    """Whether a file is a still image, by its suffix."""
    return _has_image_suffix(path.name)


def probe_image(path: Path) -> Video:
    """A still image as a video of one frame.

    Raises:
        DataError: It cannot be read in full.
    """
    image = _read(path)
    height_px, width_px = image.pixels.shape[:2]
    return Video(
        path=path,
        times_s=np.zeros(1),
        duration_s=_IMAGE_S,
        fps=1 / _IMAGE_S,
        width_px=width_px,
        height_px=height_px,
        rotation_deg=image.rotation_deg,
        codec=image.format,
        container=IMAGE,
    )


def probe_folder(path: Path, fps: float | None) -> Video:
    """A folder of frames as a video. Only the first of them is opened.

    Raises:
        DataError: Their rate is not given, there are none, one is missing, or the first cannot be read.
    """
    if fps is None:
        raise DataError(f"{path}: a folder, not a video file; if it is a folder of frames, say their rate (fps)")
    if not (math.isfinite(fps) and fps > 0):
        raise DataError(f"{path}: the rate of a folder of frames has to be above 0, not {fps:g}")
    # 59.9400599400599 is 60000 / 1001: one division of exact integers gives times that equal those of the video.
    rate = Fraction(fps).limit_denominator(100_000) or Fraction(fps)
    names, first, num_frames = _series(path)
    image = _read(path / (names % first))
    height_px, width_px = image.pixels.shape[:2]
    return Video(
        path=path,
        times_s=np.arange(num_frames, dtype=np.int64) * rate.denominator / rate.numerator,
        duration_s=float(num_frames / rate),
        fps=float(rate),
        width_px=width_px,
        height_px=height_px,
        rotation_deg=image.rotation_deg,
        codec=image.format,
        container=FRAMES,
        first_pts=first,
        names=names,
    )


def read_images(video: Video, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Frames of a video for which `is_images` holds, each opened once. `read_frames` says the rest.

    Raises:
        DataError: One cannot be read, or is of another size than the first of its folder.
    """
    images: dict[int, NDArray[np.uint8]] = {}
    for index in indices:
        if index in images:
            continue
        file = video.path
        if video.names is not None:
            assert video.first_pts is not None
            file /= video.names % (video.first_pts + index)
        pixels = _read(file).pixels
        if pixels.shape[:2] != (video.height_px, video.width_px):
            raise DataError(
                f"{file}: is {pixels.shape[1]}x{pixels.shape[0]} px and was expected to be "
                f"{video.width_px}x{video.height_px}, like the first frame of its folder; or it has changed"
            )
        images[index] = pixels
    return [images[index] for index in indices]


def read_grey(file: Path) -> NDArray[np.uint8]:
    """A picture of one channel, (H, W); of several, their brightness.

    Raises:
        DataError: It cannot be read in full.
    """
    return _read(file, grey=True).pixels


def frame_files(folder: Path) -> list[Path]:
    """Files of a folder of frames, in the order of their numbers.

    Raises:
        DataError: There are none, or one is missing.
    """
    names, first, num_frames = _series(folder)
    return [folder / (names % number) for number in range(first, first + num_frames)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Image:
    pixels: NDArray[np.uint8]  # (H, W, 3), or (H, W) of grey ones; upright
    rotation_deg: int
    format: str


def _read(file: Path, *, grey: bool = False) -> _Image:
    try:
        # Its warnings (of odd metadata, of very large images) name no file and change nothing.
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=_FORMATS) as image:
            kind = str(image.format)
            # Cameras put a second view or a preview into one file (MPO); the first is the picture.
            if getattr(image, "is_animated", False) and kind != "MPO":
                raise DataError(f"{file}: a moving picture, not an image; convert it to a video")
            rotation_deg = _ROTATIONS_DEG.get(image.getexif().get(_EXIF_ORIENTATION, 1), 0)
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(upright.convert("L")) if grey else _rgb(upright)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{file}: not an image, or damaged from its start") from None
    except Image.DecompressionBombError:
        raise DataError(f"{file}: is larger than an image may be; scale it down") from None
    except (OSError, MemoryError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise data_error(f"{file}: the image cannot be read in full ({reason})", error) from None
    return _Image(pixels=pixels, rotation_deg=rotation_deg, format=kind.lower())


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3). What is transparent is shown as it is stored, as in a video."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would cut off at 255
        grey = (np.clip(np.asarray(image), 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _has_image_suffix(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES


def _series(folder: Path) -> tuple[str, int, int]:
    """Format of the names, number of the first, how many."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _has_image_suffix(entry.name) and entry.is_file()]
    except OSError as error:
        raise data_error(f"{folder}: the folder cannot be read ({error.strerror})", error) from None
    names = [name for name in names if not name.startswith(".")]
    names = [name for name in names if not _FLOW.match(name)] or names
    numbers: dict[int, str] = {}
    series: dict[tuple[str, str], str] = {}
    num_digits = math.inf
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            raise DataError(f"{folder}: {name!r} has no number, so its place among the frames is not known")
        series.setdefault((match["start"], match["suffix"]), name)
        number = int(match["digits"])
        if len(series) > 1 or number in numbers:
            other = numbers[number] if number in numbers else next(iter(series.values()))
            raise DataError(f"{folder}: {other!r} and {name!r} are not of one series of frames; keep one in a folder")
        numbers[number] = name
        num_digits = min(num_digits, len(match["digits"]))
    if not numbers:
        raise DataError(f"{folder}: holds no frames ({', '.join(sorted(IMAGE_SUFFIXES))})")
    ((start, suffix),) = series
    pattern = f"{start.replace('%', '%%')}%0{num_digits}d{suffix.replace('%', '%%')}"
    first = min(numbers)
    for number in range(min(first, 1), first + len(numbers)):
        if number not in numbers:
            raise DataError(
                f"{folder}: {pattern % number} is missing, and the last frame is {numbers[max(numbers)]}; "
                "unpack or extract the frames again"
            )
        if numbers[number] != pattern % number:
            raise DataError(f"{folder}: {numbers[number]!r} is not numbered like the others ({pattern % number!r})")
    return pattern, first, len(numbers)
