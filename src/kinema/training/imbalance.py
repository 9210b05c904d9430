"""Classes of unequal numbers of clips: what `task.imbalance` comes to, from the numbers of training clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from kinema.section import Choice
from kinema.training_sections import (
    BalancedSampling,
    ClassWeights,
    EffectiveNumber,
    Focal,
    LogitAdjustment,
    SqrtSampling,
)
from kinema.types import Clip, ConfigError, Heads

Draw = Callable[[np.random.Generator], NDArray[np.int64]]
"""The clips of an epoch, in their order."""


@dataclass(frozen=True, kw_only=True)
class Skew:
    """What the loss of one task does about it.

    Attributes:
        weights: What a clip of each class counts.
        offsets: What is added to the logit of each class.
        gamma: Of the focal loss; 0: none.
    """

    weights: Float[Tensor, " K"] | None = None
    offsets: Float[Tensor, " K"] | None = None
    gamma: float = 0.0

    def to(self, device: torch.device) -> Skew:
        moved = {
            name: value.to(device) for name in ("weights", "offsets") if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def skew_of(counts: Sequence[int], imbalance: Choice) -> Skew | None:
    """What is done in the loss; None where nothing is.

    Weights are such that the mean over the training clips is 1, so that the loss, and with it the learning rate, stays
    comparable; in the paper of the effective number their sum is the number of classes. A class without clips has the
    weight 0, and the adjustment of the commonest class: by its own, minus infinity, it would always be the answer.

    Args:
        counts: Training clips of each class; one class has some.
        imbalance: Of the recipe.
    """
    clips = np.asarray(counts, dtype=np.float64)
    present = clips > 0
    if isinstance(imbalance, Focal):
        return Skew(gamma=imbalance.gamma)
    if isinstance(imbalance, LogitAdjustment):
        shares = np.where(present, clips, clips.max()) / clips.sum()
        return Skew(offsets=torch.tensor(imbalance.tau * np.log(shares), dtype=torch.float32))
    if isinstance(imbalance, ClassWeights):
        numbers = clips
    elif isinstance(imbalance, EffectiveNumber):
        numbers = (1 - imbalance.beta**clips) / (1 - imbalance.beta)
    else:
        return None
    weights = np.divide(1.0, numbers, out=np.zeros_like(clips), where=present)
    return Skew(weights=torch.tensor(weights * clips.sum() / (weights * clips).sum(), dtype=torch.float32))


def skews_of(counts: Mapping[str, Sequence[int]], imbalance: Choice) -> dict[str, Skew]:
    """Task -> what is done in its loss, of the tasks in which something is."""
    found = {task: skew_of(of_task, imbalance) for task, of_task in counts.items()}
    return {task: skew for task, skew in found.items() if skew is not None}


def sampling_task(imbalance: Choice, classes: Heads) -> str | None:
    """The task by whose classes clips are drawn; None where all clips come once in an epoch.

    Raises:
        ConfigError: There is no such task.
    """
    if not isinstance(imbalance, BalancedSampling | SqrtSampling):
        return None
    task = imbalance.task or next(iter(classes))
    if task not in classes:
        raise ConfigError(f"task.imbalance.task: no such task; this data set has {', '.join(classes)}")
    return task


def draw_of(clips: Sequence[Clip], imbalance: Choice, classes: Heads) -> Draw | None:
    """How the clips of an epoch are drawn, as many as there are; None where all come once.

    Raises:
        ConfigError: There is no task of that name.
    """
    task = sampling_task(imbalance, classes)
    if task is None:
        return None
    labels = np.array([clip.labels[task] for clip in clips], dtype=np.int64)
    power = 0.0 if isinstance(imbalance, BalancedSampling) else 0.5
    return lambda rng: draw(rng, labels, power=power)


def draw(rng: np.random.Generator, labels: Int64[np.ndarray, "N"], *, power: float) -> NDArray[np.int64]:
    """N clips, of each class in proportion to its number of clips to a power.

    How many of each is drawn first; those of a class come as often as each other, or once more.

    Args:
        rng: Of the epoch.
        labels: Class of each clip.
        power: 0: as many of each class; 0.5: by the square root of its number; 1: as it is.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts**power / (counts**power).sum()
    quotas = np.floor(len(labels) * shares).astype(np.int64)
    rest = len(labels) * shares - quotas
    missing = len(labels) - int(quotas.sum())
    if missing:
        quotas[rng.choice(len(classes), size=missing, replace=False, p=rest / rest.sum())] += 1
    chosen = []
    for label, quota in zip(classes, quotas, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = [rng.permutation(members) for _ in range(-(-int(quota) // len(members)))]
        chosen.append(np.concatenate([*rounds, np.zeros(0, dtype=np.int64)])[:quota])
    order = np.concatenate(chosen).astype(np.int64)
    rng.shuffle(order)
    return order
