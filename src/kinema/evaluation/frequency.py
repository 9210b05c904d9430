"""Accuracy apart on classes that were common in training and on those that were rare: what a mean over clips hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kinema.evaluation.predictions import Predictions

GROUPS = ("head", "middle", "tail")

LEAST_SKEW = 2.0
"""Below this, of the commonest class's training clips over the rarest's, no classes are common or rare."""


def frequency_groups(counts: Sequence[int]) -> dict[str, list[int]] | None:
    """Group -> its classes, by their training clips.

    The classes that have training clips are put in order of how many. The first third of them (rounded) is the head,
    the last third the tail; classes with as many clips as the last of the head belong to it as well, and likewise the
    tail. Classes without training clips are in none.

    Returns:
        None where the commonest class has less than twice the clips of the rarest, there are fewer than three classes,
        or so many have the same number that head and tail would share classes.
    """
    present = sorted((count for count in counts if count > 0), reverse=True)
    if len(present) < len(GROUPS) or present[0] < LEAST_SKEW * present[-1]:
        return None
    third = round(len(present) / len(GROUPS))
    least_of_head, most_of_tail = present[third - 1], present[-third]
    if least_of_head <= most_of_tail:
        return None
    found: dict[str, list[int]] = {group: [] for group in GROUPS}
    for label, count in enumerate(counts):
        if count > 0:
            found["head" if count >= least_of_head else "tail" if count <= most_of_tail else "middle"].append(label)
    return found


def accuracy_by_frequency(predictions: Predictions, task: str, counts: Sequence[int]) -> dict[str, Any]:
    """Mean class accuracy of head, middle and tail, and under `frequency` what these are.

    Returns:
        Nothing where there are no such groups. None for a group of which no clip was evaluated.
    """
    groups = frequency_groups(counts)
    if groups is None or len(counts) != len(predictions.classes[task]):
        return {}
    labels = predictions.labels[task]
    right = predictions.logits[task].argmax(axis=1) == labels
    found: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for group, members in groups.items():
        shares = [float(right[labels == label].mean()) for label in members if (labels == label).any()]
        found[group] = float(np.mean(shares)) if shares else None
        of_group = [counts[label] for label in members]
        facts[group] = {
            "num_classes": len(members),
            "num_clips": int(np.isin(labels, members).sum()),
            "fewest_training_clips": min(of_group, default=0),
            "most_training_clips": max(of_group, default=0),
        }
    return {**found, "frequency": facts}
