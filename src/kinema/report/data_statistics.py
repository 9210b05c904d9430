"""The numbers about a data set: how many clips, of which classes, how long, in what files. Its page shows these and no
others, and `--json` gives them as they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinema.data.decoding import Video
from kinema.data.probing import Probed
from kinema.data.reading import clip_interval_s
from kinema.data.video import IMAGE
from kinema.report.class_balance import balance
from kinema.types import SPLITS, Clip, DataError, Dataset, Split

NUM_ROWS = 12
"""Rows of frame rates, frame sizes and codecs; what is rarer is counted together."""

_NUM_BINS = 24
_FAR = 1.5
"""Times the 99th percentile: up to there, a histogram shows the largest value in its place."""
_NUM_POINTS = 300
"""Frame sizes in the scatter plot, the commonest."""
_NUM_EXAMPLES = 20
"""Of the clips that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What probing says about the clips of a split that are there.

    Attributes:
        usable: Clip, its video, and its start and end inside it, seconds.
        unusable: Reason ("quarantine", "unreadable", "outside") -> (clip id, text).
    """

    usable: list[tuple[Clip, Video, float, float]] = field(default_factory=list)
    unusable: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {"quarantine": [], "unreadable": [], "outside": []}
    )


def sort_clips(clips: Iterable[Clip], probed: Mapping[Path, Probed], quarantine: Mapping[Path, str]) -> Found:
    """Which clips can be used, and why the others cannot: in quarantine, not readable, or times outside the video.

    Args:
        clips: Those of a split.
        probed: Every video that is not in quarantine.
        quarantine: Video -> why it is not to be used.
    """
    found = Found()
    for clip in clips:
        if clip.video in quarantine:
            found.unusable["quarantine"].append((clip.clip_id, quarantine[clip.video]))
            continue
        video = probed[clip.video]
        if isinstance(video, DataError):
            found.unusable["unreadable"].append((clip.clip_id, str(video)))
            continue
        try:
            found.usable.append((clip, video, *clip_interval_s(clip, video)))
        except DataError as error:
            found.unusable["outside"].append((clip.clip_id, str(error)))
    return found


def statistics(dataset: Dataset, found: Mapping[Split, Found]) -> dict[str, Any]:
    """All numbers about a data set, made of what JSON has.

    Args:
        dataset: As `load_dataset` gives it.
        found: Split -> what `sort_clips` said.
    """
    splits = [split for split in SPLITS if dataset.splits.get(split) or dataset.absent.get(split)]
    usable = {split: found[split].usable if split in found else [] for split in splits}
    durations = {
        split: np.array([stop_s - start_s for _, video, start_s, stop_s in usable[split] if not _is_still(video)])
        for split in splits
    }
    frames = {s: np.array([_num_frames(*row[1:]) for row in usable[s]], dtype=np.int64) for s in splits}
    hours = {split: math.fsum(values.tolist()) / 3600 for split, values in durations.items()}
    return {
        "group_name": dataset.group_name,
        "totals": {
            "num_listed": sum(dataset.num_listed.values()),
            "num_there": sum(len(dataset.splits.get(split, ())) for split in splits),
            "hours": math.fsum(hours.values()),
        },
        "classes": {task: list(names) for task, names in dataset.classes.items()},
        "splits": {split: _split(dataset, split, found.get(split, Found())) for split in splits},
        "tasks": {task: {split: _labels(dataset, usable, split, task) for split in splits} for task in dataset.classes},
        "clips": {
            "duration_s": _measured(durations),
            "num_frames": _measured(frames),
            "hours": hours,
        },
        "videos": _videos({s: {row[1].path: row[1] for row in usable[s]} for s in splits}),
        "notes": list(dataset.notes),
    }


def _split(dataset: Dataset, split: Split, found: Found) -> dict[str, Any]:
    there, absent = dataset.splits.get(split, ()), dataset.absent.get(split, ())
    unusable = found.unusable
    return {
        "num_listed": len(there) + len(absent),
        "num_there": len(there),
        "num_absent": len(absent),
        "num_usable": len(found.usable),
        "num_in_quarantine": len(unusable["quarantine"]),
        "num_unreadable": len(unusable["unreadable"]),
        "num_outside_video": len(unusable["outside"]),
        "num_unlabelled": sum(not clip.labels for clip in (*there, *absent)),
        "num_videos": len({clip.video for clip in there}),
        "num_videos_listed": len({clip.video for clip in (*there, *absent)}),
        "num_groups": len({clip.group for clip in there} - {None}),
        "num_groups_listed": len({clip.group for clip in (*there, *absent)} - {None}),
        "num_of_unseen_groups": sum(clip.group in dataset.unseen_groups for clip in there),
        "unusable": [
            {"clip_id": clip_id, "reason": text} for rows in unusable.values() for clip_id, text in rows[:_NUM_EXAMPLES]
        ][:_NUM_EXAMPLES],
    }


def _labels(
    dataset: Dataset, usable: Mapping[Split, Sequence[tuple[Clip, Video, float, float]]], split: Split, task: str
) -> dict[str, Any]:
    """Counts and balance of a task's classes: of the clips that are listed, and of those that are there. The majority
    baseline of those that are there is of those that can be used, in both splits, as it is in an evaluation."""
    names = dataset.classes[task]
    found: dict[str, Any] = {}
    for key in ("listed", "there"):
        counts = _counts(_clips(dataset, split, key), names, task)
        total = sum(counts)
        training, answered = _counts(_clips(dataset, "train", key), names, task), counts
        if key == "there":
            training, answered = (
                _counts((row[0] for row in usable.get(of, ())), names, task) for of in ("train", split)
            )
        rare = dataset.tail.get(task)
        num_rare = None if rare is None else sum(counts[label] for label in rare)
        found[key] = {
            "counts": counts,
            **balance(counts, names),
            "majority_baseline": _majority_baseline(training, answered),
            "num_rare_classes": None if rare is None else len(rare),
            "num_clips_of_rare_classes": num_rare,
            "rare_share": num_rare / total if total and num_rare is not None else None,
        }
    return found


def _majority_baseline(training: Sequence[int], counts: Sequence[int]) -> float | None:
    """Share of the clips that are of the class that is the commonest of the training clips, the first of several."""
    return counts[int(np.argmax(training))] / sum(counts) if sum(counts) and sum(training) else None


def _clips(dataset: Dataset, split: Split, which: str) -> Sequence[Clip]:
    clips = dataset.splits.get(split, ())
    return (*clips, *dataset.absent.get(split, ())) if which == "listed" else clips


def _counts(clips: Iterable[Clip], names: Sequence[str], task: str) -> list[int]:
    labels = [clip.labels[task] for clip in clips if task in clip.labels]
    counts: list[int] = np.bincount(np.array(labels, dtype=np.int64), minlength=len(names)).tolist()
    return counts


def _num_frames(video: Video, start_s: float, stop_s: float) -> int:
    """Frames on display during [start_s, stop_s)."""
    first = int(video.frames_at(start_s))
    return max(int(np.searchsorted(video.times_s, stop_s, side="left")) - first, 1)


def _is_still(video: Video) -> bool:
    """Whether it is an image, which has neither a duration nor a rate of its own."""
    return video.container == IMAGE


def _measured(values: Mapping[Split, NDArray[Any]]) -> dict[str, Any]:
    """Spread and histogram of something, by split."""
    return {
        "spread": {split: spread(of_split) for split, of_split in values.items()},
        "histogram": histogram(values),
    }


def spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Smallest, quartiles, 95th percentile, largest and mean; None of nothing."""
    if not len(values):
        return None
    names = ("min", "q1", "median", "q3", "p95", "max")
    found = np.quantile(values, (0, 0.25, 0.5, 0.75, 0.95, 1)).tolist()
    return {**dict(zip(names, found, strict=True)), "mean": math.fsum(values.tolist()) / len(values)}


def histogram(values: Mapping[Split, NDArray[Any]]) -> dict[str, Any] | None:
    """Histograms over the same bins: `edges`, ascending, and by split `counts`, one per bin.

    The bins are of a round width. They end behind the largest value, or, where that is far away, behind the 99th
    percentile; what is larger is counted in `above`. Whole numbers have bins of whole numbers.

    Args:
        values: Split -> numbers above 0. None if there are none at all.
    """
    everything = np.concatenate(list(values.values())) if values else np.array([])
    if not len(everything):
        return None
    low, high, highest = (float(value) for value in np.quantile(everything, (0, 0.99, 1)))
    if highest < _FAR * high:
        high = highest
    # Where values are nearly the same, their small differences are of no interest.
    if high - low < 0.1 * high or low < 0.5 * high:
        low = 0.0
    step = round_step((high - low) / _NUM_BINS)
    if np.issubdtype(everything.dtype, np.integer):
        step = max(step, 1.0)
    first = math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) + 1
    # Of a whole-numbered multiple and a round step, so that an edge is the decimal that people read.
    edges = [float(f"{i * step:.9g}") for i in range(first, last + 1)]
    found: dict[str, Any] = {"edges": edges, "counts": {}, "above": {}}
    for split, of_split in values.items():
        # What lies a rounding error below the first edge belongs to the first bin.
        place = np.maximum(np.searchsorted(edges, of_split, side="right") - 1, 0)
        inside = place[place < len(edges) - 1]
        found["counts"][split] = np.bincount(inside, minlength=len(edges) - 1).tolist()
        found["above"][split] = len(place) - len(inside)
    return found


def round_step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) that is next above."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _videos(videos: Mapping[Split, Mapping[Path, Video]]) -> dict[str, Any]:
    """About files, each counted once; `splits` counts it in every split that has a clip of it. Hours and rates are
    those of videos that are not still images."""
    together: dict[Path, Video] = {}
    for of_split in videos.values():
        together |= of_split
    sizes = {path: (video.width_px, video.height_px) for path, video in together.items()}
    moving = {split: {p: v for p, v in found.items() if not _is_still(v)} for split, found in videos.items()}
    rates = {path: video.fps for found in moving.values() for path, video in found.items()}
    return {
        "num_videos": len(together),
        "num_still_images": len(together) - len(rates),
        "hours": math.fsum(together[path].duration_s for path in rates) / 3600,
        "num_damaged": sum(video.damaged for video in together.values()),
        "num_rotated": sum(video.rotation_deg != 0 for video in together.values()),
        "fps": {
            "spread": spread(np.array(list(rates.values()))),
            "histogram": histogram({s: np.array([video.fps for video in of.values()]) for s, of in moving.items()}),
            **_table(moving, {path: (round(fps, 2),) for path, fps in rates.items()}),
        },
        "size_px": {
            "width": spread(np.array([video.width_px for video in together.values()])),
            "height": spread(np.array([video.height_px for video in together.values()])),
            "points": [[*size, num] for size, num in Counter(sizes.values()).most_common(_NUM_POINTS)],
            **_table(videos, sizes),
        },
        "codec": _table(videos, {path: (video.codec, video.container) for path, video in together.items()}),
    }


def _table(videos: Mapping[Split, Mapping[Path, Video]], values: Mapping[Path, tuple[Any, ...]]) -> dict[str, Any]:
    """How many videos have each value, the commonest first."""
    counts = Counter(values.values())
    by_split = {split: Counter(values[path] for path in found) for split, found in videos.items()}
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    rows = [
        {
            "value": list(value),
            "num_videos": counts[value],
            "splits": {split: found[value] for split, found in by_split.items()},
        }
        for value in ordered[:NUM_ROWS]
    ]
    rest = ordered[NUM_ROWS:]
    return {
        "num_values": len(counts),
        "rows": rows,
        "others": {
            "num_values": len(rest),
            "num_videos": sum(counts[value] for value in rest),
            "splits": {split: sum(found[value] for value in rest) for split, found in by_split.items()},
        },
    }
