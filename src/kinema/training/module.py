"""What happens in one step, as a Lightning module."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kinema.data.device import to_model_input
from kinema.data.loading import Batch, EpochOrder
from kinema.evaluation.baselines import class_counts
from kinema.evaluation.collector import Collector
from kinema.evaluation.metrics import accuracy, main_task, task_metrics
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import Arithmetic
from kinema.models.layers.int8 import Ranges
from kinema.models.streams_model import StreamsModel
from kinema.sections import Recipe
from kinema.training.averaging import Average
from kinema.training.imbalance import Skew, skews_of
from kinema.training.losses import Mixed, auxiliary_loss, multi_task_loss
from kinema.training.mixing import mix
from kinema.training.optimisers import build_optimiser
from kinema.training.schedules import build_schedule, lower_on_plateau
from kinema.training.stand_in import still_batch_norm
from kinema.training.team import Team
from kinema.training.unfreezing import Thaw
from kinema.types import JOINT, Clip, DataError, Heads, Preprocessing, UserError

log = logging.getLogger(__name__)

_NAMED_CLIPS = 4


class RecogniserTraining(LightningModule):
    """Trains a model on batches of clips and measures it on the validation clips.

    Everything random in a step is derived from (seed, epoch, batch), and what is counted within an epoch is part of
    the checkpoint, so that a run that was interrupted anywhere goes on as if it had not been.

    Args:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        recipe: All settings.
        classes: Task -> class names.
        preprocessing: Stream -> preprocessing.
        validation_clips: What the validation batches' indices point into.
        steps_per_epoch: Batches in an epoch.
        clips_fingerprint: Differs for other clips; part of a checkpoint.
        training_clips: What the training batches' indices point into.
        thaw: Which stages of the backbone begin to learn later.
        team: The processes that train together, each on its part of every batch.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        classes: Heads,
        preprocessing: Mapping[str, Preprocessing],
        validation_clips: list[Clip],
        steps_per_epoch: int,
        clips_fingerprint: str,
        training_clips: Sequence[Clip] = (),
        thaw: Thaw | None = None,
        team: Team | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.thaw = thaw
        self.training_clips = training_clips
        counts = class_counts(training_clips, classes) if training_clips else {}
        self.skews: dict[str, Skew] = skews_of(counts, recipe.task.imbalance)
        self.average = None if recipe.optim.ema_decay is None else Average(recipe.optim.ema_decay)
        if recipe.task.combine == "uncertainty":
            self.log_variances: nn.Parameter | None = nn.Parameter(torch.zeros(len(classes)))
        else:
            self.log_variances = None
        self.recipe = recipe
        self.classes = classes
        self.preprocessing = preprocessing
        self.validation_clips = validation_clips
        self.steps_per_epoch = steps_per_epoch
        self.clips_fingerprint = clips_fingerprint
        self.team = team or Team()
        self.stand_in: Batch | None = None  # for a part of a batch that has no clip, where there are several processes
        self.num_read = 0  # clips of the last batch, of all processes, with those that could not be read
        self.reads = "frames"  # or "features", of a frozen backbone
        self.stored_as: str | None = None  # type of the stored features
        self.sources: dict[str, str | None] = {}  # split -> fingerprint of what stands for its videos
        self.arithmetic: Arithmetic = "fp32"  # of a frozen backbone
        self.ranges: dict[bool, Ranges] = {}  # of its int8
        self.precision: str = recipe.trainer.precision  # "auto" is decided where the device is known
        self.compiled = False  # by `trainer.runtime.compile`
        self.optimiser_state = "whole"  # or how a strategy keeps it in checkpoints
        self.counted_epoch = -1
        self.batches_done = 0
        self.sums: dict[str, float] = {}
        self.skipped: Counter[int] = Counter()  # training clip -> batches in which it could not be read
        self.warned: dict[str, str] = {}  # key -> what was said
        self.best: tuple[float, float] | None = None  # validation accuracy and negative loss
        self._collector = Collector()
        self._indices: Tensor = torch.zeros(0, dtype=torch.int64)  # clips of the batch at hand
        self._has_gradient = False  # of the batches of the step at hand

    def on_fit_start(self) -> None:
        self.skews = {task: skew.to(self.device) for task, skew in self.skews.items()}

    # Training

    def begin_epoch(self) -> None:
        """Reset what is counted within an epoch, unless a checkpoint from the middle of this epoch was restored.

        Called from where the batches are taken: of Lightning's own hooks none is called in every kind of restart.
        """
        if self.thaw is not None:
            self.thaw.release(self.current_epoch + 1)
        if self.counted_epoch != self.current_epoch:
            self.counted_epoch = self.current_epoch
            self.batches_done = 0
            self.sums = {"loss": 0.0, "clips": 0.0, **{f"right_{name}": 0.0 for name in self._accuracy_names()}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(int(np.random.SeedSequence(self._place()).generate_state(1)[0]))

    def _place(self) -> list[int]:
        """What everything random in a batch comes of; every process draws its own."""
        place = [self.recipe.trainer.seed, self.current_epoch, self.batches_done]
        return [*place, self.team.rank] if self.team.rank else place

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.batches_done += 1
        self._indices = batch.indices
        logits, mixed, loss = self._loss(batch)
        counts = self.team.sum(self._counts(logits, batch, mixed, loss))
        failures = batch.failures
        if counts["failures"] and self.team.size > 1:
            failures = {index: why for part in self.team.gather(failures) for index, why in part.items()}
        self.skipped.update(failures.keys())
        self.num_read = int(counts["clips"] + counts["failures"])
        begins_step = (self.batches_done - 1) % self.recipe.optim.accumulate == 0
        self._has_gradient = counts["clips"] > 0 or (self._has_gradient and not begins_step)
        if not counts["clips"]:
            if self.batches_done == self.steps_per_epoch and not self.sums["clips"]:
                reason = next(iter(failures.values()))
                raise DataError(f"no training clip could be read in epoch {self.current_epoch + 1}; the last: {reason}")
            return self._nothing() if loss is None else loss * 0.0
        value = counts["loss"] / counts["clips"]
        if not np.isfinite(value):
            raise self.not_finite("loss", value)
        for name in self.sums:
            self.sums[name] += counts[name]
        if self.team.size == 1 and self.recipe.optim.accumulate == 1:
            return loss
        assert loss is not None
        return loss * self._weight(len(batch), of=counts["clips"])

    def _nothing(self) -> Tensor | None:
        """The loss of a batch without clips, where one process trains. Without any, a step in fp16 would be left out,
        and with it what the batches before in the same step gave: there it is one that adds nothing to their gradients.
        """
        if self.precision != "fp16" or not self._has_gradient:
            return None
        return next(p for p in self.parameters() if p.grad is not None).sum() * 0.0

    def _loss(self, batch: Batch) -> tuple[dict[str, Tensor], Mixed | None, Tensor | None]:
        """Logits, what the clips are mixed with, and the mean loss of the clips of a batch. Every process has to take
        part in every step, with a stand-in where it has no clip."""
        if not len(batch) and self.stand_in is None:
            return {}, None, None
        loss = partial(multi_task_loss, task=self.recipe.task, skews=self.skews, log_variances=self.log_variances)
        if len(batch):
            inputs, mixed = self._mixed(batch)
            logits = self._answer(inputs)
            return logits, mixed, self._with_auxiliary(loss(logits, batch.labels, mixed=mixed), inputs)
        assert self.stand_in is not None
        stand_in = self.stand_in.to(self.device)
        with still_batch_norm(self.model):
            inputs = self._inputs(stand_in)
            return {}, None, self._with_auxiliary(loss(self._answer(inputs), stand_in.labels), inputs)

    def _with_auxiliary(self, loss: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        own = auxiliary_loss(self.model, inputs)
        return loss if own is None else loss + own

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.team.size > 1 and not self._has_gradient:
            optimizer.zero_grad()  # no clip of the step could be read: as with one process, nothing is learnt

    def not_finite(self, what: str, value: float) -> UserError:
        """What is said when the loss or the gradient is no number any more, with the batch that it came from."""
        indices = [index for part in self.team.gather(self._indices.tolist()) for index in part]
        ids = [self.training_clips[index].clip_id for index in indices if self.training_clips]
        clips = f" (clips {', '.join(ids[:_NAMED_CLIPS])}{', ...' if len(ids) > _NAMED_CLIPS else ''})" if ids else ""
        return UserError(
            f"the {what} is {value} in epoch {self.current_epoch + 1}, batch {self.batches_done}{clips}; "
            "lower optim.lr, or use trainer.precision=fp32; the checkpoint before it is kept"
        )

    def _weight(self, num_clips: int, *, of: float) -> float:
        """What this process's mean loss of a batch counts, so that in a step each clip counts the same.

        Gradients are averaged over processes. Over the batches of a step Lightning divides by their number in a whole
        step, which the last step of an epoch may not have.

        Args:
            num_clips: Of the batch, in this process.
            of: In all processes.
        """
        recipe = self.recipe
        size, num = recipe.clips.batch_size, recipe.optim.accumulate
        if num > 1:
            first = (self.batches_done - 1) // num * num
            of = (min((first + num) * size, len(self.training_clips)) - first * size) / num
        return self.team.size * num_clips / of

    @property
    def is_between_steps(self) -> bool:
        """Whether no gradient waits for further batches; it would not be part of a checkpoint."""
        num = self.recipe.optim.accumulate
        return self.batches_done % num == 0 or self.batches_done >= self.steps_per_epoch

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        if batch.features is not None:
            return {"features": batch.features.float()}
        return dict(
            to_model_input(
                batch.streams, self.preprocessing, colour=batch.colour, flip=batch.flip, changes=batch.changes
            )
        )

    def _mixed(self, batch: Batch) -> tuple[dict[str, Tensor], Mixed | None]:
        augmentation = self.recipe.clips.augmentation
        inputs = self._inputs(batch)
        if augmentation.mixup == 0 and augmentation.cutmix == 0:
            return inputs, None
        rng = np.random.default_rng(np.random.SeedSequence(self._place(), spawn_key=(1,)))
        return mix(inputs, batch.labels, mixup=augmentation.mixup, cutmix=augmentation.cutmix, rng=rng)

    def _answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "features" in inputs:
            assert isinstance(self.model, FrameModel | StreamsModel)
            return self.model.classify(inputs["features"])
        return self.model(inputs)

    def _counts(
        self, logits: Mapping[str, Tensor], batch: Batch, mixed: Mixed | None, loss: Tensor | None
    ) -> dict[str, float]:
        """What is summed over processes and batches, and the clips that could not be read."""
        labels = batch.labels if mixed is None or mixed.share >= 0.5 else mixed.labels  # what most of a clip is
        right = {task: values.argmax(dim=1) == labels[task] for task, values in logits.items()}
        if len(right) > 1:
            right[JOINT] = torch.stack(list(right.values())).all(dim=0)
        num_clips = len(batch)
        return {
            "loss": 0.0 if loss is None or not num_clips else loss.item() * num_clips,
            "clips": num_clips,
            **{f"right_{name}": float(right[name].sum()) if right else 0.0 for name in self._accuracy_names()},
            "failures": len(batch.failures),
        }

    def _accuracy_names(self) -> list[str]:
        return [*self.classes, JOINT] if len(self.classes) > 1 else list(self.classes)

    def train_metrics(self) -> dict[str, float]:
        """Mean loss and accuracies of the epoch so far, on augmented clips, while the weights were changing."""
        num_clips = max(1.0, self.sums["clips"])
        return {
            "train/loss": self.sums["loss"] / num_clips,
            **{f"train/{name}_top1": self.sums[f"right_{name}"] / num_clips for name in self._accuracy_names()},
        }

    # Validation

    def on_validation_epoch_start(self) -> None:
        self._collector = Collector()
        self.swap_average()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not len(batch):
            if self.stand_in is not None:
                self._answer(
                    self._inputs(self.stand_in.to(self.device))
                )  # the others wait for this process, where all share weights
            self._collector.add(batch, {})
            return
        self._collector.add(batch, self._answer(self._inputs(batch)))

    def swap_average(self) -> None:
        """Exchange the weights and their average, where one is kept; once more puts them back."""
        if self.average is not None:
            self.average.swap(self.model)

    def on_validation_epoch_end(self) -> None:
        self.swap_average()
        collector = Collector.merged(self.team.gather(self._collector)) if self.team.size > 1 else self._collector
        predictions = collector.predictions(self.validation_clips, self.classes, {})
        if not predictions.clips:
            reason = next(iter(predictions.skipped.values()))
            raise DataError(f"none of the {len(predictions.skipped)} validation clips can be read; the first: {reason}")
        metrics = {task: task_metrics(predictions, task) for task in self.classes}
        loss = sum(self.recipe.task.weights.get(task, 1.0) * values["loss"] for task, values in metrics.items())
        accuracies = accuracy(predictions)
        metrics_of_epoch = {"loss": loss, **{f"{name}_top1": value for name, value in accuracies.items()}}
        for name, value in metrics_of_epoch.items():
            self.log(f"validation/{name}", value, logger=False)  # the history logs
        # Accuracy on few clips has few values: among equal ones the lower loss is the better epoch. Those who select
        # compare one float32 number, which cannot hold both, but holds the number of the epoch that was the best yet.
        score = accuracies[main_task(self.classes)], -loss
        is_better = self.best is None or score > self.best
        self.best = score if is_better else self.best
        self.log("validation/selection", float(self.current_epoch + 1) if is_better else 0.0, logger=False)
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        lower = lower_on_plateau(schedule, float(loss))
        if lower is not None:
            log.info("epoch %d: the validation loss does not fall; the rate is %.3g now", self.current_epoch + 1, lower)

    # Plumbing

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Not through Lightning, which refuses it for a fused optimiser beside mixed precision of any kind. It is
        # right for fp16 alone, whose gradients a fused optimiser unscales; for fp16 ours is not fused.
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_val is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()  # of all processes
        # Before the step: the weights, and with them the next checkpoint, would be lost. In fp16 it happens now and
        # then, and such a step is left out.
        if self.precision != "fp16" and not np.isfinite(value := norm.item()):
            raise self.not_finite("gradient", value)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            self.average.update(self.model)

    def configure_optimizers(self) -> Any:
        trainer = self.recipe.trainer
        optimiser = build_optimiser(
            self.model,
            self.recipe.optim,
            fused=self.precision != "fp16",
            later=[] if self.thaw is None else self.thaw.parameters,
            beside=[] if self.log_variances is None else [self.log_variances],
        )
        held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
        left_out = [n for n, p in self.named_parameters() if p.requires_grad and id(p) not in held]
        if left_out:
            names = ", ".join(left_out[:3])
            raise UserError(
                f"model.name: {names} would never be trained: they require a gradient and are in no group of the "
                "optimiser; a model has to have all of its parameters before training begins"
            )
        schedule = build_schedule(
            optimiser,
            self.recipe.optim,
            steps_per_epoch=-(-self.steps_per_epoch // self.recipe.optim.accumulate),
            num_epochs=trainer.epochs,
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()
        checkpoint["epoch_state"] = {
            "epoch": self.counted_epoch,
            "batches_done": self.batches_done,
            "sums": dict(self.sums),
            "skipped": dict(self.skipped),
            "best": self.best,
            "warned": dict(self.warned),
            "clips": self.clips_fingerprint,
            "reads": self.reads,
            "stored_as": self.stored_as,
            "sources": self.sources,
            "arithmetic": self.arithmetic,
            "ranges": {of_maps: dict(ranges) for of_maps, ranges in self.ranges.items()},
            "compiled": self.compiled,
            "optimiser_state": self.optimiser_state,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])
        state = checkpoint["epoch_state"]
        self.counted_epoch = state["epoch"]
        self.batches_done = state["batches_done"]
        self.sums = dict(state["sums"])
        self.skipped = Counter(state["skipped"])
        self.best = state["best"]
        self.warned = dict(state["warned"])


class TrainingBatches:
    """The training batches that are still to be done, for Lightning.

    It asks for the position when the first batch is taken, not when Lightning makes the iterator: only then has a
    checkpoint been restored.

    Args:
        batches: A loader over `order`.
        order: Which clips come when.
        module: Knows how many batches of which epoch are done.
    """

    def __init__(self, batches: Any, order: EpochOrder, module: RecogniserTraining) -> None:
        self._batches = batches
        self._order = order
        self._module = module

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        self._module.begin_epoch()
        self._order.set_position(epoch=self._module.current_epoch, first_batch=self._module.batches_done)
        yield from self._batches
