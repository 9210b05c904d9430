"""A training run from its first step to its weights folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from kinema.data.loading import ClipLoader, ClipReader, EpochOrder, clip_loader
from kinema.models.frame_model import FrameModel
from kinema.models.freezing import backbones
from kinema.models.runtime import compile_for_training, describe, precision, set_up
from kinema.preparation.feature_store import FeatureReader
from kinema.progress import SILENT, Reporter
from kinema.sections import ClipsSection
from kinema.training.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    History,
    LastCheckpoint,
    Progress,
    StopNow,
    StopRequest,
    quiet_lightning,
    read_checkpoint,
    stop_request,
)
from kinema.training.finish import finish
from kinema.training.imbalance import draw_of
from kinema.training.module import RecogniserTraining, TrainingBatches
from kinema.training.prepare import Prepared, compute_device
from kinema.training.readers import readers_of
from kinema.training.run_folder import Run
from kinema.training.sanity import Sanity, WatchFeatures, look_before
from kinema.training.tensorboard import EventFile
from kinema.types import DataError, StoppedBySignal, fingerprint

log = logging.getLogger(__name__)

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


def train(
    prepared: Prepared,
    run: Run,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint_share: float = 1.0,
    reporter: Reporter = SILENT,
) -> Trained:
    """Train, or go on with a run that was interrupted, and write its weights.

    Args:
        prepared: From `kinema.training.prepare`.
        run: Its folder. If it holds a checkpoint, training goes on from there, and ends in the same weights.
        callbacks: That Lightning is to call too, after an epoch's row is in `metrics.csv`.
        checkpoint_share: Share of the time that may be spent on writing checkpoints; 1: there is one after every epoch.
        reporter: Where to show progress.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came. A checkpoint was written, unless a second one came before it could be.
        DataError: Something cannot be written (the checkpoint before it is untouched), or no clip can be read.
        UserError: The loss is not finite.
    """
    quiet_lightning()
    run.remove_leftovers()
    try:
        with warnings.catch_warnings(), stop_request() as request:
            _ignore_hints()
            module, history = _fit(prepared, run, request, callbacks, checkpoint_share, reporter)
            epoch = _load_selected(module, run, prepared.select, last_epoch=len(history.rows))
            best = finish(prepared, run, module, epoch, reporter)
            return Trained(run=run, best=best)
    except StopNow as stop:
        raise StoppedBySignal(stop.signum, run.folder) from None


def _ignore_hints() -> None:
    # Hints of Lightning's about things that are as they are on purpose: the loader's position is restored by us, frozen
    # parts are in evaluation mode, a resumed run has checkpoints, and a batch that cannot be read has no loss.
    warnings.simplefilter("ignore", PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
    for message in (
        "module\\(s\\) in eval mode at the start of training",
        "Checkpoint directory .* exists and is not empty",
        "`training_step` returned `None`",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")


def _fit(
    prepared: Prepared,
    run: Run,
    request: StopRequest,
    more: Sequence[Callback],
    checkpoint_share: float,
    reporter: Reporter,
) -> tuple[RecogniserTraining, History]:
    recipe = prepared.recipe
    clips, seed = prepared.clips, recipe.trainer.seed
    order = EpochOrder(
        len(clips["train"]),
        batch_size=recipe.clips.batch_size,
        seed=seed,
        draw=draw_of(clips["train"], recipe.task.imbalance, prepared.dataset.classes),
    )
    validation = clips.get("validation", [])
    module = RecogniserTraining(
        prepared.model,
        recipe,
        classes=prepared.dataset.classes,
        preprocessing=prepared.preprocessing,
        validation_clips=list(validation),
        steps_per_epoch=len(order),
        clips_fingerprint=_clips_fingerprint(prepared),
        training_clips=clips["train"],
        thaw=prepared.thaw,
    )
    history = History(run.folder / "metrics.csv")
    checkpoint = read_checkpoint(run.last_checkpoint) if run.last_checkpoint.is_file() else None
    if checkpoint is not None and checkpoint["epoch_state"]["clips"] != module.clips_fingerprint:
        raise DataError(
            f"{run.folder}: the run was begun with other clips; a video is new, replaced, missing, or cannot be read "
            "any more, or labels or times have changed. Mend the data set, or begin a new run"
        )
    if checkpoint is not None and _is_over(checkpoint, recipe.trainer.epochs):
        _restore(module, history, checkpoint)
        return module, history
    device = compute_device(recipe.trainer)
    set_up(prepared.model, recipe.trainer.runtime, device)
    module.precision, why = precision(recipe.trainer.precision, device)
    log.info("precision: %s on %s (%s)", module.precision, device.type, why)
    log.info("computing: %s", describe(prepared.model, recipe.trainer.runtime, device))
    readers = readers_of(prepared, None if checkpoint is None else checkpoint["epoch_state"], reporter)
    module.sources = {split: reader.source for split, reader in readers.items()}
    if isinstance(readers["train"], FeatureReader):
        module.reads, module.stored_as = "features", readers["train"].form.stored_as
    if isinstance(prepared.model, FrameModel):
        module.arithmetic = prepared.model.backbone.arithmetic
        module.ranges = prepared.model.backbone.ranges
    module.compiled = _compile(prepared, module.reads, recipe.trainer.epochs * len(order), checkpoint)
    with reporter.track(
        "training",
        total=recipe.trainer.epochs * len(clips["train"]),
        unit="clips",
        done=_clips_done(checkpoint, prepared),
    ) as task:
        progress = Progress(task)
        callbacks: list[Callback] = [history, progress, Sanity(prepared, progress)]
        if checkpoint is None:
            look_before(prepared, readers["train"] if isinstance(readers["train"], FeatureReader) else None)
            if module.reads == "frames" and recipe.init.weights is not None and not module.compiled:
                callbacks.append(WatchFeatures(backbones(prepared.model)))
        callbacks += [*_selection_callbacks(prepared, run), *more]
        callbacks.append(
            LastCheckpoint(
                run.last_checkpoint,
                every_minutes=recipe.trainer.checkpoint_minutes,
                request=request,
                share=checkpoint_share,
            )
        )
        trainer = _trainer(prepared, run, callbacks)
        batches = clip_loader(readers["train"], order, workers=recipe.clips.workers, pin_memory=_has_gpu(trainer))
        validation_batches = _validation_batches(readers["validation"], recipe.clips) if validation else None
        try:
            trainer.fit(
                module,
                TrainingBatches(batches, order, module),
                validation_batches,
                ckpt_path=run.last_checkpoint if checkpoint is not None else None,
                weights_only=True,
            )
        finally:
            batches.close()
            if validation_batches is not None:
                validation_batches.close()
    if module.log_variances is not None:
        learned = zip(module.classes, torch.exp(-module.log_variances.detach()).tolist(), strict=True)
        log.info("weights that the tasks have learned: %s", ", ".join(f"{task} {share:.3g}" for task, share in learned))
    if module.skipped:
        names = ", ".join(clips["train"][index].clip_id for index in sorted(module.skipped)[:3])
        log.warning("%d training clips could not be read and were left out: %s", len(module.skipped), names)
    return module, history


def _clips_fingerprint(prepared: Prepared) -> str:
    """Differs whenever clips, their labels or times, or the classes do, or a video has another size."""
    sizes = {path: path.stat().st_size for path in prepared.videos if path.exists()}
    clips = {
        split: [
            [clip.clip_id, clip.start_s, clip.stop_s, clip.labels, clip.group, sizes.get(clip.video)]
            for clip in of_split
        ]
        for split, of_split in prepared.clips.items()
    }
    return fingerprint({"classes": prepared.dataset.classes, "clips": clips})


def _trainer(prepared: Prepared, run: Run, callbacks: list[Callback]) -> Trainer:
    section = prepared.recipe.trainer
    device = compute_device(section)
    return Trainer(
        max_epochs=section.epochs,
        accumulate_grad_batches=prepared.recipe.optim.accumulate,
        accelerator="gpu" if device.type == "cuda" else "cpu",  # "auto" may mean Apple's as well
        devices=1,
        precision=_PRECISION[precision(section.precision, device)[0]],
        gradient_clip_val=prepared.recipe.optim.clip_norm,
        logger=EventFile(run.folder / "tensorboard"),
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
            BestCheckpoint(
                dirpath=best.parent,
                filename=best.stem,
                save_weights_only=True,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
                **monitor,
            )
        )
    return callbacks


def _compile(prepared: Prepared, reads: str, num_steps: int, checkpoint: Mapping[str, Any] | None) -> bool:
    """Compile the model where the recipe says so; with a checkpoint as it was before."""
    recipe = prepared.recipe
    runtime = recipe.trainer.runtime
    if checkpoint is not None and runtime.compile == "auto":
        was = checkpoint["epoch_state"].get("compiled", False)
        runtime = runtime.model_copy(update={"compile": "on" if was else "off"})
    if runtime.compile == "off":
        return False
    if reads == "features":
        log.info("torch.compile is not used: of stored features little is computed")
        return False
    generator = torch.Generator().manual_seed(0)
    device = compute_device(recipe.trainer)
    num_clips = min(recipe.clips.batch_size, len(prepared.clips["train"]))
    inputs = {}
    for stream, preprocessing in prepared.preprocessing.items():
        shape = preprocessing.shape
        size = (num_clips, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
        inputs[stream] = torch.randn(size, generator=generator).to(device)
    name, _ = precision(recipe.trainer.precision, device)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    return compile_for_training(prepared.model.to(device), runtime, inputs, num_steps=num_steps, autocast=autocast)


def _validation_batches(reader: ClipReader | FeatureReader, section: ClipsSection) -> ClipLoader:
    order = EpochOrder(len(reader), batch_size=section.batch_size, seed=None)
    return clip_loader(reader, order, workers=section.workers)


def _has_gpu(trainer: Trainer) -> bool:
    return trainer.strategy.root_device.type == "cuda"


def _clips_done(checkpoint: Mapping[str, Any] | None, prepared: Prepared) -> int:
    """Clips that an interrupted run has seen already."""
    if checkpoint is None:
        return 0
    state = checkpoint["epoch_state"]
    per_epoch = len(prepared.clips["train"])
    inside = min(state["batches_done"] * prepared.recipe.clips.batch_size, per_epoch)
    return int(state["epoch"] * per_epoch + inside)


def _is_over(checkpoint: Mapping[str, Any], num_epochs: int) -> bool:
    """Whether training was complete when this checkpoint was written, and only the weights were missing."""
    history = next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    if len(history["rows"]) >= num_epochs:
        return True
    stopping = [state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")]
    return bool(stopping) and stopping[0]["stopped_epoch"] > 0


def _restore(module: RecogniserTraining, history: History, checkpoint: dict[str, Any]) -> None:
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    history.load_state_dict(
        next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    )


def _load_selected(module: RecogniserTraining, run: Run, select: str, *, last_epoch: int) -> int:
    """Put the kept epoch's weights into the module; its number, from 1."""
    if select == "last":
        module.swap_average()
        return last_epoch
    checkpoint = read_checkpoint(run.best_checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    if module.average is not None:
        module.average.load_state_dict(checkpoint["average"])
        module.swap_average()
    return int(checkpoint["epoch"]) + 1
