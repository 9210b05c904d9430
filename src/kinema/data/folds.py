"""Folds of a cross-validation: clips shared out by whole groups, one part held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kinema.data.listing import hint, natural_key
from kinema.sections import FoldSection
from kinema.types import Clip, ConfigError, Dataset, Split

GROUP = "group"


def parts_of(dataset: Dataset, section: FoldSection) -> list[tuple[str, ...]]:
    """The groups of each part, in the order of the parts.

    Args:
        dataset: Whose clips are shared out.
        section: By what, and into how many; `fold` is not looked at.

    Raises:
        ConfigError: There is no such column, clips say nothing there, or there are too few groups.
    """
    by_group = _by_group(_pool(dataset), section)
    names = sorted(by_group, key=natural_key)
    if len(names) < 2:
        raise ConfigError(f"data.folds.by: all clips are of one {_by(section)}; nothing would be left to train on")
    if section.k is None:
        return [(name,) for name in names]
    if section.k > len(names):
        raise ConfigError(f"data.folds.k: {section.k} parts of {len(names)} groups cannot be made; leave it out")
    return _dealt({name: by_group[name] for name in names}, section.k, seed=section.seed)


def divided(dataset: Dataset, section: FoldSection) -> list[str]:
    """Groups of the data set's own that have clips in more than one part: what is learned of one helps with another."""
    part_of = {name: number for number, part in enumerate(parts_of(dataset, section)) for name in part}
    pool = _pool(dataset)
    places: dict[str, set[int]] = defaultdict(set)
    for clip, name in zip(pool, _names(pool, section), strict=True):
        if clip.group is not None:
            places[clip.group].add(part_of[name])
    return [group for group, parts in places.items() if len(parts) > 1]


def hold_out(dataset: Dataset, section: FoldSection) -> Dataset:
    """Make one part of the clips the test split, and all others the training split.

    Clips of a test split that the data set has take no part: it never selects anything, and the mean over folds is
    mostly what something is selected by. A validation split is dissolved.

    Raises:
        ConfigError: See `parts_of`; or there is no such part.
    """
    parts = parts_of(dataset, section)
    if section.fold >= len(parts):
        raise ConfigError(f"data.folds.fold: {section.fold} is not among the {len(parts)} parts, which count from 0")
    pool = _pool(dataset)
    held = set(parts[section.fold])
    splits: dict[Split, list[Clip]] = {"train": [], "test": []}
    for number, (clip, name) in enumerate(zip(pool, _names(pool, section), strict=True)):
        numbered = replace(clip, number=number, group=name if clip.group is None else clip.group)
        splits["test" if name in held else "train"].append(numbered)
    note = f"data.folds: part {section.fold + 1} of {len(parts)} is held out, {fold_name(section, parts[section.fold])}"
    note += f" ({len(splits['test'])} of {len(pool)} clips)"
    if num := len(dataset.splits.get("test", ())):
        note += f"; {num} clips of the test split take no part"
    return replace(
        dataset,
        splits={split: tuple(clips) for split, clips in splits.items()},
        group_name=dataset.group_name or _by(section),
        absent={split: clips for split, clips in dataset.absent.items() if split != "test"},
        notes=(*dataset.notes, note),
    )


def fold_name(section: FoldSection, groups: Sequence[str]) -> str:
    """A part in words: `sequence 3`, or `part 2 (7 groups)`."""
    if section.k is None:
        return f"{_by(section)} {groups[0]}"
    return f"part {section.fold + 1} of {section.k} by {_by(section)}, {len(groups)} groups"


def _by(section: FoldSection) -> str:
    return section.by if isinstance(section.by, str) else "/".join(section.by)


def _pool(dataset: Dataset) -> list[Clip]:
    used: tuple[Split, ...] = ("train", "validation")
    return [clip for split in used for clip in dataset.splits.get(split, ())]


def _names(clips: Sequence[Clip], section: FoldSection) -> list[str]:
    columns = (section.by,) if isinstance(section.by, str) else section.by
    return ["/".join(_value(clip, column) for column in columns) for clip in clips]


def _value(clip: Clip, column: str) -> str:
    if column == GROUP and clip.group is not None:
        return clip.group
    value = clip.attributes.get(column)
    if value is None and column == GROUP:
        raise ConfigError(
            f"data.folds.by: clip {clip.clip_id!r} has no group; name a column ({', '.join(clip.attributes) or 'none'})"
        )
    if value is None:
        known = [*clip.attributes, GROUP]
        raise ConfigError(f"data.folds.by: the data set has no column {column!r}{hint(column, known)}")
    if not value:
        raise ConfigError(f"data.folds.by: clip {clip.clip_id!r} says nothing in column {column!r}")
    return value


def _by_group(pool: Sequence[Clip], section: FoldSection) -> dict[str, list[Clip]]:
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip, name in zip(pool, _names(pool, section), strict=True):
        found[name].append(clip)
    return found


def _dealt(groups: Mapping[str, Sequence[Clip]], k: int, *, seed: int) -> list[tuple[str, ...]]:
    """Groups in k parts. The largest come first; each goes where it brings the classes nearest to equal shares."""
    order = list(groups)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda name: -len(groups[name]))
    labels = sorted({label for clips in groups.values() for clip in clips for label in clip.labels.items()})
    column = {label: place for place, label in enumerate(labels)}
    counts = {name: np.zeros(len(labels) + 1) for name in order}
    for name, clips in groups.items():
        counts[name][-1] = len(clips)  # the size of a part counts as a class does
        for clip in clips:
            for label in clip.labels.items():
                counts[name][column[label]] += 1
    wanted = sum(counts.values()) / k
    taken = np.zeros((k, len(labels) + 1))
    parts: list[list[str]] = [[] for _ in range(k)]
    for place, name in enumerate(order):
        left = len(order) - place
        empty = [part for part in range(k) if not parts[part]]
        # No part stays empty: the last groups are kept for those that have none.
        choice = empty if len(empty) == left else range(k)
        costs = {p: float((counts[name] * (2 * (taken[p] - wanted) + counts[name]) / wanted).sum()) for p in choice}
        best = min(costs, key=lambda part: costs[part])
        taken[best] += counts[name]
        parts[best].append(name)
    return [tuple(sorted(part, key=natural_key)) for part in parts]
