"""Epochs of `kinema train`'s own loop on features that lie in a store."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

import computing
import pipeline
from harness import say
from kinema import recipes
from kinema.config import resolve
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.places import Places
from kinema.data.shards import ShardWriter, Store
from kinema.models.layers.backbone import FrameBackbone
from kinema.preparation.feature_store import KIND, FeatureFormat, FeatureReader
from kinema.sections import Recipe
from kinema.training.callbacks import quiet_lightning
from kinema.training.module import RecogniserTraining, TrainingBatches
from kinema.types import Clip, Heads, Preprocessing

EPIC_HEADS: Heads = {"verb": tuple(map(str, range(97))), "noun": tuple(map(str, range(300)))}
"""As many classes as EPIC-KITCHENS-100 has."""


def stored_epochs(folder: Path, *, num_clips: int, batch_size: int, epochs: int, num_frames: int = 20) -> list[float]:
    """Seconds of epochs of ConvNet1D on random features that lie in a store of that many clips.

    All that training does is done: the module, the optimiser and the loop are those of `kinema train`.
    """
    rng = np.random.default_rng(0)
    clips = [
        Clip(
            clip_id=str(i),
            video=Path(f"{i}.mp4"),
            labels={task: int(rng.integers(len(names))) for task, names in EPIC_HEADS.items()},
        )
        for i in range(num_clips)
    ]
    wanted = pipeline.preprocessing(num_frames=num_frames, size_px=224)
    model = computing.frozen_model(None, wanted.shape, heads=EPIC_HEADS)
    reader = random_features(folder, clips, wanted, model.backbone)
    order = EpochOrder(num_clips, batch_size=batch_size, seed=0)
    recipe = _recipe(batch_size, epochs)
    module = RecogniserTraining(
        model,
        recipe,
        classes=EPIC_HEADS,
        preprocessing={"rgb": wanted},
        validation_clips=[],
        steps_per_epoch=len(order),
        clips_fingerprint="benchmark",
    )
    module.reads = "features"
    batches = clip_loader(reader, order, workers=recipe.clips.workers)
    clock = _EpochClock()
    quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints; `kinema train` hides the same
        try:
            trainer = Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                logger=False,
                callbacks=[clock],
                gradient_clip_val=recipe.optim.clip_norm,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1_000_000_000,
            )
            trainer.fit(module, cast("Any", TrainingBatches(batches, order, module)))
        finally:
            batches.close()
    return clock.seconds


def random_features(
    folder: Path, clips: Sequence[Clip], wanted: Preprocessing, backbone: FrameBackbone
) -> FeatureReader:
    """A store with random features for every frame of every clip, fp16."""
    rng = np.random.default_rng(1)
    reader = ClipReader(clips, {}, {"rgb": wanted}, augmentation=None, seed=0)
    form = FeatureFormat.of(backbone, reader)
    keys = np.zeros((1, len(clips), 16), dtype=np.uint8)
    drawn = rng.standard_normal((64, *form.shape), dtype=np.float32).astype(form.dtype)  # in turn: drawing takes long
    with ShardWriter(folder, kind=KIND, settings=form.facts) as writer:
        for number in range(len(clips)):
            key = number.to_bytes(16, "big")
            keys[0, number] = np.frombuffer(key, dtype=np.uint8)
            writer.append(key, drawn[number % len(drawn)], {})
    return FeatureReader(Places([Store.open(folder, kind=KIND)], keys), form, clips)


class _EpochClock(Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began_s = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began_s = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._began_s)
        say(f"  epoch {len(self.seconds)}: {self.seconds[-1]:.1f} s")


def _recipe(batch_size: int, epochs: int) -> Recipe:
    settings = [f"clips.batch_size={batch_size}", f"trainer.epochs={epochs}", "model.backbone=mobilenet_v2"]
    return resolve(recipes.read("motion/cnn_conv1d"), settings)
