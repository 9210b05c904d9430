"""kinema's arithmetic as its training uses it: features of a frozen backbone, training steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import pipeline
from harness import Run, timed
from kinema.data.loading import ClipReader
from kinema.models.build import build_model, initialise
from kinema.models.frame_model import FrameModel
from kinema.models.runtime import set_up
from kinema.preparation.features import frozen_features
from kinema.sections import Augmentation, InitSection, OptimSection, RuntimeSection
from kinema.training.optimisers import build_optimiser
from kinema.types import Heads, InputShape, Preprocessing

WEIGHTS = Path("weights", "mobilenet_v2_imagenet_dequant.pt")
PLAIN = (0.5, 0.5, 0.5)
"""Mean and standard deviation that the file of weights expects: pixel / 127.5 - 1."""
FEATURES = 1280


def frozen_model(
    weights: Path | None, shape: InputShape, *, heads: Heads, backbone: str = "mobilenet_v2"
) -> FrameModel:
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
        model.backbone.arithmetic = "bf16"


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
        torch.autograd.backward(nn.functional.cross_entropy(model(clips), labels))
        optimiser.step()

    return lambda: [timed(once)]
