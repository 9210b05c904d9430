"""Whether a frozen backbone may compute in fewer bits: seen on clips, not assumed."""

from __future__ import annotations

import logging

import numpy as np
import torch

from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.runtime import AGREEMENT, arithmetic, predictions_agree
from kinema.progress import SILENT, Reporter
from kinema.sections import RuntimeSection
from kinema.types import ConfigError

log = logging.getLogger(__name__)

_NUM_CLIPS = 400
_FEWEST_CLIPS = 100
"""On fewer, an agreement of 99.5 % says nothing."""


def choose_arithmetic(
    backbone: FrameBackbone,
    reader: ClipReader | None,
    runtime: RuntimeSection,
    *,
    batch_size: int,
    workers: int,
    reporter: Reporter = SILENT,
) -> None:
    """Let a frozen backbone compute in what a recipe asks for.

    Args:
        backbone: Frozen, on its device.
        reader: Training clips; None where there are none at hand.
        runtime: Its `features` says what is asked for.
        batch_size: Clips at once.
        workers: Processes that read clips.
        reporter: Where to show progress.

    Raises:
        ConfigError: It is to be decided on training clips, and there are none.
    """
    wanted, _ = arithmetic(runtime, next(backbone.parameters()).device)
    if wanted is not torch.float32 and runtime.features == "auto":
        if reader is None:
            raise ConfigError(
                "trainer.runtime.features: auto is decided on training clips, and there are none here; "
                "say fp32 or bf16, as training will"
            )
        wanted = agreed_arithmetic(backbone, reader, wanted, batch_size=batch_size, workers=workers, reporter=reporter)
    backbone.arithmetic = wanted


def agreed_arithmetic(
    backbone: FrameBackbone,
    reader: ClipReader,
    wanted: torch.dtype,
    *,
    batch_size: int,
    workers: int,
    reporter: Reporter = SILENT,
) -> torch.dtype:
    """`wanted` where classifiers on the features predict what they predict in fp32, else fp32; which, is logged.

    The model that will be trained does not exist yet. In its place are linear classifiers, fitted to features of one
    half of some hundred training clips and asked about the other half.

    Args:
        backbone: Frozen, on its device.
        reader: Training clips; as they are without augmentation.
        wanted: The faster arithmetic.
        batch_size: Clips at once.
        workers: Processes that read clips.
        reporter: Where to show progress.
    """
    chosen = np.random.default_rng(reader.seed).permutation(len(reader))[:_NUM_CLIPS]
    clips = [reader.clips[index] for index in sorted(chosen)]
    sample = ClipReader(
        clips, reader.videos, reader.preprocessing, augmentation=None, seed=reader.seed, decoder=reader.decoder
    )
    order = EpochOrder(len(clips), batch_size=batch_size, seed=None)
    before, device = backbone.arithmetic, next(backbone.parameters()).device
    found: dict[torch.dtype, list[torch.Tensor]] = {torch.float32: [], wanted: []}
    labels = []
    try:
        with (
            torch.inference_mode(),
            reporter.track(f"checking {str(wanted).removeprefix('torch.')}", total=len(clips), unit="clips") as task,
            clip_loader(sample, order, workers=workers) as loader,
        ):
            for batch in loader:
                if len(batch):
                    frames = to_model_input(batch.to(device).streams, sample.preprocessing)["rgb"]
                    labels.append(next(iter(batch.labels.values())))
                    for dtype, features in found.items():
                        backbone.arithmetic = dtype
                        values = backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
                        features.append(values.float().mean(dim=1).cpu())
                task.advance(len(batch) + len(batch.failures))
    finally:
        backbone.arithmetic = before
    name = str(wanted).removeprefix("torch.")
    num_clips = sum(map(len, labels))
    if num_clips < _FEWEST_CLIPS:
        log.info("features in fp32: %d clips are too few to check %s on", num_clips, name)
        return torch.float32
    share = predictions_agree(torch.cat(found[torch.float32]), torch.cat(found[wanted]), torch.cat(labels))
    agrees = share >= AGREEMENT
    log.info(
        "features in %s: on %d training clips, linear classifiers predict the same from %s as from fp32 on %.1f %%",
        name if agrees else "fp32",
        num_clips,
        name,
        100 * share,
    )
    return wanted if agrees else torch.float32
