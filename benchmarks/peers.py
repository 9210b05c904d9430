"""How others read a clip: frames by number, the centre square cut out, scaled to S x S, RGB uint8 (T, 3, S, S).

Every peer is told which frames and which square, so that none has to find that out. Where there are several ways to use
one (threads, who scales), all are tried on some files first and the fastest competes, see `fastest`:

- decord: `VideoReader(path, ctx=cpu(0))`, `get_batch`, with one thread or its default, then crop and scale by OpenCV
  (bilinear, what MMAction2 does) or by torch (antialiased bilinear, what torchvision does); or scaled while decoding
  (`width`, `height`, what VideoMAE's loaders do) and cropped then.
- torchcodec: `VideoDecoder(path, seek_mode="exact").get_frames_at`, with one thread or its default, torch scales.
- torchvision-like: what `torchvision.io.read_video` did until it was removed: every frame is decoded and becomes RGB,
  with PyAV's default threads; those that are wanted are taken out, torch scales.
- OpenCV: `grab` each frame, `retrieve` the wanted ones, OpenCV scales.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness import timed

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be read of one video.

    Attributes:
        indices: Numbers of frames in display order, ascending.
        box: Top, left, height and width of what is cut out, in pixels of the video.
        size_px: Height and width of the result.
        height_px: Of the video.
        width_px: Of the video.
    """

    path: Path
    indices: tuple[int, ...]
    box: tuple[int, int, int, int]
    size_px: int
    height_px: int
    width_px: int


Read = Callable[[Request], Frames]


def cropped(frames: Frames, request: Request) -> Frames:
    """(T, H, W, 3) -> (T, h, w, 3), a view."""
    top, left, height, width = request.box
    return frames[:, top : top + height, left : left + width]


def by_torch(frames: Frames, request: Request) -> Frames:
    """Crop, then antialiased bilinear scaling."""
    size = (request.size_px, request.size_px)
    pixels = torch.from_numpy(np.ascontiguousarray(cropped(frames, request))).permute(0, 3, 1, 2)
    if pixels.shape[-2:] == size:
        return pixels.contiguous().numpy()
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True).contiguous().numpy()


def by_opencv(frames: Frames, request: Request) -> Frames:
    """Crop, then bilinear scaling frame by frame."""
    import cv2

    size = (request.size_px, request.size_px)
    scaled = [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in cropped(frames, request)]
    return np.ascontiguousarray(np.stack(scaled).transpose(0, 3, 1, 2))


def decord(request: Request, *, threads: int, scale: str) -> Frames:
    """See the top of this file."""
    import decord as library

    if scale == "while decoding":
        factor = request.size_px / request.box[2]
        width, height = round(request.width_px * factor), round(request.height_px * factor)
        video = library.VideoReader(
            str(request.path), ctx=library.cpu(0), num_threads=threads, width=width, height=height
        )
        frames = video.get_batch(list(request.indices)).asnumpy()
        top, left = (height - request.size_px) // 2, (width - request.size_px) // 2
        square = frames[:, top : top + request.size_px, left : left + request.size_px]
        return np.ascontiguousarray(square.transpose(0, 3, 1, 2))
    video = library.VideoReader(str(request.path), ctx=library.cpu(0), num_threads=threads)
    frames = video.get_batch(list(request.indices)).asnumpy()
    return by_opencv(frames, request) if scale == "OpenCV" else by_torch(frames, request)


def decord_open(request: Request, *, threads: int) -> Frames:
    """decord with a reader that stays open, for many clips of one file; torch scales."""
    return by_torch(_reader(str(request.path), threads).get_batch(list(request.indices)).asnumpy(), request)


@functools.cache
def _reader(path: str, threads: int) -> Any:
    import decord as library

    return library.VideoReader(path, ctx=library.cpu(0), num_threads=threads)


def torchcodec(request: Request, *, threads: int) -> Frames:
    """See the top of this file."""
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(
        str(request.path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact", device="cpu"
    )
    return by_torch(video.get_frames_at(indices=list(request.indices)).data.numpy(), request)


def torchvision_like(request: Request, *, threads: int | None = None) -> Frames:
    """Every frame of the file becomes RGB. `threads` None: PyAV's default."""
    import av

    how: dict[str, Any] = {} if threads is None else {"threads": threads}
    with av.open(str(request.path), metadata_errors="ignore") as container:
        found = [cast("Frames", f.to_ndarray(format="rgb24", **how)) for f in container.decode(video=0)]
    return by_torch(np.stack(found)[list(request.indices)], request)


def opencv(request: Request) -> Frames:
    """See the top of this file."""
    import cv2

    wanted = set(request.indices)
    found: dict[int, Frames] = {}
    video = cv2.VideoCapture(str(request.path))
    try:
        for number in range(request.indices[-1] + 1):
            if not video.grab():
                raise ValueError(f"{request.path}: OpenCV has no frame {number}")
            if number in wanted:
                found[number] = np.asarray(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB), dtype=np.uint8)
    finally:
        video.release()
    return by_opencv(np.stack([found[number] for number in request.indices]), request)


def variants(peer: str) -> dict[str, Read]:
    """Ways to use a peer: description -> function. Empty where it is not installed."""
    has_opencv = importlib.util.find_spec("cv2") is not None
    if peer == "torchvision-like":
        return {"every frame, default threads": torchvision_like}
    if peer == "OpenCV":
        return {"grab, retrieve": opencv} if has_opencv else {}
    if peer == "torchcodec":
        if not _imports("torchcodec.decoders"):
            return {}
        return {f"exact, {_threads(n)}": functools.partial(torchcodec, threads=n) for n in (1, 0)}
    if not _imports("decord"):
        return {}
    if peer == "decord, reader kept open":
        return {_threads(n): functools.partial(decord_open, threads=n) for n in (1, 0)}
    assert peer == "decord", peer
    scales = ("torch", "while decoding", *(("OpenCV",) if has_opencv else ()))
    return {
        f"{_threads(n)}, scaled {'by ' if scale != 'while decoding' else ''}{scale}": functools.partial(
            decord, threads=n, scale=scale
        )
        for n in (1, 0)
        for scale in scales
    }


def _threads(num: int) -> str:
    return f"{num} thread" if num else "default threads"


def _imports(module: str) -> bool:
    """Installed, and its libraries are there too."""
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def plain(peer: str) -> Read:
    """A peer with one thread and torch scaling, to find out which frames it returns: scaling otherwise moves pixels a
    little, and threads change nothing."""
    if peer == "decord":
        return functools.partial(decord, threads=1, scale="torch")
    return next(iter(variants(peer).values()))


def fastest(ways: Mapping[str, Read], requests: Sequence[Request], *, repeat: int = 2) -> tuple[str, Read]:
    """The way that reads some clips fastest."""
    if len(ways) == 1:
        return next(iter(ways.items()))
    seconds = {name: min(timed(partial(_all, read, requests)) for _ in range(repeat)) for name, read in ways.items()}
    name = min(seconds, key=seconds.__getitem__)
    return name, ways[name]


class Clips(Dataset[tuple[Tensor, int]]):
    """Clips for torch's DataLoader, as the peers' users write it: (T, 3, S, S) uint8 and a number."""

    def __init__(self, read: Callable[[Any], Frames], requests: Sequence[Any]) -> None:
        self.read = read
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.read(self.requests[index])), index


def data_loader(
    read: Callable[[Any], Frames], requests: Sequence[Any], *, batch_size: int, workers: int, shuffle: bool = False
) -> DataLoader[Any]:
    """torch's DataLoader with its default collation; processes stay from epoch to epoch."""
    return DataLoader(
        Clips(read, requests),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
    )


def one_thread(_worker: int) -> None:
    """As MMAction2 does: libraries in a worker take no further threads."""
    torch.set_num_threads(1)
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(0)


def _all(read: Read, requests: Sequence[Request]) -> list[Frames]:
    return [read(request) for request in requests]
