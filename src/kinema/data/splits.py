"""Cutting the training split by whole groups: a validation split out of it, or a part of it to train on."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kinema.types import Clip, ConfigError, Dataset, Split

Label = tuple[str, int]  # task, class index
LabelCounts = tuple[tuple[int, int], ...]  # number of a label in the data set, clips that have it


def cut_validation(dataset: Dataset, share: float, *, seed: int) -> Dataset:
    """Turn whole groups of training clips into the validation split.

    Groups are taken so that each class comes as near to `share` as whole groups allow and no class loses all of
    its training clips where that can be avoided. For clips without a group, the video is the group; groups that
    have clips of the same video are taken or left together. At least one group is taken, and at least one is left.

    Args:
        dataset: A data set. If it has a validation split of its own, that one stays, and a note says so.
        share: Wanted share of the training clips, above 0 and below 1.
        seed: Chooses among groups that would do equally well.

    Returns:
        The data set with both splits, their clips in the order they had, and a note that says what was cut.

    Raises:
        ConfigError: There are fewer than two groups to share out.
    """
    if dataset.splits.get("validation"):
        note = "data.validation is not used: the data set has a validation split of its own"
        return replace(dataset, notes=(*dataset.notes, note))
    cut = _cut(dataset, share, seed=seed, key="data.validation")
    splits: dict[Split, tuple[Clip, ...]] = {"train": cut.kept, "validation": cut.taken}
    if "test" in dataset.splits:
        splits["test"] = dataset.splits["test"]
    num_clips = len(cut.kept) + len(cut.taken)
    note = f"validation split: {len(cut.taken)} of {num_clips} training clips, {cut.num_taken} of {cut.words}"
    note += _without(dataset, cut.kept)
    # Clips that are absent are in no group that could be cut; they stay counted with the training split.
    return replace(dataset, splits=splits, notes=(*dataset.notes, note))


def take_fraction(dataset: Dataset, share: float, *, seed: int) -> Dataset:
    """Keep a part of the training clips, chosen like a validation split: whole groups, and `share` of each class as
    nearly as they allow.

    Args:
        dataset: The other splits of it stay as they are.
        share: Wanted share of the training clips, above 0 and below 1.
        seed: Chooses among groups that would do equally well.

    Returns:
        The data set with fewer training clips, in the order they had, and a note that says how many.

    Raises:
        ConfigError: There are fewer than two groups to choose from.
    """
    cut = _cut(dataset, share, seed=seed, key="data.fraction")
    num_clips = len(cut.kept) + len(cut.taken)
    note = f"data.fraction: {len(cut.taken)} of {num_clips} training clips are used, {cut.num_taken} of {cut.words}"
    splits = {split: cut.taken if split == "train" else clips for split, clips in dataset.splits.items()}
    return replace(dataset, splits=splits, notes=(*dataset.notes, note + _without(dataset, cut.taken)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Training clips in two parts that share no group and no video.

    Attributes:
        kept: Those that stay in the training split.
        taken: The others.
        num_groups: How many groups there were.
        num_taken: How many were taken.
        words: The groups in words, and what is to be known about them.
    """

    kept: tuple[Clip, ...]
    taken: tuple[Clip, ...]
    num_groups: int
    num_taken: int
    words: str


def _cut(dataset: Dataset, share: float, *, seed: int, key: str) -> _Cut:
    assert 0 < share < 1, share
    clips = dataset.splits.get("train", ())
    groups = _groups(clips)
    num_ungrouped = sum(clip.group is None for clip in clips)
    by = "video" if num_ungrouped == len(clips) else dataset.group_name or "group"
    if len(groups) < 2:
        off = 0 if key == "data.validation" else 1
        raise ConfigError(
            f"{key}: all {len(clips)} training clips are of one {by}, and a split takes whole groups; "
            f"set it to {off}, or give clips a finer group"
        )
    # What is left over of a fraction is not used: only the rest beside a validation split has to keep its classes.
    chosen = _choose(groups, _count(clips), share * len(clips), seed=seed, spare_classes=key == "data.validation")
    taken_ids = {clip.clip_id for name in chosen for clip in groups[name]}
    kept = tuple(clip for clip in clips if clip.clip_id not in taken_ids)
    words = f"{len(groups)} groups{'' if by == 'group' else f' by {by}'}"
    if num_ungrouped:
        words += f"; training clips without a group: {num_ungrouped}, each video counts as one"
    return _Cut(
        kept=kept,
        taken=tuple(clip for clip in clips if clip.clip_id in taken_ids),
        num_groups=len(groups),
        num_taken=len(chosen),
        words=words,
    )


def _without(dataset: Dataset, clips: Sequence[Clip]) -> str:
    """What is to be said about classes that had training clips and have none among these, or nothing."""
    lost = _count(dataset.splits["train"]).keys() - _count(clips).keys()
    names = sorted(dataset.classes[task][index] for task, index in lost)
    return f"; classes left without a training clip: {len(names)}, such as {names[0]!r}" if names else ""


def _groups(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Clips that have to stay together: of one group, of one video, or connected through others of them."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    # The prefix keeps the two kinds of names apart.
    names = [(f"video {clip.video}", None if clip.group is None else f"group {clip.group}") for clip in clips]
    for video, group in names:
        if group is not None:
            parents[root(video)] = root(group)
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip, (video, _) in zip(clips, names, strict=True):
        groups[root(video)].append(clip)
    return groups


def _count(clips: Sequence[Clip]) -> Counter[Label]:
    return Counter(label for clip in clips for label in clip.labels.items())


def _choose(
    groups: Mapping[str, list[Clip]],
    totals: Mapping[Label, int],
    num_wanted: float,
    *,
    seed: int,
    spare_classes: bool,
) -> list[str]:
    """Names of the groups to cut, best first.

    The cost of a choice is the sum over classes of (clips taken - clips wanted)^2 / clips wanted. Each step takes
    the group that lowers it most per clip: many small groups say more about a class than one large one. What a group
    saves only shrinks as others are taken, so a stale entry of the
    heap is never too high, and one that is still smallest after it was brought up to date is the smallest of all.
    With `spare_classes`, groups that hold all that is left of a class come last.
    """
    share = num_wanted / sum(len(clips) for clips in groups.values())
    # Plain lists and small integers instead of counters: with a kind per pair of verb and noun, `cost` is called
    # millions of times.
    numbers = {label: number for number, label in enumerate(totals)}
    available = list(totals.values())
    wanted = [share * num for num in available]
    taken = [0] * len(available)

    def cost(labels: LabelCounts, size: int) -> tuple[int, float]:
        num_lost, added = 0, 0.0
        for label, num in labels:
            num_lost += spare_classes and taken[label] + num == available[label]
            added += num * (2 * (taken[label] - wanted[label]) + num) / wanted[label]
        return num_lost, added / size

    # Groups with the same labels and size are as good as each other: one entry of the heap stands for all of them.
    names = sorted(groups)  # in whatever order a disk gave them
    np.random.default_rng(seed).shuffle(names)
    alike: dict[tuple[int, LabelCounts], list[str]] = defaultdict(list)
    for name in names:
        labels = tuple(sorted((numbers[label], num) for label, num in _count(groups[name]).items()))
        alike[len(groups[name]), labels].append(name)
    kinds = [(size, labels, members) for (size, labels), members in alike.items()]
    heap = [(*cost(labels, size), kind) for kind, (size, labels, _) in enumerate(kinds)]
    heapq.heapify(heap)
    chosen: list[str] = []
    num_taken = 0
    while heap and num_taken < num_wanted and len(chosen) < len(groups) - 1:
        *_, kind = heapq.heappop(heap)
        size, labels, members = kinds[kind]
        if size > 2 * (num_wanted - num_taken):  # it would end further above what is wanted than it is below now
            continue
        entry = (*cost(labels, size), kind)
        if heap and entry > heap[0]:
            heapq.heappush(heap, entry)
            continue
        chosen.append(members.pop())
        num_taken += size
        for label, num in labels:
            taken[label] += num
        if members:
            heapq.heappush(heap, (*cost(labels, size), kind))
    if not chosen:  # every group is larger than what is wanted
        _, _, kind = min((size, cost(labels, size), kind) for kind, (size, labels, _) in enumerate(kinds))
        chosen.append(kinds[kind][2].pop())
    return chosen
