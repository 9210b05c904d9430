"""Evaluated clips that the model may know from its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kinema.data.hashing import content_hash
from kinema.models.weights import TrainingFacts
from kinema.types import Clip, Split


def video_contents(clips: Sequence[Clip]) -> dict[Path, str | None]:
    """Video -> hash of its content; None where it cannot be read."""
    return {path: _content(path) for path in dict.fromkeys(clip.video for clip in clips)}


def leakage(
    clips: Sequence[Clip],
    split: Split,
    training: TrainingFacts,
    *,
    data: Mapping[str, Any],
    contents: Mapping[Path, str | None],
) -> dict[str, int] | None:
    """Count evaluated clips that share something with training clips.

    Args:
        clips: The evaluated clips.
        split: Which split they are. The training split of the data that were trained on is not looked at.
        training: Says what was trained on.
        data: The `data:` section that the clips come from. Names of groups are compared only where it says the same
            as the one trained with, but for what is cut from it: elsewhere the same name need not mean the same.
        contents: From `video_contents`.

    Returns:
        `same_video`, clips of a file with the content of a training video, and `same_group`, clips of a group of
        training clips; None for the training split.
    """
    same_data = is_same_source(training.data, data)
    if split == "train" and same_data:
        return None
    trained = set(training.contents)
    groups = set(training.groups) if same_data else set()
    return {
        "same_video": sum(contents.get(clip.video) in trained for clip in clips),
        "same_group": sum(clip.group in groups for clip in clips),
    }


def unknown_leakage(
    clips: Sequence[Clip], training: TrainingFacts, contents: Mapping[Path, str | None]
) -> dict[str, int]:
    """The same of clips of none of the classes. They come from a list of their own, so that groups are compared by
    their names alone.

    Args:
        clips: Of none of the classes.
        training: Says what was trained on.
        contents: From `video_contents`.
    """
    trained, groups = set(training.contents), set(training.groups)
    return {
        "same_video": sum(contents.get(clip.video) in trained for clip in clips),
        "same_group": sum(clip.group in groups for clip in clips),
    }


Evaluated = Literal["clips", "unknown clips"]

_SHARED: Mapping[Evaluated, tuple[str, str, str]] = {
    "clips": (
        "are of a video that was trained on",
        "are of a group that was trained on",
        "accuracy on them says little about new data",
    ),
    "unknown clips": (
        "are of a video that was trained on",
        "are of a group with the name of one that was trained on",
        "how they are told apart says little about what was never seen",
    ),
}


def leakage_findings(
    found: Mapping[str, int] | None, *, num_clips: int, of: Evaluated = "clips"
) -> list[dict[str, str]]:
    """What to say of it, as rows of `fault` and `message`.

    Args:
        found: From `leakage` or `unknown_leakage`.
        num_clips: That were evaluated.
        of: What they are.
    """
    same_video, same_group, consequence = _SHARED[of]
    return [
        {"fault": "leakage", "message": f"{found[key]:,} of {num_clips:,} {of} {shared}: {consequence}"}
        for key, shared in (("same_video", same_video), ("same_group", same_group))
        if found and found[key]
    ]


_ENOUGH = 300
"""Clips that are looked at to find out whether a data set is the one that was trained on, in another place."""

_CUTS = frozenset(
    {"validation", "fraction", "quarantine", "class_map", "download", "holdout", "where", "fold", "folds", "background"}
    | {"modality"}
)
"""Keys that change which clips are in which split, or what is seen of them, and not what they or their groups are
called."""


def is_same_source(trained: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether two `data:` sections list clips from the same place in the same way, however they split them."""
    keys = (trained.keys() | data.keys()) - _CUTS
    if trained.get("group") is None:  # groups are then named by the columns held out
        keys |= {"holdout"} & (trained.keys() | data.keys())
    return all(_plain(trained.get(key), key) == _plain(data.get(key), key) for key in keys)


def _plain(value: Any, key: str) -> Any:
    """Of `holdout`, the columns matter and not the values."""
    return sorted(value) if key == "holdout" and isinstance(value, Mapping) else value or None


def is_known(clips: Sequence[Clip], training: TrainingFacts) -> bool:
    """Whether a video of the first hundreds of these clips was trained on, by its content."""
    trained = set(training.contents)
    return any(_content(path) in trained for path in dict.fromkeys(clip.video for clip in clips[:_ENOUGH]))


def _content(path: Path) -> str | None:
    with suppress(OSError):
        return content_hash(path)
    return None
