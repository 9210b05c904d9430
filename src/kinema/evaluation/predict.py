"""Running a model over clips."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from kinema.data.decoding import Video
from kinema.data.device import to_model_input
from kinema.data.loading import Batch, ClipReader, EpochOrder, clip_loader
from kinema.data.read_ahead import Reader
from kinema.data.usable import split_readable
from kinema.evaluation.predictions import Predictions
from kinema.models.frame_model import FrameModel
from kinema.models.runtime import faster, micro_batch
from kinema.progress import SILENT, Reporter
from kinema.sections import RuntimeSection
from kinema.types import Clip, DataError, Heads, Preprocessing, UserError

MakeReader: TypeAlias = Callable[[list[Clip], dict[Path, Video]], Reader]


def predict_clips(
    model: nn.Module,
    clips: Sequence[Clip],
    videos: Mapping[Path, Video | DataError],
    *,
    classes: Heads,
    preprocessing: Mapping[str, Preprocessing],
    batch_size: int,
    workers: int,
    runtime: RuntimeSection | None = None,
    decoder: str = "pyav",
    read: MakeReader | None = None,
    description: str = "predicting",
    reporter: Reporter = SILENT,
) -> Predictions:
    """Logits of a model for labelled clips, in evaluation mode and fp32, on the device where the model is.

    Args:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        clips: With a label for every task.
        videos: What probing the clips' videos found. Clips of a video that could not be probed are skipped.
        classes: Task -> class names, in the order of the model's logits.
        preprocessing: Stream -> the one that the model was trained with.
        batch_size: Clips at once.
        workers: Processes that read clips.
        runtime: How it may be computed faster; by default what a recipe that says nothing asks for.
        decoder: What decodes videos: `clips.decoder`.
        read: Makes what clips are read by, given those that can be read and their videos: frames, or features of the
            model's backbone. Predictions are of the clips as they were given. By default videos are decoded.
        description: What the reporter shows.
        reporter: Where to show progress.
    """
    readable, probed, skipped = split_readable(clips, videos)
    collector = Collector()
    reader: Reader = (
        ClipReader(readable, probed, preprocessing, augmentation=None, seed=0, decoder=decoder)
        if read is None
        else read(readable, probed)
    )
    order = EpochOrder(len(readable), batch_size=batch_size, seed=None)
    device = next(model.parameters()).device
    runtime = runtime or RuntimeSection()

    @cache
    def on_features() -> nn.Module:
        return copy.deepcopy(model).eval()

    @cache
    def on_frames() -> nn.Module:  # what reads features needs none of it
        with torch.inference_mode(mode=False):
            return faster(model, runtime, _example(preprocessing, device), num_calls=len(readable))

    def answer(batch: Batch) -> dict[str, Float[torch.Tensor, "B _K"]]:
        if batch.features is None:
            return _logits(on_frames(), batch, preprocessing, micro_batch(runtime, device, num_clips=len(batch)))
        classifier = on_features()
        assert isinstance(classifier, FrameModel)
        return classifier.classify(batch.features.float())

    with torch.inference_mode(), reporter.track(description, total=len(clips), unit="clips") as task:
        task.advance(len(skipped))
        with clip_loader(reader, order, workers=workers, pin_memory=device.type == "cuda") as loader:
            for batch in loader:
                collector.add(batch, answer(batch.to(device)) if len(batch) else {})
                task.advance(len(batch) + len(batch.failures))
    return collector.predictions(readable, classes, skipped)


def _example(preprocessing: Mapping[str, Preprocessing], device: torch.device) -> dict[str, torch.Tensor]:
    """A clip of noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for stream, settings in preprocessing.items():
        shape = settings.shape
        size = (1, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
        found[stream] = torch.randn(size, generator=generator).to(device)
    return found


def _logits(
    model: nn.Module, batch: Batch, preprocessing: Mapping[str, Preprocessing], at_once: int
) -> dict[str, Float[torch.Tensor, "B _K"]]:
    found = []
    for start in range(0, len(batch), at_once):
        rows = slice(start, start + at_once)
        streams = {stream: frames[rows] for stream, frames in batch.streams.items()}
        flip = None if batch.flip is None else batch.flip[rows]
        found.append(model(to_model_input(streams, preprocessing, flip=flip)))
    return {task: torch.cat([logits[task] for logits in found]) for task in found[0]}


class Collector:
    """Gathers logits batch by batch."""

    def __init__(self) -> None:
        self._logits: dict[str, list[np.ndarray]] = {}
        self._indices: list[int] = []
        self._failures: dict[int, str] = {}

    def add(self, batch: Batch, logits: Mapping[str, torch.Tensor]) -> None:
        """Add a batch's logits, task -> (B, K)."""
        self._failures.update(batch.failures)
        self._indices.extend(batch.indices.tolist())
        for task, values in logits.items():
            if not torch.isfinite(values).all():
                # Comparisons with NaN are false, so the true class would seem to have the first rank.
                raise UserError(f"the model gives numbers that are not finite for {task!r}; its weights are broken")
            self._logits.setdefault(task, []).append(values.float().cpu().numpy())

    @classmethod
    def merged(cls, parts: Sequence[Collector]) -> Collector:
        """What several have gathered of one list of clips, in the order of the list, as one would have it."""
        whole = cls()
        for part in parts:
            whole._indices += part._indices
            whole._failures |= part._failures
        order = np.argsort(np.array(whole._indices, dtype=np.int64), kind="stable")
        whole._indices = [whole._indices[place] for place in order]
        for task in {task: None for part in parts for task in part._logits}:
            values = np.concatenate([values for part in parts for values in part._logits.get(task, ())])
            whole._logits[task] = [values[order]]
        return whole

    def predictions(self, clips: Sequence[Clip], classes: Heads, skipped: Mapping[str, str]) -> Predictions:
        """All that was added.

        Args:
            clips: The list that the batches' indices point into.
            classes: Task -> class names.
            skipped: Clip id -> reason, of clips that were never in `clips`.
        """
        rows = [clips[index] for index in self._indices]
        empty = {task: np.zeros((0, len(names)), dtype=np.float32) for task, names in classes.items()}
        return Predictions(
            classes=classes,
            clips=rows,
            logits={t: np.concatenate(self._logits[t]) if t in self._logits else empty[t] for t in classes},
            labels={t: np.array([clip.labels[t] for clip in rows], dtype=np.int64) for t in classes},
            skipped={**skipped, **{clips[index].clip_id: reason for index, reason in self._failures.items()}},
        )
