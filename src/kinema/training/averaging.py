"""An exponential average of the weights over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The average of what changes in a model: its weights, and the statistics of its batch norms.

    Early on it forgets faster, so that it is not long of the first, random weights: the decay at step n is at most
    (1 + n) / (10 + n), as in TensorFlow's `ExponentialMovingAverage`.

    Args:
        decay: Share of the average that is kept in a step.

    Attributes:
        tensors: Name in the model -> average; empty before the first step.
        num_steps: That were averaged over.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.num_steps = 0
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights of another step in."""
        self.num_steps += 1
        share = 1 - min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        for name, tensor in _changing(model).items():
            known = self.tensors.get(name)
            if known is None:  # at the first step, or when a stage of the backbone begins to learn
                self.tensors[name] = tensor.detach().clone()
            elif tensor.is_floating_point():
                self.tensors[name] = known.to(tensor.device).lerp_(tensor, share)
            else:
                self.tensors[name] = tensor.clone()

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the weights of a model and their average; once more puts them back."""
        tensors = model.state_dict(keep_vars=True)
        for name, average in self.tensors.items():
            kept = tensors[name].detach().clone()
            tensors[name].copy_(average)
            self.tensors[name] = kept

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "tensors": dict(self.tensors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        self.tensors = {name: tensor.clone() for name, tensor in state["tensors"].items()}


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """What a model's state is, without what is frozen, and would only take room."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    of_frozen = {name.rpartition(".")[0] for name in frozen}
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        # The statistics of a batch norm belong to its weights. What has two names is averaged once.
        is_of_frozen = name.rpartition(".")[0] in of_frozen and not isinstance(tensor, nn.Parameter)
        if name not in frozen and not is_of_frozen and id(tensor) not in seen:
            found[name] = tensor
            seen.add(id(tensor))
    return found
