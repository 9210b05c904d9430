"""A training run from its first step to its weights folder."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from kinema.data.hashing import content_hash
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.evaluation.baselines import class_counts, commonest
from kinema.evaluation.metrics import accuracy, main_task
from kinema.evaluation.predict import predict_clips
from kinema.evaluation.results import results, save_evaluation
from kinema.models.weights import TrainingFacts, WeightsConfig, save
from kinema.progress import SILENT, Reporter
from kinema.training.callbacks import (
    AtomicCheckpointIO,
    History,
    LastCheckpoint,
    Progress,
    StopRequest,
    quiet_lightning,
    stop_request,
)
from kinema.training.model_card import model_card
from kinema.training.module import RecogniserTraining, TrainingBatches
from kinema.training.prepare import Prepared
from kinema.training.run_folder import Run
from kinema.types import ConfigError

log = logging.getLogger(__name__)

_ACCURACY_CLIPS = 2000
"""Training clips on which the final weights are measured: their accuracy is then known to about 1 %."""

_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run ended in.

    Attributes:
        run: Its folder.
        best: Epoch that was kept, how it was chosen, and its validation result where there is one.
    """

    run: Run
    best: Mapping[str, Any]


def train(prepared: Prepared, run: Run, *, reporter: Reporter = SILENT) -> Trained:
    """Train, or go on with a run that was interrupted, and write its weights.

    Args:
        prepared: From `kinema.training.prepare`.
        run: Its folder. If it holds a checkpoint, training goes on from there, and ends in the same weights.
        reporter: Where to show progress.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came; a checkpoint was written.
        DataError: Something cannot be written. The checkpoint before it is untouched.
        UserError: The loss is not finite.
    """
    quiet_lightning()
    with warnings.catch_warnings(), stop_request() as request:
        # Hints about things that are as they are on purpose: the loader's position is restored by us, and frozen parts
        # are in evaluation mode.
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
        module, history = _fit(prepared, run, request, reporter)
    epoch = _load_selected(module, run, prepared.select, last_epoch=len(history.rows))
    return _finish(prepared, run, module, epoch, reporter)


def _fit(prepared: Prepared, run: Run, request: StopRequest, reporter: Reporter) -> tuple[RecogniserTraining, History]:
    recipe = prepared.recipe
    clips, seed = prepared.clips, recipe.trainer.seed
    order = EpochOrder(len(clips["train"]), batch_size=recipe.clips.batch_size, seed=seed)
    validation = clips.get("validation", [])
    module = RecogniserTraining(
        prepared.model,
        recipe,
        classes=prepared.dataset.classes,
        preprocessing=prepared.preprocessing,
        validation_clips=list(validation),
        steps_per_epoch=len(order),
    )
    history = History(run.folder / "metrics.csv")
    with reporter.track(
        "training",
        total=recipe.trainer.epochs * len(clips["train"]),
        unit="clips",
        done=_clips_done(run, prepared),
    ) as task:
        callbacks: list[Callback] = [history, Progress(task)]
        callbacks += _selection_callbacks(prepared, run)
        callbacks.append(
            LastCheckpoint(run.last_checkpoint, every_minutes=recipe.trainer.checkpoint_minutes, request=request)
        )
        trainer = _trainer(prepared, run, callbacks)
        reader = ClipReader(
            clips["train"],
            prepared.videos,
            prepared.preprocessing,
            augmentation=recipe.clips.augmentation,
            seed=seed,
        )
        batches = clip_loader(reader, order, workers=recipe.clips.workers, pin_memory=_has_gpu(trainer))
        checkpoint = run.last_checkpoint if run.last_checkpoint.is_file() else None
        if checkpoint is not None and _is_over(checkpoint, recipe.trainer.epochs):
            _restore(module, history, checkpoint)
        else:
            trainer.fit(
                module,
                TrainingBatches(batches, order, module),
                _validation_batches(prepared) if validation else None,
                ckpt_path=checkpoint,
                weights_only=True,
            )
    if module.skipped:
        names = ", ".join(clips["train"][index].clip_id for index in sorted(module.skipped)[:3])
        log.warning("%d training clips could not be read and were left out: %s", len(module.skipped), names)
    return module, history


def _trainer(prepared: Prepared, run: Run, callbacks: list[Callback]) -> Trainer:
    section = prepared.recipe.trainer
    if section.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("trainer.precision: fp16 needs a GPU; use bf16 or fp32")
    if section.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator: there is no GPU; use auto or cpu")
    return Trainer(
        max_epochs=section.epochs,
        accelerator=section.accelerator,
        devices=1,
        precision=_PRECISION[section.precision],
        gradient_clip_val=prepared.recipe.optim.clip_norm,
        logger=TensorBoardLogger(save_dir=run.folder, name="tensorboard", version=""),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1_000_000_000,  # the history logs once per epoch
    )


def _selection_callbacks(prepared: Prepared, run: Run) -> list[Callback]:
    callbacks: list[Callback] = []
    monitor: dict[str, Any] = {"monitor": "validation/selection", "mode": "max"}
    patience = prepared.recipe.trainer.patience
    if patience is not None:
        callbacks.append(EarlyStopping(**monitor, patience=patience, min_delta=0.0))
    if prepared.select == "best":
        best = run.best_checkpoint
        callbacks.append(
            ModelCheckpoint(
                dirpath=best.parent,
                filename=best.stem,
                save_weights_only=True,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
                **monitor,
            )
        )
    return callbacks


def _validation_batches(prepared: Prepared) -> Any:
    recipe = prepared.recipe
    clips = prepared.clips["validation"]
    reader = ClipReader(clips, prepared.videos, prepared.preprocessing, augmentation=None, seed=0)
    order = EpochOrder(len(clips), batch_size=recipe.clips.batch_size, seed=None)
    return clip_loader(reader, order, workers=recipe.clips.workers)


def _has_gpu(trainer: Trainer) -> bool:
    return trainer.strategy.root_device.type == "cuda"


def _read_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def _clips_done(run: Run, prepared: Prepared) -> int:
    """Clips that an interrupted run has seen already."""
    if not run.last_checkpoint.is_file():
        return 0
    state = _read_checkpoint(run.last_checkpoint)["epoch_state"]
    per_epoch = len(prepared.clips["train"])
    inside = min(state["batches_done"] * prepared.recipe.clips.batch_size, per_epoch)
    return int(state["epoch"] * per_epoch + inside)


def _is_over(path: Path, num_epochs: int) -> bool:
    """Whether training was complete when this checkpoint was written, and only the weights were missing."""
    checkpoint = _read_checkpoint(path)
    history = next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    if len(history["rows"]) >= num_epochs:
        return True
    stopping = [state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")]
    return bool(stopping) and stopping[0]["stopped_epoch"] > 0


def _restore(module: RecogniserTraining, history: History, path: Path) -> None:
    checkpoint = _read_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    history.load_state_dict(
        next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    )


def _load_selected(module: RecogniserTraining, run: Run, select: str, *, last_epoch: int) -> int:
    """Put the kept epoch's weights into the module; its number, from 1."""
    if select == "last":
        return last_epoch
    checkpoint = _read_checkpoint(run.best_checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["epoch"]) + 1


def _finish(prepared: Prepared, run: Run, module: RecogniserTraining, epoch: int, reporter: Reporter) -> Trained:
    """Measure the kept weights, write them, and evaluate them on the validation split."""
    recipe, classes = prepared.recipe, prepared.dataset.classes
    train_clips = prepared.clips["train"]
    chosen = np.random.default_rng(recipe.trainer.seed).permutation(len(train_clips))[:_ACCURACY_CLIPS]
    settings: dict[str, Any] = {
        "classes": classes,
        "preprocessing": prepared.preprocessing,
        "batch_size": recipe.clips.batch_size,
        "workers": recipe.clips.workers,
        "reporter": reporter,
    }
    on_training = predict_clips(
        module.model,
        [train_clips[index] for index in sorted(chosen)],
        prepared.videos,
        description="measuring on training clips",
        **settings,
    )
    facts = TrainingFacts(
        data=recipe.data.model_dump(mode="json"),
        num_clips=len(train_clips),
        class_counts=class_counts(train_clips, classes),
        commonest=commonest(train_clips, classes),
        accuracy=accuracy(on_training),
        num_accuracy_clips=len(on_training.clips),
        epoch=epoch,
        selected_by="the best validation result" if prepared.select == "best" else "being the last epoch",
        groups=sorted({clip.group for clip in train_clips if clip.group is not None}),
        contents=sorted({content_hash(path) for path in {clip.video for clip in train_clips}}),
    )
    config = WeightsConfig(
        model=recipe.model.name,
        arguments=recipe.model.arguments(),
        heads=classes,
        preprocessing=prepared.preprocessing,
    )
    main = main_task(classes)
    best: dict[str, Any] = {"epoch": epoch, "selected_by": prepared.select, "train_top1": facts.accuracy[main]}
    record = None
    if "validation" in prepared.clips:
        on_validation = predict_clips(
            module.model,
            prepared.clips["validation"],
            prepared.videos,
            description="evaluating on validation clips",
            **settings,
        )
        pairs = prepared.dataset.pairs
        record = results(on_validation, split="validation", training=facts, pairs=pairs)
        record["num_skipped"] += len(prepared.skipped["validation"])
        save_evaluation(run.new_evaluation("validation"), record, on_validation)
        headline = record["joint"] if main == "joint" else record["tasks"][main]
        best |= {"split": "validation", "top1": headline["top1"], "gap": headline["gap"]}
    # Written last: their presence says that the run is finished.
    save(run.weights, module.model.state_dict(), config, facts, card=model_card(config, facts, record))
    assert not math.isnan(facts.accuracy[main])
    return Trained(run=run, best=best)
