"""How well segments of an untrimmed video were found: accuracy over frames, edit score and segmental F1.

- Edit score: Lea et al., "Segmental Spatiotemporal CNNs for Fine-grained Action Segmentation", ECCV 2016. The order of
  the segments, whenever they begin: 1 - Levenshtein distance / length of the longer sequence.
- F1@k: Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection", CVPR 2017, as Farha and
  Gall (MS-TCN, CVPR 2019) count it. A found segment is right when it has the label of a true one that nothing before
  has been matched with, and they overlap by k % of what they cover together. Each is matched with the one that it
  overlaps most.

Frames in which nothing happens are no segments, as "background" is none for MS-TCN. They count in the accuracy over all
frames, and do not in that over the frames in which something happens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64

from kinema.types import JOINT, Heads

NOTHING: Final = -1
"""Label of frames in which nothing happens."""

OVERLAPS: Final = (0.10, 0.25, 0.50)

Labels = Int64[np.ndarray, "_T"]


class Timed(Protocol):
    """An action of a video: when, and task -> class. For a task without a class nothing happens."""

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


class Stretch(NamedTuple):
    """Frames `[start, stop)` of one label."""

    label: int
    start: int
    stop: int


class Counts(NamedTuple):
    """Of segments: right ones, wrong ones, and true ones that were not found. Of several videos they are added."""

    right: int
    wrong: int
    missed: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where there is nothing to be found and nothing was."""
        whole = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / whole if whole else float("nan")


def frame_labels(segments: Sequence[tuple[int, float, float]], *, num_frames: int, fps: float) -> Labels:
    """Labels of frames from segments.

    Args:
        segments: (label, start_s, stop_s); of what overlaps the later counts.
        num_frames: Of the video.
        fps: Frames per second. A frame has the label of its middle.
    """
    middles_s = (np.arange(num_frames) + 0.5) / fps
    labels = np.full(num_frames, NOTHING, dtype=np.int64)
    for label, start_s, stop_s in segments:
        first, last = np.searchsorted(middles_s, [start_s, stop_s])
        labels[first:last] = label
    return labels


def stretches(labels: Labels) -> list[Stretch]:
    """Frames of one label behind each other, as segments; without those in which nothing happens."""
    bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    found = [Stretch(int(labels[a]), a, b) for a, b in pairwise(bounds) if b > a]
    return [stretch for stretch in found if stretch.label != NOTHING]


def edit_score(true: Labels, found: Labels) -> float:
    """Whether the same segments follow each other: 1 where they do. NaN where there are none.

    Example:
        >>> a, b = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 2, 2])
        >>> round(edit_score(a, b), 3)
        0.667
    """
    one, other = ([stretch.label for stretch in stretches(labels)] for labels in (true, found))
    if not one and not other:
        return float("nan")
    # Levenshtein: a row of the table at a time.
    row = list(range(len(other) + 1))
    for i, label in enumerate(one, start=1):
        above, row = row, [i]
        for j, answer in enumerate(other, start=1):
            row.append(above[j - 1] if label == answer else 1 + min(above[j], above[j - 1], row[j - 1]))
    return 1 - row[-1] / max(len(one), len(other))


def overlap_counts(true: Labels, found: Labels, overlap: float) -> Counts:
    """Segments that were found, at a least overlap (intersection over union).

    Example:
        >>> a, b = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 1, 1])
        >>> overlap_counts(a, b, 0.5), overlap_counts(a, b, 0.6)
        (Counts(right=2, wrong=0, missed=0), Counts(right=1, wrong=1, missed=1))
    """
    wanted, answers = stretches(true), stretches(found)
    matched = [False] * len(wanted)
    for answer in answers:
        shares = [_overlap(answer, one) for one in wanted]
        best = max(range(len(wanted)), key=shares.__getitem__, default=None)
        if best is not None and shares[best] >= overlap and not matched[best]:
            matched[best] = True
    right = sum(matched)
    return Counts(right=right, wrong=len(answers) - right, missed=len(wanted) - right)


def timeline_scores(
    true: Sequence[Timed], found: Sequence[Timed], heads: Heads, *, num_frames: int, fps: float
) -> dict[str, dict[str, Any]]:
    """Task -> what `segment_scores` says; of several tasks also under `joint`, where all of them have to be right.

    Args:
        true: Actions that are in the video.
        found: Actions that were found.
        heads: Task -> class names, without one that stands for nothing.
        num_frames: Of the video.
        fps: Frames per second.
    """
    tasks = {task: (task,) for task in heads} | ({JOINT: tuple(heads)} if len(heads) > 1 else {})
    scores = {}
    for name, of in tasks.items():
        numbers: dict[tuple[str | None, ...], int] = {(None,) * len(of): NOTHING}
        both = []
        for segments in (true, found):
            keys = [tuple(one.labels.get(task) for task in of) for one in segments]
            rows = [
                (numbers.setdefault(key, len(numbers) - 1), one.start_s, one.stop_s)
                for key, one in zip(keys, segments, strict=True)
            ]
            both.append(frame_labels(rows, num_frames=num_frames, fps=fps))
        num_classes = math.prod(len(heads[task]) for task in of)
        scores[name] = segment_scores(*both, num_classes=num_classes)
    return scores


def segment_scores(true: Labels, found: Labels, *, num_classes: int) -> dict[str, Any]:
    """All numbers about one video.

    Args:
        true: Labels of its frames.
        found: Answers of the same frames.
        num_classes: That can be answered, beside that nothing happens.

    Returns:
        `accuracy` over all frames and `action_accuracy` over those in which something happens; `edit`; `f1`: per cent
        of overlap -> score; `chance`: of guessing among all classes and nothing; `majority` and `action_majority`: of
        always giving the answer that is right most often; numbers of frames and segments.
    """
    acts = true != NOTHING
    return {
        "accuracy": _share(true == found),
        "action_accuracy": _share(true[acts] == found[acts]),
        "edit": edit_score(true, found),
        "f1": {f"{round(100 * overlap)}": overlap_counts(true, found, overlap).f1 for overlap in OVERLAPS},
        "chance": 1 / (num_classes + 1),
        "majority": _commonest(true),
        "action_majority": _commonest(true[acts]),
        "num_frames": len(true),
        "num_action_frames": int(acts.sum()),
        "num_segments": {"true": len(stretches(true)), "found": len(stretches(found))},
    }


def _overlap(one: Stretch, other: Stretch) -> float:
    if one.label != other.label:
        return 0.0
    both = min(one.stop, other.stop) - max(one.start, other.start)
    return max(0, both) / (max(one.stop, other.stop) - min(one.start, other.start))


def _commonest(labels: Labels) -> float:
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels)) if len(labels) else float("nan")


def _share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")
