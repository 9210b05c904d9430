"""A training run from its first step to its weights folder."""

from __future__ import annotations

import copy
import dataclasses
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from kinema.models.runtime import compile_for_training, describe, precision, set_up
from kinema.preparation.feature_store import FeatureReader, StreamFeatures
from kinema.progress import SILENT, Reporter
from kinema.training.callbacks import History, StopNow, StopRequest, quiet_lightning, read_checkpoint, stop_request
from kinema.training.finish import finish
from kinema.training.fitting import Extra, fit, module_of, order_of
from kinema.training.launch import team_of
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import Prepared, compute_device
from kinema.training.readers import readers_of
from kinema.training.resuming import checkpoint_of, clips_done, clips_fingerprint, is_over
from kinema.training.run_folder import Run
from kinema.training.sanity import look_before
from kinema.training.strategy import check_batch_norm, runtime_of, spread_of
from kinema.training.team import Team
from kinema.training.work import Work, packed, unpacked
from kinema.types import ConfigError, StoppedBySignal

log = logging.getLogger(__name__)


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
    team: Team | None = None,
) -> Trained:
    """Train, or go on with a run that was interrupted, and write its weights.

    Args:
        prepared: From `kinema.training.prepare`.
        run: Its folder. If it holds a checkpoint, training goes on from there, and ends in the same weights.
        callbacks: That Lightning is to call too, after an epoch's row is in `metrics.csv`; with one process only.
        checkpoint_share: Share of the time that may be spent on writing checkpoints; 1: there is one after every epoch.
        reporter: Where to show progress.
        team: The processes that torchrun or srun has started; those that the recipe asks for are else started here.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came. A checkpoint was written, unless a second one came before it could be.
        DataError: Something cannot be written (the checkpoint before it is untouched), or no clip can be read.
        ConfigError: What the recipe asks for is not possible with several processes.
        UserError: The loss is not finite.
    """
    quiet_lightning()
    run.remove_leftovers()
    try:
        with warnings.catch_warnings(), stop_request() as request:
            _ignore_hints()
            extra = Extra(callbacks=tuple(callbacks), checkpoint_share=checkpoint_share)
            module, history = _lead(prepared, run, request, extra, reporter, team)
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
            fit(work, request, SILENT, team)
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
    prepared: Prepared, run: Run, request: StopRequest, extra: Extra, reporter: Reporter, team: Team | None
) -> tuple[RecogniserTraining, History]:
    recipe, spread = prepared.recipe, spread_of(prepared.recipe)
    if spread.num_processes > 1 and extra.callbacks:
        raise ConfigError(f"trainer.devices: {spread.num_processes} processes; this is done by one, set it to 1")
    clips = clips_fingerprint(prepared)
    checkpoint = checkpoint_of(run, prepared, spread, clips)
    if checkpoint is not None and is_over(checkpoint, recipe.trainer.epochs):
        return _restored(prepared, run, checkpoint)
    check_batch_norm(prepared.model, spread, num_clips=len(prepared.clips["train"]))
    device = compute_device(recipe.trainer)
    set_up(prepared.model, runtime_of(spread, recipe), device)
    arithmetic, why = precision(recipe.trainer.precision, device)
    log.info("precision: %s on %s (%s)", arithmetic, device.type, why)
    log.info("computing: %s", describe(prepared.model, runtime_of(spread, recipe), device))
    work = Work(
        prepared=prepared,
        run=run,
        clips_fingerprint=clips,
        readers=readers_of(prepared, None if checkpoint is None else checkpoint["epoch_state"], reporter),
        goes_on=checkpoint is not None,
        clips_done=clips_done(checkpoint, prepared),
        precision=arithmetic,
    )
    reader = work.readers["train"]
    features = reader if isinstance(reader, FeatureReader | StreamFeatures) else None
    work.compiled = _compile(work, checkpoint, reads_features=features is not None)
    if checkpoint is None:
        work.warned = look_before(prepared, features)
    if spread.num_processes == 1:
        return fit(work, request, reporter, Team(), extra)
    log.info("training: %s", spread)
    whole = copy.deepcopy(prepared.model) if spread.is_sharded else prepared.model
    work.num_threads = max(1, torch.get_num_threads() // spread.devices)
    with team_of(spread, team) as processes:
        processes.share(packed(work))
        fitted = fit(work, request, reporter, processes, extra)
        if spread.is_sharded:
            del fitted  # it holds on to the processes' group
    if not spread.is_sharded:
        return fitted
    prepared = dataclasses.replace(prepared, model=whole)
    return _restored(prepared, run, read_checkpoint(run.last_checkpoint))


def _restored(prepared: Prepared, run: Run, checkpoint: dict[str, Any]) -> tuple[RecogniserTraining, History]:
    """What training ended in, from its last checkpoint."""
    module = module_of(prepared, clips_fingerprint(prepared), RecogniserTraining, Team())
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    history = History(run.folder / "metrics.csv")
    history.load_state_dict(
        next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    )
    return module, history


def _compile(work: Work, checkpoint: Mapping[str, Any] | None, *, reads_features: bool) -> bool:
    """Compile the model where the recipe says so; with a checkpoint as it was before."""
    prepared, recipe = work.prepared, work.prepared.recipe
    runtime = runtime_of(spread_of(recipe), recipe)
    if checkpoint is not None and runtime.compile == "auto":
        was = checkpoint["epoch_state"].get("compiled", False)
        runtime = runtime.model_copy(update={"compile": "on" if was else "off"})
    if runtime.compile == "off":
        return False
    if reads_features:
        log.info("torch.compile is not used: of stored features little is computed")
        return False
    num_steps = recipe.trainer.epochs * len(order_of(prepared))
    generator = torch.Generator().manual_seed(0)
    device = compute_device(recipe.trainer)
    num_clips = min(recipe.clips.batch_size, len(prepared.clips["train"]))
    inputs = {}
    for stream, preprocessing in prepared.preprocessing.items():
        shape = preprocessing.shape
        size = (num_clips, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
        inputs[stream] = torch.randn(size, generator=generator).to(device)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(work.precision)
    return compile_for_training(prepared.model.to(device), runtime, inputs, num_steps=num_steps, autocast=autocast)


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
