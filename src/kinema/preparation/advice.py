"""Which store pays for a recipe: arithmetic over what was measured (`kinema.training.measuring`).

Everything that is not measured is derived here, and says how, so that it can be checked with a pencil.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from kinema.wording import byte_size

WayName = Literal["no store", "frames", "features", "transcode"]

_LEAST_GAIN: Final = 0.9
"""A store that leaves more than this share of the time is not worth its disk."""

_DISK_SHARE: Final = 0.9
"""Share of the free disk that a store may take."""

_DENSE_GROUP: Final = 12
"""Frames from one key frame to the next in a transcoded video."""

_BITS_PER_PIXEL: Final = 0.3
"""Of a transcoded video with dense key frames. Assumed."""

_LONG_VIDEO_SHARE: Final = 0.5
"""Transcoding is thought of where a clip is at most this share of its video."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on this machine, with this recipe's clips and model. Rates are per second.

    Attributes:
        disk_bytes: Bytes of the videos that the disk gives.
        decoded: Clips that the recipe's workers give while the model rests.
        trained: Clips that a training step takes while the workers rest.
        predicted: Clips that the model takes without a step.
        backbone: Clips that the frozen backbone takes; None where there is none.
        trained_on_features: Clips that a training step on stored features takes; likewise.
        copied_bytes: Bytes that are copied in memory.
        memory_free: Bytes.
        disk_free: Bytes where a store would lie.
    """

    disk_bytes: float
    decoded: float
    trained: float
    predicted: float
    backbone: float | None
    trained_on_features: float | None
    copied_bytes: float
    memory_free: int
    disk_free: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """What of a recipe and its clips matters for time and room.

    Attributes:
        num_train: Training clips.
        num_validation: Validation clips.
        epochs: Passes over them.
        views: Versions of a training clip; None: a new one in every epoch.
        num_frames: Frames per clip.
        frame_bytes: Bytes of a frame as it is stored for this recipe.
        num_features: Length of a frame's feature; None without a frame backbone.
        frozen: Whether it is frozen.
        cores: Of this machine.
        workers: Of the recipe.
        on_gpu: Where the model computes.
        num_videos: Files.
        video_s: Mean length of a video.
        video_frames: Mean number of frames of a video.
        clip_frames: Mean number of frames from a clip's beginning to its end.
        group_frames: Mean number of frames from one key frame to the next; None where not known.
        height_px: Mean height of a video.
        width_px: Mean width of a video.
        resize_px: What the short side is scaled to.
        kept_bytes: Features that training keeps in the cache without being asked, at most.
    """

    num_train: int
    num_validation: int
    epochs: int
    views: int | None
    num_frames: int
    frame_bytes: int
    num_features: int | None
    frozen: bool
    cores: int
    workers: int
    on_gpu: bool
    num_videos: int
    video_s: float
    video_frames: float
    clip_frames: float
    group_frames: float | None
    height_px: float
    width_px: float
    resize_px: int
    kept_bytes: int = 0

    @property
    def num_clips(self) -> int:
        return self.num_train + self.num_validation

    @property
    def num_versions(self) -> int:
        """Clips that a store holds: every version of the training clips, and the validation clips."""
        return self.num_train * (self.views or 1) + self.num_validation


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train, and what it costs.

    Attributes:
        name: Which.
        num_bytes: On disk.
        build_s: To be made, once.
        epoch_s: An epoch, validation included.
        total_s: All epochs, and the making.
        pays_after: Epochs after which making it has been worth its time; None: never.
        refused: Why it cannot be taken; None where it can.
        arithmetic: How the numbers come about, a line each.
    """

    name: WayName
    num_bytes: int = 0
    build_s: float = 0.0
    epoch_s: float = math.nan
    total_s: float = math.nan
    pays_after: int | None = None
    refused: str | None = None
    arithmetic: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Advice:
    """All ways, and the one to take.

    Attributes:
        ways: The first is to store nothing.
        best: The one of them to take.
    """

    ways: tuple[Way, ...]
    best: Way


def advise(measured: Measured, job: Job) -> Advice:
    """Compare the ways to train.

    Args:
        measured: This machine.
        job: The recipe and its clips.
    """
    plain = _without_store(measured, job)
    ways = [plain]
    for make in (_frames, _features, _transcode):
        way = make(measured, job)
        if way.refused is None and way.num_bytes > _DISK_SHARE * measured.disk_free:
            refusal = f"it does not fit: it takes {byte_size(way.num_bytes)}, {byte_size(measured.disk_free)} are free"
            way = _replaced(way, plain, job, refused=refusal)
        ways.append(way if way.refused is not None else _replaced(way, plain, job))
    possible = [way for way in ways if way.refused is None]
    best = min(possible, key=lambda way: way.total_s)
    if best.total_s > _LEAST_GAIN * plain.total_s:
        best = plain
    return Advice(ways=tuple(ways), best=best)


def _replaced(way: Way, plain: Way, job: Job, *, refused: str | None = None) -> Way:
    """The same with what follows from it and from storing nothing."""
    gain_s = plain.epoch_s - way.epoch_s
    return Way(
        name=way.name,
        num_bytes=way.num_bytes,
        build_s=way.build_s,
        epoch_s=way.epoch_s,
        total_s=way.build_s + job.epochs * way.epoch_s,
        pays_after=math.ceil(way.build_s / gain_s) if gain_s > 0 else None,
        refused=refused,
        arithmetic=way.arithmetic,
    )


def _without_store(measured: Measured, job: Job) -> Way:
    features = _features(measured, job)
    if features.refused is None and features.num_bytes <= job.kept_bytes:
        return Way(
            name="no store",
            num_bytes=features.num_bytes,
            build_s=features.build_s,
            epoch_s=features.epoch_s,
            total_s=features.build_s + job.epochs * features.epoch_s,
            arithmetic=("training computes the features once by itself, and keeps them:", *features.arithmetic),
        )
    epoch_s, line = _epoch(measured, job, read=measured.decoded, how="decoding")
    return Way(name="no store", epoch_s=epoch_s, total_s=job.epochs * epoch_s, arithmetic=(line,))


def _frames(measured: Measured, job: Job) -> Way:
    if job.views is None:
        return Way(
            name="frames",
            refused="every epoch has its own random cuts; with clips.augmentation.views=8 or so they can be stored",
        )
    clip_bytes = job.num_frames * job.frame_bytes
    num_bytes = job.num_versions * clip_bytes
    in_memory = num_bytes < measured.memory_free
    rate = measured.copied_bytes if in_memory else measured.disk_bytes
    epoch_s, line = _epoch(measured, job, read=rate / clip_bytes, how="reading", shared=False)
    place = "it fits into memory" if in_memory else "it does not fit into memory, so the disk gives"
    versions = f"{job.num_train:,} clips x {job.views} versions + {job.num_validation:,}"
    return Way(
        name="frames",
        num_bytes=num_bytes,
        build_s=job.num_versions / measured.decoded,
        epoch_s=epoch_s,
        arithmetic=(
            f"disk: ({versions}) x {job.num_frames} frames x {job.frame_bytes:,} bytes = {byte_size(num_bytes)}",
            f"making: {job.num_versions:,} clips / {measured.decoded:.3g} decoded a second",
            f"reading: {place} {byte_size(rate)}/s / {byte_size(clip_bytes)} a clip = {rate / clip_bytes:,.0f} clips/s",
            line,
        ),
    )


def _features(measured: Measured, job: Job) -> Way:
    if job.num_features is None or measured.backbone is None or measured.trained_on_features is None:
        return Way(name="features", refused="the backbone is trained, or the model has none; init.freeze=backbone")
    if job.views is None:
        return Way(
            name="features",
            refused="every epoch has its own random cuts; with clips.augmentation.views=8 or so they can be stored",
        )
    clip_bytes = 2 * job.num_frames * job.num_features
    num_bytes = job.num_versions * clip_bytes
    seconds = job.num_train / measured.trained_on_features + job.num_validation / (3 * measured.trained_on_features)
    build_s = _together(job, job.num_versions, measured.decoded, measured.backbone)
    return Way(
        name="features",
        num_bytes=num_bytes,
        build_s=build_s,
        epoch_s=seconds,
        arithmetic=(
            f"disk: {job.num_versions:,} versions of clips x {job.num_frames} frames x {job.num_features} x 2 bytes = "
            f"{byte_size(num_bytes)}",
            f"making: {job.num_versions:,} clips at {measured.decoded:.3g} decoded and {measured.backbone:.3g} through "
            f"the backbone a second{_shared(job)}",
            f"epoch: {job.num_train:,} clips / {measured.trained_on_features:,.0f} trained a second, "
            f"+ {job.num_validation:,} in a third of the time each",
        ),
    )


def _transcode(measured: Measured, job: Job) -> Way:
    short_px = min(job.height_px, job.width_px)
    scale = min(1.0, job.resize_px / short_px)
    if job.clip_frames > _LONG_VIDEO_SHARE * job.video_frames and scale > 0.5:
        return Way(name="transcode", refused="clips are most of their videos, which are not much larger than needed")
    if job.group_frames is None:
        return Way(name="transcode", refused="where the key frames of these videos are is not known")
    # From the key frame before a clip, half a group away on average, to the clip's end.
    before = min(job.clip_frames + job.group_frames / 2, job.video_frames)
    after = min(job.clip_frames + _DENSE_GROUP / 2, job.video_frames)
    factor = before / (after * scale**2)
    pixels = job.height_px * job.width_px * scale**2
    num_frames = job.num_videos * job.video_frames
    num_bytes = round(num_frames * pixels * _BITS_PER_PIXEL / 8)
    decoded_frames = measured.decoded * before
    epoch_s, line = _epoch(measured, job, read=measured.decoded * factor, how="decoding")
    return Way(
        name="transcode",
        num_bytes=num_bytes,
        build_s=2 * num_frames / decoded_frames,
        epoch_s=epoch_s,
        arithmetic=(
            f"disk: {num_frames:,.0f} frames x {pixels:,.0f} pixels x {_BITS_PER_PIXEL} bits (assumed) = "
            f"{byte_size(num_bytes)}",
            f"making: {num_frames:,.0f} frames / {decoded_frames:,.0f} decoded a second, and as long again to encode "
            "(assumed)",
            f"decoding: {before:,.0f} frames a clip become {after:,.0f}, of {scale**2:.2g} times the pixels: "
            f"{factor:.3g} times {measured.decoded:.3g} clips/s (time taken to be proportional to both)",
            line,
        ),
    )


def _epoch(measured: Measured, job: Job, *, read: float, how: str, shared: bool = True) -> tuple[float, str]:
    """Seconds of an epoch that reads `read` clips a second, and how they come about."""
    seconds = _together(job, job.num_train, read, measured.trained, shared=shared)
    seconds += _together(job, job.num_validation, read, measured.predicted, shared=shared)
    line = (
        f"epoch: {job.num_train:,} clips at {read:,.3g} a second {how} and {measured.trained:,.3g} training"
        f"{_shared(job)}, + {job.num_validation:,} at {measured.predicted:,.3g} without training"
    )
    return seconds, line


def _together(job: Job, num_clips: int, read: float, computed: float, *, shared: bool = True) -> float:
    """Seconds for clips that are read and computed at such rates, each measured while the other rested."""
    reading_s, computing_s = num_clips / read, num_clips / computed
    if job.on_gpu and job.workers > 0:
        return max(reading_s, computing_s)
    if job.workers == 0 or not shared:
        return reading_s + computing_s
    # Workers take some of the cores that the model computes on; what they do there, it waits for.
    return max(reading_s, reading_s * min(job.workers, job.cores) / job.cores + computing_s)


def _shared(job: Job) -> str:
    if job.on_gpu and job.workers > 0:
        return " (at the same time: the slower counts)"
    if job.workers == 0:
        return " (one after the other)"
    return f" ({min(job.workers, job.cores)} of {job.cores} cores are shared)"
