"""The answers of several networks, made one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def averaged(
    answers: Sequence[Mapping[str, Float[Tensor, "B _K"]]], shares: Sequence[float], *, of: str
) -> dict[str, Float[Tensor, "B _K"]]:
    """What several networks say, averaged.

    Args:
        answers: Task -> logits, of each network.
        shares: How much each one counts; they sum to 1.
        of: What is averaged: `logits`, or `probabilities`, whose logarithms are given.
    """
    return {task: _averaged([logits[task] for logits in answers], shares, of=of) for task in answers[0]}


def _averaged(logits: Sequence[Tensor], shares: Sequence[float], *, of: str) -> Tensor:
    if of == "logits":
        return torch.stack([share * each for share, each in zip(shares, logits, strict=True)]).sum(dim=0)
    # Their softmax is the averaged probabilities again. In fp32: far from the likely class half precision has none.
    weighted = [each.float().log_softmax(dim=1) + math.log(share) for share, each in zip(shares, logits, strict=True)]
    return torch.logsumexp(torch.stack(weighted), dim=0)
