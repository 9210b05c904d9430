"""Learning-rate schedules, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kinema.training_sections import (
    Constant,
    Cosine,
    CosineRestarts,
    InverseTime,
    OptimSection,
    Plateau,
    Schedule,
    Step,
)

_LEAST_GAIN = 1e-4
"""A loss that is lower by no more is no improvement, as Keras has it."""


def build_schedule(optimiser: Optimizer, optim: OptimSection, *, steps_per_epoch: int, num_epochs: int) -> LambdaLR:
    """Learning rates as shares of the highest, per step: linear warm-up, then what `optim.schedule` names.

    Args:
        optimiser: Whose rates these are.
        optim: Settings.
        steps_per_epoch: Of the optimiser: with accumulated gradients fewer than batches.
        num_epochs: Of the whole training.
    """
    num_warmup = round(optim.warmup_epochs * steps_per_epoch)
    behind = share_of(
        optim, num_warmup=num_warmup, steps_per_epoch=steps_per_epoch, num_steps=steps_per_epoch * num_epochs
    )
    if isinstance(behind, PlateauShare):
        behind.num_warmup = num_warmup
        return LambdaLR(optimiser, behind)

    def share(step: int) -> float:
        return (step + 1) / (num_warmup + 1) if step < num_warmup else behind(step)

    return LambdaLR(optimiser, share)


def share_of(optim: OptimSection, *, num_warmup: int, steps_per_epoch: int, num_steps: int) -> Callable[[int], float]:
    """Step, from 0 -> share of the highest rate, behind the warm-up. Epochs are those of the whole training; a cosine
    begins, and time is counted, behind the warm-up."""
    schedule: Schedule = optim.schedule
    if isinstance(schedule, Plateau):
        return PlateauShare(schedule, lr=optim.lr)

    def cosine(step: int) -> float:
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return _half_cosine(min(1.0, progress))

    def restarts(step: int) -> float:
        assert isinstance(schedule, CosineRestarts)
        epochs, period = (step - num_warmup) / steps_per_epoch, schedule.period_epochs
        while epochs >= period:
            epochs -= period
            period *= schedule.growth
        return _half_cosine(epochs / period)

    def steps(step: int) -> float:
        assert isinstance(schedule, Step)
        epoch = step // steps_per_epoch + 1
        num_falls = 0 if epoch < schedule.first_epoch else 1 + (epoch - schedule.first_epoch) // schedule.every_epochs
        return schedule.factor**num_falls

    def inverse(step: int) -> float:
        assert isinstance(schedule, InverseTime)
        return 1 / (1 + schedule.decay * (step - num_warmup))

    shares: dict[type[object], Callable[[int], float]] = {
        Cosine: cosine,
        CosineRestarts: restarts,
        Step: steps,
        InverseTime: inverse,
        Constant: lambda _step: 1.0,
    }
    return shares[type(schedule)]


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


class PlateauShare:
    """A rate that falls when the validation loss has not improved for some epochs.

    Its attributes are its state: torch's schedule saves them, and restores them, because it is not a function.
    """

    def __init__(self, schedule: Plateau, *, lr: float) -> None:
        self.shares: list[float] | None = None if schedule.rates is None else [1.0, *(r / lr for r in schedule.rates)]
        self.factor = schedule.factor or 0.5
        self.least = (1e-7 if schedule.min_lr is None else schedule.min_lr) / lr
        self.patience = schedule.patience
        self.num_warmup = 0
        self.best = math.inf
        self.num_waited = 0
        self.num_falls = 0

    def __call__(self, step: int) -> float:
        share = (step + 1) / (self.num_warmup + 1) if step < self.num_warmup else 1.0
        if self.shares is not None:
            return share * self.shares[min(self.num_falls, len(self.shares) - 1)]
        return share * max(self.factor**self.num_falls, min(1.0, self.least))

    def observe(self, loss: float) -> bool:
        """Take note of an epoch's validation loss; whether the rate falls now."""
        if loss < self.best - _LEAST_GAIN:
            self.best, self.num_waited = loss, 0
            return False
        self.num_waited += 1
        if self.num_waited < self.patience:
            return False
        self.num_waited = 0
        before = self(self.num_warmup)
        self.num_falls += 1
        return self(self.num_warmup) < before


def lower_on_plateau(schedule: LambdaLR, loss: float) -> float | None:
    """Let a schedule see an epoch's validation loss; the new highest rate, where it is another from now on."""
    share = schedule.lr_lambdas[0]
    if not isinstance(share, PlateauShare) or not share.observe(loss):
        return None
    rates = [base * share(schedule.last_epoch) for base in schedule.base_lrs]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
    return float(max(rates))
