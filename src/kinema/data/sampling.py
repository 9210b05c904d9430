"""At which times the frames of a clip are taken."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def sample_times_s(
    start_s: float, stop_s: float, *, num_frames: int, rng: np.random.Generator | None = None
) -> Float64[np.ndarray, "T"]:
    """Times that divide a clip evenly: the clip is cut into `num_frames` equal parts and each part gives one time.

    Every time lies inside the half-open interval `[start_s, stop_s)`, so the last frame is never the one behind the
    clip.

    Args:
        start_s: Start of the clip in seconds.
        stop_s: End of the clip in seconds, after `start_s`.
        num_frames: How many times.
        rng: Draw each time uniformly inside its part (training); without it, the middle of each part.

    Returns:
        Ascending times in seconds.
    """
    assert stop_s > start_s, (start_s, stop_s)
    offsets = np.full(num_frames, 0.5) if rng is None else rng.random(num_frames)
    times_s = start_s + (np.arange(num_frames) + offsets) / num_frames * (stop_s - start_s)
    # Rounding may lift a time that is just under the end onto it.
    return np.minimum(times_s, np.nextafter(stop_s, -np.inf))
