"""What every process of a training does, each on its part of every batch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from kinema.data.loading import ClipLoader, EpochOrder, clip_loader
from kinema.data.parts import Part
from kinema.models.freezing import backbones
from kinema.models.streams_model import frame_models
from kinema.preparation.feature_store import FeatureReader, StreamFeatures
from kinema.progress import Reporter
from kinema.sections import ClipsSection
from kinema.training.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    History,
    LastCheckpoint,
    Progress,
    StopRequest,
)
from kinema.training.imbalance import draw_of
from kinema.training.module import RecogniserTraining, TrainingBatches
from kinema.training.prepare import Prepared
from kinema.training.readers import Features, Frames
from kinema.training.run_folder import Run
from kinema.training.sanity import Sanity, WatchFeatures
from kinema.training.stand_in import stand_in
from kinema.training.strategy import (
    Environment,
    ShardedTraining,
    Spread,
    computing_beside_others,
    lightning_strategy,
    spread_of,
    synchronises_batch_norm,
)
from kinema.training.team import Team
from kinema.training.tensorboard import EventFile
from kinema.training.work import Work
from kinema.types import UserError

log = logging.getLogger(__name__)

_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What whoever leads a training wants besides.

    Attributes:
        callbacks: That Lightning is to call too, after an epoch's row is in `metrics.csv`.
        checkpoint_share: Share of the time that may be spent on writing checkpoints; 1: there is one after every epoch.
    """

    callbacks: tuple[Callback, ...] = ()
    checkpoint_share: float = 1.0


def module_of(prepared: Prepared, clips: str, kind: type[RecogniserTraining], team: Team) -> RecogniserTraining:
    """What trains.

    Args:
        prepared: With the model.
        clips: From `clips_fingerprint`.
        kind: Its class.
        team: The processes.
    """
    return kind(
        prepared.model,
        prepared.recipe,
        classes=prepared.dataset.classes,
        preprocessing=prepared.preprocessing,
        validation_clips=list(prepared.clips.get("validation", [])),
        steps_per_epoch=len(order_of(prepared)),
        clips_fingerprint=clips,
        training_clips=prepared.clips["train"],
        thaw=prepared.thaw,
        team=team,
    )


def order_of(prepared: Prepared) -> EpochOrder:
    """Which training clips come when, the same in every process."""
    recipe, clips = prepared.recipe, prepared.clips["train"]
    return EpochOrder(
        len(clips),
        batch_size=recipe.clips.batch_size,
        seed=recipe.trainer.seed,
        draw=draw_of(clips, recipe.task.imbalance, prepared.dataset.classes),
    )


def fit(
    work: Work, request: StopRequest, reporter: Reporter, team: Team, extra: Extra | None = None
) -> tuple[RecogniserTraining, History]:
    """Train to the end.

    Args:
        work: What was found out before.
        request: May ask to stop.
        reporter: Where to show progress.
        team: The processes.
        extra: What the leader wants besides.
    """
    extra = extra or Extra()
    prepared, run, readers = work.prepared, work.run, work.readers
    recipe, order = prepared.recipe, order_of(prepared)
    spread = spread_of(recipe)
    kind = ShardedTraining if spread.is_fsdp else RecogniserTraining
    module = module_of(prepared, work.clips_fingerprint, kind, team)
    history = History(run.folder / "metrics.csv")
    module.precision = work.precision
    module.warned = dict(work.warned)
    module.sources = {split: reader.source for split, reader in readers.items()}
    if isinstance(readers["train"], FeatureReader | StreamFeatures):
        module.reads, module.stored_as = "features", readers["train"].form.stored_as
    for network in (frame_models(prepared.model, list(prepared.preprocessing)) or {}).values():  # the same in all
        module.arithmetic = network.backbone.arithmetic
        module.ranges = network.backbone.ranges
    module.compiled, module.optimiser_state = work.compiled, spread.state
    if team.size > 1:
        module.stand_in = stand_in(readers["train"].layout(), prepared.dataset.classes)
    with (
        computing_beside_others(spread, work.num_threads),
        reporter.track(
            "training", total=recipe.trainer.epochs * len(prepared.clips["train"]), unit="clips", done=work.clips_done
        ) as task,
    ):
        progress = Progress(task)
        callbacks: list[Callback] = [history, progress]
        sanity = Sanity(prepared, progress, team)
        callbacks += [sanity, *_watching(work, module, team)]
        callbacks += [*_selection_callbacks(prepared, run), *extra.callbacks]
        callbacks.append(
            LastCheckpoint(
                run.last_checkpoint,
                every_minutes=recipe.trainer.checkpoint_minutes,
                request=request,
                share=extra.checkpoint_share,
                team=team,
            )
        )
        trainer = _trainer(work, callbacks, spread, team)
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
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            raise UserError(
                "a parameter of the model has no gradient, and ddp waits for it; kinema train RECIPE --overfit 8 names "
                "it. Leave it out of the model, or freeze it"
            ) from None
        finally:
            batches.close()
            if validation_batches is not None:
                validation_batches.close()
            if team.size > 1:
                module.trainer = None  # it holds the wrapper of the model, which must not outlive the processes' group
    sanity.look_at_end(module)
    if module.log_variances is not None and team.leads:
        learned = zip(module.classes, torch.exp(-module.log_variances.detach()).tolist(), strict=True)
        log.info("weights that the tasks have learned: %s", ", ".join(f"{task} {share:.3g}" for task, share in learned))
    team.most([0.0])  # nobody leaves before all have done
    if module.skipped and team.leads:
        names = ", ".join(prepared.clips["train"][index].clip_id for index in sorted(module.skipped)[:3])
        log.warning("%d training clips could not be read and were left out: %s", len(module.skipped), names)
    return module, history


def _batches(
    reader: Frames | Features,
    order: EpochOrder,
    section: ClipsSection,
    team: Team,
    *,
    pin_memory: bool = False,
) -> ClipLoader:
    part = order if team.size == 1 else Part(order, rank=team.rank, num_parts=team.size)
    return clip_loader(reader, part, workers=section.workers, pin_memory=pin_memory)


def _watching(work: Work, module: RecogniserTraining, team: Team) -> list[Callback]:
    """What looks at a pretrained backbone's features in the first batch."""
    has_weights = work.prepared.recipe.init.weights is not None
    if team.leads and not work.goes_on and module.reads == "frames" and has_weights and not module.compiled:
        return [WatchFeatures(backbones(work.prepared.model))]
    return []


def _trainer(work: Work, callbacks: list[Callback], spread: Spread, team: Team) -> Trainer:
    recipe = work.prepared.recipe
    return Trainer(
        max_epochs=recipe.trainer.epochs,
        accumulate_grad_batches=recipe.optim.accumulate,
        accelerator="gpu" if spread.on_gpu else "cpu",  # "auto" may mean Apple's as well
        devices=spread.devices,
        num_nodes=spread.nodes,
        strategy=lightning_strategy(spread),
        sync_batchnorm=synchronises_batch_norm(work.prepared.model, spread),
        precision=_PRECISION[work.precision],
        gradient_clip_val=recipe.optim.clip_norm,
        logger=EventFile(work.run.folder / "tensorboard") if team.leads else False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), Environment(team, devices=spread.devices)],
        default_root_dir=work.run.folder,
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
