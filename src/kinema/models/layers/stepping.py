"""Going on from a state: what sees a stream frame by frame, and gives after each what it would give for all of them.

A module that can has a method `step`. Its state is None before the first frame, and of constant size after it.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

State = Any
"""Tensors, or tuples of states; None before the first frame."""


@runtime_checkable
class Steps(Protocol):
    """A module that may be able to go on from a state."""

    can_step: bool
    """Whether it can, with the arguments that it has."""

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame further.

        Args:
            frame: What `forward` takes, without its axis of frames: (B, D), or maps (B, D, h, w).
            state: What the last call returned; None before the first frame.

        Returns:
            What `forward` gives for all frames up to this one, and the state to go on from.
        """


def can_step(module: nn.Module) -> bool:
    return isinstance(module, Steps) and module.can_step


def mean_step(value: Float[Tensor, "*shape"], state: State) -> tuple[Float[Tensor, "*shape"], State]:
    """The mean over all frames so far."""
    mean, num = (torch.zeros_like(value), 0) if state is None else state
    mean = mean + (value - mean) / (num + 1)
    return mean, (mean, num + 1)


def max_step(value: Float[Tensor, "*shape"], state: State) -> tuple[Float[Tensor, "*shape"], State]:
    """The largest over all frames so far."""
    largest = value if state is None else torch.maximum(value, state)
    return largest, largest
