"""Batches of clips, read ahead by worker processes.

The order of clips and everything random about a clip is a function of (seed, epoch, index) alone: it depends neither
on the number of workers nor on where a run was interrupted. A clip that cannot be read, or on which its worker dies,
is left out of its batch and named; it never becomes a label.

A loader reads clip by clip: workers write each straight into its place in a slot of memory that all processes share
(`shared_batches`), while the batches before it are being used (`read_ahead`). The batch that is given out is that
memory, and its slot is used again when nobody has its tensors any more. What is in memory at most are the slots: two
batches that are being read or ready, as many more as hold the clips that workers have (a process has the next clip
beside the one it reads), and three that were given out: the last one, the one before it that the loop variable still
holds, and one for who looks a batch ahead. Who keeps more of them is given copies from then on.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from kinema.data.changes import Changes, draw_changes, draw_colour
from kinema.data.decoding import Video
from kinema.data.read_ahead import Drawn, Job, ReadAhead, Reader, ReadHere, start_method
from kinema.data.reading import ClipPlan, plan_of_view, read_plan
from kinema.data.shared_batches import Layout, Lease, Slots
from kinema.data.views import Views
from kinema.sections import Augmentation
from kinema.types import Clip, Preprocessing, only

log = logging.getLogger(__name__)

_GIVEN_OUT = 3
"""Batches that may be in use at a time without being copied."""

_AHEAD = 2
"""Batches that are being read or ready, beside what the workers have."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Clips that were read together. A batch in which no clip could be read has none.

    Attributes:
        streams: Stream -> (B, T, *frame_shape).
        labels: Task -> (B,) class indices. Empty for unlabelled clips.
        indices: (B,) positions in the list of clips.
        colour: (B, 3) factors of brightness, contrast and saturation, in training.
        flip: (B,) which clips are to be mirrored, which is done on the device. None where none is.
        changes: What else is to be changed of each clip, on the device. None where nothing of that kind is.
        features: (B, T, D) in place of streams, where a frozen backbone has seen the clips before.
        failures: Position -> why that clip could not be read.
        lease: What the frames or features lie on.
    """

    streams: dict[str, UInt8[Tensor, "B T ..."]]
    labels: dict[str, Int64[Tensor, "B"]]
    indices: Int64[Tensor, "B"]
    failures: dict[int, str]
    colour: Float32[Tensor, "B 3"] | None = None
    flip: Bool[Tensor, "B"] | None = None
    changes: tuple[Changes, ...] | None = None
    features: Float[Tensor, "B T D *map"] | None = None
    lease: Lease | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        if self.lease is not None and device.type == "cuda":
            self.lease.is_being_copied()
        return moved

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            streams={stream: function(frames) for stream, frames in self.streams.items()},
            labels={task: function(labels) for task, labels in self.labels.items()},
            indices=self.indices,
            failures=self.failures,
            colour=None if self.colour is None else function(self.colour),
            flip=None if self.flip is None else function(self.flip),
            changes=self.changes,
            features=None if self.features is None else function(self.features),
        )


_AGAIN = 1_000_001
"""A clip that comes again in the same epoch is as in another epoch, so many later: which none reaches, and which is
another version of the clip for any number of versions up to a hundred."""


class EpochOrder:
    """Batches of (index, epoch): shuffled by (seed, epoch) in training, in order otherwise.

    Args:
        num_clips: Clips in the list.
        batch_size: Clips per batch; the last one may be smaller.
        seed: Shuffle with this seed; None keeps the order of the list.
        draw: Draws the clips of an epoch, as many as there are, in place of shuffling. Needs a seed.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        batch_size: int,
        seed: int | None,
        draw: Callable[[np.random.Generator], NDArray[np.int64]] | None = None,
    ) -> None:
        assert draw is None or seed is not None
        self.draw = draw
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
        epoch, first = self._epoch, self._first_batch
        epochs = np.full(self.num_clips, epoch)
        if self.draw is not None:
            assert self.seed is not None
            order = self.draw(np.random.default_rng([self.seed, epoch]))
            epochs += _AGAIN * _times_before(order)
        elif self.seed is not None:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for number in range(first, len(self)):
            batch = slice(number * self.batch_size, (number + 1) * self.batch_size)
            yield [(int(index), int(at)) for index, at in zip(order[batch], epochs[batch], strict=True)]


def _times_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each item has come before, (N,)."""
    by_item = np.argsort(order, kind="stable")
    ranks = np.arange(len(order))
    begins = np.r_[True, np.diff(order[by_item]) > 0] if len(order) else np.zeros(0, dtype=bool)
    times = np.empty(len(order), dtype=np.int64)
    times[by_item] = ranks - np.maximum.accumulate(np.where(begins, ranks, 0))
    return times


class Order(Protocol):
    """Which clips come when: batches of (index, epoch)."""

    @property
    def batch_size(self) -> int: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[tuple[int, int]]]: ...


class ReadyClips(Protocol):
    """Where clips of one reader lie ready.

    Attributes:
        whole: It holds every clip that the reader may be asked for.
    """

    @property
    def whole(self) -> bool: ...

    def read(self, index: int, epoch: int, out: NDArray[np.uint8]) -> Drawn | None:
        """Write what would be decoded, and say what is drawn for it; or say, by None, that it is not there."""
        ...


class ClipReader:
    """Reads the frames of the clip at (index, epoch); made to be used with `clip_loader`.

    Args:
        clips: The list that indices point into.
        videos: What probing the clips' videos found.
        preprocessing: Stream -> preprocessing.
        augmentation: For training; None elsewhere.
        seed: Of the augmentation.
        store: Where its clips may lie ready.
        decoder: Of the videos.
        source: Differs with the content of what stands for videos; None where clips are what would be decoded.
        provenance: What is read in place of the videos, in words; empty where it is these.
        views: Looks at a clip, one in each epoch, where there is no augmentation.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        videos: Mapping[Path, Video],
        preprocessing: Mapping[str, Preprocessing],
        *,
        augmentation: Augmentation | None,
        seed: int,
        store: ReadyClips | None = None,
        decoder: str = "pyav",
        source: str | None = None,
        provenance: str = "",
        views: Views | None = None,
    ) -> None:
        assert augmentation is None or views is None
        self.clips = clips
        self.videos = videos
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.store = store
        self.decoder = decoder
        self.source = source
        self.provenance = provenance
        self.views = views

    @property
    def num_views(self) -> int | None:
        """Different versions of a clip, None where every epoch has its own."""
        if self.augmentation is None:
            return 1 if self.views is None else len(self.views)
        return self.augmentation.num_views

    @property
    def in_processes(self) -> bool:
        """Whether reading takes a processor; clips that lie ready are copied."""
        return self.store is None or not self.store.whole

    def __len__(self) -> int:
        return len(self.clips)

    def layout(self) -> Layout:
        """Stream -> shape and type of one clip."""
        return {s: ((p.num_frames, *p.frame_shape), np.dtype(np.uint8)) for s, p in self.preprocessing.items()}

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        """Write the frames of a clip, as they are in an epoch.

        Raises:
            DataError: It cannot be read.
        """
        if self.store is not None and (ready := self.store.read(index, epoch, only(out))) is not None:
            return ready
        video = self.videos[self.clips[index].video]
        plans, drawn = self.plan(index, epoch)
        for stream, plan in plans.items():
            read_plan(video, plan, self.preprocessing[stream], decoder=self.decoder, out=out[stream])
        return drawn

    def plan(self, index: int, epoch: int) -> tuple[dict[str, ClipPlan], Drawn]:
        """Stream -> what of a clip's video it is in an epoch, and what is drawn for it and done later.

        Raises:
            DataError: The clip's times lie outside its video.
        """
        clip = self.clips[index]
        view = epoch % (self.num_views or epoch + 1)
        plans, drawn = {}, Drawn()
        for stream, preprocessing in self.preprocessing.items():
            # Every stream draws from the same numbers, so that all show the same cut of the same moments.
            plans[stream], rng = plan_of_view(
                clip,
                self.videos[clip.video],
                preprocessing,
                index=index,
                view=view,
                augmentation=self.augmentation,
                seed=self.seed,
                look=None if self.views is None else self.views[view],
            )
            if self.augmentation is None:
                drawn = Drawn(plans[stream].flip)
            else:
                colour = draw_colour(self.augmentation, rng)
                changes = draw_changes(self.augmentation, seed=self.seed, view=view, index=index)
                if preprocessing.motion is not None:  # it has no colours
                    colour, changes = None, None if changes is None else changes.of_motion
                drawn = Drawn(plans[stream].flip, colour, changes)
        return plans, drawn


def stack_labels(clips: Sequence[Clip]) -> dict[str, Int64[Tensor, "B"]]:
    """Task -> (B,) class indices of some clips; nothing for none."""
    tasks = clips[0].labels if clips else {}
    return {task: torch.tensor([clip.labels[task] for clip in clips]) for task in tasks}


class ClipLoader:
    """Batches of a reader's clips, epoch after epoch; see the top of this file.

    Each iteration begins where the order says and ends the one before. Workers are started by the first one and stay
    until `close`, or the end of a `with` block.

    Args:
        reader: What to read from.
        order: Which clips come when.
        workers: Processes that read, threads where reading is a memory copy; 0: the thread that iterates reads.
        pin_memory: Have batches in page-locked memory, from which a GPU copies them by itself.
    """

    def __init__(self, reader: Reader, order: Order, *, workers: int, pin_memory: bool = False) -> None:
        self.reader = reader
        self.order = order
        # A daemonic process may not have children.
        self.workers = 0 if reader.in_processes and multiprocessing.current_process().daemon else workers
        self._pin_memory = pin_memory
        self._started: tuple[ReadHere | ReadAhead, Slots] | None = None
        self._end: weakref.finalize[..., Any] | None = None
        self._begun: deque[Job] = deque()
        self._iteration = 0
        self._closed = False

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.order)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. Batches that were given out stay as they are."""
        self._closed = True
        if self._started is None:
            return
        engine, slots = self._started
        assert self._end is not None
        self._end.detach()
        atexit.unregister(engine.close)
        engine.close()
        slots.close()
        self._started = None

    def __iter__(self) -> Iterator[Batch]:
        engine, slots = self._start()
        self._iteration += 1
        iteration = self._iteration
        engine.drop()
        while self._begun:
            slots.give_back(self._begun.popleft().slot)
        batches = iter(self.order)
        self._begin(batches, self._num_ahead)
        while self._begun:
            job = self._begun.popleft()
            engine.wait(job)
            # In a list, as this function must not hold the batch while it is in use.
            batch = [self._batch(job, slots)]
            self._begin(batches, 1)
            yield batch.pop()
            if iteration != self._iteration or self._started is None:
                raise RuntimeError("a loader was iterated on that was closed, or begun again, in the meantime")

    @property
    def _num_ahead(self) -> int:
        return _AHEAD + -(-2 * self.workers // self.order.batch_size) if self.workers else 1

    def _start(self) -> tuple[ReadHere | ReadAhead, Slots]:
        if self._closed:
            raise RuntimeError("a loader was iterated on after it was closed")
        if self._started is None:
            processes = self.workers > 0 and self.reader.in_processes
            slots = Slots(
                self.reader.layout(),
                batch_size=self.order.batch_size,
                num_slots=self._num_ahead + _GIVEN_OUT,
                by_name=processes and start_method() != "fork",
            )
            engine: ReadHere | ReadAhead = ReadHere(self.reader, slots)
            if self.workers:
                engine = ReadAhead(self.reader, slots, workers=self.workers, processes=processes)
            if self._pin_memory and torch.cuda.is_available():
                slots.lock()
            self._started = engine, slots
            # After multiprocessing's own, and so before it: that one would wait for the processes.
            atexit.register(engine.close)
            self._end = weakref.finalize(self, _abandon, engine, slots)
            self._end.atexit = False
        return self._started

    def _begin(self, batches: Iterator[list[tuple[int, int]]], number: int) -> None:
        """Have the next batches read. There are slots for them: what is not being read was given out, and at most
        `_GIVEN_OUT` were without being copied."""
        assert self._started is not None
        engine, slots = self._started
        for items in islice(batches, number):
            job = Job(items, slots.take())
            self._begun.append(job)
            engine.begin(job)

    def _batch(self, job: Job, slots: Slots) -> Batch:
        clips, read, failures = self.reader.clips, [], {}
        for row, answer in enumerate(job.answers):
            if isinstance(answer, Drawn):
                read.append((row, answer))
            elif isinstance(answer, str):
                failures[job.items[row][0]] = answer
            else:
                slots.give_back(job.slot)
                raise answer
        tensors, lease = slots.lend(job.slot, [row for row, _ in read], copy=slots.num_lent >= _GIVEN_OUT)
        indices = [job.items[row][0] for row, _ in read]
        colours = [drawn.colour for _, drawn in read if drawn.colour is not None]
        flips = [drawn.flip for _, drawn in read]
        changes = tuple(drawn.changes for _, drawn in read if drawn.changes is not None)
        features = tensors.pop("features", None)
        return Batch(
            streams=tensors if read else {},
            labels=stack_labels([clips[index] for index in indices]),
            indices=torch.tensor(indices, dtype=torch.int64),
            failures=failures,
            colour=torch.tensor(colours, dtype=torch.float32) if colours else None,
            flip=torch.tensor(flips) if any(flips) else None,
            changes=changes or None,
            features=features if read else None,
            lease=lease,
        )


def _abandon(engine: ReadHere | ReadAhead, slots: Slots) -> None:
    """Of a loader that nobody closed and nobody has any more."""
    atexit.unregister(engine.close)
    engine.abandon()
    slots.close()


def clip_loader(reader: Reader, order: Order, *, workers: int, pin_memory: bool = False) -> ClipLoader:
    """Batches of `reader`'s clips in `order`, read by `workers` processes or threads (0: by who iterates)."""
    return ClipLoader(reader, order, workers=workers, pin_memory=pin_memory)
