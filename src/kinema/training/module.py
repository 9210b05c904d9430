"""What happens in one step, as a Lightning module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from kinema.data.device import to_model_input
from kinema.data.loading import Batch, EpochOrder
from kinema.evaluation.metrics import accuracy, main_task, task_metrics
from kinema.evaluation.predict import Collector
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import Arithmetic
from kinema.models.layers.int8 import Ranges
from kinema.sections import Recipe
from kinema.training.losses import multi_task_loss
from kinema.training.optimisers import build_optimiser, build_schedule
from kinema.training.stand_in import still_batch_norm
from kinema.training.team import Team
from kinema.types import JOINT, Clip, DataError, Heads, Preprocessing, UserError


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
        team: Team | None = None,
    ) -> None:
        super().__init__()
        self.model = model
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
        self.compiled = False  # by `trainer.runtime.compile`
        self.optimiser_state = "whole"  # or how a strategy keeps it in checkpoints
        self.counted_epoch = -1
        self.batches_done = 0
        self.sums: dict[str, float] = {}
        self.skipped: Counter[int] = Counter()  # training clip -> epochs in which it could not be read
        self.best: tuple[float, float] | None = None  # validation accuracy and negative loss
        self._collector = Collector()
        self._has_gradient = True  # of the last batch

    # Training

    def begin_epoch(self) -> None:
        """Reset what is counted within an epoch, unless a checkpoint from the middle of this epoch was restored.

        Called from where the batches are taken: of Lightning's own hooks none is called in every kind of restart.
        """
        if self.counted_epoch != self.current_epoch:
            self.counted_epoch = self.current_epoch
            self.batches_done = 0
            self.sums = {"loss": 0.0, "clips": 0.0, **{f"right_{name}": 0.0 for name in self._accuracy_names()}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        place = [self.recipe.trainer.seed, self.current_epoch, self.batches_done]
        sequence = np.random.SeedSequence([*place, self.team.rank] if self.team.rank else place)
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.batches_done += 1
        logits, loss = self._loss(batch)
        counts = self.team.sum(self._counts(logits, batch, loss))
        failures = batch.failures
        if counts["failures"] and self.team.size > 1:
            failures = {index: why for part in self.team.gather(failures) for index, why in part.items()}
        self.skipped.update(failures.keys())
        self.num_read = int(counts["clips"] + counts["failures"])
        self._has_gradient = counts["clips"] > 0
        if not counts["clips"]:
            if self.batches_done == self.steps_per_epoch and not self.sums["clips"]:
                reason = next(iter(failures.values()))
                raise DataError(f"no training clip could be read in epoch {self.current_epoch + 1}; the last: {reason}")
            return None if loss is None else loss * 0.0
        value = counts["loss"] / counts["clips"]
        if not np.isfinite(value):
            raise UserError(
                f"the loss is {value} in epoch {self.current_epoch + 1}, batch {self.batches_done}; "
                "lower optim.lr, or use trainer.precision=fp32"
            )
        for name in self.sums:
            self.sums[name] += counts[name]
        if self.team.size == 1:
            return loss
        # Gradients are averaged over processes, and the loss is the mean over the clips of all of them.
        assert loss is not None
        return loss * (len(batch) * self.team.size / counts["clips"])

    def _loss(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Logits, and the mean loss of the clips of a batch. Every process has to take part in every step, with a
        stand-in where it has no clip."""
        if len(batch):
            logits = self._logits(batch)
            return logits, multi_task_loss(logits, batch.labels, self.recipe.task)
        if self.stand_in is None:
            return {}, None
        stand_in = self.stand_in.to(self.device)
        with still_batch_norm(self.model):
            return {}, multi_task_loss(self._logits(stand_in), stand_in.labels, self.recipe.task)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.team.size > 1 and not self._has_gradient:
            optimizer.zero_grad()  # no clip of the batch could be read: as with one process, nothing is learnt

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        if batch.features is not None:
            assert isinstance(self.model, FrameModel)
            return self.model.classify(batch.features.float())
        return self.model(to_model_input(batch.streams, self.preprocessing, colour=batch.colour, flip=batch.flip))

    def _counts(self, logits: Mapping[str, Tensor], batch: Batch, loss: Tensor | None) -> dict[str, float]:
        """What is summed over processes and batches, and the clips that could not be read."""
        right = {task: values.argmax(dim=1) == batch.labels[task] for task, values in logits.items()}
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

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not len(batch):
            if self.stand_in is not None:
                self._logits(self.stand_in.to(self.device))  # the others wait for this process, where all share weights
            self._collector.add(batch, {})
            return
        self._collector.add(batch, self._logits(batch))

    def on_validation_epoch_end(self) -> None:
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

    # Plumbing

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val is None:
            return
        # Not through Lightning, which refuses it for a fused optimiser beside mixed precision of any kind. It is
        # right for fp16 alone, whose gradients a fused optimiser unscales; for fp16 ours is not fused.
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def configure_optimizers(self) -> Any:
        trainer = self.recipe.trainer
        optimiser = build_optimiser(self.model, self.recipe.optim, fused=trainer.precision != "fp16")
        held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
        left_out = [n for n, p in self.named_parameters() if p.requires_grad and id(p) not in held]
        assert not left_out, f"not in the optimiser: {left_out}"
        schedule = build_schedule(
            optimiser, self.recipe.optim, steps_per_epoch=self.steps_per_epoch, num_epochs=trainer.epochs
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
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
            "optimiser_state": self.optimiser_state,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
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
