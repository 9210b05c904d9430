"""A training run from its first step to its weights folder."""

from __future__ import annotations

import copy
import dataclasses
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from kinema.data.loading import ClipLoader, ClipReader, EpochOrder, clip_loader
from kinema.data.parts import Part
from kinema.models.frame_model import FrameModel
from kinema.models.runtime import compile_for_training, describe, set_up
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
from kinema.training.launch import team_of
from kinema.training.module import RecogniserTraining, TrainingBatches
from kinema.training.prepare import Prepared, compute_device
from kinema.training.readers import readers_of
from kinema.training.resuming import checkpoint_of, clips_done, clips_fingerprint, is_over
from kinema.training.run_folder import Run
from kinema.training.stand_in import stand_in
from kinema.training.strategy import (
    Environment,
    ShardedTraining,
    Spread,
    check_batch_norm,
    computing_beside_others,
    lightning_strategy,
    runtime_of,
    spread_of,
    synchronises_batch_norm,
)
from kinema.training.team import Team
from kinema.training.tensorboard import EventFile
from kinema.training.work import Work, packed, unpacked
from kinema.types import StoppedBySignal

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


def train(prepared: Prepared, run: Run, *, reporter: Reporter = SILENT, team: Team | None = None) -> Trained:
    """Train, or go on with a run that was interrupted, and write its weights.

    Args:
        prepared: From `kinema.training.prepare`.
        run: Its folder. If it holds a checkpoint, training goes on from there, and ends in the same weights.
        reporter: Where to show progress.
        team: The processes that torchrun or srun has started; those that the recipe asks for are else started here.

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
            module, history = _lead(prepared, run, request, reporter, team)
            epoch = _load_selected(module, run, prepared.select, last_epoch=len(history.rows))
            best = finish(prepared, run, module, epoch, reporter)
            return Trained(run=run, best=best)
    except StopNow as stop:
        raise StoppedBySignal(stop.signum, run.folder) from None


def follow(team: Team, *, listens: bool = True) -> None:
    """Take part in a training that another process leads, until it is over.

    Args:
        team: All of them.
        listens: Whether a signal to this process asks all of them to stop.

    Raises:
        StoppedBySignal: As for who leads.
        UserError: As for who leads.
    """
    quiet_lightning()
    received: bytes | None = team.share(None)
    if received is None:
        return  # there was nothing to train
    work = unpacked(received)
    recipe, model = work.prepared.recipe, work.prepared.model
    try:
        with warnings.catch_warnings(), stop_request(listens=listens) as request:
            _ignore_hints()
            set_up(model, runtime_of(spread_of(recipe), recipe), compute_device(recipe.trainer))
            if work.compiled:
                model.compile()
            _fit(work, request, SILENT, team)
    except StopNow as stop:
        raise StoppedBySignal(stop.signum, work.run.folder) from None


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


def _lead(
    prepared: Prepared, run: Run, request: StopRequest, reporter: Reporter, team: Team | None
) -> tuple[RecogniserTraining, History]:
    recipe, spread = prepared.recipe, spread_of(prepared.recipe)
    checkpoint = checkpoint_of(run, prepared, spread, clips_fingerprint(prepared))
    if checkpoint is not None and is_over(checkpoint, recipe.trainer.epochs):
        return _restored(prepared, run, checkpoint)
    check_batch_norm(prepared.model, spread, num_clips=len(prepared.clips["train"]))
    device = compute_device(recipe.trainer)
    set_up(prepared.model, runtime_of(spread, recipe), device)
    log.info("computing: %s", describe(prepared.model, runtime_of(spread, recipe), device))
    work = Work(
        prepared=prepared,
        run=run,
        clips_fingerprint=clips_fingerprint(prepared),
        readers=readers_of(prepared, None if checkpoint is None else checkpoint["epoch_state"], reporter),
        goes_on=checkpoint is not None,
        clips_done=clips_done(checkpoint, prepared),
    )
    reads_features = isinstance(work.readers["train"], FeatureReader)
    work.compiled = _compile(prepared, reads_features, checkpoint)
    if spread.num_processes == 1:
        return _fit(work, request, reporter, Team())
    log.info("training: %s", spread)
    whole = copy.deepcopy(prepared.model) if spread.is_sharded else prepared.model
    work.num_threads = max(1, torch.get_num_threads() // spread.devices)
    with team_of(spread, team) as processes:
        processes.share(packed(work))
        fitted = _fit(work, request, reporter, processes)
        if spread.is_sharded:
            del fitted  # it holds on to the processes' group
    if not spread.is_sharded:
        return fitted
    prepared = dataclasses.replace(prepared, model=whole)
    return _restored(prepared, run, read_checkpoint(run.last_checkpoint))


def _restored(prepared: Prepared, run: Run, checkpoint: dict[str, Any]) -> tuple[RecogniserTraining, History]:
    """What training ended in, from its last checkpoint."""
    module = _module(prepared, clips_fingerprint(prepared), RecogniserTraining, Team())
    history = History(run.folder / "metrics.csv")
    _restore(module, history, checkpoint)
    return module, history


def _module(prepared: Prepared, clips: str, kind: type[RecogniserTraining], team: Team) -> RecogniserTraining:
    return kind(
        prepared.model,
        prepared.recipe,
        classes=prepared.dataset.classes,
        preprocessing=prepared.preprocessing,
        validation_clips=list(prepared.clips.get("validation", [])),
        steps_per_epoch=len(_order(prepared)),
        clips_fingerprint=clips,
        team=team,
    )


def _order(prepared: Prepared) -> EpochOrder:
    recipe = prepared.recipe
    return EpochOrder(len(prepared.clips["train"]), batch_size=recipe.clips.batch_size, seed=recipe.trainer.seed)


def _fit(work: Work, request: StopRequest, reporter: Reporter, team: Team) -> tuple[RecogniserTraining, History]:
    """What every process does, each on its part of every batch."""
    prepared, run, readers = work.prepared, work.run, work.readers
    recipe, order = prepared.recipe, _order(prepared)
    spread = spread_of(recipe)
    module = _module(prepared, work.clips_fingerprint, ShardedTraining if spread.is_fsdp else RecogniserTraining, team)
    history = History(run.folder / "metrics.csv")
    module.sources = {split: reader.source for split, reader in readers.items()}
    if isinstance(readers["train"], FeatureReader):
        module.reads, module.stored_as = "features", readers["train"].form.stored_as
    if isinstance(prepared.model, FrameModel):
        module.arithmetic = prepared.model.backbone.arithmetic
        module.ranges = prepared.model.backbone.ranges
    module.compiled, module.optimiser_state = work.compiled, spread.state
    if team.size > 1:
        module.stand_in = stand_in(readers["train"].layout(), prepared.dataset.classes)
    with (
        computing_beside_others(spread, work.num_threads),
        reporter.track(
            "training", total=recipe.trainer.epochs * len(prepared.clips["train"]), unit="clips", done=work.clips_done
        ) as task,
    ):
        callbacks: list[Callback] = [history, Progress(task)]
        callbacks += _selection_callbacks(prepared, run)
        minutes = recipe.trainer.checkpoint_minutes
        callbacks.append(LastCheckpoint(run.last_checkpoint, every_minutes=minutes, request=request, team=team))
        trainer = _trainer(prepared, run, callbacks, spread, team)
        batches = _batches(readers["train"], order, recipe.clips, team, pin_memory=spread.on_gpu)
        validation_batches = None
        if "validation" in readers:
            in_order = EpochOrder(len(readers["validation"]), batch_size=recipe.clips.batch_size, seed=None)
            validation_batches = _batches(readers["validation"], in_order, recipe.clips, team)
        try:
            trainer.fit(
                module,
                TrainingBatches(batches, order, module),
                validation_batches,
                ckpt_path=run.last_checkpoint if work.goes_on else None,
                weights_only=True,
            )
        finally:
            batches.close()
            if validation_batches is not None:
                validation_batches.close()
            if team.size > 1:
                module.trainer = None  # it holds the wrapper of the model, which must not outlive the processes' group
    team.most([0.0])  # nobody leaves before all have done
    if module.skipped and team.leads:
        names = ", ".join(prepared.clips["train"][index].clip_id for index in sorted(module.skipped)[:3])
        log.warning("%d training clips could not be read and were left out: %s", len(module.skipped), names)
    return module, history


def _batches(
    reader: ClipReader | FeatureReader,
    order: EpochOrder,
    section: ClipsSection,
    team: Team,
    *,
    pin_memory: bool = False,
) -> ClipLoader:
    part = order if team.size == 1 else Part(order, rank=team.rank, num_parts=team.size)
    return clip_loader(reader, part, workers=section.workers, pin_memory=pin_memory)


def _trainer(prepared: Prepared, run: Run, callbacks: list[Callback], spread: Spread, team: Team) -> Trainer:
    section = prepared.recipe.trainer
    return Trainer(
        max_epochs=section.epochs,
        accelerator="gpu" if spread.on_gpu else "cpu",  # "auto" may mean Apple's as well
        devices=spread.devices,
        num_nodes=spread.nodes,
        strategy=lightning_strategy(spread),
        sync_batchnorm=synchronises_batch_norm(prepared.model, spread),
        precision=_PRECISION[section.precision],
        gradient_clip_val=prepared.recipe.optim.clip_norm,
        logger=EventFile(run.folder / "tensorboard") if team.leads else False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), Environment(team, devices=spread.devices)],
        default_root_dir=run.folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        inference_mode=not spread.is_sharded,  # what is gathered in it could not be trained on
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


def _compile(prepared: Prepared, reads_features: bool, checkpoint: Mapping[str, Any] | None) -> bool:
    """Compile the model where the recipe says so; with a checkpoint as it was before."""
    recipe = prepared.recipe
    runtime = runtime_of(spread_of(recipe), recipe)
    if checkpoint is not None and runtime.compile == "auto":
        was = checkpoint["epoch_state"].get("compiled", False)
        runtime = runtime.model_copy(update={"compile": "on" if was else "off"})
    if runtime.compile == "off":
        return False
    if reads_features:
        log.info("torch.compile is not used: of stored features little is computed")
        return False
    num_steps = recipe.trainer.epochs * len(_order(prepared))
    generator = torch.Generator().manual_seed(0)
    device = compute_device(recipe.trainer)
    num_clips = min(recipe.clips.batch_size, len(prepared.clips["train"]))
    inputs = {}
    for stream, preprocessing in prepared.preprocessing.items():
        shape = preprocessing.shape
        size = (num_clips, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
        inputs[stream] = torch.randn(size, generator=generator).to(device)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.trainer.precision)
    return compile_for_training(prepared.model.to(device), runtime, inputs, num_steps=num_steps, autocast=autocast)


def _restore(module: RecogniserTraining, history: History, checkpoint: dict[str, Any]) -> None:
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    history.load_state_dict(
        next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    )


def _load_selected(module: RecogniserTraining, run: Run, select: str, *, last_epoch: int) -> int:
    """Put the kept epoch's weights into the module; its number, from 1."""
    if select == "last":
        return last_epoch
    checkpoint = read_checkpoint(run.best_checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["epoch"]) + 1
