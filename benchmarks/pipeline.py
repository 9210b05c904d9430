"""kinema as its own training uses it: videos indexed once, clips planned, read, and loaded by worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from harness import timed
from kinema.data.decoding import probe
from kinema.data.frame_store import KIND, Files, FrameFormat, FrameStore
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.probing import probe_all
from kinema.data.reading import ClipPlan, plan_clip, read_plan
from kinema.data.shards import Store
from kinema.data.video import Video
from kinema.preparation.frames import FrameSettings, prepare_frames
from kinema.types import Clip, Pixels, Preprocessing
from peers import Frames, Request

NORMALISATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Clips of one job: the same request in kinema's words and in the peers'."""

    clips: list[Clip]
    videos: dict[Path, Video]
    plans: list[ClipPlan]
    preprocessing: Preprocessing

    @property
    def requests(self) -> list[Request]:
        """For the peers."""
        return [self._request(clip, plan) for clip, plan in zip(self.clips, self.plans, strict=True)]

    def _request(self, clip: Clip, plan: ClipPlan) -> Request:
        video, box = self.videos[clip.video], plan.box
        return Request(
            path=clip.video,
            indices=plan.indices,
            box=(box.top_px, box.left_px, box.height_px, box.width_px),
            size_px=self.preprocessing.size_px,
            height_px=video.height_px,
            width_px=video.width_px,
        )

    def reader(self, pixels: Pixels) -> Callable[[int], Frames]:
        """Reads the clip of a number in this process."""
        wanted = replace(self.preprocessing, pixels=pixels)

        def read(number: int) -> Frames:
            return read_plan(self.videos[self.clips[number].video], self.plans[number], wanted)

        return read


def preprocessing(*, num_frames: int, size_px: int, resize_px: int | None = None) -> Preprocessing:
    """Centre crop; frames are kept as kinema keeps them unless told otherwise."""
    mean, std = NORMALISATION
    return Preprocessing(
        num_frames=num_frames,
        size_px=size_px,
        resize_px=resize_px or size_px,
        fit="crop",
        pixels="i420",
        mean=mean,
        std=std,
    )


def index(paths: Sequence[Path], folder: Path) -> tuple[dict[Path, Video], dict[str, float]]:
    """What a data set's index holds of videos, and what making it costs.

    Args:
        paths: Videos.
        folder: Where the index is kept.
    """
    sample = list(paths)[:12]
    each_ms = sorted(1000 * timed(partial(probe, path)) for path in sample)
    seconds = timed(lambda: probe_all(paths, index=folder))
    found: dict[Path, Video] = {}
    again_s = timed(lambda: found.update(from_index(paths, folder)))
    cost = {
        "files": len(paths),
        "one_file_ms": each_ms[len(each_ms) // 2],
        "all_files_2_processes_s": seconds,
        "all_files_again_s": again_s,
    }
    return found, cost


def from_index(paths: Sequence[Path], folder: Path) -> dict[Path, Video]:
    """From the index, as every run after the first has them."""
    return {path: video for path, video in probe_all(paths, index=folder).items() if isinstance(video, Video)}


def uniform(paths: Sequence[Path], videos: dict[Path, Video], wanted: Preprocessing) -> Task:
    """Frames that are uniform in time over each whole video."""
    clips = [Clip(clip_id=str(path), video=path, labels={"action": 0}) for path in paths]
    plans = [plan_clip(clip, videos[clip.video], wanted) for clip in clips]
    return Task(clips=clips, videos=videos, plans=plans, preprocessing=wanted)


def strided(paths: Sequence[Path], videos: dict[Path, Video], wanted: Preprocessing, *, stride: int) -> Task:
    """Frames at a stride, from a random place of each video that is long enough."""
    rng = np.random.default_rng(0)
    span = (wanted.num_frames - 1) * stride + 1
    paths = [path for path in paths if len(videos[path].times_s) >= span]
    whole = uniform(paths, videos, wanted)
    plans = []
    for path, plan in zip(paths, whole.plans, strict=True):
        first = int(rng.integers(len(videos[path].times_s) - span + 1))
        plans.append(replace(plan, indices=tuple(range(first, first + span, stride))))
    return replace(whole, plans=plans)


def segments(path: Path, video: Video, wanted: Preprocessing, *, num: int, length_s: float) -> Task:
    """Random stretches of one long video."""
    rng = np.random.default_rng(0)
    starts_s = rng.uniform(0, video.duration_s - length_s, size=num)
    clips = [
        Clip(clip_id=str(i), video=path, start_s=float(start_s), stop_s=float(start_s + length_s))
        for i, start_s in enumerate(starts_s)
    ]
    plans = [plan_clip(clip, video, wanted) for clip in clips]
    return Task(clips=clips, videos={path: video}, plans=plans, preprocessing=wanted)


class Loader:
    """kinema's loader over the clips of a task, as training has it but without augmentation.

    Args:
        task: What to read.
        pixels: What batches hold.
        batch_size: Clips per batch.
        workers: Processes.
        store: Folder of a frame store to read from in place of the videos; the order is then random.
    """

    def __init__(self, task: Task, *, pixels: Pixels, batch_size: int, workers: int, store: Path | None = None) -> None:
        wanted = replace(task.preprocessing, pixels=pixels)
        ready = None if store is None else opened(store, replace(task, preprocessing=wanted))
        reader = ClipReader(task.clips, task.videos, {"rgb": wanted}, augmentation=None, seed=0, store=ready)
        order = EpochOrder(len(task.clips), batch_size=batch_size, seed=None if store is None else 0)
        self.loader = clip_loader(reader, order, workers=workers)
        self.num_clips = len(task.clips)

    def epoch(self) -> list[float]:
        """Seconds of one pass."""
        return [timed(self._pass)]

    def _pass(self) -> None:
        num = 0
        for batch in self.loader:
            assert not batch.failures, batch.failures
            num += len(batch)
        assert num == self.num_clips

    def close(self) -> None:
        self.loader.close()


def own_cache(folder: Path) -> None:
    """Neither read nor fill the user's cache."""
    os.environ["KINEMA_CACHE"] = str(folder / "cache")


def write_frames(folder: Path, task: Task, num: int, pixels: Pixels = "i420") -> None:
    """Frame store of the first clips of a task."""
    wanted = replace(task.preprocessing, pixels=pixels)
    settings = FrameSettings(form=FrameFormat.of(wanted), num_frames=wanted.num_frames)
    done = prepare_frames({"train": task.clips[:num]}, task.videos, settings, folder, root=None)
    assert not done.failures, done.failures


def opened(folder: Path, task: Task) -> FrameStore:
    """The clips of a task that lie ready in a frame store."""
    reader = ClipReader(task.clips, task.videos, {"rgb": task.preprocessing}, augmentation=None, seed=0)
    return FrameStore(reader, [Store.open(folder, kind=KIND)], Files(None))


def stored_batches(folder: Path, task: Task, num: int, *, batch_size: int) -> Iterator[Frames]:
    """Every clip of a frame store once, in batches; the memory of a batch is used again for the next."""
    store = opened(folder, task)
    batch = np.empty((batch_size, task.preprocessing.num_frames, *task.preprocessing.frame_shape), dtype=np.uint8)
    for start in range(0, num, batch_size):
        numbers = range(start, min(start + batch_size, num))
        for row, number in enumerate(numbers):
            read_stored(store, number, batch[row])
        yield batch[: len(numbers)]


def read_stored(store: FrameStore, number: int, out: Frames) -> None:
    """One clip out of a frame store."""
    assert store.read(number, 0, out) is not None, f"clip {number} is not in the store"
