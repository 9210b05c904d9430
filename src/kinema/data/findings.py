"""What is wrong with a data set, beyond what stops it from being listed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kinema.data.checking import Checked
from kinema.data.load_dataset import straddling
from kinema.data.quarantine import size_bytes
from kinema.data.sampling import clip_interval_s
from kinema.data.stored_flow import FOLDER, check_flow
from kinema.data.video import IMAGE, Video
from kinema.types import SPLITS, Clip, DataError, Dataset, Split

Finding = dict[str, Any]
"""JSON types: which clip, video, group or class, and what about it."""

KINDS = (
    "absent",
    "empty",
    "unreadable",
    "damaged",
    "times_outside",
    "too_short",
    "without_flow",
    "copies_across_splits",
    "copies_within_splits",
    "groups_across_splits",
    "videos_across_splits",
    "classes_without_training_clips",
)


def findings(dataset: Dataset, checked: Mapping[Path, Checked], *, min_frames: int) -> dict[str, list[Finding]]:
    """Everything that was found, by kind.

    Args:
        dataset: Any.
        checked: What a check found out about each of its videos.
        min_frames: Clips with fewer frames are too short. Still images never are.

    Returns:
        Every kind of `KINDS`, and what there is of it.
    """
    splits: dict[Path, set[Split]] = defaultdict(set)
    for split, clips in dataset.splits.items():
        for clip in clips:
            splits[clip.video].add(split)
    found: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    found["absent"] = [_of_clip(clip, split) for split in SPLITS for clip in dataset.absent.get(split, ())]
    for path, result in checked.items():
        about = {"video": str(path), "splits": _ordered(splits[path])}
        if result.error is not None:
            kind = "empty" if size_bytes(path) == 0 else "unreadable"
            found[kind].append({**about, "reason": result.error})
        elif result.damaged:
            found["damaged"].append(about)
    for split, clips in dataset.splits.items():
        for clip in clips:
            result = checked[clip.video]
            if result.error is None and result.video is not None:
                _look_at(clip, split, result.video, found, min_frames=min_frames)
    _find_copies(checked, splits, found)
    for noun, names in straddling(dataset).items():
        found[f"{noun}_across_splits"] = [
            {noun.removesuffix("s"): name, "splits": _ordered(places)} for name, places in names.items()
        ]
    found["classes_without_training_clips"] = _untrained(dataset)
    return found


def _look_at(clip: Clip, split: Split, video: Video, found: dict[str, list[Finding]], *, min_frames: int) -> None:
    try:
        start_s, stop_s = clip_interval_s(clip, video)
    except DataError as error:
        reason = str(error).removeprefix(f"{clip.video}: ")
        found["times_outside"].append({**_of_clip(clip, split), "reason": reason})
        return
    # On display in [start_s, stop_s): from the frame at its start to the last that comes before its end.
    first = int(video.frames_at(start_s))
    num_frames = int(np.searchsorted(video.times_s, stop_s, side="left")) - first
    if num_frames < min_frames and video.container != IMAGE:
        found["too_short"].append({**_of_clip(clip, split), "num_frames": num_frames})
    if FOLDER in clip.attributes:
        try:
            check_flow(clip, video)
        except DataError as error:
            found["without_flow"].append({**_of_clip(clip, split), "reason": str(error)})


def _find_copies(
    checked: Mapping[Path, Checked], splits: Mapping[Path, set[Split]], found: dict[str, list[Finding]]
) -> None:
    """One content in several files. A file that is itself in several splits is not a copy of anything."""
    copies: dict[str, list[Path]] = defaultdict(list)
    for path, result in checked.items():
        if result.error is None and result.content is not None:
            copies[result.content].append(path)
    for paths in copies.values():
        if len(paths) > 1:
            places = set().union(*(splits[path] for path in paths))
            kind = "copies_across_splits" if len(places) > 1 else "copies_within_splits"
            found[kind].append({"videos": [str(path) for path in paths], "splits": _ordered(places)})


def _untrained(dataset: Dataset) -> list[Finding]:
    """Classes without a training clip, unless there are no training clips at all."""
    if not dataset.splits.get("train"):
        return []
    trained = {label for clip in dataset.splits["train"] for label in clip.labels.items()}
    return [
        {"task": task, "class": name}
        for task, names in dataset.classes.items()
        for index, name in enumerate(names)
        if (task, index) not in trained
    ]


def _of_clip(clip: Clip, split: Split) -> Finding:
    return {"clip_id": clip.clip_id, "split": split, "video": str(clip.video)}


def _ordered(splits: set[Split]) -> list[str]:
    return [split for split in SPLITS if split in splits]
