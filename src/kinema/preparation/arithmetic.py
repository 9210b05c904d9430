"""Whether a frozen backbone may compute in fewer bits: seen on clips, not assumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.models.layers.backbone import Arithmetic, FrameBackbone
from kinema.models.runtime import AGREEMENT, arithmetic, predictions_agree
from kinema.progress import SILENT, Reporter
from kinema.sections import RuntimeSection
from kinema.types import ConfigError, only

log = logging.getLogger(__name__)

_NUM_CLIPS = 400
_FEWEST_CLIPS = 100
"""On fewer, an agreement of 99.5 % says nothing."""

_NUM_OBSERVED = 32
"""Clips on which the ranges of int8 are seen."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How training clips are looked at, as they are without augmentation.

    Attributes:
        reader: Of them.
        maps: Features are wanted before they are averaged over the frame.
        batch_size: Clips at once.
        workers: Processes that read clips.
        reporter: Where to show progress.
    """

    reader: ClipReader
    maps: bool = False
    batch_size: int
    workers: int
    reporter: Reporter = SILENT

    @contextmanager
    def frames(
        self, backbone: FrameBackbone, num_clips: int, description: str
    ) -> Iterator[Iterator[tuple[Float[Tensor, "B T C H W"], Tensor]]]:
        """Batches of some clips, on the backbone's device, and their labels; the same whenever it is called."""
        reader = self.reader
        chosen = np.random.default_rng(reader.seed).permutation(len(reader))[:num_clips]
        clips = [reader.clips[index] for index in sorted(chosen)]
        sample = ClipReader(
            clips, reader.videos, reader.preprocessing, augmentation=None, seed=reader.seed, decoder=reader.decoder
        )
        order = EpochOrder(len(clips), batch_size=self.batch_size, seed=None)
        device = next(backbone.parameters()).device

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in loader:
                if len(batch):
                    frames = only(to_model_input(batch.to(device).streams, sample.preprocessing))
                    yield frames, next(iter(batch.labels.values()))
                task.advance(len(batch) + len(batch.failures))

        with (
            torch.inference_mode(),
            self.reporter.track(description, total=len(clips), unit="clips") as task,
            clip_loader(sample, order, workers=self.workers) as loader,
        ):
            yield batches()


def choose_arithmetic(
    backbone: FrameBackbone,
    reader: ClipReader | None,
    runtime: RuntimeSection,
    *,
    maps: bool,
    batch_size: int,
    workers: int,
    reporter: Reporter,
) -> None:
    """Let a frozen backbone compute in what a recipe asks for.

    Args:
        backbone: Frozen, on its device.
        reader: Training clips; None where there are none at hand.
        runtime: Its `features` says what is asked for.
        maps: Its features are wanted before they are averaged over the frame.
        batch_size: Clips at once.
        workers: Processes that read clips.
        reporter: Where to show progress.

    Raises:
        ConfigError: It needs training clips, and there are none; or this backbone cannot.
    """
    wanted, _ = arithmetic(runtime, next(backbone.parameters()).device)
    if wanted != "fp32" and runtime.features in ("auto", "int8") and not reader:
        does = "is decided on" if runtime.features == "auto" else "rounds in ranges that are seen on"
        raise ConfigError(
            f"trainer.runtime.features: {runtime.features} {does} training clips, and there are none here; "
            "say fp32 or bf16, as training will"
        )
    look = Look(reader=reader, maps=maps, batch_size=batch_size, workers=workers, reporter=reporter) if reader else None
    if look is not None and wanted == "int8":
        with look.frames(backbone, _NUM_OBSERVED, "seeing ranges for int8") as batches:
            backbone.observe((frames.flatten(0, 1) for frames, _ in batches), of_maps=maps)
        num_clips, share = agreement(backbone, look, wanted)
        level = logging.INFO if share >= AGREEMENT else logging.WARNING
        log.log(level, "features in int8, as was asked for: %s", _said(num_clips, wanted, share))
    elif look is not None and wanted != "fp32" and runtime.features == "auto":
        wanted = agreed_arithmetic(backbone, look, wanted)
    backbone.arithmetic = wanted


def agreed_arithmetic(backbone: FrameBackbone, look: Look, wanted: Arithmetic) -> Arithmetic:
    """`wanted` where classifiers on the features predict what they predict in fp32, else fp32; which, is logged."""
    num_clips, share = agreement(backbone, look, wanted)
    if num_clips < _FEWEST_CLIPS:
        log.info("features in fp32: %d clips are too few to check %s on", num_clips, wanted)
        return "fp32"
    chosen: Arithmetic = wanted if share >= AGREEMENT else "fp32"
    log.info("features in %s: %s", chosen, _said(num_clips, wanted, share))
    return chosen


def agreement(backbone: FrameBackbone, look: Look, wanted: Arithmetic) -> tuple[int, float]:
    """On how many clips it was seen, and on which share of them predictions stay what they are in fp32.

    The model that will be trained does not exist yet. In its place are linear classifiers, fitted to features of one
    half of some hundred training clips and asked about the other half.
    """
    before = backbone.arithmetic
    names: tuple[Arithmetic, ...] = ("fp32", wanted)
    found: dict[Arithmetic, list[Tensor]] = {name: [] for name in names}
    labels = []
    run = backbone.maps if look.maps else backbone
    try:
        with look.frames(backbone, _NUM_CLIPS, f"checking {wanted}") as batches:
            for frames, of_batch in batches:
                labels.append(of_batch)
                for name in names:
                    backbone.arithmetic = name
                    values = run(frames.flatten(0, 1)).float()
                    values = values.mean(dim=(2, 3)) if look.maps else values
                    found[name].append(values.unflatten(0, frames.shape[:2]).mean(dim=1).cpu())
    finally:
        backbone.arithmetic = before
    num_clips = sum(map(len, labels))
    if num_clips < 2:  # nothing to fit to, and nothing to ask about
        return num_clips, 0.0
    return num_clips, predictions_agree(torch.cat(found["fp32"]), torch.cat(found[wanted]), torch.cat(labels))


def _said(num_clips: int, name: str, share: float) -> str:
    return (
        f"on {num_clips} training clips, linear classifiers predict the same from {name} as from fp32 on {share:.1%}"
    ).replace("%", " %")
