"""Attention from one task to the others, so that what is done says something about with what, and the reverse.

The third phase of the EPIC-KITCHENS study that kinema rebuilds; attention as in Vaswani et al., "Attention Is All You
Need", NeurIPS 2017. Deviation: there, each task had a single token, and a softmax over one key is 1 whatever the input:
its attention was a linear layer. Here there is a token for every frame, or for every window of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least, share
from kinema.models.layers.heads import LinearHeads
from kinema.types import ConfigError, Heads

Tokens = dict[str, Tensor]
"""Task -> (B, N, D)."""


class CrossTaskAttention(nn.Module):
    """Each task's tokens attend to those of all others, one task after the other: what comes later sees the others as
    they have become. A single task attends to itself.

    Args:
        width: Of tokens.
        tasks: Their names.
        num_heads: Of attention.
        dropout: Inside the linear layers.
    """

    def __init__(self, width: int, tasks: Sequence[str], *, num_heads: int, dropout: float) -> None:
        super().__init__()
        at_least(1, branch_width=width, num_heads=num_heads)
        if width % num_heads:
            raise ConfigError(f"model.num_heads: {num_heads} does not divide the width of branches, {width}")
        self.tasks = tuple(tasks)
        keys = [_key(task) for task in tasks]
        self.attention = nn.ModuleDict({key: nn.MultiheadAttention(width, num_heads, batch_first=True) for key in keys})
        self.norms = nn.ModuleDict({key: nn.LayerNorm(width) for key in keys})
        self.feed_forward = nn.ModuleDict(
            {
                key: nn.Sequential(
                    nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
                )
                for key in keys
            }
        )

    def forward(self, tokens: Mapping[str, Float[Tensor, "B N D"]]) -> Tokens:
        return self.attend(tokens)[0]

    def attend(self, tokens: Mapping[str, Float[Tensor, "B N D"]]) -> tuple[Tokens, Tokens]:
        """What tokens become, and task -> how much each of its tokens attends to those of the others: (B, N, M)."""
        tokens, looked = dict(tokens), dict[str, Tensor]()
        for task in self.tasks:
            key, own = _key(task), tokens[task]
            others = torch.cat([tokens[other] for other in self.tasks if other != task] or [own], dim=1)
            answer, looked[task] = self.attention[key](own, others, others)
            own = self.norms[key](own + answer)
            tokens[task] = own + self.feed_forward[key](own)
        return tokens, looked


class CrossTaskHeads(nn.Module):
    """A branch for each task, attention between them, and classifiers of the branches' means.

    Args:
        num_inputs: Length of the tokens that all tasks share.
        heads: Task -> class names.
        width: Of the branches.
        num_heads: Of attention.
        branch_dropout: In branches.
        dropout: Before classifiers and in attention's linear layers.
        hidden: Hidden layers of classifiers.
        hidden_dropout: Behind each of these; None: `dropout`.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self,
        num_inputs: int,
        heads: Heads,
        *,
        width: int,
        num_heads: int,
        branch_dropout: float,
        dropout: float,
        hidden: Sequence[int] = (),
        hidden_dropout: float | None = None,
    ) -> None:
        super().__init__()
        share(branch_dropout=branch_dropout)
        self.classifiers = nn.ModuleDict(
            {
                _key(task): LinearHeads(
                    width, {task: names}, dropout=dropout, hidden=hidden, hidden_dropout=hidden_dropout
                )
                for task, names in heads.items()
            }
        )
        self.attention = CrossTaskAttention(width, tuple(heads), num_heads=num_heads, dropout=dropout)
        self.branches = nn.ModuleDict(
            {
                _key(task): nn.Sequential(
                    nn.Linear(num_inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(branch_dropout)
                )
                for task in heads
            }
        )
        self.tasks = tuple(heads)

    def branch(self, tokens: Float[Tensor, "B N D"]) -> Tokens:
        """Each task's own view of the tokens."""
        return {task: self.branches[_key(task)](tokens) for task in self.tasks}

    def forward(self, tokens: Float[Tensor, "B N D"]) -> dict[str, Float[Tensor, "B _K"]]:
        found = self.attention(self.branch(tokens))
        return {task: self.classifiers[_key(task)](found[task].mean(dim=1))[task] for task in self.tasks}


def _key(task: str) -> str:
    """Of ModuleDict, apart from its methods' names."""
    return f"task_{task}"
