"""What a stream may hold beside frames: fields of motion, each of two pictures that lie a moment apart.

`flow`            optical flow: u and v, displacements to the right and down in pixels of the model's input, and with
                  `magnitude` its length; 8 bits, bounded (`kinema.data.optical_flow.quantise`)
`flow_magnitude`  its length alone
`rgb_difference`  the second picture minus the first, in each colour (Wang et al., "Temporal Segment Networks", ECCV
                  2016): 128 is none, what is beyond 127 is cut off

They are computed on pictures that have been cut and scaled for the model, so that nothing has to be scaled afterwards.
Channels are field behind field: u, v, u, v, ...
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinema.data.optical_flow import Estimator, flow_of, quantise, quantise_magnitude
from kinema.data.sampling import clip_interval_s
from kinema.data.video import Video
from kinema.types import Clip, DataError, Motion, Preprocessing

NO_MOTION = 128
"""In a channel that has a sign."""


def is_difference(preprocessing: Preprocessing) -> bool:
    return preprocessing.modality == "rgb_difference"


def stacks_of(indices: Sequence[int], clip: Clip, video: Video, motion: Motion) -> tuple[tuple[int, ...], ...]:
    """For each frame, the pictures that its fields are of. They lie inside the clip: towards its end they begin before
    the frame, and a clip that is too short repeats its last picture, from which on nothing moves.

    Args:
        indices: Frames of the video.
        clip: Whose they are.
        video: What probing found.
        motion: How many fields, how far apart.

    Returns:
        (T, L + 1).

    Raises:
        DataError: There is one picture only.
    """
    start_s, stop_s = clip_interval_s(clip, video)
    first, last = video.frames_at([start_s, np.nextafter(stop_s, -np.inf)]).tolist()
    if first == last:
        raise DataError(
            f"{clip.video}: the clip {clip.clip_id!r} is a single picture, in which nothing moves; leave it out, or "
            "take data.modality=rgb"
        )
    return stacks_between(indices, first, last, motion.stack, step=motion.step(video.fps))


def stacks_between(
    indices: Sequence[int], first: int, last: int, stack: int, *, step: int
) -> tuple[tuple[int, ...], ...]:
    """The same of a clip that goes from one frame to another, where pictures lie so many frames apart."""
    latest = max(first, last - stack * step)
    return tuple(
        tuple(min(min(index, latest) + number * step, last) for number in range(stack + 1)) for index in indices
    )


def distinct(stacks: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], list[list[int]]]:
    """The pictures of some stacks, each once and ascending, and the stacks as places among these."""
    wanted = tuple(sorted({index for stack in stacks for index in stack}))
    place = {index: row for row, index in enumerate(wanted)}
    return wanted, [[place[index] for index in stack] for stack in stacks]


def fields(
    pictures: NDArray[np.uint8], stacks: Sequence[Sequence[int]], preprocessing: Preprocessing, out: NDArray[np.uint8]
) -> None:
    """Write the fields of stacks of pictures.

    Args:
        pictures: (N, 3, S, S) RGB for differences; for flow I420, (N, S * S * 3 // 2).
        stacks: For each frame L + 1 rows of these.
        preprocessing: Which fields.
        out: (T, L * channels of a field, S, S).
    """
    make = field_maker(preprocessing)
    known: dict[tuple[int, int], NDArray[np.uint8]] = {}
    per_field = preprocessing.field_channels
    for frame, stack in enumerate(stacks):
        for number, pair in enumerate(itertools.pairwise(stack)):
            if pair not in known:
                known[pair] = make(pictures[pair[0]], pictures[pair[1]])
            out[frame, number * per_field : (number + 1) * per_field] = known[pair]


def field_maker(preprocessing: Preprocessing) -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.uint8]]:
    """What makes a field, (channels, S, S), of two pictures."""
    motion, size = preprocessing.motion, preprocessing.size_px
    assert motion is not None
    if is_difference(preprocessing):
        return _difference
    assert motion.method is not None
    assert motion.bound_px is not None
    flow, bound_px = _estimator(motion.method, motion.weights), motion.bound_px
    has_uv, has_magnitude = preprocessing.modality == "flow", preprocessing.modality != "flow" or motion.magnitude

    def make(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
        brightness = [picture[: size * size].reshape(size, size) for picture in (first, second)]
        found = flow(*brightness)
        channels = [quantise(found, bound_px).transpose(2, 0, 1)] if has_uv else []
        channels += [quantise_magnitude(found, bound_px)[None]] if has_magnitude else []
        return np.concatenate(channels)

    return make


@functools.cache
def _estimator(method: str, weights: str | None) -> Estimator:
    """Once in each process: a network takes long to load."""
    return flow_of(method, weights=None if weights in (None, "published") else Path(weights))


def _difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    change = second.astype(np.int16) - first
    return (change.clip(-NO_MOTION + 1, NO_MOTION - 1) + NO_MOTION).astype(np.uint8)
