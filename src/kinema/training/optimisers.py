"""Optimisers and learning-rate schedules, by name."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kinema.models.freezing import backbones, stages
from kinema.sections import OptimSection
from kinema.types import ConfigError

BACKBONE = "backbone"
"""Name of the parameter groups that learn at a rate of their own."""


def build_optimiser(model: nn.Module, optim: OptimSection, *, fused: bool) -> Optimizer:
    """An optimiser over every parameter that requires a gradient.

    Args:
        model: What is trained.
        optim: Name and settings.
        fused: One kernel for all parameters. Not possible together with fp16's scaled gradients.

    Raises:
        ConfigError: A part of the model that is not there, or not trained, has a learning rate of its own.
    """
    return AdamW(parameter_groups(model, optim), lr=optim.lr, fused=fused)


def parameter_groups(model: nn.Module, optim: OptimSection) -> list[dict[str, Any]]:
    """Every parameter that requires a gradient, in one group each, by learning rate and weight decay.

    Norms' weights and all biases (tensors of less than two axes) are not decayed. What is not of the backbone comes
    first; groups of the backbone are called so where it learns at another rate (Howard and Ruder, "Universal Language
    Model Fine-tuning for Text Classification", ACL 2018, section 3.2: discriminative fine-tuning).

    Raises:
        ConfigError: A part of the model that is not there, or not trained, has a learning rate of its own.
    """
    factors = _factors(model, optim)
    by_rate: dict[tuple[str, float], list[nn.Parameter]] = {("", 1.0): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            factor = factors.get(id(parameter))
            by_rate.setdefault(("", 1.0) if factor is None else (BACKBONE, factor), []).append(parameter)
    if factors and not any(part == BACKBONE for part, _ in by_rate):
        raise ConfigError(f"{_key(optim)}: the backbone is frozen, it does not learn; leave it out")
    groups = [
        {"params": [p for p in parameters if (p.ndim >= 2) == decays], "part": part, "lr": optim.lr * factor}
        | {"weight_decay": optim.weight_decay if decays else 0.0}
        for (part, factor), parameters in by_rate.items()
        for decays in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _factors(model: nn.Module, optim: OptimSection) -> dict[int, float]:
    """Identity of a parameter of a backbone -> its learning rate as a share of `optim.lr`; empty if all have the same.

    What belongs to no stage, class tokens and positions, comes before the first.
    """
    if optim.backbone_lr_factor == optim.stage_lr_factor == 1:
        return {}
    parts = backbones(model)
    if not parts:
        raise ConfigError(f"{_key(optim)}: this model has no backbone; leave it out")
    found: dict[int, float] = {}
    if optim.stage_lr_factor != 1 and all(len(stages(part.body)) == 1 for part in parts.values()):
        names = ", ".join(part.name for part in parts.values())
        raise ConfigError(f"optim.stage_lr_factor: {names} has one stage alone; take optim.backbone_lr_factor")
    for part in parts.values():
        of_stages = stages(part.body) if optim.stage_lr_factor != 1 else [[("", part.body)]]
        by_stage = [optim.backbone_lr_factor * optim.stage_lr_factor**depth for depth in range(len(of_stages))][::-1]
        for factor, stage in zip(by_stage, of_stages, strict=True):
            found |= {id(p): factor for _, module in stage for p in module.parameters()}
        found |= {id(p): by_stage[0] for p in part.parameters() if id(p) not in found}
    return found


def _key(optim: OptimSection) -> str:
    return "optim.backbone_lr_factor" if optim.backbone_lr_factor != 1 else "optim.stage_lr_factor"


def build_schedule(optimiser: Optimizer, optim: OptimSection, *, steps_per_epoch: int, num_epochs: int) -> LambdaLR:
    """Learning rates as shares of the highest, per step: linear warm-up, then `cosine` (zero a step after the last;
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
