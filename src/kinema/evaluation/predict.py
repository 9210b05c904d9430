"""Running a model over clips."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import nn

from kinema.data.decoding import Video
from kinema.data.device import to_model_input
from kinema.data.loading import Batch, ClipReader, EpochOrder, clip_loader
from kinema.data.read_ahead import Reader
from kinema.data.usable import split_readable
from kinema.data.views import ONE_VIEW, Views
from kinema.evaluation.answers import AS_FILMED, Answers, Average, Kept, Sums
from kinema.evaluation.collector import as_numbers
from kinema.evaluation.frame_orders import FrameOrder, frame_places, reorder
from kinema.evaluation.input_moments import Moments, moments_of
from kinema.evaluation.predictions import Predictions
from kinema.models.frame_model import FrameModel
from kinema.models.runtime import faster, micro_batch
from kinema.models.streams_model import StreamsModel
from kinema.progress import SILENT, Reporter
from kinema.sections import RuntimeSection
from kinema.types import Clip, DataError, Heads, Preprocessing, UserError

log = logging.getLogger(__name__)

_SAME = 0.02
"""Share of the largest logit by which a clip's may differ with the clips beside it: rounding is far below."""

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
    views: Views = ONE_VIEW,
    average: Average = "probabilities",
    orders: Sequence[FrameOrder] = (),
    kept: Kept | None = None,
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
        views: Looks at each clip; what `read` makes has to give them, one in each epoch.
        average: How several become one answer.
        orders: Orders of the frames to answer in as well.
        kept: Where answers are written as they go on, and found again.
        description: What the reporter shows.
        reporter: Where to show progress.

    Raises:
        UserError: The model gives numbers that are not finite, or not as many as there are classes.
    """
    readable, probed, skipped = split_readable(clips, videos)
    reader: Reader = (
        ClipReader(
            readable,
            probed,
            preprocessing,
            augmentation=None,
            seed=0,
            decoder=decoder,
            views=None if views == ONE_VIEW else views,
        )
        if read is None
        else read(readable, probed)
    )
    order = EpochOrder(len(readable), batch_size=batch_size, seed=None)
    answer = _Answerer(model, preprocessing, runtime or RuntimeSection(), num_calls=len(readable), orders=orders)
    sums = Sums(len(readable), classes, num_views=len(views), average=average, orders=(AS_FILMED, *orders))
    begun = [0] * len(views)  # batches of each view that are known
    num_known = len(skipped) * len(views)
    for answers in kept.restore() if kept is not None else ():
        sums.add(answers)
        begun[answers.view] += answers.num_batches
        num_known += len(answers.indices) + len(answers.failures)
    if any(begun):
        log.info("%s: goes on where it was stopped", description)
    pin_memory = answer.device.type == "cuda"
    with (
        torch.inference_mode(),
        reporter.track(description, total=len(clips) * len(views), unit="clips", done=num_known) as task,
        clip_loader(reader, order, workers=workers, pin_memory=pin_memory) as loader,
    ):
        try:
            for view in range(len(views)):
                order.set_position(epoch=view, first_batch=begun[view])
                for batch in loader if begun[view] < len(order) else ():
                    answers = _answers(answer, batch, view, classes)
                    sums.add(answers)
                    if kept is not None:
                        kept.add(answers)
                    task.advance(len(batch) + len(batch.failures))
        except BaseException:
            if kept is not None:
                kept.write()
            raise
    return sums.predictions(readable, skipped)


class _Answerer:
    """A model, in evaluation mode, asked about batches of frames or of stored features.

    Args:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        preprocessing: Stream -> the one that it was trained with.
        runtime: How it may be computed faster.
        num_calls: Clips that it will be asked about, about.
        orders: Orders of the frames to answer in as well.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Mapping[str, Preprocessing],
        runtime: RuntimeSection,
        *,
        num_calls: int,
        orders: Sequence[FrameOrder],
    ) -> None:
        self._model = model
        self._preprocessing = preprocessing
        self._runtime = runtime
        self._num_calls = num_calls
        self._orders = orders
        self.device = next(model.parameters()).device
        self._moments: dict[str, Float[torch.Tensor, "3"]] = {}
        self._checked = False

    def __call__(self, batch: Batch) -> dict[str, dict[str, Float[torch.Tensor, "B _K"]]]:
        """Order of the frames -> task -> logits.

        Raises:
            UserError: What the model says of a clip depends on the clips beside it.
        """
        found = self._of_frames(batch) if batch.features is None else self._of_features(batch)
        if not self._checked and len(batch) > 1:
            self._checked = True
            self._check_alone(batch)
        return found

    def take_moments(self) -> Moments:
        """Of what the model was given since they were taken the last time."""
        found = {name: moments.tolist() for name, moments in self._moments.items()}
        self._moments = {}
        return found

    def _note(self, name: str, values: Float[torch.Tensor, "B T *rest"]) -> None:
        self._moments[name] = self._moments.get(name, 0) + moments_of(values)

    def _check_alone(self, batch: Batch) -> None:
        """The first clip beside the last, and by itself."""

        def ask(rows: list[int]) -> Mapping[str, Float[torch.Tensor, "B _K"]]:
            if batch.features is not None:
                return self._on_features.classify(batch.features[rows].float())
            streams = {stream: frames[rows] for stream, frames in batch.streams.items()}
            flip = None if batch.flip is None else batch.flip[rows]
            return self._on_frames(to_model_input(streams, self._preprocessing, flip=flip))

        beside, alone = ask([0, len(batch) - 1]), ask([0])
        for task, logits in beside.items():
            if not torch.isfinite(logits).all():
                continue  # said where logits become numbers
            allowed = _SAME * (1 + logits[:1].abs().max().item())
            if not (alone[task] - logits[:1]).abs().max().item() <= allowed:
                raise UserError(
                    f"{task}: what the model says of a clip depends on the clips beside it, or on chance: dropout or "
                    "batch norm that does not know that this is no training. No number of it would mean anything; "
                    "mend the model's forward"
                )

    def _of_features(self, batch: Batch) -> dict[str, dict[str, Float[torch.Tensor, "B _K"]]]:
        assert batch.features is not None
        features = batch.features.float()
        self._note("features", features)
        places = {order: frame_places(order, features.shape[1], batch.indices.tolist()) for order in self._orders}
        found: dict[str, dict[str, Float[torch.Tensor, "B _K"]]] = {AS_FILMED: self._on_features.classify(features)}
        for order, where in places.items():
            found[order] = self._on_features.classify(reorder(features, where))
        return found

    @cached_property
    def _on_features(self) -> FrameModel | StreamsModel:
        found = copy.deepcopy(self._model).eval()
        assert isinstance(found, FrameModel | StreamsModel)
        return found

    @cached_property
    def _on_frames(self) -> nn.Module:  # what reads features needs none of it
        with torch.inference_mode(mode=False):
            return faster(
                self._model, self._runtime, _example(self._preprocessing, self.device), num_calls=self._num_calls
            )

    def _of_frames(self, batch: Batch) -> dict[str, dict[str, Float[torch.Tensor, "B _K"]]]:
        at_once = micro_batch(self._runtime, self.device, num_clips=len(batch))
        found: dict[str, list[dict[str, torch.Tensor]]] = {}
        for start in range(0, len(batch), at_once):
            rows = slice(start, start + at_once)
            streams = {stream: frames[rows] for stream, frames in batch.streams.items()}
            flip = None if batch.flip is None else batch.flip[rows]
            inputs = to_model_input(streams, self._preprocessing, flip=flip)
            for stream, values in inputs.items():
                self._note(stream, values)
            found.setdefault(AS_FILMED, []).append(self._on_frames(inputs))
            for order in self._orders:
                changed = {
                    stream: reorder(values, frame_places(order, values.shape[1], batch.indices[rows].tolist()))
                    for stream, values in inputs.items()
                }
                found.setdefault(order, []).append(self._on_frames(changed))
        return {
            order: {task: torch.cat([logits[task] for logits in parts]) for task in parts[0]}
            for order, parts in found.items()
        }


def _answers(answer: _Answerer, batch: Batch, view: int, classes: Heads) -> Answers:
    """
    Raises:
        UserError: The model's numbers are not finite, or not as many as there are classes.
    """
    logits: dict[str, dict[str, NDArray[np.float32]]] = {}
    for order, found in (answer(batch.to(answer.device)) if len(batch) else {}).items():
        for task, names in classes.items():
            if task not in found or found[task].shape[1] != len(names):
                given = "none" if task not in found else f"{found[task].shape[1]:,}"
                raise UserError(
                    f"{task}: there are {len(names):,} classes, and the model answers with {given}; it is not the "
                    "model of these classes"
                )
        logits[order] = as_numbers({task: found[task] for task in classes})
    indices = batch.indices.numpy().copy()  # the batch's memory is used again
    return Answers(
        view=view,
        num_batches=1,
        indices=indices,
        logits=logits,
        failures=batch.failures,
        moments=answer.take_moments(),
    )


def _example(preprocessing: Mapping[str, Preprocessing], device: torch.device) -> dict[str, torch.Tensor]:
    """A clip of noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for stream, settings in preprocessing.items():
        shape = settings.shape
        size = (1, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
        found[stream] = torch.randn(size, generator=generator).to(device)
    return found
