"""Cutting a validation split out of the training split."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kinema.types import Clip, ConfigError, Dataset, Split

Label = tuple[str, int]  # task, class index
LabelCounts = tuple[tuple[int, int], ...]  # number of a label in the data set, clips that have it


def cut_validation(dataset: Dataset, share: float, *, seed: int) -> Dataset:
    """Turn whole groups of training clips into the validation split.

    Groups are taken so that each class comes as near to `share` as whole groups allow and no class loses all of
    its training clips where that can be avoided. For clips without a group, the video is the group. At least one
    group is taken, and at least one is left.

    Args:
        dataset: A data set without a validation split.
        share: Wanted share of the training clips, above 0 and below 1.
        seed: Chooses among groups that would do equally well.

    Returns:
        The data set with both splits, their clips in the order they had, and a note that says what was cut.

    Raises:
        ConfigError: There is a validation split already, or fewer than two groups to share out.
    """
    assert 0 < share < 1, share
    if dataset.splits.get("validation"):
        raise ConfigError("data.validation: the data set has a validation split of its own; set it to 0")
    clips = dataset.splits.get("train", ())
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        # The prefix keeps the two kinds of names apart.
        groups[f"video {clip.video}" if clip.group is None else f"group {clip.group}"].append(clip)
    num_ungrouped = sum(clip.group is None for clip in clips)
    by = "video" if num_ungrouped == len(clips) else dataset.group_name or "group"
    if len(groups) < 2:
        raise ConfigError(
            f"data.validation: all {len(clips)} training clips are of one {by}, and a split takes whole groups; "
            "set it to 0, or give clips a finer group"
        )
    totals = _count(list(clips))
    chosen = _choose(groups, totals, share * len(clips), seed=seed)
    validation_ids = {clip.clip_id for key in chosen for clip in groups[key]}
    validation = tuple(clip for clip in clips if clip.clip_id in validation_ids)
    train = tuple(clip for clip in clips if clip.clip_id not in validation_ids)
    splits: dict[Split, tuple[Clip, ...]] = {"train": train, "validation": validation}
    if "test" in dataset.splits:
        splits["test"] = dataset.splits["test"]
    num_listed = dict(dataset.num_listed)
    if "train" in num_listed:
        # Clips that are absent are in no group that could be cut; they stay counted with the training split.
        num_listed["train"] -= len(validation)
        num_listed["validation"] = len(validation)
    note = (
        f"validation split: {len(validation)} of {len(clips)} training clips, {len(chosen)} of {len(groups)} "
        f"groups{'' if by == 'group' else f' by {by}'}"
    )
    if num_ungrouped:
        note += f"; training clips without a group: {num_ungrouped}, each video counts as one"
    lost = totals.keys() - _count(list(train)).keys()
    if lost:
        names = sorted(dataset.classes[task][index] for task, index in lost)
        note += f"; classes left without a training clip: {len(names)}, such as {names[0]!r}"
    return replace(dataset, splits=splits, num_listed=num_listed, notes=(*dataset.notes, note))


def _count(clips: list[Clip]) -> Counter[Label]:
    return Counter(label for clip in clips for label in clip.labels.items())


def _choose(
    groups: Mapping[str, list[Clip]], totals: Mapping[Label, int], num_wanted: float, *, seed: int
) -> list[str]:
    """Names of the groups to cut, best first.

    The cost of a choice is the sum over classes of (clips taken - clips wanted)^2 / clips wanted. Each step takes
    the group that lowers it most. What a group saves only shrinks as others are taken, so a stale entry of the
    heap is never too high, and one that is still smallest after it was brought up to date is the smallest of all.
    """
    share = num_wanted / sum(len(clips) for clips in groups.values())
    # Plain lists and small integers instead of counters: with a kind per pair of verb and noun, `cost` is called
    # millions of times.
    numbers = {label: number for number, label in enumerate(totals)}
    available = list(totals.values())
    wanted = [share * num for num in available]
    taken = [0] * len(available)

    def cost(labels: LabelCounts) -> tuple[int, float]:
        num_lost, added = 0, 0.0
        for label, num in labels:
            num_lost += taken[label] + num == available[label]
            added += num * (2 * (taken[label] - wanted[label]) + num) / wanted[label]
        return num_lost, added

    # Groups with the same labels and size are as good as each other: one entry of the heap stands for all of them.
    names = list(groups)
    np.random.default_rng(seed).shuffle(names)
    alike: dict[tuple[int, LabelCounts], list[str]] = defaultdict(list)
    for name in names:
        labels = tuple(sorted((numbers[label], num) for label, num in _count(groups[name]).items()))
        alike[len(groups[name]), labels].append(name)
    kinds = [(size, labels, members) for (size, labels), members in alike.items()]
    heap = [(*cost(labels), kind) for kind, (_, labels, _) in enumerate(kinds)]
    heapq.heapify(heap)
    chosen: list[str] = []
    num_taken = 0
    while heap and num_taken < num_wanted and len(chosen) < len(groups) - 1:
        *_, kind = heapq.heappop(heap)
        size, labels, members = kinds[kind]
        if size > 2 * (num_wanted - num_taken):  # it would end further above what is wanted than it is below now
            continue
        entry = (*cost(labels), kind)
        if heap and entry > heap[0]:
            heapq.heappush(heap, entry)
            continue
        chosen.append(members.pop())
        num_taken += size
        for label, num in labels:
            taken[label] += num
        if members:
            heapq.heappush(heap, (*cost(labels), kind))
    if not chosen:  # every group is larger than what is wanted
        _, _, kind = min((size, cost(labels), kind) for kind, (size, labels, _) in enumerate(kinds))
        chosen.append(kinds[kind][2].pop())
    return chosen
