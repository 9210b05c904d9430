"""What happens in one step, as a Lightning module."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kinema.data.device import to_model_input
from kinema.data.loading import Batch, EpochOrder
from kinema.evaluation.baselines import class_counts
from kinema.evaluation.metrics import accuracy, main_task, task_metrics
from kinema.evaluation.predict import Collector
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import Arithmetic
from kinema.models.layers.int8 import Ranges
from kinema.sections import Recipe
from kinema.training.averaging import Average
from kinema.training.imbalance import Skew, skews_of
from kinema.training.losses import Mixed, multi_task_loss
from kinema.training.mixing import mix
from kinema.training.optimisers import build_optimiser
from kinema.training.schedules import build_schedule, lower_on_plateau
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
        self.reads = "frames"  # or "features", of a frozen backbone
        self.stored_as: str | None = None  # type of the stored features
        self.sources: dict[str, str | None] = {}  # split -> fingerprint of what stands for its videos
        self.arithmetic: Arithmetic = "fp32"  # of a frozen backbone
        self.ranges: dict[bool, Ranges] = {}  # of its int8
        self.precision = recipe.trainer.precision  # "auto" is decided where the device is known
        self.compiled = False  # by `trainer.runtime.compile`
        self.counted_epoch = -1
        self.batches_done = 0
        self.sums: dict[str, float] = {}
        self.skipped: Counter[int] = Counter()  # training clip -> epochs in which it could not be read
        self.best: tuple[float, float] | None = None  # validation accuracy and negative loss
        self._collector = Collector()
        self._indices: Tensor = torch.zeros(0, dtype=torch.int64)  # clips of the batch at hand

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
        sequence = np.random.SeedSequence([self.recipe.trainer.seed, self.current_epoch, self.batches_done])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.batches_done += 1
        self.skipped.update(batch.failures.keys())
        if not len(batch):
            if self.batches_done == self.steps_per_epoch and not self.sums["clips"]:
                reason = next(iter(batch.failures.values()))
                raise DataError(f"no training clip could be read in epoch {self.current_epoch + 1}; the last: {reason}")
            return None
        self._indices = batch.indices
        inputs, mixed = self._mixed(batch)
        logits = self._answer(inputs)
        loss = multi_task_loss(
            logits,
            batch.labels,
            self.recipe.task,
            skews=self.skews,
            mixed=mixed,
            log_variances=self.log_variances,
        )
        value = loss.item()
        if not np.isfinite(value):
            raise self.not_finite("loss", value)
        self._count(logits, batch, mixed, value)
        return loss if self.recipe.optim.accumulate == 1 else loss * self._weight(len(batch))

    def not_finite(self, what: str, value: float) -> UserError:
        """What is said when the loss or the gradient is no number any more, with the batch that it came from."""
        ids = [self.training_clips[index].clip_id for index in self._indices.tolist() if self.training_clips]
        clips = f" (clips {', '.join(ids[:_NAMED_CLIPS])}{', ...' if len(ids) > _NAMED_CLIPS else ''})" if ids else ""
        return UserError(
            f"the {what} is {value} in epoch {self.current_epoch + 1}, batch {self.batches_done}{clips}; "
            "lower optim.lr, or use trainer.precision=fp32; the checkpoint before it is kept"
        )

    def _weight(self, num_clips: int) -> float:
        """What a batch's loss counts in a step over several, so that each of their clips counts the same. Lightning
        divides by the number of batches of a whole step, which the last step of an epoch may not have."""
        recipe = self.recipe
        size, num = recipe.clips.batch_size, recipe.optim.accumulate
        first = (self.batches_done - 1) // num * num
        clips_of_step = min((first + num) * size, len(self.training_clips)) - first * size
        return num * num_clips / clips_of_step

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
        place = [self.recipe.trainer.seed, self.current_epoch, self.batches_done]
        rng = np.random.default_rng(np.random.SeedSequence(place, spawn_key=(1,)))
        return mix(inputs, batch.labels, mixup=augmentation.mixup, cutmix=augmentation.cutmix, rng=rng)

    def _answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "features" in inputs:
            assert isinstance(self.model, FrameModel)
            return self.model.classify(inputs["features"])
        return self.model(inputs)

    def _count(self, logits: Mapping[str, Tensor], batch: Batch, mixed: Mixed | None, loss: float) -> None:
        labels = batch.labels if mixed is None or mixed.share >= 0.5 else mixed.labels  # what most of a clip is
        right = {task: values.argmax(dim=1) == labels[task] for task, values in logits.items()}
        if len(right) > 1:
            right[JOINT] = torch.stack(list(right.values())).all(dim=0)
        self.sums["loss"] += loss * len(batch)
        self.sums["clips"] += len(batch)
        for name, hits in right.items():
            self.sums[f"right_{name}"] += float(hits.sum())

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
            self._collector.add(batch, {})
            return
        self._collector.add(batch, self._answer(self._inputs(batch)))

    def swap_average(self) -> None:
        """Exchange the weights and their average, where one is kept; once more puts them back."""
        if self.average is not None:
            self.average.swap(self.model)

    def on_validation_epoch_end(self) -> None:
        self.swap_average()
        predictions = self._collector.predictions(self.validation_clips, self.classes, {})
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
        assert not left_out, f"not in the optimiser: {left_out}"
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
            "clips": self.clips_fingerprint,
            "reads": self.reads,
            "stored_as": self.stored_as,
            "sources": self.sources,
            "arithmetic": self.arithmetic,
            "ranges": {of_maps: dict(ranges) for of_maps, ranges in self.ranges.items()},
            "compiled": self.compiled,
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
