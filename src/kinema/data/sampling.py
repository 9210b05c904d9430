"""Where a clip lies in its video, which part of it is seen, and at which times its frames are taken."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from kinema.data.video import Video
from kinema.types import Clip, DataError


def clip_interval_s(clip: Clip, video: Video) -> tuple[float, float]:
    """Start and end of a clip inside its video.

    Raises:
        DataError: A time lies outside the video.
    """
    stop_s = video.duration_s if clip.stop_s is None else clip.stop_s
    # Annotators round, and the last frame's duration is not always known: half a frame is forgiven.
    tolerance_s = 0.5 / video.fps
    inside_s = min(stop_s, video.duration_s)
    if not (0 <= clip.start_s < inside_s and stop_s <= video.duration_s + tolerance_s):
        raise DataError(
            f"{clip.video}: the clip {clip.clip_id!r} is annotated from {clip.start_s:g} to {stop_s:g} s, "
            f"but the video is {video.duration_s:.3f} s long; mend its times"
        )
    return clip.start_s, inside_s


def window_of_s(
    start_s: float,
    stop_s: float,
    window_s: float | None,
    *,
    rng: np.random.Generator | None = None,
    place: float = 0.5,
) -> tuple[float, float]:
    """Start and end of the part of a clip that frames are taken from: all of it, or so many seconds.

    Args:
        start_s: Start of the clip.
        stop_s: Its end.
        window_s: Length of the part. None, or at least as long as the clip: all of it.
        rng: Draw uniformly where the part lies (training).
        place: Without `rng`: where it lies, from 0, at the clip's start, to 1, at its end.
    """
    if window_s is None or window_s >= stop_s - start_s:
        return start_s, stop_s
    first_s = start_s + (place if rng is None else rng.random()) * (stop_s - start_s - window_s)
    return first_s, min(first_s + window_s, stop_s)


def sample_times_s(
    start_s: float,
    stop_s: float,
    *,
    num_frames: int,
    rng: np.random.Generator | None = None,
    moment: float = 0.5,
) -> Float64[np.ndarray, "T"]:
    """Times that divide a clip evenly: the clip is cut into `num_frames` equal parts and each part gives one time.

    Every time lies inside the half-open interval `[start_s, stop_s)`, so the last frame is never the one behind the
    clip.

    Args:
        start_s: Start of the clip in seconds.
        stop_s: End of the clip in seconds, after `start_s`.
        num_frames: How many times.
        rng: Draw each time uniformly inside its part (training).
        moment: Without `rng`: where each lies inside its part, in 0..1.

    Returns:
        Ascending times in seconds.
    """
    assert stop_s > start_s, (start_s, stop_s)
    offsets = np.full(num_frames, moment) if rng is None else rng.random(num_frames)
    times_s = start_s + (np.arange(num_frames) + offsets) / num_frames * (stop_s - start_s)
    # Rounding may lift a time that is just under the end onto it.
    return np.minimum(times_s, np.nextafter(stop_s, -np.inf))


def strided_frames(
    first: int,
    last: int,
    *,
    num_frames: int,
    strides: tuple[int, int],
    rng: np.random.Generator,
    random_start: bool = True,
) -> Int64[np.ndarray, "T"] | None:
    """Frames of a clip that lie a random number of frames apart.

    The number is drawn from those for which the clip is long enough; where it is too short for all of them it is the
    largest that fits.

    Args:
        first: Index of the clip's first frame.
        last: Index of its last.
        num_frames: How many to take.
        strides: The smallest and the largest number.
        rng: Source of randomness.
        random_start: Draw where they begin too; otherwise they lie in the middle of the clip.

    Returns:
        Ascending indices; None where the clip has fewer frames than are to be taken.
    """
    num_there = last - first + 1
    if num_there < num_frames:
        return None
    longest = (num_there - 1) // (num_frames - 1) if num_frames > 1 else strides[1]
    highest = min(strides[1], longest)
    stride = int(rng.integers(min(strides[0], highest), highest + 1))
    room = num_there - 1 - (num_frames - 1) * stride
    start = int(rng.integers(0, room + 1)) if random_start else room // 2
    return first + start + stride * np.arange(num_frames, dtype=np.int64)
