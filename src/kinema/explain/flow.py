"""Optical flow of a clip, to look at: between neighbouring frames, at the size that it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from kinema.data.decoding import take_frames
from kinema.data.one_clip import open_clip
from kinema.data.optical_flow import Estimator
from kinema.data.pictures import take_rgb
from kinema.data.sampling import clip_interval_s
from kinema.progress import SILENT, Reporter
from kinema.types import DataError

SHORT_SIDE_PX = 256
"""What flow of two-stream networks is computed at (340 x 256)."""
MOST_OF_A_MOVIE = 100
"""Pairs of a video: TV-L1 takes seconds for each."""
_AT_ONCE = 64
"""Pairs whose frames are in memory together."""
_BOUNDS_PX = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_SLOWER = 99.9
"""Percentage of pixels that the chosen bound lets through. Most of a picture stands still: of the pixels that move it
lets through fewer."""


@dataclass(frozen=True, kw_only=True)
class FlowPair:
    """Two neighbouring frames.

    Attributes:
        frame: The first one.
        flow: From the first one to the second, in its pixels: right, down.
        time_s: When the first one is, in its file.
    """

    frame: UInt8[np.ndarray, "H W 3"]
    flow: Float32[np.ndarray, "H W 2"]
    time_s: float


@dataclass(frozen=True, kw_only=True)
class FlowClip:
    """Flow of a clip.

    Attributes:
        pairs: In their order.
        method: That found it.
        fps: Frames per second of the file.
        num_all: Pairs of neighbouring frames in the clip, of which `pairs` are some or all.
    """

    pairs: Sequence[FlowPair]
    method: str
    fps: float
    num_all: int

    def some(self, num: int) -> FlowClip:
        """At most so many of the pairs, evenly spread."""
        return replace(self, pairs=[self.pairs[number] for number in _middles(len(self.pairs), num)])

    def facts(self, bound_px: float) -> list[dict[str, Any]]:
        """For each pair its time, mean and greatest motion in pixels, and the share of pixels beyond the bound."""
        found = []
        for pair in self.pairs:
            length_px = np.linalg.norm(pair.flow, axis=-1)
            found.append(
                {
                    "time_s": pair.time_s,
                    "mean_px": float(length_px.mean()),
                    "max_px": float(length_px.max()),
                    "beyond": float((length_px > bound_px).mean()),
                }
            )
        return found

    def fitting_bound_px(self) -> float:
        """A round bound that 999 of 1000 pixels stay within."""
        length_px = np.concatenate([np.linalg.norm(pair.flow, axis=-1).reshape(-1) for pair in self.pairs])
        reached_px = np.percentile(length_px, _SLOWER)
        return next((bound for bound in _BOUNDS_PX if bound >= reached_px), _BOUNDS_PX[-1])


def flow_of_clip(
    video: Path,
    estimate: Estimator,
    method: str,
    *,
    num_pairs: int,
    short_side_px: int = SHORT_SIDE_PX,
    start_s: float = 0.0,
    stop_s: float | None = None,
    fps: float | None = None,
    reporter: Reporter = SILENT,
) -> FlowClip:
    """Flow between neighbouring frames, of pairs that are evenly spread over a clip.

    Args:
        video: A video file, or a folder of frames.
        estimate: From `kinema.data.optical_flow.flow_of`.
        method: Its name.
        num_pairs: At most so many pairs.
        short_side_px: Frames whose height and width are both greater are scaled down to it.
        start_s: Where the clip begins in the file.
        stop_s: Where it ends; None is the end of the file.
        fps: Frames per second of a folder of frames.
        reporter: Told of every pair.

    Raises:
        DataError: The file cannot be read, the times lie outside it, or there are no two frames.
    """
    clip, found = open_clip(video, start_s=start_s, stop_s=stop_s, fps=fps)
    start_s, stop_s = clip_interval_s(clip, found)
    first, last = found.frames_at([start_s, np.nextafter(stop_s, -np.inf)]).tolist()
    if first == last:
        raise DataError(f"{video}: optical flow is between two frames, and the clip has one; give another --stop")
    indices = [first + number for number in _middles(last - first, num_pairs)]
    scale = _to_short_side(found.height_px, found.width_px, short_side_px)
    cut = take_rgb(found)
    pairs = []
    with reporter.track("Optical flow", total=len(indices), unit="pairs") as task:
        for begin in range(0, len(indices), _AT_ONCE):
            part = indices[begin : begin + _AT_ONCE]
            wanted = sorted({index + more for index in part for more in (0, 1)})
            frames = dict(zip(wanted, take_frames(found, wanted, lambda one: scale(cut(one))), strict=True))
            for index in part:
                flow = estimate(_grey(frames[index]), _grey(frames[index + 1]))
                pairs.append(FlowPair(frame=frames[index], flow=flow, time_s=float(found.times_s[index])))
                task.advance()
    return FlowClip(pairs=pairs, method=method, fps=found.fps, num_all=last - first)


def _middles(num: int, most: int) -> list[int]:
    """At most so many of `num` things, each from the middle of its part: a clip often begins and ends in rest."""
    most = min(num, most)
    return [(2 * part + 1) * num // (2 * most) for part in range(most)]


def _to_short_side(
    height_px: int, width_px: int, short_side_px: int
) -> Callable[[UInt8[np.ndarray, "_ _ 3"]], UInt8[np.ndarray, "_ _ 3"]]:
    factor = min(1.0, short_side_px / min(height_px, width_px))
    size = max(1, round(width_px * factor)), max(1, round(height_px * factor))

    def scale(frame: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        if frame.shape[1::-1] == size:
            return frame
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))

    return scale


def _grey(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    return np.asarray(Image.fromarray(frame).convert("L"))  # brightness as ITU-R BT.601 has it
