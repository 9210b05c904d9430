"""Losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kinema.sections import TaskSection
from kinema.training.imbalance import Skew
from kinema.types import ConfigError, Heads

Labels = Mapping[str, Int64[Tensor, "B"]]


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Every clip of a batch is made of two: what is known of the second.

    Attributes:
        labels: Task -> (B,) its class indices.
        share: How much of a clip is the first.
    """

    labels: Labels
    share: float


def multi_task_loss(
    logits: Mapping[str, Float[Tensor, "B _K"]],
    labels: Labels,
    task: TaskSection,
    *,
    skews: Mapping[str, Skew] | None = None,
    mixed: Mixed | None = None,
    log_variances: Float[Tensor, " tasks"] | None = None,
) -> Float[Tensor, ""]:
    """One loss of all tasks: of each the mean cross-entropy over clips.

    Their sum, each times its weight. Or, with uncertainties s = log(sigma^2) that are learned, the sum of
    exp(-s) times the loss and s / 2 (Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses",
    CVPR 2018, equation 10 and what is said below it).

    Args:
        logits: Task -> (B, K).
        labels: Task -> (B,) class indices; of mixed clips those of the first.
        task: Label smoothing and weights; a task without a weight has 1.
        skews: Task -> what is done about its classes' unequal numbers.
        mixed: What else the clips are made of.
        log_variances: Uncertainty of each task, in the order of the logits.
    """
    losses = []
    for number, (name, values) in enumerate(logits.items()):
        smoothing = smoothing_of(task, name)
        skew = (skews or {}).get(name)
        loss = task_loss(values, labels[name], smoothing=smoothing, skew=skew)
        if mixed is not None:
            other = task_loss(values, mixed.labels[name], smoothing=smoothing, skew=skew)
            loss = mixed.share * loss + (1 - mixed.share) * other
        if log_variances is not None:
            losses.append(torch.exp(-log_variances[number]) * loss + log_variances[number] / 2)
        else:
            losses.append(task.weights.get(name, 1.0) * loss)
    return sum(losses[1:], start=losses[0])


def auxiliary_loss(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """What a model adds to the loss of its tasks: one that has a method `auxiliary_loss(streams)`. None of any other,
    and where that has nothing to say.

    Args:
        model: It.
        inputs: What it was given.
    """
    own = getattr(model, "auxiliary_loss", None)
    found: Tensor | None = None if own is None or "features" in inputs else own(inputs)
    return found


def task_loss(
    logits: Float[Tensor, "B K"], labels: Int64[Tensor, "B"], *, smoothing: float, skew: Skew | None
) -> Float[Tensor, ""]:
    """Mean over clips of the cross-entropy, in fp32, with what is done about classes of unequal numbers."""
    values = logits.float()
    if skew is None:
        return F.cross_entropy(values, labels, label_smoothing=smoothing)
    if skew.offsets is not None:
        values = values + skew.offsets
    losses = F.cross_entropy(values, labels, label_smoothing=smoothing, reduction="none")
    if skew.gamma:
        true = F.softmax(values, dim=1).gather(1, labels[:, None])[:, 0]
        losses = (1 - true).clamp_min(1e-6) ** skew.gamma * losses  # the root of 0 has no gradient
    if skew.weights is not None:
        losses = skew.weights[labels] * losses
    return losses.mean()


def smoothing_of(task: TaskSection, name: str) -> float:
    """Label smoothing of a task."""
    given = task.label_smoothing
    return given.get(name, 0.0) if isinstance(given, dict) else given


def check_tasks(task: TaskSection, classes: Heads) -> None:
    """Make sure that a recipe speaks of tasks that there are.

    Raises:
        ConfigError: It does not.
    """
    smoothed: Sequence[str] = list(task.label_smoothing) if isinstance(task.label_smoothing, dict) else []
    for key, names in (("weights", list(task.weights)), ("label_smoothing", smoothed)):
        for name in names:
            if name not in classes:
                raise ConfigError(f"task.{key}.{name}: no such task; this data set has {', '.join(classes)}")
    if task.combine == "uncertainty" and len(classes) < 2:
        raise ConfigError("task.combine: uncertainty weighs several tasks; this data set has one. Use sum")
