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

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kinema.config import Augmentation
from kinema.data.decoding import Video
from kinema.data.reading import read_clip
from kinema.types import Clip, DataError, Preprocessing

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Batch:
    """Clips that were read together. A batch in which no clip could be read has none.

    Attributes:
        streams: Stream -> (B, T, C, H, W).
        labels: Task -> (B,) class indices. Empty for unlabelled clips.
        indices: (B,) positions in the list of clips.
        failures: Position -> why that clip could not be read.
    """

    streams: dict[str, UInt8[Tensor, "B T C H W"]]
    labels: dict[str, Int64[Tensor, "B"]]
    indices: Int64[Tensor, "B"]
    failures: dict[int, str]

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


class ClipReader(Dataset[tuple[int, dict[str, Tensor] | str]]):
    """Reads the clip at (index, epoch): frames, or the reason why there are none."""

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

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, dict[str, Tensor] | str]:
        index, epoch = item
        clip = self.clips[index]
        frames = {}
        try:
            for stream, preprocessing in self.preprocessing.items():
                rng = np.random.default_rng([self.seed, epoch, index]) if self.augmentation is not None else None
                video = self.videos[clip.video]
                frames[stream] = read_clip(clip, video, preprocessing, augmentation=self.augmentation, rng=rng)
        except DataError as error:
            return index, str(error)
        return index, frames

    def collate(self, items: Sequence[tuple[int, dict[str, Tensor] | str]]) -> Batch:
        """Put clips into one batch."""
        failures = {index: value for index, value in items if isinstance(value, str)}
        read = [(index, value) for index, value in items if not isinstance(value, str)]
        indices = [index for index, _ in read]
        tasks = self.clips[indices[0]].labels if indices else {}
        return Batch(
            streams={s: torch.stack([frames[s] for _, frames in read]) for s in self.preprocessing if read},
            labels={task: torch.tensor([self.clips[index].labels[task] for index in indices]) for task in tasks},
            indices=torch.tensor(indices, dtype=torch.int64),
            failures=failures,
        )


def clip_loader(reader: ClipReader, order: EpochOrder, *, workers: int, pin_memory: bool = False) -> DataLoader[Batch]:
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


def _one_thread(_worker: int) -> None:
    """Workers share the cores with the model; more threads in each would only get in each other's way."""
    torch.set_num_threads(1)
