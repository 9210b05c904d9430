"""Stages of a frozen backbone that begin to learn one after the other, from the last (Howard and Ruder, "Universal
Language Model Fine-tuning for Text Classification", ACL 2018, section 3.3)."""

from __future__ import annotations

import logging

from torch import nn

from kinema.models.freezing import Backbone, Group, backbones, hold, let_go, stages
from kinema.sections import InitSection, OptimSection, TrainerSection
from kinema.training_sections import Unfreezing
from kinema.types import ConfigError

log = logging.getLogger(__name__)


class Thaw:
    """Which stages learn in which epoch: a function of the epoch alone.

    Args:
        model: With what `init.freeze` froze. It is frozen by stages from now on.
        section: When.

    Attributes:
        waiting: Of each backbone the stages that learn some time, the last first.
    """

    def __init__(self, model: nn.Module, section: Unfreezing) -> None:
        self.model = model
        self.section = section
        self.waiting: list[tuple[Backbone, list[Group]]] = []
        self._num_released = 0
        for part in backbones(model).values():
            frozen = _frozen_stages(part)
            if frozen:
                held = hold(part, frozen)[::-1]
                self.waiting.append((part, held[: section.stages]))
        if not self.waiting:
            raise ConfigError("optim.unfreeze: no stage of a backbone is frozen; give init.freeze, or leave it out")

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that learn some time."""
        found = [
            p for _, groups in self.waiting for group in groups for _, module in group for p in module.parameters()
        ]
        return found + [p for part, groups in self.waiting for p in self._before_first(part, groups)]

    @property
    def num_steps(self) -> int:
        """How often another stage begins to learn."""
        return max(len(groups) for _, groups in self.waiting)

    def release(self, epoch: int) -> None:
        """Let learn what learns in an epoch, counted from 1."""
        since = epoch - self.section.first_epoch
        number = min(self.num_steps, 0 if since < 0 else 1 + since // self.section.every_epochs)
        if number <= self._num_released:
            return
        names = []
        for part, groups in self.waiting:
            for group in groups[self._num_released : number]:
                let_go(group)
                names += [f"{name} of {part.name}" for name, _ in group]
            if number >= len(groups):
                for parameter in self._before_first(part, groups):
                    parameter.requires_grad_(True)
        self._num_released = number
        self.model.train(self.model.training)  # batch norms that were held in evaluation mode follow
        log.info("epoch %d: %s learn from now on", epoch, ", ".join(names if len(names) <= 6 else [*names[:5], "..."]))

    def _before_first(self, part: Backbone, groups: list[Group]) -> list[nn.Parameter]:
        """Tokens and positions, which learn with the first stage."""
        of_stages = stages(part.body)
        if {id(module) for _, module in of_stages[0]}.isdisjoint(id(m) for group in groups for _, m in group):
            return []
        held = {id(p) for group in of_stages for _, module in group for p in module.parameters()}
        return [p for p in part.body.parameters() if id(p) not in held]


def _frozen_stages(part: Backbone) -> int:
    """How many of the first stages have no weight that is trained."""
    number = 0
    for group in stages(part.body):
        if any(p.requires_grad for _, module in group for p in module.parameters()):
            break
        number += 1
    return number


def thaw_of(model: nn.Module, init: InitSection, optim: OptimSection, trainer: TrainerSection) -> Thaw | None:
    """What a recipe asks for; None where it asks for nothing.

    Raises:
        ConfigError: It would have no effect, or `init` freezes something else than stages.
    """
    section = optim.unfreeze
    if section is None:
        return None
    if init.train_last is not None or init.freeze == "all":
        key = "init.train_last" if init.train_last is not None else "init.freeze: all"
        raise ConfigError(f"optim.unfreeze: lets go stages of the backbone, {key} holds other parts; use init.freeze")
    if section.first_epoch > trainer.epochs:
        raise ConfigError(
            f"optim.unfreeze.first_epoch: {section.first_epoch} is behind the last epoch (trainer.epochs: "
            f"{trainer.epochs}); leave it out"
        )
    return Thaw(model, section)
