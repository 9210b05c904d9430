"""Classifiers on top of a clip's feature, one per task."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from kinema.types import ConfigError, Heads


class LinearHeads(nn.Module):
    """Dropout, then one linear layer per task.

    Args:
        num_inputs: Length of a clip's feature.
        heads: Task -> class names.
        dropout: Probability of dropping a value of the feature in training.

    Raises:
        ConfigError: A task's name cannot be the name of a module.
    """

    def __init__(self, num_inputs: int, heads: Heads, *, dropout: float) -> None:
        super().__init__()
        for task in heads:
            if not task.isidentifier():
                raise ConfigError(f"data.labels: {task!r} cannot name a task; use letters, digits and _ alone")
        self.dropout = nn.Dropout(dropout)
        # The prefix keeps tasks called like a method of ModuleDict ("pop", "keys") apart from it.
        self.linear = nn.ModuleDict({f"task_{task}": nn.Linear(num_inputs, len(heads[task])) for task in heads})
        self.tasks = tuple(heads)

    def forward(self, feature: Float[Tensor, "B D"]) -> dict[str, Float[Tensor, "B _K"]]:
        feature = self.dropout(feature)
        return {task: self.linear[f"task_{task}"](feature) for task in self.tasks}
