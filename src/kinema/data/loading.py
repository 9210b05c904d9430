"""Batches of clips, read by worker processes.

The order of clips and everything random about a clip is a function of (seed, epoch, index) alone: it depends neither
on the number of workers nor on where a run was interrupted. A clip that cannot be read is left out of its batch and
named; it never becomes a label.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kinema.data.decoding import Video
from kinema.data.reading import plan_clip, read_plan
from kinema.sections import Augmentation
from kinema.types import Clip, DataError, Preprocessing

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Batch:
    """Clips that were read together. A batch in which no clip could be read has none.

    Attributes:
        streams: Stream -> (B, T, *frame_shape) of its preprocessing.
        labels: Task -> (B,) class indices. Empty for unlabelled clips.
        indices: (B,) positions in the list of clips.
        colour: (B, 3) factors of brightness, contrast and saturation, in training.
        flip: (B,) which clips are to be mirrored, in training.
        features: (B, T, D) in place of streams, where a frozen backbone has seen the clips before.
        failures: Position -> why that clip could not be read.
    """

    streams: dict[str, UInt8[Tensor, "B T ..."]]
    labels: dict[str, Int64[Tensor, "B"]]
    indices: Int64[Tensor, "B"]
    failures: dict[int, str]
    colour: Float32[Tensor, "B 3"] | None = None
    flip: Bool[Tensor, "B"] | None = None
    features: Float[Tensor, "B T D"] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader where there is a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            streams={stream: function(frames) for stream, frames in self.streams.items()},
            labels={task: function(labels) for task, labels in self.labels.items()},
            indices=self.indices,
            failures=self.failures,
            colour=None if self.colour is None else function(self.colour),
            flip=None if self.flip is None else function(self.flip),
            features=None if self.features is None else function(self.features),
        )


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (index, epoch): shuffled by (seed, epoch) in training, in order otherwise.

    Args:
        num_clips: Clips in the list.
        batch_size: Clips per batch; the last one may be smaller.
        seed: Shuffle with this seed; None keeps the order of the list.
    """

    def __init__(self, num_clips: int, *, batch_size: int, seed: int | None) -> None:
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = 0
        self._first_batch = 0

    def set_position(self, *, epoch: int, first_batch: int) -> None:
        """Where the next iteration begins: in which epoch, after how many of its batches."""
        self._epoch, self._first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.num_clips // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.num_clips)
        if self.seed is not None:
            np.random.default_rng([self.seed, self._epoch]).shuffle(order)
        epoch, first = self._epoch, self._first_batch
        for number in range(first, len(self)):
            start = number * self.batch_size
            yield [(int(index), epoch) for index in order[start : start + self.batch_size]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadClip:
    """One clip that was read: its frames by stream, and what was drawn for it in training."""

    streams: Mapping[str, UInt8[Tensor, "T ..."]]
    colour: Float32[Tensor, "3"] | None
    flip: bool = False


class ClipReader(Dataset[tuple[int, ReadClip | str]]):
    """Reads the clip at (index, epoch): frames, or the reason why there are none.

    Args:
        clips: The list that indices point into.
        videos: What probing the clips' videos found.
        preprocessing: Stream -> preprocessing.
        augmentation: For training; None elsewhere.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        videos: Mapping[Path, Video],
        preprocessing: Mapping[str, Preprocessing],
        *,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.clips = clips
        self.videos = videos
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed

    @property
    def num_views(self) -> int | None:
        """Different versions of a clip, None where every epoch has its own."""
        return 1 if self.augmentation is None else self.augmentation.views

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, ReadClip | str]:
        index, epoch = item
        try:
            return index, self._read(self.clips[index], index, epoch % (self.num_views or epoch + 1))
        except DataError as error:
            return index, str(error)

    def _read(self, clip: Clip, index: int, view: int) -> ReadClip:
        video = self.videos[clip.video]
        streams, colour, flip = {}, None, False
        for stream, preprocessing in self.preprocessing.items():
            # Every stream draws from the same numbers, so that all show the same cut of the same moments.
            rng = np.random.default_rng([self.seed, view, index])
            augmented = None if self.augmentation is None else rng
            plan = plan_clip(clip, video, preprocessing, augmentation=self.augmentation, rng=augmented)
            streams[stream] = torch.from_numpy(read_plan(video, plan, preprocessing))
            flip = plan.flip
            if self.augmentation is not None and self.augmentation.colour > 0:
                strength = self.augmentation.colour
                colour = torch.from_numpy(rng.uniform(1 - strength, 1 + strength, size=3).astype(np.float32))
        return ReadClip(streams=streams, colour=colour, flip=flip)

    def collate(self, items: Sequence[tuple[int, ReadClip | str]]) -> Batch:
        """Put clips into one batch."""
        failures = {index: value for index, value in items if isinstance(value, str)}
        read = [(index, value) for index, value in items if isinstance(value, ReadClip)]
        colours = [value.colour for _, value in read if value.colour is not None]
        return Batch(
            streams={s: torch.stack([value.streams[s] for _, value in read]) for s in self.preprocessing if read},
            labels=stack_labels([self.clips[index] for index, _ in read]),
            indices=torch.tensor([index for index, _ in read], dtype=torch.int64),
            failures=failures,
            colour=torch.stack(colours) if colours else None,
            flip=None
            if self.augmentation is None
            else torch.tensor([value.flip for _, value in read], dtype=torch.bool),
        )


def stack_labels(clips: Sequence[Clip]) -> dict[str, Int64[Tensor, "B"]]:
    """Task -> (B,) class indices of some clips; nothing for none."""
    tasks = clips[0].labels if clips else {}
    return {task: torch.tensor([clip.labels[task] for clip in clips]) for task in tasks}


class Reader(Protocol):
    """Something that a loader can read clips, or what stands for them, from."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, Any]: ...

    def collate(self, items: Sequence[tuple[int, Any]]) -> Batch: ...


def clip_loader(reader: Reader, order: EpochOrder, *, workers: int, pin_memory: bool = False) -> DataLoader[Batch]:
    """Batches of `reader`'s clips in `order`, read by `workers` processes (0: by this one)."""
    return DataLoader(
        reader,  # type: ignore[arg-type]  # collating makes batches of its items
        batch_sampler=order,
        num_workers=workers,
        collate_fn=reader.collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )


def end_workers(loader: DataLoader[Batch] | None) -> None:
    """End the processes of a loader that is not needed any more; otherwise they stay for as long as anything, such as
    a cycle of references, holds it, and its destruction as part of a cycle takes 5 s (torch 2.15)."""
    iterator: Any = getattr(loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):  # torch has no public way
        iterator._shutdown_workers()


def _one_thread(_worker: int) -> None:
    """Workers share the cores with the model; more threads in each would only get in each other's way."""
    torch.set_num_threads(1)
