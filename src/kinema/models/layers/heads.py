"""Classifiers on top of a clip's feature, one per task."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least, share
from kinema.models.layers.stepping import State, max_step, mean_step
from kinema.types import ConfigError, Heads


class LinearHeads(nn.Module):
    """Dropout, then one linear layer per task, or several with ReLU between them.

    Args:
        num_inputs: Length of a clip's feature.
        heads: Task -> class names.
        dropout: Probability of dropping a value of the feature in training.
        hidden: Sizes of each task's own layers in front of the last.
        hidden_dropout: Dropout behind each of these; None: `dropout`.
        norm: Of the feature: `batch`, `layer` or `none`.

    Raises:
        ConfigError: A task's name cannot be the name of a module, or an argument is impossible.
    """

    def __init__(
        self,
        num_inputs: int,
        heads: Heads,
        *,
        dropout: float,
        hidden: Sequence[int] = (),
        hidden_dropout: float | None = None,
        norm: str = "none",
    ) -> None:
        super().__init__()
        for task in heads:
            if not task.isidentifier():
                raise ConfigError(f"data.labels: {task!r} cannot name a task; use letters, digits and _ alone")
        at_least(1, head_hidden=hidden)
        share(dropout=dropout, head_dropout=hidden_dropout)
        norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.norm = norms[norm](num_inputs)
        self.dropout = nn.Dropout(dropout)
        between = dropout if hidden_dropout is None else hidden_dropout
        # The prefix keeps tasks called like a method of ModuleDict ("pop", "keys") apart from it.
        self.linear = nn.ModuleDict(
            {f"task_{task}": _classifier(num_inputs, hidden, len(heads[task]), between) for task in heads}
        )
        self.tasks = tuple(heads)

    def forward(self, feature: Float[Tensor, "B D"]) -> dict[str, Float[Tensor, "B _K"]]:
        feature = self.dropout(self.norm(feature))
        return {task: self.linear[f"task_{task}"](feature) for task in self.tasks}


def _classifier(num_inputs: int, hidden: Sequence[int], num_classes: int, dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(num_inputs, size), nn.ReLU(), nn.Dropout(dropout)]
        num_inputs = size
    last = nn.Linear(num_inputs, num_classes)
    return nn.Sequential(*layers, last) if layers else last


class ConsensusHeads(nn.Module):
    """Classifies every frame alone; the clip's logits are the mean, or the largest, of its frames'.

    Args:
        heads: Of one frame.
        consensus: `mean` or `max`.
    """

    def __init__(self, heads: LinearHeads, consensus: str) -> None:
        super().__init__()
        self.heads = heads
        self.consensus = consensus

    def forward(self, features: Float[Tensor, "B T D"]) -> dict[str, Float[Tensor, "B _K"]]:
        found = self.heads(features.flatten(0, 1))
        each = {task: logits.unflatten(0, features.shape[:2]) for task, logits in found.items()}
        return {task: logits.amax(1) if self.consensus == "max" else logits.mean(1) for task, logits in each.items()}

    def step(self, frame: Float[Tensor, "B 1 D"], state: State) -> tuple[dict[str, Float[Tensor, "B _K"]], State]:
        """The consensus of all frames up to this one."""
        go_on = max_step if self.consensus == "max" else mean_step
        found = {
            task: go_on(logits, None if state is None else state[task])
            for task, logits in self.heads(frame.squeeze(1)).items()
        }
        return {task: logits for task, (logits, _) in found.items()}, {task: own for task, (_, own) in found.items()}
