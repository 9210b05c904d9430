"""Optimisers, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from kinema.models.freezing import backbones, stages
from kinema.sections import OptimSection
from kinema.types import ConfigError

BACKBONE = "backbone"
"""Name of the parameter groups that learn at a rate of their own."""


def build_optimiser(
    model: nn.Module,
    optim: OptimSection,
    *,
    fused: bool,
    later: Iterable[nn.Parameter] = (),
    beside: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """An optimiser over every parameter that requires a gradient.

    Args:
        model: What is trained.
        optim: Name and settings.
        fused: One kernel for all parameters, where there is one. Not possible together with fp16's scaled gradients.
        later: Parameters of the model that require no gradient yet.
        beside: Parameters that are not of the model: of the loss. They learn at `optim.lr` and do not decay.

    Raises:
        ConfigError: A part of the model that is not there, or not trained, has a learning rate of its own.
    """
    groups = parameter_groups(model, optim, later=later)
    if outside := list(beside):
        groups.append({"params": outside, "part": "", "lr": optim.lr, "weight_decay": 0.0})
    if optim.name == "adam":
        return Adam(groups, lr=optim.lr, fused=fused)
    if optim.name == "sgd":
        momentum = 0.9 if optim.momentum is None else optim.momentum
        # torch can step Adam's sharded weights in one kernel, and not SGD's.
        whole = not any(isinstance(parameter, DTensor) for parameter in model.parameters())
        return SGD(groups, lr=optim.lr, momentum=momentum, nesterov=optim.nesterov, fused=fused and whole)
    if optim.name == "rmsprop":
        return RMSprop(groups, lr=optim.lr, momentum=optim.momentum or 0.0)
    return AdamW(groups, lr=optim.lr, fused=fused)


def parameter_groups(
    model: nn.Module, optim: OptimSection, *, later: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Every parameter that requires a gradient, or will, in one group each, by learning rate and weight decay.

    Norms' weights and all biases (tensors of less than two axes) are not decayed. What is not of the backbone comes
    first; groups of the backbone are called so where it learns at another rate (Howard and Ruder, "Universal Language
    Model Fine-tuning for Text Classification", ACL 2018, section 3.2: discriminative fine-tuning).

    Raises:
        ConfigError: A part of the model that is not there, or not trained, has a learning rate of its own.
    """
    waiting = {id(parameter) for parameter in later}
    factors = _factors(model, optim)
    by_rate: dict[tuple[str, float], list[nn.Parameter]] = {("", 1.0): []}
    for parameter in model.parameters():
        if parameter.requires_grad or id(parameter) in waiting:
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
