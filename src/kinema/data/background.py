"""A class for "nothing is happening", without a single clip of it: made of the clips that there are.

Of every clip one is made in which the action is not, or hardly, to be seen: its first or last frame throughout, or its
first or last fifth, in which it begins or ends. A model that has to tell these from the actions has to look for what
happens, and not only for who is there; how well that carries over to clips that show something else is measured in
docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kinema.data.sampling import clip_interval_s
from kinema.data.video import Video
from kinema.types import Clip, ConfigError, Dataset

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
    """One of each clip: in turn its first frame, its first fifth, its last frame, its last fifth.

    Args:
        clips: Of one split.
        videos: What probing their videos found.
        labels: Task -> class index.
    """
    made = []
    for place, clip in enumerate(clips):
        video = videos[clip.video]
        start_s, stop_s = clip_interval_s(clip, video)
        still, at_end = place % 2 == 0, place % 4 >= 2
        length_s = min(stop_s - start_s, 1 / video.fps if still else _PART * (stop_s - start_s))
        made.append(
            replace(
                clip,
                clip_id=f"{clip.clip_id}#background",
                start_s=stop_s - length_s if at_end else start_s,
                stop_s=stop_s if at_end else start_s + length_s,
                labels=dict(labels),
                number=None if clip.number is None else clip.number + _NUMBERS,
            )
        )
    return made
