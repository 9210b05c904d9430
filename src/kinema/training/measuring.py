"""How fast this machine reads, decodes and computes what a recipe asks for: measured for some seconds."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from kinema.data.device import to_model_input
from kinema.data.loading import Batch, ClipReader, EpochOrder, clip_loader
from kinema.data.processes import available_cores
from kinema.data.sampling import clip_interval_s
from kinema.data.video import Video
from kinema.models.frame_model import FrameModel
from kinema.models.runtime import set_up
from kinema.preparation.advice import Job, Measured
from kinema.preparation.features import LARGEST_BYTES
from kinema.training.losses import multi_task_loss
from kinema.training.optimisers import build_optimiser
from kinema.training.prepare import Prepared, compute_device
from kinema.types import DataError, only

_READ_BYTES = 2**20
_COPIED_BYTES = 64 * 2**20
_DECODING_SHARE, _COMPUTING_SHARE, _DISK_SHARE = 0.4, 0.5, 0.1
_SOME_VIDEOS = 200
"""Videos of which the packets are looked at."""


def measure(prepared: Prepared, *, seconds: float, store: Path) -> Measured:
    """Measure.

    Args:
        prepared: Of the recipe. Its model is trained some steps: it is of no use afterwards.
        seconds: How long, about: what was begun is finished.
        store: Where a store would lie.

    Raises:
        DataError: No clip can be read.
    """
    decoded = decoding_rate(prepared, seconds=_DECODING_SHARE * seconds)
    model, device = prepared.model, compute_device(prepared.recipe.trainer)
    model.to(device)
    set_up(model, prepared.recipe.trainer.runtime, device)
    clips = _random_clips(prepared, device)
    labels = {task: torch.zeros(len(clips), dtype=torch.int64, device=device) for task in prepared.dataset.classes}
    frozen = isinstance(model, FrameModel) and model.backbone.frozen
    share_s = _COMPUTING_SHARE * seconds / (4 if frozen else 2)
    later = [] if prepared.thaw is None else prepared.thaw.parameters
    optimiser = build_optimiser(model, prepared.recipe.optim, fused=False, later=later)

    def step(answer: Callable[[int], Mapping[str, torch.Tensor]], num: int) -> None:
        optimiser.zero_grad()
        some = {task: of_task[:num] for task, of_task in labels.items()}
        torch.autograd.backward(multi_task_loss(dict(answer(num)), some, prepared.recipe.task))
        optimiser.step()

    def model_input(num: int) -> dict[str, torch.Tensor]:
        return to_model_input(dict.fromkeys(prepared.preprocessing, clips[:num]), prepared.preprocessing)

    def predict(num: int) -> None:
        with torch.inference_mode():
            model(model_input(num))

    model.train()
    trained = _rate(lambda num: step(lambda n: model(model_input(n)), num), len(clips), share_s, device)
    backbone = trained_on_features = None
    if isinstance(model, FrameModel) and frozen:
        preprocessing = only(prepared.preprocessing)
        shape = model.feature_shape(preprocessing.size_px)
        features = torch.randn(len(clips), preprocessing.num_frames, *shape, device=device)
        trained_on_features = _rate(
            lambda num: step(lambda n: model.classify(features[:n]), num), len(clips), share_s, device
        )
        backbone = _rate(lambda num: _without_gradient(model, only(model_input(num))), len(clips), share_s, device)
    model.eval()
    return Measured(
        disk_bytes=disk_rate(prepared.videos, seconds=_DISK_SHARE * seconds),
        decoded=decoded,
        trained=trained,
        predicted=_rate(predict, len(clips), share_s, device),
        backbone=backbone,
        trained_on_features=trained_on_features,
        copied_bytes=_copy_rate(),
        memory_free=memory_free(),
        disk_free=shutil.disk_usage(_existing(store)).free,
    )


def decoding_rate(prepared: Prepared, *, seconds: float) -> float:
    """Clips a second that the recipe's workers give, from the first batch on.

    Raises:
        DataError: None can be read.
    """
    section = prepared.recipe.clips
    reader = ClipReader(
        prepared.clips["train"],
        prepared.videos,
        prepared.preprocessing,
        augmentation=section.augmentation,
        seed=prepared.recipe.trainer.seed,
        decoder=section.decoder,
    )
    # Small batches: of large ones few would come in some seconds.
    batch_size = max(1, min(section.batch_size, 4))
    order = EpochOrder(len(reader), batch_size=batch_size, seed=prepared.recipe.trainer.seed)
    loader = clip_loader(reader, order, workers=section.workers)
    began_s, first_s, num_clips, failure = time.perf_counter(), 0.0, 0, ""
    try:
        for batch in _forever(loader, order):
            failure = next(iter(batch.failures.values()), failure)
            now_s = time.perf_counter()
            if not first_s:  # what came before it was the start of the workers
                first_s = now_s
                continue
            num_clips += len(batch)
            if now_s - began_s > seconds and (num_clips or failure):
                break
    finally:
        loader.close()
    if not num_clips:
        raise DataError(f"no training clip can be read; the last: {failure}")
    return num_clips / (now_s - first_s)


def _forever(loader: Iterable[Batch], order: EpochOrder) -> Iterator[Batch]:
    epoch = 0
    while True:
        order.set_position(epoch=epoch, first_batch=0)
        yield from loader
        epoch += 1


def disk_rate(videos: Iterable[Path], *, seconds: float) -> float:
    """Bytes a second that the disk gives of some videos, after the system was asked to forget that it has them in
    memory."""
    paths = [path for path in videos if path.is_file()]
    rng = np.random.default_rng(0)
    num_bytes, began_s = 0, time.perf_counter()
    for index in rng.permutation(len(paths)):
        with paths[index].open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while time.perf_counter() - began_s < seconds and (read := len(file.read(_READ_BYTES))):
                num_bytes += read
        if time.perf_counter() - began_s >= seconds:
            break
    return max(num_bytes, 1) / (time.perf_counter() - began_s)


def memory_free() -> int:
    """Bytes that programs can still take, with those that files occupy only as long as nobody else wants them."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def job_of(prepared: Prepared) -> Job:
    """What of a recipe and its clips matters for time and room."""
    recipe, model = prepared.recipe, prepared.model
    preprocessing = only(prepared.preprocessing)
    clips = [clip for of_split in prepared.clips.values() for clip in of_split]
    videos = list(prepared.videos.values())
    frames = model if isinstance(model, FrameModel) else None
    lengths = [stop_s - start_s for start_s, stop_s in (clip_interval_s(c, prepared.videos[c.video]) for c in clips)]
    rates = [prepared.videos[clip.video].fps for clip in clips]
    return Job(
        num_train=len(prepared.clips["train"]),
        num_validation=len(prepared.clips.get("validation", ())),
        epochs=recipe.trainer.epochs,
        views=recipe.clips.augmentation.num_views,
        num_frames=preprocessing.num_frames,
        frame_bytes=int(np.prod(preprocessing.frame_shape)),
        num_features=None if frames is None else math.prod(frames.feature_shape(preprocessing.size_px)),
        frozen=frames is not None and frames.backbone.frozen,
        cores=available_cores(),
        workers=recipe.clips.workers,
        on_gpu=compute_device(recipe.trainer).type == "cuda",
        num_videos=len(videos),
        video_s=float(np.mean([video.duration_s for video in videos])),
        video_frames=float(np.mean([len(video.times_s) for video in videos])),
        clip_frames=float(np.mean(np.multiply(lengths, rates))),
        group_frames=_group_frames(videos),
        height_px=float(np.mean([video.height_px for video in videos])),
        width_px=float(np.mean([video.width_px for video in videos])),
        resize_px=preprocessing.resize_px,
        kept_bytes=LARGEST_BYTES if recipe.clips.store == "auto" else 0,
    )


def _group_frames(videos: Sequence[Video]) -> float | None:
    """Frames from one key frame to the next, of some videos; None where none of them has a packet index."""
    some = np.random.default_rng(0).permutation(len(videos))[:_SOME_VIDEOS]
    found = [packets for i in some if (source := videos[i].packets) and (packets := source.load()) is not None]
    num_keys = sum(int((packets.starts >= 0).sum()) for packets in found)
    return sum(packets.num_frames for packets in found) / num_keys if num_keys else None


def _rate(run: Callable[[int], None], most: int, seconds: float, device: torch.device) -> float:
    """Clips a second of something that takes up to `most` clips at once."""

    def timed(num: int) -> float:
        began_s = time.perf_counter()
        run(num)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began_s

    num = min(2, most)  # batch norm needs two
    timed(num)  # the first finds its algorithms and memory
    num = max(num, min(most, int(num * seconds / (3 * timed(num)))))
    spent_s, num_clips = 0.0, 0
    while spent_s < seconds:
        spent_s += timed(num)
        num_clips += num
    return num_clips / spent_s


def _random_clips(prepared: Prepared, device: torch.device) -> torch.Tensor:
    preprocessing = only(prepared.preprocessing)
    shape = (prepared.recipe.clips.batch_size, preprocessing.num_frames, *preprocessing.frame_shape)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def _without_gradient(model: FrameModel, frames: torch.Tensor) -> None:
    with torch.inference_mode():
        model.features(frames)


def _copy_rate() -> float:
    source = np.ones(_COPIED_BYTES, dtype=np.uint8)
    target = np.zeros_like(source)
    began_s = time.perf_counter()
    for _ in range(4):
        np.copyto(target, source)
    return 4 * _COPIED_BYTES / (time.perf_counter() - began_s)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
