"""Losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from kinema.sections import TaskSection


def multi_task_loss(
    logits: Mapping[str, Float[Tensor, "B _K"]], labels: Mapping[str, Int64[Tensor, "B"]], task: TaskSection
) -> Float[Tensor, ""]:
    """Weighted sum over tasks of the mean cross-entropy over clips.

    Args:
        logits: Task -> (B, K).
        labels: Task -> (B,) class indices.
        task: Label smoothing and weights; a task without a weight has 1.
    """
    losses = [
        task.weights.get(name, 1.0)
        * F.cross_entropy(values.float(), labels[name], label_smoothing=task.label_smoothing)
        for name, values in logits.items()
    ]
    return sum(losses[1:], start=losses[0])
