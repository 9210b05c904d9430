"""Optical flow that others have computed, read from the files it lies in: EPIC-KITCHENS' own, denseflow's, mmaction2's.

    FOLDER/u/frame_0000000001.jpg    FOLDER/v/frame_0000000001.jpg    EPIC-KITCHENS
    FOLDER/flow_x_00001.jpg          FOLDER/flow_y_00001.jpg          denseflow, mmaction2; frames may lie beside them

Each pair of pictures is a field, u and v. Where nothing says how many there are in a second, field k begins at frame k
of the video. Numbers begin at 0 or 1. Sizes count as shares of the frame, so that flow of smaller or squashed frames
(456 x 256, 340 x 256) is cut where the frames of the video are; its displacements become pixels of the model's input,
along each axis by its own factor. For how long a field is the displacement is what it was for whoever computed it:
three frames of 60 per second in the videos of 2018 of EPIC-KITCHENS, one of 50 in the later ones.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from PIL import Image

from kinema.data.geometry import Box
from kinema.data.images import IMAGE_SUFFIXES, read_grey
from kinema.data.machine import data_error
from kinema.data.optical_flow import STORED_BOUND_PX, quantise, quantise_magnitude, stored_px
from kinema.data.sampling import clip_interval_s
from kinema.data.video import Video
from kinema.types import Clip, DataError, Motion, Preprocessing

METHOD: Final = "stored"
"""`clips.motion.method` of flow that is read from files."""

FOLDER: Final = "flow"
"""Attribute of a clip: where the flow of its video lies, if it is not in the folder of its frames."""

RATE: Final = "flow_fps"
"""Attribute of a clip: fields per second, if there is not one for each frame."""

_LAYOUTS: Final = ((("u", ""), ("v", "")), ((".", "flow_x"), (".", "flow_y")))
"""For u and v, the folder inside that of the flow, and what names begin with."""

_NUMBERED = re.compile(r"(?P<start>.*?)(?P<digits>[0-9]+)(?P<suffix>\.[^.]+)", flags=re.DOTALL)

_LACKING: Final = 2
"""Fields that may be lacking at the end of a video: a field of frames that lie three apart has no third frame there."""

_ALMOST: Final = 1e-6
"""Of a field: times of frames are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFlow:
    """Fields of one video.

    Attributes:
        folder: Of the flow.
        names: Formats that make paths of u and of v in it from numbers ("u/frame_%010d.jpg").
        first: Number of the first field.
        num: How many there are, one behind the other.
        fps: Fields per second; None: one for each frame of the video.
    """

    folder: Path
    names: tuple[str, str]
    first: int
    num: int
    fps: float | None = None

    @property
    def places(self) -> tuple[Path, ...]:
        """Folders that its files lie in."""
        return tuple(dict.fromkeys((self.folder / name).parent for name in self.names))

    def files(self, field: int) -> tuple[Path, Path]:
        """Of u and v of a field, counted from 0."""
        u, v = self.names
        return self.folder / (u % (self.first + field)), self.folder / (v % (self.first + field))

    def fields_at(self, video: Video, indices: Sequence[int]) -> list[int]:
        """The fields that begin with, or last before, frames of the video."""
        if self.fps is None:
            return list(indices)
        return np.floor(video.times_s[list(indices)] * self.fps + _ALMOST).astype(int).tolist()


def flow_of_clip(clip: Clip, video: Video) -> StoredFlow:
    """Where the flow of a clip's video lies.

    Raises:
        DataError: There is none, or it is of no layout that is known, or a number is missing at its beginning.
    """
    place = clip.attributes.get(FOLDER)
    if not place and not clip.video.is_dir():
        raise DataError(
            f"{clip.video}: no folder of optical flow is known for it, which clips.motion.method=stored reads; "
            "give the folder of its frames and flow, or train with another method, which computes it"
        )
    folder = Path(place or clip.video)
    names, first, num = _find(folder)
    rate = clip.attributes.get(RATE)
    return StoredFlow(folder=folder, names=names, first=first, num=num, fps=_rate(clip, rate) if rate else None)


def reads_stored(preprocessing: Iterable[Preprocessing]) -> bool:
    """Whether one of some streams is read from files of flow."""
    return any(each.motion is not None and each.motion.method == METHOD for each in preprocessing)


def check_flow(clip: Clip, video: Video) -> None:
    """See that the flow of a clip is there, as far as numbers of files tell.

    Raises:
        DataError: It is not.
    """
    _whole(clip, video, flow_of_clip(clip, video))


def fields_of(
    indices: Sequence[int], clip: Clip, video: Video, motion: Motion, flow: StoredFlow
) -> tuple[tuple[int, ...], ...]:
    """For each frame the fields that stand for it, the first of them that of the frame. They lie inside the clip:
    towards its end they begin before the frame, and a clip that is too short repeats its last field.

    Args:
        indices: Frames of the video.
        clip: Whose they are.
        video: What probing found.
        motion: How many fields, how far apart.
        flow: Where they lie.

    Returns:
        (T, L), counted from 0.

    Raises:
        DataError: Fields of the clip are missing.
    """
    first, last = _whole(clip, video, flow)
    step = motion.step(flow.fps or video.fps)
    latest = max(first, last - (motion.stack - 1) * step)
    return tuple(
        tuple(min(min(max(begin, first), latest) + number * step, last) for number in range(motion.stack))
        for begin in flow.fields_at(video, indices)
    )


def _whole(clip: Clip, video: Video, flow: StoredFlow) -> tuple[int, int]:
    """The first and the last field of a clip."""
    start_s, stop_s = clip_interval_s(clip, video)
    ends = video.frames_at([start_s, np.nextafter(stop_s, -np.inf)]).tolist()
    first, last = flow.fields_at(video, ends)
    last = max(first, last - 1)  # the last picture begins no field: what moves after it is no part of the clip
    if last - (flow.num - 1) > _LACKING or first >= flow.num:
        u, v = flow.files(flow.num)
        missing = v if u.is_file() else u
        raise DataError(
            f"{missing.parent}: {missing.name} is missing, and the clip {clip.clip_id!r} needs the fields "
            f"{flow.first + first} to {flow.first + last}; unpack or extract the flow again"
        )
    return first, min(last, flow.num - 1)


def read_fields(
    flow: StoredFlow,
    stacks: Sequence[Sequence[int]],
    video: Video,
    box: Box,
    preprocessing: Preprocessing,
    out: NDArray[np.uint8],
) -> None:
    """Read, cut and scale fields, each once however many stacks it is in.

    Args:
        flow: Where they lie.
        stacks: For each frame L of them.
        video: Whose flow it is.
        box: What to cut out, in pixels of the video.
        preprocessing: What is wanted of them.
        out: (T, L * channels of a field, S, S).

    Raises:
        DataError: A file is missing or damaged, or u and v are of different sizes.
    """
    known: dict[int, NDArray[np.uint8]] = {}
    per_field = preprocessing.field_channels
    for frame, stack in enumerate(stacks):
        for number, field in enumerate(stack):
            if field not in known:
                known[field] = _read(flow, field, video, box, preprocessing)
            out[frame, number * per_field : (number + 1) * per_field] = known[field]


def _read(
    flow: StoredFlow, field: int, video: Video, box: Box, preprocessing: Preprocessing
) -> UInt8[np.ndarray, "_C S S"]:
    motion = preprocessing.motion
    assert motion is not None
    assert motion.bound_px is not None
    u_file, v_file = flow.files(field)
    u, v = read_grey(u_file), read_grey(v_file)
    if u.shape != v.shape:
        raise DataError(f"{v_file}: is {_size(v)} px, and {u_file.name} of u {_size(u)}; extract the flow again")
    px = stored_px(motion.stored_bound_px or STORED_BOUND_PX)
    # Width before height, as u is along it.
    along_x = video.width_px / u.shape[1], preprocessing.size_px / box.width_px
    along_y = video.height_px / u.shape[0], preprocessing.size_px / box.height_px
    found = np.stack(
        [
            _cut(px[plane], video, box, preprocessing.size_px) * np.float32(there * here)
            for plane, (there, here) in ((u, along_x), (v, along_y))
        ],
        axis=-1,
    )
    channels = [quantise(found, motion.bound_px).transpose(2, 0, 1)] if preprocessing.modality == "flow" else []
    if preprocessing.modality != "flow" or motion.magnitude:
        channels.append(quantise_magnitude(found, motion.bound_px)[None])
    return np.concatenate(channels)


def _cut(values: Float32[np.ndarray, "_H _W"], video: Video, box: Box, size_px: int) -> Float32[np.ndarray, "S S"]:
    """The part of a field that a box of the video is, with antialiasing."""
    height, width = values.shape[0] / video.height_px, values.shape[1] / video.width_px
    place = (
        box.left_px * width,
        box.top_px * height,
        min((box.left_px + box.width_px) * width, values.shape[1]),
        min((box.top_px + box.height_px) * height, values.shape[0]),
    )
    if place == (0, 0, size_px, size_px) and values.shape == (size_px, size_px):
        return values
    picture = Image.fromarray(values)
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.BILINEAR, box=place))


def _find(folder: Path) -> tuple[tuple[str, str], int, int]:
    """Formats of the names of u and v, number of the first, how many. Of a long video there are a hundred thousand, of
    which few are looked at."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of optical flow, which clips.motion.method=stored reads")
    for (u_place, u_start), (v_place, v_start) in _LAYOUTS:
        found = _pattern(folder / u_place, u_start)
        if found is None:
            continue
        name, first = found
        u = os.path.normpath(f"{u_place}/{name}")
        v = os.path.normpath(f"{v_place}/{v_start}{name.removeprefix(u_start)}")
        if not (folder / (v % first)).is_file():
            raise DataError(f"{folder / (v % first)}: is missing, and {u % first} of u is there; unpack the flow again")
        # An unpacking that was interrupted may have left all of u and a part of v.
        return (u, v), first, min(_length(folder, u, first), _length(folder, v, first))
    raise DataError(
        f"{folder}: holds no optical flow; clips.motion.method=stored reads u/*.jpg and v/*.jpg, or flow_x_*.jpg and "
        "flow_y_*.jpg"
    )


@functools.lru_cache(maxsize=4096)
def _pattern(folder: Path, start: str) -> tuple[str, int] | None:
    """Format of the names, and number of the first; None where there is no such name."""
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries)
            match = next((match for name in names if (match := _numbered(name, start))), None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise data_error(f"{folder}: the folder cannot be read ({error.strerror})", error) from None
    if match is None:
        return None
    before, suffix = (match[name].replace("%", "%%") for name in ("start", "suffix"))
    for num_digits in range(len(match["digits"]), 0, -1):
        pattern = f"{before}%0{num_digits}d{suffix}"
        for first in (0, 1):
            if (folder / (pattern % first)).is_file():
                return pattern, first
    pattern = f"{before}%0{len(match['digits'])}d{suffix}"
    raise DataError(f"{folder}: {pattern % 1} is missing; unpack or extract the flow again")


def _numbered(name: str, start: str) -> re.Match[str] | None:
    match = _NUMBERED.fullmatch(name) if name.startswith(start) and not name.startswith(".") else None
    return match if match is not None and match["suffix"].lower() in IMAGE_SUFFIXES else None


@functools.lru_cache(maxsize=4096)
def _length(folder: Path, name: str, first: int) -> int:
    """How many files there are up to the first that is not."""
    place = os.fspath(folder)

    def is_there(number: int) -> bool:
        return os.path.exists(os.path.join(place, name % (first + number)))  # noqa: PTH110, PTH118 - as fast as may be

    end = 1
    while is_there(end):
        end *= 2
    begin = end // 2
    while end - begin > 1:
        middle = (begin + end) // 2
        begin, end = (middle, end) if is_there(middle) else (begin, middle)
    return end


def _rate(clip: Clip, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise DataError(f"{clip.video}: {RATE} of the clip {clip.clip_id!r} is {text!r}, not a number above 0")
    return rate


def _size(plane: NDArray[np.uint8]) -> str:
    return f"{plane.shape[1]}x{plane.shape[0]}"
