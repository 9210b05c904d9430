"""From the `data:` section of a recipe to checked splits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from kinema import registry
from kinema.config import DataSection
from kinema.data.splits import cut_validation
from kinema.types import SPLITS, Clip, DataError, Dataset, Split


def load_dataset(section: DataSection, *, seed: int) -> Dataset:
    """List the clips of a data set, cut a validation split where the recipe asks for one, and check the result.

    Args:
        section: The `data:` section of a resolved recipe.
        seed: Of the cut.

    Returns:
        A data set in which clip identifiers are unique, labels are in range and the training split has clips. Its
        notes say whether anything straddles splits.

    Raises:
        ConfigError: A setting of the section is missing or impossible.
        DataError: What `data.root` names is missing or wrong.
    """
    entry = registry.entry("dataset", section.name, key="data.name")
    dataset: Dataset = entry.load()(section.root, **section.arguments())
    place = section.name if section.root is None else str(section.root)
    if not dataset.splits.get("train"):
        there = ", ".join(f"{split} {len(clips)}" for split, clips in dataset.splits.items()) or "none at all"
        raise DataError(f"{place}: no training clip is there (clips by split: {there})")
    _check(dataset, place)
    # A split that the data set does not have is absent; a data set of somebody else's may have an empty one.
    dataset = replace(dataset, splits={split: clips for split, clips in dataset.splits.items() if clips})
    if section.validation > 0:
        dataset = cut_validation(dataset, section.validation, seed=seed)
    return replace(dataset, notes=(*dataset.notes, *_straddling(dataset)))


def _check(dataset: Dataset, place: str) -> None:
    seen: set[str] = set()
    for split, clips in dataset.splits.items():
        if split not in SPLITS:
            raise DataError(f"{place}: the data set has a split {split!r}; splits are {', '.join(SPLITS)}")
        for clip in clips:
            if clip.clip_id in seen:
                raise DataError(f"{place}: two clips are called {clip.clip_id!r}; clip_id has to be unique")
            seen.add(clip.clip_id)
            _check_labels(clip, split, dataset, place)


def _check_labels(clip: Clip, split: Split, dataset: Dataset, place: str) -> None:
    for task, index in clip.labels.items():
        if task not in dataset.classes:
            raise DataError(f"{place}: clip {clip.clip_id!r} has a label for {task!r}, which has no class names")
        if not 0 <= index < len(dataset.classes[task]):
            raise DataError(
                f"{place}: clip {clip.clip_id!r} has label {index} for {task!r}, which has "
                f"{len(dataset.classes[task])} classes"
            )
    if split != "test" and clip.labels.keys() != dataset.classes.keys():
        missing = ", ".join(task for task in dataset.classes if task not in clip.labels)
        raise DataError(f"{place}: clip {clip.clip_id!r} of the {split} split has no label for {missing}")


def _straddling(dataset: Dataset) -> list[str]:
    """Notes about groups, and about videos without a group, that have clips in more than one split."""
    groups: dict[str, set[Split]] = defaultdict(set)
    videos: dict[str, set[Split]] = defaultdict(set)
    for split, clips in dataset.splits.items():
        for clip in clips:
            if clip.group is not None:
                groups[clip.group].add(split)
            else:
                videos[str(clip.video)].add(split)
    notes = []
    for found, noun in ((groups, "groups"), (videos, "videos without a group")):
        shared = [name for name, splits in found.items() if len(splits) > 1]
        if shared:
            notes.append(
                f"{len(shared)} of {len(found)} {noun} have clips in more than one split, such as {shared[0]!r}: "
                "results on them are better than on new data"
            )
    return notes
