"""Making a store of frames: each clip decoded once, cut and scaled, by several processes."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kinema.data.decoders import described
from kinema.data.decoding import Video, take_frames
from kinema.data.frame_store import KIND, Files, FrameFormat, frames_key
from kinema.data.geometry import Box, centre_box
from kinema.data.machine import reason_of
from kinema.data.optical_flow import made_by
from kinema.data.processes import Died, results
from kinema.data.reading import ClipPlan, plan_of_view, read_plan
from kinema.data.sampling import clip_interval_s
from kinema.data.shards import entry_key
from kinema.data.sources import register
from kinema.preparation.pictures import even_size, scaler, squares
from kinema.preparation.storing import Entry, Made, Stored, storing
from kinema.progress import SILENT, Reporter
from kinema.sections import Augmentation
from kinema.types import Clip, DataError, Modality, Motion, Preprocessing, Split

_SAMPLES = 8
"""Clips from which the size of JPEG files is estimated."""

_BLOCK_BYTES = 32 * 2**20
"""Of the frames that a process decodes before it hands them over, as RGB: its memory does not grow with the clip. Part
of what a long clip's keys are made of."""

_FEWEST_FRAMES = 20
"""However large they are: in front of each block, frames from a key frame on are decoded again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """What is stored of each clip.

    Attributes:
        form: How frames lie in the store.
        num_frames: That many, as evaluation takes them,
        window_s: of a window of so many seconds, or of the whole clip; or
        rate_fps: all of them at this rate.
        augmentation: Random versions of training clips are stored too: as many as its `views`.
        seed: Of these.
        decoder: What decodes videos: `clips.decoder`.
    """

    form: FrameFormat
    num_frames: int | None = None
    window_s: float | None = None
    rate_fps: float | None = None
    augmentation: Augmentation | None = None
    seed: int = 0
    decoder: str = "pyav"

    def __post_init__(self) -> None:
        assert (self.num_frames is None) != (self.rate_fps is None)
        assert self.window_s is None or self.num_frames is not None
        assert self.augmentation is None or (self.form.size_px is not None and self.num_frames is not None)

    @property
    def facts(self) -> dict[str, Any]:
        """Settings of the store. Versions of clips are no such thing: there may be more of them later. What makes flow
        is one: another version of it, which may find a little other flow, does not go on with the store."""
        by = made_by((self.form.motion or {}).get("method"))
        taken = {"num_frames": self.num_frames, "window_s": self.window_s, "rate_fps": self.rate_fps}
        given = {name: value for name, value in taken.items() if value is not None}
        made = {} if by is None else {"flow_by": by}
        return {**self.form.facts, **given, **made, "decoder": described(self.decoder)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item(Entry):
    """One version of one clip; of a long clip, some of its frames."""

    clip: Clip
    split: Split
    view: int | None
    plan: ClipPlan
    block: int = 0
    blocks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a process has to know."""

    items: Sequence[_Item]
    videos: Mapping[Path, Video]
    files: Files
    form: FrameFormat
    decoder: str


def prepare_frames(
    clips: Mapping[Split, Sequence[Clip]],
    videos: Mapping[Path, Video],
    settings: FrameSettings,
    folder: Path,
    *,
    root: Path | None,
    shard: tuple[int, int] = (1, 1),
    workers: int = 2,
    reporter: Reporter = SILENT,
) -> Stored:
    """Store the frames of clips. What is there already is left as it is, so that it can be called again until all is
    there.

    Args:
        clips: Split -> clips that can be read, in the order in which training and evaluation have them.
        videos: What probing their videos found.
        settings: What is stored of each.
        folder: The store.
        root: Folder of the data set.
        shard: (i, n): do the i-th of n parts.
        workers: Processes to use.
        reporter: Shown how many clips are done.

    Raises:
        DataError: There is no room, or the folder holds another store, or a file has gone in the meantime.
    """
    files = Files(root)
    failures: dict[str, str] = {}
    items = list(_items(clips, videos, settings, files, failures))
    work = _Work(items=items, videos=videos, files=files, form=settings.form, decoder=settings.decoder)
    with storing(
        items,
        folder,
        kind=KIND,
        settings=settings.facts,
        files=files,
        shard=shard,
        estimate=partial(_estimate, work, workers),
        unit="clips",
    ) as job:
        job.failures |= failures
        job.run(partial(_read, work), title="Storing frames", workers=workers, reporter=reporter)
    register(folder)
    return job.result()


def _items(
    clips: Mapping[Split, Sequence[Clip]],
    videos: Mapping[Path, Video],
    settings: FrameSettings,
    files: Files,
    failures: dict[str, str],
) -> Iterable[_Item]:
    """Every version of every clip, each entry once."""
    seen = set()
    for split, some in clips.items():
        views: list[int | None] = [None]
        if split == "train" and settings.augmentation is not None:
            views += range(settings.augmentation.num_views or 0)
        for index, clip in enumerate(some):
            try:
                plans = [_plan(clip, videos[clip.video], settings, index, view) for view in views]
                states = [files.state_of(clip.video, plan) for plan in plans]
            except DataError as error:
                failures[clip.clip_id] = str(error)
                continue
            for view, plan, state in zip(views, plans, states, strict=True):
                parts = _blocks(plan, settings.form, videos[clip.video])
                keys = [frames_key(state, plan, settings.form)]
                if len(parts) > 1:
                    keys = [entry_key({"of": keys[0].hex(), "block": block}) for block in range(len(parts))]
                names = tuple(key.hex() for key in keys) if len(keys) > 1 else None
                for block, (part, key) in enumerate(zip(parts, keys, strict=True)):
                    if key not in seen:
                        seen.add(key)
                        yield _Item(
                            key=key,
                            name=clip.clip_id,
                            path=clip.video,
                            counts=block == 0,
                            clip=clip,
                            split=split,
                            view=view,
                            plan=part,
                            block=block,
                            blocks=None if block else names,
                        )


def _blocks(plan: ClipPlan, form: FrameFormat, video: Video) -> list[ClipPlan]:
    """A plan in parts, each of so few frames that a process can hold them."""
    if form.motion is not None:  # as many as a recipe reads, which are looked up together
        return [plan]
    height_px, width_px = _frame_size(form, video)
    num = max(_FEWEST_FRAMES, _BLOCK_BYTES // (3 * height_px * width_px))
    if len(set(plan.indices)) <= num:
        return [plan]
    indices = sorted(set(plan.indices))
    return [plan.some(indices[start : start + num]) for start in range(0, len(indices), num)]


def _plan(clip: Clip, video: Video, settings: FrameSettings, index: int, view: int | None) -> ClipPlan:
    if settings.rate_fps is not None:
        start_s, stop_s = clip_interval_s(clip, video)
        num = max(1, round((stop_s - start_s) * settings.rate_fps))
        times_s = np.minimum(start_s + (np.arange(num) + 0.5) / settings.rate_fps, np.nextafter(stop_s, -np.inf))
        indices = tuple(np.unique(video.frames_at(times_s)).tolist())
        form = settings.form
        box = Box(top_px=0, left_px=0, height_px=video.height_px, width_px=video.width_px)
        if form.size_px is not None:
            box = centre_box(video.height_px, video.width_px, _preprocessing(form, len(indices)))
        return ClipPlan(indices=indices, box=box)
    assert settings.num_frames is not None
    preprocessing = _preprocessing(settings.form, settings.num_frames, settings.window_s)
    if view is None:
        return plan_of_view(clip, video, preprocessing, index=index)[0]
    return plan_of_view(
        clip, video, preprocessing, index=index, view=view, augmentation=settings.augmentation, seed=settings.seed
    )[0]


def _preprocessing(form: FrameFormat, num_frames: int, window_s: float | None = None) -> Preprocessing:
    """As far as it is of any consequence for what is stored. Whole frames are cut and scaled by nobody yet."""
    motion = dict(form.motion or {})
    modality: Modality = motion.pop("modality", "rgb")
    return Preprocessing(
        num_frames=num_frames,
        window_s=window_s,
        size_px=form.size_px or 8,
        resize_px=form.resize_px or form.size_px or 8,
        fit="crop" if form.fit != "squash" else "squash",
        pixels="i420" if form.pixels == "i420" else "rgb",
        modality=modality,
        motion=Motion(**motion) if motion else None,
        mean=(0.0,),  # of no consequence either
        std=(1.0,),
    )


def _channels(form: FrameFormat) -> int:
    return _preprocessing(form, 1).channels


def _frame_size(form: FrameFormat, video: Video) -> tuple[int, int]:
    """Height and width of a stored frame."""
    return (form.size_px, form.size_px) if form.size_px is not None else even_size(video, form.short_side_px)


def _read(work: _Work, place: int) -> Made:
    """Data and meta of an item; or why it has none."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # there are as many processes as cores
    item, form = work.items[place], work.form
    video = work.videos[item.clip.video]
    try:
        start_s, stop_s = clip_interval_s(item.clip, video)
        indices = sorted(set(item.plan.indices))
        frames = _frames(video, item.plan.some(indices), form, work.decoder)
    except DataError as error:
        return reason_of(error)
    except (av.FFmpegError, ValueError) as error:
        return reason_of(error, f"{video.path}: its frames cannot be scaled: {error}")
    meta: dict[str, Any] = {
        "clip": item.clip.clip_id,
        "split": item.split,
        "view": item.view,
        "video": work.files.state(item.clip.video),
        "start_s": start_s,
        "stop_s": stop_s,
        "block": item.block,
        "indices": indices,
        "times_s": video.times_s[indices].tolist(),
        "size_px": _frame_size(form, video),
        "pixels": form.pixels,
    }
    if item.blocks is not None:
        meta["blocks"] = item.blocks
    if form.pixels == "jpeg":
        packed = [_jpeg(frame, form.quality or 90) for frame in frames]
        meta["jpeg_bytes"] = [len(one) for one in packed]
        frames = np.concatenate(packed)
    return frames, meta


def _frames(video: Video, plan: ClipPlan, form: FrameFormat, decoder: str) -> NDArray[np.uint8]:
    """(T, 3, H, W), or (T, bytes) of I420. Frames are never held as large as they come out of the decoder."""
    if form.motion is not None:
        return read_plan(video, plan, _preprocessing(form, len(plan.indices)), decoder=decoder)
    if form.size_px is not None:
        make = squares(video, plan.box, form.size_px, is_i420=form.pixels == "i420")
    else:
        make = scaler(video, *_frame_size(form, video), is_i420=form.pixels == "i420")
    return np.stack(take_frames(video, plan.indices, make, decoder=decoder))


def _jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Of a frame (3, H, W)."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(file, format="jpeg", quality=quality)
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def _estimate(work: _Work, workers: int, places: Sequence[int]) -> int:
    """Bytes that items will take: known exactly, but for JPEG, of which some are made and thrown away."""
    num_pixels = 0
    for place in places:
        height_px, width_px = _frame_size(work.form, work.videos[work.items[place].path])
        num_pixels += len(set(work.items[place].plan.indices)) * height_px * width_px
    if work.form.pixels != "jpeg":
        return num_pixels * 3 // 2 if work.form.pixels == "i420" else num_pixels * _channels(work.form)
    num_bytes = num_seen = 0
    some = places[:: -(-len(places) // _SAMPLES)]
    for _, result in results(partial(_read, work), some, workers=workers, apart=True):
        if not isinstance(result, Died | str):
            height_px, width_px = result[1]["size_px"]
            num_seen += len(result[1]["indices"]) * height_px * width_px
            num_bytes += len(result[0])
    return round(num_pixels * num_bytes / num_seen) if num_seen else 0
