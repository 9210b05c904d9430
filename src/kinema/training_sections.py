"""The sections of a recipe that say what is learned and how: `task:` and `optim:`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from kinema.section import Choice, PositiveInt, Section, Share, by_name

Rate = Annotated[float, Field(gt=0.0)]
Factor = Annotated[float, Field(gt=0.0, lt=1.0)]


class NoImbalance(Choice):
    """Every clip counts the same."""

    name: Literal["none"] = "none"


class ClassWeights(Choice):
    """A clip's loss counts the more, the fewer clips its class has: in inverse proportion."""

    name: Literal["class_weights"] = "class_weights"


class EffectiveNumber(Choice):
    """Like class weights, of the effective number of clips, (1 - beta^n) / (1 - beta) (Cui et al., CVPR 2019)."""

    name: Literal["effective_number"] = "effective_number"
    beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """How fast more clips of a class stop saying more: near 1 late."""


class BalancedSampling(Choice):
    """An epoch has as many clips of each class."""

    name: Literal["balanced_sampling"] = "balanced_sampling"
    task: str | None = None
    """By the classes of which task. null: of the first."""


class SqrtSampling(Choice):
    """An epoch has clips of each class in proportion to the square root of their number."""

    name: Literal["sqrt_sampling"] = "sqrt_sampling"
    task: str | None = None
    """By the classes of which task. null: of the first."""


class Focal(Choice):
    """Clips that are recognised already count less (Lin et al., ICCV 2017)."""

    name: Literal["focal"] = "focal"
    gamma: Rate = 2.0
    """How much less: the loss is multiplied by (1 - p)^gamma, where p is the probability of the true class."""


class LogitAdjustment(Choice):
    """In the loss, logits are raised by the logarithm of their class's share (Menon et al., ICLR 2021)."""

    name: Literal["logit_adjustment"] = "logit_adjustment"
    tau: Rate = 1.0
    """Times this."""


Imbalance = NoImbalance | ClassWeights | EffectiveNumber | BalancedSampling | SqrtSampling | Focal | LogitAdjustment


class TaskSection(Section):
    """What the loss is."""

    label_smoothing: Share | dict[str, Share] = 0.0
    """Share of the target that is spread over all classes; or {task: share}, 0 where not given."""
    combine: Literal["sum", "uncertainty"] = "sum"
    """How the losses of several tasks become one: their `sum`, each times its weight; or weighted by what is learned
    about the `uncertainty` of each task beside everything else (Kendall et al., CVPR 2018)."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}  # noqa: RUF012 - a frozen model copies it
    """Task -> weight of its loss. 1 where not given."""
    imbalance: Annotated[
        Imbalance,
        Field(discriminator="name"),
        BeforeValidator(lambda value: by_name(value, Imbalance, kind="method"), json_schema_input_type=str | Imbalance),
    ] = NoImbalance()
    """What is done about classes of unequal numbers of clips, in each task: `none`, `class_weights`,
    `effective_number`, `balanced_sampling`, `sqrt_sampling`, `focal`, `logit_adjustment`; or
    {name: focal, gamma: 1}."""

    @model_validator(mode="after")
    def _possible(self) -> TaskSection:
        if self.combine == "uncertainty" and self.weights:
            raise ValueError("weights are learned with combine: uncertainty; leave them out")
        return self


class Cosine(Choice):
    """Falls to zero, which it would reach one step after the last."""

    name: Literal["cosine"] = "cosine"


class CosineRestarts(Choice):
    """Falls to zero again and again (Loshchilov and Hutter, ICLR 2017)."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    period_epochs: PositiveInt = 10
    """Epochs until the first restart."""
    growth: Annotated[int, Field(ge=1)] = 1
    """Each period is so many times as long as the one before."""


class Step(Choice):
    """Multiplied by a factor every so many epochs."""

    name: Literal["step"] = "step"
    first_epoch: Annotated[int, Field(ge=2)] = 35
    """The first epoch, counted from 1, that is trained at the lower rate."""
    every_epochs: PositiveInt = 20
    """It falls again so many epochs later, and so on."""
    factor: Factor = 0.2
    """What it is multiplied by."""


class Plateau(Choice):
    """Falls when the validation loss has not improved for some epochs."""

    name: Literal["plateau"] = "plateau"
    patience: PositiveInt = 5
    """Epochs without a lower loss until it falls."""
    factor: Factor | None = None
    """What it is multiplied by. null: 0.5, unless there are `rates`."""
    min_lr: Annotated[float, Field(ge=0.0)] | None = None
    """It never falls below. null: 1e-7, unless there are `rates`."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1, strict=False)] | None = None
    """In place of a factor: the rates that come after `optim.lr`, one after the other."""

    @model_validator(mode="after")
    def _one_way(self) -> Plateau:
        if self.rates is not None and (self.factor is not None or self.min_lr is not None):
            raise ValueError("rates say where it falls to; leave factor and min_lr out")
        if self.rates is not None and list(self.rates) != sorted(set(self.rates), reverse=True):
            raise ValueError(f"rates have to fall, got {list(self.rates)}")
        return self


class InverseTime(Choice):
    """Divided by 1 + decay times the number of steps, as Keras' `decay` is."""

    name: Literal["inverse_time"] = "inverse_time"
    decay: Rate = 1e-3
    """Per step."""


class Constant(Choice):
    """Stays."""

    name: Literal["constant"] = "constant"


Schedule = Cosine | CosineRestarts | Step | Plateau | InverseTime | Constant


class Unfreezing(Section):
    """When the stages of a frozen backbone begin to learn."""

    first_epoch: Annotated[int, Field(ge=2)] = 2
    """From this epoch on, counted from 1, the last of the frozen stages learns."""
    every_epochs: PositiveInt = 1
    """So many epochs later the stage before it, and so on."""
    stages: PositiveInt | None = None
    """How many at most. null: all."""


class OptimSection(Section):
    """The optimiser and its schedule."""

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """The optimiser."""
    lr: Rate = 1e-3
    """Learning rate at its highest."""
    backbone_lr_factor: Rate = 1.0
    """The backbone, which is what `init.freeze: backbone` would freeze, learns at `lr` times this: below 1 where it has
    weights that it should not lose, and what is behind it has none yet."""
    stage_lr_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each stage of the backbone, of those that `init.freeze` counts, learns at this times the rate of the stage behind
    it; the last one at that of the backbone."""
    momentum: Share | None = None
    """Of `sgd` (null: 0.9) and `rmsprop` (null: 0)."""
    nesterov: bool = False
    """`sgd`: look ahead."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Of weights alone; norms and biases have none. Decoupled from the gradient with `adamw`; with the others added to
    it, as their authors have it."""
    schedule: Annotated[
        Schedule,
        Field(discriminator="name"),
        BeforeValidator(lambda value: by_name(value, Schedule, kind="schedule"), json_schema_input_type=str | Schedule),
    ] = Cosine()
    """What becomes of the learning rate: `cosine`, `cosine_restarts`, `step`, `plateau`, `inverse_time`, `constant`; or
    {name: step, first_epoch: 35, every_epochs: 20, factor: 0.2}."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Epochs in which the learning rate rises from zero."""
    clip_norm: Rate | None = 1.0
    """Largest norm of the gradient; null: no clipping."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are added up for one step."""
    ema_decay: Factor | None = None
    """Average the weights over the steps, exponentially with this decay, and take the average in place of the weights
    themselves: it is validated, and kept. null: no average."""
    unfreeze: Unfreezing | None = None
    """Let the stages of the backbone that `init.freeze` froze learn later, one after the other from the last. null:
    never."""

    @model_validator(mode="after")
    def _possible(self) -> OptimSection:
        if self.momentum is not None and self.name not in ("sgd", "rmsprop"):
            raise ValueError(f"momentum is of sgd and rmsprop; {self.name} has none")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov is of sgd with momentum; leave it out")
        if isinstance(self.schedule, Plateau):
            next_lr = self.schedule.rates[0] if self.schedule.rates else self.schedule.min_lr
            if next_lr is not None and next_lr >= self.lr:
                raise ValueError(f"schedule: the rate is to fall, and {next_lr:g} is not below lr ({self.lr:g})")
        return self


class SanitySection(Section):
    """What is looked at while a run trains. Each warning comes once, and changes nothing."""

    baseline_epochs: PositiveInt | None = 5
    """After so many epochs, and at the end of training, validation has to be better than always answering the commonest
    training class, and the training loss than that of an answer that does not look at the clip. null: not looked at."""
    gap: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.3
    """Accuracy on training clips less that on validation clips, above which there is a warning. null: none."""
    waiting: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.5
    """Share of the time that training waits for clips, above which there is a warning. null: none."""
