"""Accuracy on the clips that a data set asks to be looked at apart: of rare classes, and of people never seen.

EPIC-KITCHENS-100 defines both (https://github.com/epic-kitchens/C1-Action-Recognition): top-1 over the segments whose
class is a tail class, for an action whose verb *or* noun is one, and over those of unseen participants. The score of
an action is there the product of the probabilities of its verb and noun, among the 100 best of each. What is among the
five best of all combinations is among the five best of each task, so ranking all combinations gives the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from kinema.evaluation.metrics import right_answers
from kinema.evaluation.predictions import Predictions
from kinema.types import JOINT

SUBSETS = {"tail": "of tail classes", "unseen": "of unseen groups"}
"""Which clips these are, in words."""

NUM_EPIC_SEGMENTS = 9668
"""Of EPIC-KITCHENS-100's validation list: of fewer, its numbers would not be comparable."""


def subset_accuracy(
    predictions: Predictions, *, tail: Mapping[str, Collection[int]], unseen_groups: Collection[str]
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Top-1 accuracy on parts of the clips.

    Args:
        predictions: Of any clips.
        tail: Task -> classes that are evaluated on their own.
        unseen_groups: Groups that are.

    Returns:
        `tail` and `unseen`, where the data set names such -> task (and "joint") -> `top1`, None without clips, and
        `num_clips`.
    """
    masks: dict[str, dict[str, Bool[np.ndarray, "B"]]] = {}
    tasks = [task for task in predictions.classes if task in tail]
    if tasks:
        masks["tail"] = {task: np.isin(predictions.labels[task], sorted(tail[task])) for task in tasks}
        if len(tasks) == len(predictions.classes) > 1:
            masks["tail"][JOINT] = np.logical_or.reduce(list(masks["tail"].values()))
    right = right_answers(predictions)
    if unseen_groups:
        of_unseen = np.array([clip.group in unseen_groups for clip in predictions.clips], dtype=bool)
        masks["unseen"] = dict.fromkeys(right, of_unseen)
    return {
        subset: {
            task: {"top1": float(right[task][mask].mean()) if mask.any() else None, "num_clips": int(mask.sum())}
            for task, mask in of_tasks.items()
        }
        for subset, of_tasks in masks.items()
    }


def epic_names(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of an evaluation under the names that EPIC-KITCHENS-100's own script prints, in per cent.

    Args:
        record: Of an evaluation of verbs and nouns.
    """
    subsets, joint = record["subsets"], {"verb": "verb", "noun": "noun", JOINT: "action"}
    values = {**record["tasks"], JOINT: record[JOINT]}
    found = {f"all_{name}_accuracy_at_{k}": values[task][f"top{k}"] for task, name in joint.items() for k in (1, 5)}
    for subset in ("tail", "unseen"):
        for task, name in joint.items():
            found[f"{subset}_{name}_accuracy_at_1"] = subsets[subset][task]["top1"]
    return {name: None if share is None else 100 * share for name, share in found.items()}
