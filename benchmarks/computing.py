"""kinema's arithmetic as its training uses it: features of a frozen backbone, epochs on stored features, steps."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pipeline
import torch
from harness import Run, timed
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from kinema import recipes
from kinema.config import resolve
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.shards import ShardWriter, Store
from kinema.models.build import build_model, initialise
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.runtime import set_up
from kinema.preparation.feature_store import KIND, FeatureFormat, FeatureReader
from kinema.preparation.features import frozen_features
from kinema.sections import Augmentation, InitSection, OptimSection, Recipe, RuntimeSection
from kinema.training.callbacks import quiet_lightning
from kinema.training.module import RecogniserTraining, TrainingBatches
from kinema.training.optimisers import build_optimiser
from kinema.types import Clip, Heads, InputShape, Preprocessing

WEIGHTS = Path("weights", "mobilenet_v2_imagenet_dequant.pt")
PLAIN = (0.5, 0.5, 0.5)
"""Mean and standard deviation that the file of weights expects: pixel / 127.5 - 1."""
FEATURES = 1280
EPIC_HEADS: Heads = {"verb": tuple(map(str, range(97))), "noun": tuple(map(str, range(300)))}


def frozen_model(weights: Path | None, shape: InputShape, *, heads: Heads, backbone: str = "mobilenet_v2") -> FrameModel:
    """ConvNet1D on a frozen backbone; without weights, random ones."""
    torch.manual_seed(0)
    model = build_model("cnn_conv1d", {"backbone": backbone}, heads=heads, inputs={"rgb": shape})
    assert isinstance(model, FrameModel)
    if weights is None:
        model.backbone.freeze()
    else:
        initialise(model, InitSection(weights=str(weights), mean=PLAIN, std=PLAIN, freeze="backbone"))
    return model


def features_pass(
    paths: Sequence[Path], folder: Path, weights: Path, wanted: Preprocessing, precision: str, threads: int
) -> Run:
    """Features of clips from their videos into the store, end to end: two processes read, this one computes.

    Args:
        paths: Videos; their index is in `folder` already.
        folder: For index and store.
        weights: Of MobileNetV2.
        wanted: Of the clips.
        precision: `fp32` or `bf16`.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    os.environ["KINEMA_CACHE"] = str(folder / f"cache_{precision}")
    videos, _ = pipeline.index(paths, folder)
    task = pipeline.uniform(paths, videos, wanted)
    model = frozen_model(weights, wanted.shape, heads={"action": ("0", "1")})
    set_up(model, RuntimeSection(), torch.device("cpu"))
    set_precision(model, precision)
    views = Augmentation(views=1, jitter=False, flip=0.0, min_scale=1.0, colour=0.0)
    reader = ClipReader(task.clips, videos, {"rgb": wanted}, augmentation=views, seed=0)

    def once() -> None:
        found = frozen_features(model.backbone, reader, batch_size=16, workers=2)
        assert found is not None, "no features"
        shape = found.values([0]).shape
        assert shape == (1, wanted.num_frames, FEATURES), shape

    def run() -> list[float]:
        shutil.rmtree(folder / f"cache_{precision}", ignore_errors=True)
        return [timed(once)]

    return run


def set_precision(model: FrameModel, precision: str) -> None:
    """Arithmetic of the frozen backbone."""
    if precision == "bf16":
        model.backbone.arithmetic = torch.bfloat16


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
    model = frozen_model(None, wanted.shape, heads=EPIC_HEADS)
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
    """A store with a random feature for every frame of every clip, fp16."""
    rng = np.random.default_rng(1)
    reader = ClipReader(clips, {}, {"rgb": wanted}, augmentation=None, seed=0)
    form = FeatureFormat.of(backbone, reader)
    keys = np.zeros((1, len(clips), 16), dtype=np.uint8)
    with ShardWriter(folder, kind=KIND, settings=form.facts) as writer:
        for number in range(len(clips)):
            key = number.to_bytes(16, "big")
            keys[0, number] = np.frombuffer(key, dtype=np.uint8)
            writer.append(key, rng.standard_normal(form.shape, dtype=np.float32).astype(form.dtype), {})
    return FeatureReader(Store.open(folder, kind=KIND), form, keys, reader, {})


class _EpochClock(Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began_s = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began_s = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._began_s)


def _recipe(batch_size: int, epochs: int) -> Recipe:
    settings = [f"clips.batch_size={batch_size}", f"trainer.epochs={epochs}", "model.backbone=mobilenet_v2"]
    return resolve(recipes.read("motion/cnn_conv1d"), settings)


def training_step(shape: tuple[int, ...], threads: int) -> Run:
    """Steps of R(2+1)D-18 with kinema's settings for a CPU."""
    torch.set_num_threads(threads)
    model = r2plus1d()
    set_up(model, RuntimeSection(), torch.device("cpu"))
    return steps(model, build_optimiser(model, OptimSection(), fused=True), shape)


def r2plus1d() -> nn.Module:
    """R(2+1)D-18 of torchvision with random weights and 101 classes, in training mode."""
    from torchvision.models.video import r2plus1d_18

    torch.manual_seed(0)
    return r2plus1d_18(weights=None, num_classes=101).train()


def steps(model: nn.Module, optimiser: torch.optim.Optimizer, shape: tuple[int, ...]) -> Run:
    """Forward, backward and update on one batch of random clips (B, C, T, H, W)."""
    clips, labels = torch.randn(shape), torch.arange(shape[0]) % 101

    def once() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(clips), labels).backward()
        optimiser.step()

    return lambda: [timed(once)]
