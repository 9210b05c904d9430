"""What is looked at before and while a run trains, so that garbage does not come out of it without a word.

Each warning comes once in a run and says what to do. None of them changes anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from kinema.data.processes import available_cores
from kinema.evaluation.baselines import class_counts, commonest
from kinema.evaluation.metrics import main_task
from kinema.models.freezing import Backbone, backbones
from kinema.models.layers.backbone import FrameBackbone
from kinema.preparation.feature_store import FeatureReader, StreamFeatures
from kinema.training.callbacks import Progress
from kinema.training.imbalance import sampling_task
from kinema.training.losses import smoothing_of
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import Prepared
from kinema.training.strategy import trains_batch_norm
from kinema.training.team import Team
from kinema.training_sections import BalancedSampling, NoImbalance, SqrtSampling
from kinema.types import JOINT, Clip, Heads
from kinema.wording import percent

log = logging.getLogger(__name__)

GRADIENT_STEPS = 5
"""Steps in which every parameter should have had a gradient."""

FEW_CLIPS = 5000
"""Below this, a large network that starts from scratch is worth a word."""

LARGE_BACKBONE = 1_000_000
"""Parameters."""

LEAST_SPREAD = 1e-3
"""Deviation of a feature from clip to clip, as a share of its size, below which clips look all the same."""

FEWEST_NEIGHBOURS = 50
"""Clips below which the labels of nearest neighbours say too little."""

_MOST_NEIGHBOURS = 1000
_DEVIATIONS = 2.0
"""By so many standard deviations something has to be better than chance."""

_LAG = 0.15
"""Accuracy on training clips may be so much lower in evaluation than in training."""

_LEARNED = 0.98
"""A loss above this share of what an answer without looking has is no better than that."""

_LEAST_WAIT_S = 20.0
"""Of training, before the share of waiting is believed."""


class Sanity(Callback):
    """Warns of what goes wrong while it trains.

    Args:
        prepared: What is trained.
        progress: Knows how long was waited for clips.
        team: The processes that train together. All of them look, the leader speaks.
    """

    def __init__(self, prepared: Prepared, progress: Progress, team: Team | None = None) -> None:
        self.team = team or Team()
        self.prepared = prepared
        self.section = prepared.recipe.trainer.sanity
        self.progress = progress
        self.said: dict[str, str] = {}  # the module's, once there is one
        self.num_steps = 0
        self.reached: set[str] = set()  # parameters that had a gradient
        self.learned: dict[str, Any] | None = None  # what the last epoch came to

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "reached": sorted(self.reached), "learned": self.learned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reached = set(state_dict["reached"])
        self.num_steps = state_dict["num_steps"]
        self.learned = state_dict["learned"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RecogniserTraining)
        self.said = pl_module.warned

    def _warn(self, key: str, message: str) -> None:
        if key not in self.said:
            self.said[key] = message
            if self.team.leads:
                log.warning("%s", message)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.num_steps >= GRADIENT_STEPS:
            return
        self.num_steps += 1
        wanting = {name: p for name, p in pl_module.named_parameters() if p.requires_grad and name not in self.reached}
        reached = [name for name, p in wanting.items() if p.grad is not None and bool(_own(p.grad).any())]
        self.reached.update(*self.team.gather(reached))
        if self.num_steps == GRADIENT_STEPS:
            self._check_gradients(pl_module, optimizer)

    def _check_gradients(self, pl_module: LightningModule, optimizer: Optimizer) -> None:
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        outside = [name for name, p in trained.items() if id(p) not in held]
        if outside:
            self._warn(
                "optimiser",
                f"{_some(outside)}: in no group of the optimiser, and never trained; it came into being after the "
                "optimiser did. Make it in the model's constructor",
            )
        without = [name for name in trained if name not in self.reached and name not in outside]
        if without:
            self._warn(
                "gradient",
                f"{_some(without)}: no gradient in the first {GRADIENT_STEPS} steps; what it does reaches no answer. "
                "Leave it out of the model, or freeze it",
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RecogniserTraining)
        epoch, section = trainer.current_epoch + 1, self.section
        main = main_task(self.prepared.dataset.classes)
        metrics = pl_module.train_metrics()
        train, loss = metrics[f"train/{main}_top1"], metrics["train/loss"]
        of_validation = trainer.callback_metrics.get(f"validation/{main}_top1")
        validation = None if of_validation is None else float(of_validation)
        if section.baseline_epochs is not None:
            names = [metric.removeprefix("train/").removesuffix("_top1") for metric in metrics if "_top1" in metric]
            known = {name: trainer.callback_metrics.get(f"validation/{name}_top1") for name in names}
            of_tasks = {
                name: (metrics[f"train/{name}_top1"], float(value))
                for name, value in known.items()
                if value is not None
            }
            self.learned = {"epoch": epoch, "train": train, "loss": loss, "of_tasks": of_tasks}
            if epoch == section.baseline_epochs:
                self._check_learning(**self.learned)
        if validation is not None and section.gap is not None and train - validation > section.gap:
            self._warn(
                "gap",
                f"epoch {epoch}: top-1 is {percent(train)} on training clips and {percent(validation)} on validation "
                f"clips, a gap above {percent(section.gap)} (trainer.sanity.gap): {_AGAINST_OVERFITTING}",
            )
        share, total_s = self.progress.waiting
        if section.waiting is not None and total_s >= _LEAST_WAIT_S and share > section.waiting:
            self._warn(
                "waiting",
                f"{percent(share)} of the time training waits for clips: raise clips.workers (now "
                f"{self.prepared.recipe.clips.workers}, of {available_cores()} cores), or have clips decoded once; "
                "kinema data advise RECIPE says what that saves",
            )

    def look_at_end(self, module: RecogniserTraining) -> None:
        """After the last epoch, of which nobody knows that it is the last before training has ended."""
        self.said = module.warned
        if self.learned is not None and self.learned["epoch"] != self.section.baseline_epochs:
            self._check_learning(**self.learned, when=", the last")

    def _check_learning(
        self, epoch: int, train: float, loss: float, of_tasks: Mapping[str, tuple[float, float]], *, when: str = ""
    ) -> None:
        """Of each task, and of all at once: accuracy on training and on validation clips. Looked at twice, and said
        once each time: early, so that nobody waits in vain, and of what came out of it."""
        classes, clips = self.prepared.dataset.classes, self.prepared.clips
        seen = majority(clips["train"], clips["train"], classes, main_task(classes))
        sampled = sampling_task(self.prepared.recipe.task.imbalance, classes)
        if sampled is not None:  # rare clips come more often: what is commonest is less common
            seen = max(_shares_seen(self.prepared, sampled))
        margin = _DEVIATIONS * math.sqrt(seen * (1 - seen) / len(clips["train"]))
        is_learning = train > seen + margin
        below = []
        for task, (of_train, validation) in of_tasks.items():
            baseline = majority(clips["train"], clips["validation"], classes, task)
            if validation <= baseline:
                of_task = f" of {task}" if len(classes) > 1 else ""
                below.append(
                    f"top-1{of_task} on validation clips, {percent(validation)}, is not better than always answering "
                    f"the commonest training class ({percent(baseline)}); on training clips it is {percent(of_train)}"
                )
        if below:
            advice = _BY_HEART if is_learning else _NOTHING_LEARNED
            self._warn(f"baseline{when}", f"epoch {epoch}{when}: {'; '.join(below)}. {advice}")
        blind = blind_loss(self.prepared)
        if not is_learning and blind is not None and loss >= _LEARNED * blind:
            self._warn(
                f"labels{when}",
                f"epoch {epoch}{when}: the training loss, {loss:.3f}, is that of an answer that does not look at the "
                f"clip ({blind:.3f}): labels look shuffled, or nothing is learned. {_NOTHING_LEARNED}",
            )


def _own(tensor: Tensor) -> Tensor:
    """This process's share of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


_AGAINST_OVERFITTING = (
    "it learns by heart. Freeze more (init.freeze), begin with published weights, take a smaller model, or more "
    "augmentation and dropout"
)
_BY_HEART = (
    f"So {_AGAINST_OVERFITTING}; and look whether labels belong to their clips, in both splits (kinema data stats "
    "NAME ROOT draws some)"
)
_NOTHING_LEARNED = (
    "kinema train RECIPE --overfit 8 tells whether model and data can be learned at all; if they can, try another "
    "optim.lr, or published weights (init.weights)"
)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name.removeprefix("model.") for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more parameters"


def majority(train: Sequence[Clip], clips: Sequence[Clip], classes: Heads, task: str) -> float:
    """Share of clips that always answering the commonest training class gets right; of `joint` the combination."""
    common = commonest(train, classes)
    if task == JOINT:
        wanted = dict(zip(classes, common[JOINT], strict=True))
        hits = [all(clip.labels[name] == label for name, label in wanted.items()) for clip in clips]
    else:
        hits = [clip.labels[task] == common[task] for clip in clips]
    return float(np.mean(hits))


def _shares_seen(prepared: Prepared, task: str) -> list[float]:
    """Of each class, of the clips that an epoch draws."""
    counts = np.array(class_counts(prepared.clips["train"], prepared.dataset.classes)[task], dtype=np.float64)
    imbalance, drawn = prepared.recipe.task.imbalance, counts
    if isinstance(imbalance, BalancedSampling):
        drawn = (counts > 0).astype(np.float64)
    elif isinstance(imbalance, SqrtSampling):
        drawn = np.sqrt(counts)
    return list(drawn / drawn.sum())


def blind_loss(prepared: Prepared) -> float | None:
    """The least training loss of an answer that does not look at the clip: the entropy of the targets. None where the
    loss is another one."""
    recipe, classes = prepared.recipe, prepared.dataset.classes
    sampled = sampling_task(recipe.task.imbalance, classes)
    if hasattr(prepared.model, "auxiliary_loss"):
        return None
    is_plain = isinstance(recipe.task.imbalance, NoImbalance) or (sampled is not None and len(classes) == 1)
    if not is_plain or recipe.task.combine != "sum":
        return None
    total = 0.0
    for task, names in classes.items():
        shares = np.array(_shares_seen(prepared, task))
        smoothing = smoothing_of(recipe.task, task)
        target = (1 - smoothing) * shares + smoothing / len(names)
        entropy = -float((target[target > 0] * np.log(target[target > 0])).sum())
        total += recipe.task.weights.get(task, 1.0) * entropy
    return total


# Before the first step


def look_before(prepared: Prepared, features: FeatureReader | StreamFeatures | None) -> dict[str, str]:
    """Warn of what can be seen before anything is trained.

    Args:
        prepared: What will be trained.
        features: The training clips' features, where they are stored.

    Returns:
        Key -> what was said.
    """
    said: dict[str, str] = {}
    for line in (*_from_scratch(prepared), *([] if features is None else _of_features(prepared, features))):
        log.warning("%s", line)
        said[f"before {len(said) + 1}"] = line
    return said


def _from_scratch(prepared: Prepared) -> Iterator[str]:
    num_clips = len(prepared.clips["train"])
    if prepared.recipe.init.weights is not None or num_clips >= FEW_CLIPS:
        return
    for part in backbones(prepared.model).values():
        size = sum(parameter.numel() for parameter in part.parameters())
        if size >= LARGE_BACKBONE and _is_published(part):
            yield (
                f"{part.name} starts from scratch: {size:,} parameters for {num_clips:,} training clips. Is it meant "
                "to be pretrained? init.weights=published, or a file"
            )


def _is_published(part: Backbone) -> bool:
    return part.library != "kinema" if isinstance(part, FrameBackbone) else part.is_published


def _of_features(prepared: Prepared, reader: FeatureReader | StreamFeatures) -> Iterator[str]:
    indices = np.random.default_rng(prepared.recipe.trainer.seed).permutation(len(reader))[:_MOST_NEIGHBOURS]
    chosen = [int(index) for index in sorted(indices) if int(index) not in reader.failures]
    if len(chosen) < 2:
        return
    values = reader.values(chosen).astype(np.float32)
    if is_constant(values):
        yield (
            "the backbone's features hardly differ from clip to clip: is it pretrained? Look at init.weights, "
            "init.mean and init.std"
        )
        return
    clips = [reader.clips[index] for index in chosen]
    seen = [label_agreement(clip_features(values), clips, task) for task in prepared.dataset.classes]
    told = [found for found in seen if found is not None]
    if told and all(share <= chance + _DEVIATIONS * deviation for share, chance, deviation in told):
        share, chance, _ = told[0]
        yield (
            f"labels look shuffled, or the backbone's features say nothing about them: {percent(share)} of training "
            f"clips have the label of the clip that is most like them, by chance it would be {percent(chance)}"
        )


def lagging_statistics(
    model: nn.Module, train_metrics: Mapping[str, float], measured: Mapping[str, float], *, num_clips: int
) -> str | None:
    """What is to be said where a model answers its training clips far worse in evaluation than while it was trained on
    them, although its weights changed and its clips were augmented then: batch norm took its statistics of the batch,
    and in evaluation takes running averages, which in a few steps have not come to what the weights now give (Wu and
    Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576).

    Args:
        model: That was trained.
        train_metrics: Of the last epoch, by `History`'s names.
        measured: Task -> accuracy of evaluation on training clips.
        num_clips: That this was measured on.

    Returns:
        None where it is no worse than chance explains, or no batch norm was trained.
    """
    if not trains_batch_norm(model):
        return None
    for task, in_evaluation in measured.items():
        in_training = train_metrics.get(f"train/{task}_top1", 0.0)
        share = (in_training + in_evaluation) / 2
        deviation = math.sqrt(2 * share * (1 - share) / num_clips)
        if in_training - in_evaluation > max(_LAG, _DEVIATIONS * deviation):
            return (
                f"{task}: {percent(in_training)} of the training clips were right while it was trained, and "
                f"{percent(in_evaluation)} are with the kept weights: the running statistics of batch norm, which "
                "evaluation takes, lag behind the weights. Train for more steps, end at a smaller learning rate, begin "
                "with published weights, or freeze what has batch norm"
            )
    return None


def is_constant(features: Float[np.ndarray, "N ..."] | Float[Tensor, "N ..."]) -> bool:
    """Whether features of different clips, or frames, are all but the same."""
    values = np.asarray(features, dtype=np.float64).reshape(len(features), -1)
    size = np.sqrt((values**2).mean())
    return bool(values.std(axis=0).mean() <= LEAST_SPREAD * size)


def clip_features(values: Float[np.ndarray, "N T D ..."]) -> Float[np.ndarray, "N D"]:
    """Mean over time, and over the frame where there are maps."""
    return np.asarray(values.mean(axis=(1, *range(3, values.ndim))))


def label_agreement(
    features: Float[np.ndarray, "N D"], clips: Sequence[Clip], task: str
) -> tuple[float, float, float] | None:
    """How often a clip has the label of its nearest neighbour among clips of other groups (of other videos where there
    are no groups), which would be like it whatever its label.

    If labels were drawn at random, this would be chance; the other way round, features that say nothing about the
    labels, the order of frames being all that matters, look the same.

    Returns:
        The share of clips; by chance; its standard deviation by chance. None for too few clips.
    """
    labels = np.array([clip.labels[task] for clip in clips])
    groups = np.unique([clip.group or str(clip.video) for clip in clips], return_inverse=True)[1]
    centred = features - features.mean(axis=0)
    normed = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    similar = normed @ normed.T
    others = groups[:, None] != groups[None, :]
    usable = others.any(axis=1)
    if usable.sum() < FEWEST_NEIGHBOURS:
        return None
    nearest = np.where(others, similar, -np.inf).argmax(axis=1)[usable]
    same = labels[:, None] == labels[None, :]
    chances = ((same & others).sum(axis=1)[usable]) / others.sum(axis=1)[usable]
    share = float((labels[nearest] == labels[usable]).mean())
    # Two clips that are each other's nearest agree both or neither: one event, that counts twice.
    pairs = np.sort(np.stack([np.flatnonzero(usable), nearest]), axis=0)
    _, first, times = np.unique(pairs, axis=1, return_index=True, return_counts=True)
    variances = (chances * (1 - chances))[first]
    return share, float(chances.mean()), float(np.sqrt((times**2 * variances).sum()) / usable.sum())


class WatchFeatures(Callback):
    """Looks, in the first batch, whether the features of a backbone that has weights differ from clip to clip."""

    def __init__(self, model_parts: Mapping[str, Backbone]) -> None:
        self.parts = model_parts
        self._handles: list[Any] = []
        self._has_looked = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._has_looked and len(batch) > 1:
            self._has_looked = True
            self._handles = [part.register_forward_hook(self._look) for part in self.parts.values()]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @staticmethod
    def _look(part: Backbone, inputs: Any, features: Tensor) -> None:
        if len(features) > 1 and is_constant(features.detach().float().cpu().numpy()):
            log.warning(
                "%s: its features hardly differ from clip to clip: is it pretrained? Look at init.weights, init.mean "
                "and init.std",
                part.name,
            )
