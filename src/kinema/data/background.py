"""A class for "nothing is happening", without a single clip of it: made of the clips that there are.

Of every clip one is made in which the action is not, or hardly, to be seen: its first or last frame throughout, in
which nothing moves, or its first or last fifth, in which it begins or ends. A model that has to tell these from the
actions has to look for what happens, and not only for who is there; how well that carries over to clips that show
something else is measured in docs/results.md.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinema.data.sampling import clip_interval_s
from kinema.data.video import Video
from kinema.types import Clip, ConfigError, DataError, Dataset

log = logging.getLogger(__name__)

_PART = 0.2
"""Of a clip, at its beginning or end."""

_NUMBERS = 2**31
"""Added to a clip's number, for its random versions: data sets have fewer clips."""


def with_background(dataset: Dataset, name: str) -> Dataset:
    """A data set with one more class in every task, whose clips are made where training clips are read.

    Raises:
        ConfigError: There is such a class already.
    """
    for task, names in dataset.classes.items():
        if name in names:
            raise ConfigError(
                f"data.background: {task} has a class {name!r} already; give a name of its own to the one that is made "
                "of the other clips, or leave this out and name the class to kinema threshold --background"
            )
    classes = {task: (*names, name) for task, names in dataset.classes.items()}
    return replace(dataset, classes=classes, background=name)


def background_labels(dataset: Dataset) -> dict[str, int]:
    """Task -> index of the class that stands for nothing; empty where there is none."""
    if dataset.background is None:
        return {}
    return {task: names.index(dataset.background) for task, names in dataset.classes.items()}


def background_clips(clips: Sequence[Clip], videos: Mapping[Path, Video], labels: Mapping[str, int]) -> list[Clip]:
    """One of each clip that has several frames: its first frame, its first fifth, its last frame, or its last fifth.
    Which of these follows from the clip's name alone, so that it is the same in every fold and fraction.

    Args:
        clips: Of one split.
        videos: What probing their videos found.
        labels: Task -> class index.

    Raises:
        DataError: All clips are still images, or of one frame.
    """
    made = []
    for clip in clips:
        video = videos[clip.video]
        start_s, stop_s = clip_interval_s(clip, video)
        if _num_frames(video, start_s, stop_s) < 2:
            continue
        digest = hashlib.blake2b(clip.clip_id.encode(), digest_size=1).digest()[0]
        still, at_end = digest % 2 == 0, digest % 4 >= 2
        length_s = min(stop_s - start_s, 1 / video.fps if still else _PART * (stop_s - start_s))
        begin_s, end_s = (stop_s - length_s, stop_s) if at_end else (start_s, start_s + length_s)
        first, last = video.frames_at([begin_s, np.nextafter(end_s, -np.inf)]).tolist()
        made.append(
            replace(
                clip,
                clip_id=f"{clip.clip_id}#background",
                start_s=begin_s,
                stop_s=end_s,
                still=still or first == last,  # a fifth of a short clip is a single frame too
                labels=dict(labels),
                number=None if clip.number is None else clip.number + _NUMBERS,
            )
        )
    if clips and not made:
        raise DataError(
            f"data.background: all of the {len(clips):,} training clips are still images or of one frame, such as "
            f"{clips[0].video}: what would be made of them to show nothing shows the same; leave data.background out"
        )
    if len(made) < len(clips):
        log.warning(
            "data.background: of %d of %d clips, which are still images or of one frame, no clip of nothing is made",
            len(clips) - len(made),
            len(clips),
        )
    return made


def _num_frames(video: Video, start_s: float, stop_s: float) -> int:
    """Frames that come on display in a part of a video, the one that is on display at its beginning among them."""
    first, last = np.searchsorted(video.times_s, [start_s + 1e-6, stop_s - 1e-6], side="right")
    return int(last - max(0, first - 1))
