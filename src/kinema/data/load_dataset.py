"""From the `data:` section of a recipe to checked splits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from kinema import registry
from kinema.data.background import with_background
from kinema.data.class_maps import read_class_map, rename_classes
from kinema.data.download.download import ensure
from kinema.data.folds import hold_out
from kinema.data.quarantine import default_file, with_quarantine
from kinema.data.splits import cut_validation, take_fraction
from kinema.progress import SILENT, Reporter
from kinema.sections import DataSection
from kinema.types import SPLITS, Clip, ConfigError, DataError, Dataset, NothingThereError, Split


def load_dataset(
    section: DataSection, *, seed: int, for_training: bool = True, some_there: bool = True, reporter: Reporter = SILENT
) -> Dataset:
    """List the clips of a data set, rename classes, take a part of the training clips and cut a validation split where
    the recipe asks for it, and check the result.

    Args:
        section: The `data:` section of a resolved recipe.
        seed: Of both cuts.
        for_training: Whether there have to be training clips. Without them, nothing is cut.
        some_there: Whether any clip has to be there. Otherwise a data set may come back that is only listed.
        reporter: Where to show progress, should the data be fetched first (`data.download`).

    Returns:
        A data set in which clip identifiers are unique and labels in range. Its notes say whether anything straddles
        splits, and its quarantine which videos are not to be used.

    Raises:
        ConfigError: A setting of the section is missing or impossible.
        DataError: What `data.root` names is missing or wrong.
    """
    entry = registry.entry("dataset", section.name, key="data.name")
    if section.download:
        ensure(section, reporter=reporter)
    try:
        dataset: Dataset = entry.load()(section.root, **section.arguments())
    except NothingThereError as error:
        if some_there:
            raise
        dataset = error.dataset
    place = section.name if section.root is None else str(section.root)
    if for_training and not dataset.splits.get("train"):
        there = ", ".join(f"{split} {len(clips)}" for split, clips in dataset.splits.items()) or "none at all"
        raise DataError(f"{place}: no training clip is there (clips by split: {there})")
    _check(dataset, place)
    # A split that the data set does not have is absent; a data set of somebody else's may have an empty one.
    dataset = replace(dataset, splits={split: clips for split, clips in dataset.splits.items() if clips})
    if section.class_map:
        whole = isinstance(section.class_map, dict)  # of a file, only what the data set has need apply
        dataset = rename_classes(dataset, read_class_map(section.class_map), some=not whole)
    if section.folds is not None:
        if getattr(section, "holdout", None):
            raise ConfigError("data.folds: data.holdout holds other clips out; set data.holdout=null")
        dataset = hold_out(dataset, section.folds)
    if section.fraction < 1 and "train" in dataset.splits:
        dataset = take_fraction(dataset, section.fraction, seed=seed)
    if section.validation > 0 and "train" in dataset.splits:
        dataset = cut_validation(dataset, section.validation, seed=seed)
    dataset = _quarantined(dataset, section)
    if section.background is not None:
        dataset = with_background(dataset, section.background)
    return replace(dataset, root=section.root, notes=(*dataset.notes, *_notes(dataset)))


def _quarantined(dataset: Dataset, section: DataSection) -> Dataset:
    if section.root is None:
        if section.quarantine is not None:
            raise ConfigError("data.quarantine: has no meaning without data.root")
        return dataset
    file = section.quarantine or default_file(section.root)
    if section.quarantine is not None and not file.is_file():
        raise ConfigError(f"data.quarantine: {file}: no such file; kinema data check writes it")
    return with_quarantine(dataset, section.root, file) if file.is_file() else dataset


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


def straddling(dataset: Dataset) -> dict[str, dict[str, set[Split]]]:
    """Groups, and videos, that have clips in more than one split: "groups" or "videos" -> name -> splits."""
    return {
        noun: {name: splits for name, splits in found.items() if len(splits) > 1}
        for noun, found in _places(dataset).items()
    }


def _places(dataset: Dataset) -> dict[str, dict[str, set[Split]]]:
    groups: dict[str, set[Split]] = defaultdict(set)
    videos: dict[str, set[Split]] = defaultdict(set)
    for split, clips in dataset.splits.items():
        for clip in clips:
            videos[str(clip.video)].add(split)
            if clip.group is not None:
                groups[clip.group].add(split)
    return {"groups": groups, "videos": videos}


def _notes(dataset: Dataset) -> list[str]:
    notes = []
    for noun, found in _places(dataset).items():
        shared = [name for name, splits in found.items() if len(splits) > 1]
        if shared:
            notes.append(
                f"{len(shared)} of {len(found)} {noun} have clips in more than one split, such as {shared[0]!r}: "
                "results on them are better than on new data"
            )
    return notes
