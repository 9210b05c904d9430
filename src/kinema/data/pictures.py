"""What a decoder gives, as upright RGB or as planes of brightness and colour.

Planes are the canonical form of a frame between the decoder and the device: 8 bits, 4:2:0, limited range, the matrix of
ITU-R BT.601. That is what nearly all videos are, so that nothing has to be computed at their full size:

- A frame that already is 8-bit 4:2:0 in limited range is cut where it lies, in the decoder's own memory.
- Anything else (10 bits, 4:2:2, 4:4:4, full range, RGB, images, a frame of another size than the first) goes through
  swscale once, whole, and is cut then.
- A frame of another matrix (BT.709 in most HD files) is cut and scaled first, and its few remaining pixels are
  converted.

Colour has half the resolution, so what is cut begins and ends on even rows and columns of the upright frame
(`aligned`); of a frame whose height or width is odd the last coded row or column is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from kinema.data.geometry import Box
from kinema.data.video import Orientation, Video
from kinema.types import DataError

Plane = NDArray[np.uint8]

# Weights of red and blue in brightness (ITU-R BT.601; BT.709, SMPTE 240M, BT.2020), by FFmpeg's AVColorSpace.
_BT601 = (0.299, 0.114)
_OTHER = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}

_LANES = 4
"""Planes that are scaled together: torch scales uint8 fast where four channels lie side by side, and only there."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """An upright frame of even height and width, 8 bits, limited range.

    Attributes:
        y: (H, W), brightness.
        u: (H / 2, W / 2), blue minus brightness.
        v: (H / 2, W / 2), red minus brightness.
        colourspace: FFmpeg's number of the matrix, where it is not that of BT.601.
    """

    y: Plane
    u: Plane
    v: Plane
    colourspace: int | None = None

    @classmethod
    def of_row(cls, row: Plane, height_px: int, width_px: int) -> Planes:
        """Views into an I420 frame, one row of `height_px * width_px * 3 // 2` bytes; both even."""
        num, half = height_px * width_px, (height_px // 2, width_px // 2)
        return cls(
            y=row[:num].reshape(height_px, width_px),
            u=row[num : num + num // 4].reshape(half),
            v=row[num + num // 4 :].reshape(half),
        )


Picture = VideoFrame | Plane | Planes
"""What a decoder or a store gives: a frame as it was decoded, upright RGB (H, W, 3), or upright planes."""


def take_rgb(video: Video, box: Box | None = None) -> Callable[[Picture], Plane]:
    """A function that makes of a picture of the video what is inside the box, as RGB: (H, W, 3).

    Args:
        video: What probing found.
        box: What to cut out; None is all of it.
    """
    reformatter = VideoReformatter()

    def take(picture: Picture) -> Plane:
        if not isinstance(picture, np.ndarray):
            is_stored = isinstance(picture, Planes)
            frame = _frame_of(picture) if isinstance(picture, Planes) else picture
            orientation = Orientation() if is_stored else video.orientation
            # A stream may change its size on the way; like a player, show all of it at the size of the first frame.
            width_px, height_px = _coded_size(video, orientation)
            frame = _reformat(reformatter, frame, video, width=width_px, height=height_px, format="rgb24")
            picture = upright(cast("Plane", frame.to_ndarray()), orientation)
        return np.ascontiguousarray(picture if box is None else _inside(picture, box))

    return take


def take_planes(video: Video, box: Box) -> Callable[[Picture], Planes]:
    """A function that makes of a picture of the video what is inside the aligned box, as planes of their own memory.

    Args:
        video: What probing found.
        box: What to cut out, of the video as displayed; `aligned` says what becomes of odd edges.
    """
    reformatter = VideoReformatter()

    def take(picture: Picture) -> Planes:
        if not isinstance(picture, Planes):
            orientation = video.orientation if isinstance(picture, VideoFrame) else Orientation()
            frame = picture if isinstance(picture, VideoFrame) else _frame_of_rgb(picture)
            picture = _planes_of(_canonical(reformatter, frame, video, orientation), orientation)
        return cut(picture, box)

    return take


def aligned(box: Box, height_px: int, width_px: int) -> Box:
    """A box that begins and ends on even rows and columns, which colour planes can be cut at.

    Its top and left edge move up and left by a pixel where they are odd, and odd sides grow by one, so that its size
    (and with it whether anything has to be scaled) depends on its size alone and not on where it lies.

    Args:
        box: Inside a frame that may have one row and one column more, odd ones, than is given here.
        height_px: Of the planes of brightness; even.
        width_px: Likewise.
    """
    tall, wide = min(box.height_px + box.height_px % 2, height_px), min(box.width_px + box.width_px % 2, width_px)
    return Box(
        top_px=min(box.top_px - box.top_px % 2, height_px - tall),
        left_px=min(box.left_px - box.left_px % 2, width_px - wide),
        height_px=tall,
        width_px=wide,
    )


def cut(planes: Planes, box: Box) -> Planes:
    """What is inside the aligned box, copied: a decoder uses its memory again."""
    box = aligned(box, *planes.y.shape)
    half = Box(
        top_px=box.top_px // 2, left_px=box.left_px // 2, height_px=box.height_px // 2, width_px=box.width_px // 2
    )
    return Planes(
        y=_inside(planes.y, box).copy(),
        u=_inside(planes.u, half).copy(),
        v=_inside(planes.v, half).copy(),
        colourspace=planes.colourspace,
    )


def resize_i420(frames: Sequence[Planes], size_px: int, out: NDArray[np.uint8]) -> None:
    """Scale each plane to a square, bilinear with antialiasing, and write them as I420, BT.601.

    A plane is what `torch.nn.functional.interpolate(plane, mode="bilinear", antialias=True)` makes of it, bit for bit,
    whatever else is scaled with it. A frame that has the size already keeps its pixels.

    Args:
        frames: All of one size.
        size_px: Height and width of the result; even.
        out: Where to write: (T, size_px * size_px * 3 // 2).
    """
    targets = [Planes.of_row(row, size_px, size_px) for row in out]
    _resize([frame.y for frame in frames], [target.y for target in targets])
    colours = [plane for frame in frames for plane in (frame.u, frame.v)]
    _resize(colours, [plane for target in targets for plane in (target.u, target.v)])
    for frame, target in zip(frames, targets, strict=True):
        if frame.colourspace is not None:
            _to_bt601(target, frame.colourspace)


def rgb_to_i420(frames: Sequence[NDArray[np.uint8]], box: Box, size_px: int, out: NDArray[np.uint8]) -> None:
    """What `take_planes` and `resize_i420` make of RGB frames (H, W, 3)."""
    reformatter = VideoReformatter()
    planes = []
    for image in frames:
        frame = _frame_of_rgb(image)
        frame = reformatter.reformat(frame, format="yuv420p", threads=1, **_CANONICAL)
        planes.append(cut(_planes_of(frame, Orientation()), box))
    resize_i420(planes, size_px, out)


def upright(image: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """A view of an image or a plane, (H, W) or (H, W, 3), as it is to be displayed."""
    if orientation.transposed:
        image = image.swapaxes(0, 1)
    if orientation.flip_rows:
        image = image[::-1]
    return image[:, ::-1] if orientation.flip_columns else image


_CANONICAL = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}


def _coded_size(video: Video, orientation: Orientation) -> tuple[int, int]:
    """Width and height of the first frame as it came out of the decoder."""
    size = video.width_px, video.height_px
    return size[::-1] if orientation.transposed else size


def _canonical(reformatter: VideoReformatter, frame: VideoFrame, video: Video, orientation: Orientation) -> VideoFrame:
    """The frame itself where it is 8-bit 4:2:0, limited range and of the first frame's size."""
    width_px, height_px = _coded_size(video, orientation)
    is_whole = (frame.width, frame.height) == (width_px, height_px) and all(p.line_size > 0 for p in frame.planes)
    if is_whole and frame.format.name == "yuv420p" and frame.color_range != ColorRange.JPEG:
        return frame
    return _reformat(reformatter, frame, video, width=width_px, height=height_px, format="yuv420p", **_CANONICAL)


def _reformat(reformatter: VideoReformatter, frame: VideoFrame, video: Video, **settings: Any) -> VideoFrame:
    try:
        return reformatter.reformat(frame, threads=1, **settings)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{video.path}: pixels of the frame at {frame.time} s cannot be read: {error}") from None


def _planes_of(frame: VideoFrame, orientation: Orientation) -> Planes:
    """Views into a frame in yuv420p, without its last row or column where these are odd."""
    height_px, width_px = frame.height, frame.width
    views = [_view(plane) for plane in frame.planes]
    if height_px == 1:
        views[0], height_px = views[0].repeat(2, axis=0), 2
    if width_px == 1:
        views[0], width_px = views[0].repeat(2, axis=1), 2
    rows, columns = height_px // 2, width_px // 2
    y = upright(views[0][: 2 * rows, : 2 * columns], orientation)
    u, v = (upright(view[:rows, :columns], orientation) for view in views[1:])
    return Planes(y=y, u=u, v=v, colourspace=frame.colorspace if frame.colorspace in _OTHER else None)


def _view(plane: VideoPlane) -> Plane:
    """Of its pixels, without what pads its rows."""
    memory: Any = plane  # PyAV does not declare that it has the interface of a buffer
    return np.frombuffer(memory, dtype=np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _frame_of_rgb(image: NDArray[np.uint8]) -> VideoFrame:
    return VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")


def _frame_of(planes: Planes) -> VideoFrame:
    height_px, width_px = planes.y.shape
    row = np.concatenate([plane.reshape(-1) for plane in (planes.y, planes.u, planes.v)])
    frame = VideoFrame.from_ndarray(row.reshape(height_px * 3 // 2, width_px), format="yuv420p")
    frame.colorspace = planes.colourspace or 0
    return frame


def _inside(image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return image[box.top_px : box.top_px + box.height_px, box.left_px : box.left_px + box.width_px]


def _resize(planes: Sequence[Plane], targets: Sequence[Plane]) -> None:
    """Scale planes of one size into others of one size."""
    (height_px, width_px), size = planes[0].shape, targets[0].shape
    if (height_px, width_px) == size:
        for plane, target in zip(planes, targets, strict=True):
            target[...] = plane
        return
    # What no plane fills is scaled with the rest and thrown away.
    together = np.empty((-(-len(planes) // _LANES), height_px, width_px, _LANES), dtype=np.uint8)
    for number, plane in enumerate(planes):
        together[number // _LANES, :, :, number % _LANES] = plane
    pixels = torch.from_numpy(together).permute(0, 3, 1, 2)
    scaled = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
    # A pixel of four planes is one word; taking bytes out of words is faster than out of memory, one in four.
    words = scaled.permute(0, 2, 3, 1).contiguous().numpy().view(np.uint32)[..., 0]
    shifted = np.empty(size, dtype=np.uint32)
    for number, target in enumerate(targets):
        np.right_shift(words[number // _LANES], _SHIFTS[number % _LANES], out=shifted)
        np.copyto(target, shifted, casting="unsafe")


_SHIFTS = np.arange(0, 8 * _LANES, 8, dtype=np.uint32)


def _to_bt601(planes: Planes, colourspace: int) -> None:
    """Convert planes of another matrix in place. Each pixel has the colour of the 2 x 2 that it belongs to."""
    matrix = _matrix_to_bt601(colourspace)
    u, v = planes.u.astype(np.float32) - 128, planes.v.astype(np.float32) - 128
    change = matrix[0, 0] * u + matrix[0, 1] * v
    rows, columns = change.shape
    y = planes.y.reshape(rows, 2, columns, 2) + change[:, None, :, None]
    planes.y[...] = np.rint(y).clip(0, 255).reshape(planes.y.shape)
    planes.u[...] = np.rint(matrix[1, 0] * u + matrix[1, 1] * v + 128).clip(0, 255)
    planes.v[...] = np.rint(matrix[2, 0] * u + matrix[2, 1] * v + 128).clip(0, 255)


@functools.cache
def _matrix_to_bt601(colourspace: int) -> NDArray[np.float32]:
    """(3, 2): what U and V, from 128, come to in what is added to Y, in U and in V."""
    rgb = np.linalg.inv(_from_rgb(*_OTHER[colourspace]))
    change = (_from_rgb(*_BT601) @ rgb)[:, 1:]
    change[0] *= 219 / 224  # Y has 219 steps from black to white, colour 224
    return change.astype(np.float32)


def _from_rgb(red: float, blue: float) -> NDArray[np.float64]:
    """RGB in 0..1 to Y in 0..1, U and V in -0.5..0.5."""
    y = np.array([red, 1 - red - blue, blue])
    return np.stack([y, (np.array([0, 0, 1]) - y) / (2 - 2 * blue), (np.array([1, 0, 0]) - y) / (2 - 2 * red)])
