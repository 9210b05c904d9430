"""Optimisers and learning-rate schedules, by name."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kinema.sections import OptimSection


def build_optimiser(model: nn.Module, optim: OptimSection, *, fused: bool) -> Optimizer:
    """An optimiser over every parameter that requires a gradient.

    Norms' weights and all biases (tensors of less than two axes) are not decayed.

    Args:
        model: What is trained.
        optim: Name and settings.
        fused: One kernel for all parameters. Not possible together with fp16's scaled gradients.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=optim.lr, fused=fused)


def build_schedule(optimiser: Optimizer, optim: OptimSection, *, steps_per_epoch: int, num_epochs: int) -> LambdaLR:
    """The learning rate as a share of `optim.lr`, per step: linear warm-up, then `cosine` (zero a step after the last;
    Loshchilov and Hutter, ICLR 2017, without restarts) or `constant`."""
    num_steps = steps_per_epoch * num_epochs
    num_warmup = round(optim.warmup_epochs * steps_per_epoch)

    def share(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        if optim.schedule == "constant":
            return 1.0
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimiser, share)
