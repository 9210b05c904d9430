"""From a clip to the uint8 frames that a model's preprocessing asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from kinema.data.decoding import Video, take_frames
from kinema.data.geometry import Box, centre_box, multi_scale_box, random_box
from kinema.data.modalities import distinct, fields, is_difference, stacks_between, stacks_of
from kinema.data.pictures import resize_i420, rgb_to_i420, take_planes, take_rgb
from kinema.data.sampling import clip_interval_s, sample_times_s, strided_frames, window_of_s
from kinema.data.views import View
from kinema.sections import Augmentation
from kinema.types import Clip, DataError, Pixels, Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """What of a video a clip is to be: everything random about its frames has been drawn.

    Attributes:
        indices: Frames of the video, ascending, with repetitions; T of them.
        box: What is cut out of each, in pixels of the video as displayed.
        flip: Whether it is to be mirrored, which is done on the device.
        stacks: Of a stream of motion, for each frame the pictures that its fields are of, L + 1; a function of the
            frame within a clip.
    """

    indices: tuple[int, ...]
    box: Box
    flip: bool = False
    stacks: tuple[tuple[int, ...], ...] | None = None

    def some(self, indices: Sequence[int]) -> ClipPlan:
        """Only these of its frames, each once or more often."""
        if self.stacks is None:
            return replace(self, indices=tuple(indices))
        by_index = dict(zip(self.indices, self.stacks, strict=True))
        return replace(self, indices=tuple(indices), stacks=tuple(by_index[index] for index in indices))


def plan_clip(
    clip: Clip,
    video: Video,
    preprocessing: Preprocessing,
    *,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
    look: View | None = None,
) -> ClipPlan:
    """Which frames of a clip are to be read, and what is cut out of them.

    Args:
        clip: Which stretch of which video.
        video: What probing that video found.
        preprocessing: How many frames of how much of the clip, how large, cut how.
        augmentation: Random times and geometry, for training; needs `rng`.
        rng: Source of that randomness. All frames of the clip share what is drawn.
        look: Without augmentation: other frames, another cut or a mirror image than evaluation's one view has.

    Raises:
        DataError: The clip's times lie outside its video.
    """
    look = look or View()
    indices = tuple(_frames_of(clip, video, preprocessing, augmentation, rng, look).tolist())
    stacks = None if preprocessing.motion is None else stacks_of(indices, clip, video, preprocessing.motion)
    if augmentation is None:
        box = centre_box(video.height_px, video.width_px, preprocessing, along=look.crop)
        return ClipPlan(indices=indices, box=box, flip=look.flip, stacks=stacks)
    assert rng is not None
    box = _random_box(video, preprocessing, augmentation, rng)
    return ClipPlan(indices=indices, box=box, flip=bool(rng.random() < augmentation.flip), stacks=stacks)


def _frames_of(
    clip: Clip,
    video: Video,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    rng: np.random.Generator | None,
    look: View,
) -> NDArray[np.int64]:
    start_s, stop_s = clip_interval_s(clip, video)
    num_frames = preprocessing.num_frames
    if augmentation is not None and augmentation.frame_stride is not None:
        assert rng is not None
        first, last = video.frames_at([start_s, np.nextafter(stop_s, -np.inf)]).tolist()
        strides, random_start = augmentation.frame_stride, augmentation.jitter
        found = strided_frames(first, last, num_frames=num_frames, strides=strides, rng=rng, random_start=random_start)
        if found is not None:
            return found
    jitter = rng if augmentation is not None and augmentation.jitter else None
    seen = window_of_s(start_s, stop_s, preprocessing.window_s, rng=jitter, place=look.window)
    # Views of a clip that is no longer than the window are other frames of the whole, as without a window.
    moment = look.moment if seen == (start_s, stop_s) else 0.5
    return video.frames_at(sample_times_s(*seen, num_frames=num_frames, rng=jitter, moment=moment))


def _random_box(
    video: Video, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> Box:
    size = video.height_px, video.width_px
    if augmentation.multi_scale:
        return multi_scale_box(*size, preprocessing, scales=augmentation.multi_scale, rng=rng)
    scale, aspect = augmentation.min_scale, augmentation.max_aspect
    return random_box(*size, preprocessing, min_scale=scale, max_aspect=aspect, rng=rng)


def plan_of_view(
    clip: Clip,
    video: Video,
    preprocessing: Preprocessing,
    *,
    index: int,
    view: int = 0,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    look: View | None = None,
) -> tuple[ClipPlan, np.random.Generator]:
    """What a reader of a list of clips reads of one of them in one of its random versions.

    Args:
        clip: A clip of a list.
        video: Its video.
        preprocessing: The reader's.
        index: Where in the list it is.
        view: Which random version.
        augmentation: The reader's.
        seed: The reader's.
        look: Which look at the clip, without augmentation.

    Returns:
        The plan, and where what is not about frames is to be drawn from.

    Raises:
        DataError: The clip's times lie outside its video.
    """
    rng = np.random.default_rng([seed, view, index if clip.number is None else clip.number])
    drawn_by = None if augmentation is None else rng
    return plan_clip(clip, video, preprocessing, augmentation=augmentation, rng=drawn_by, look=look), rng


def read_plan(
    video: Video,
    plan: ClipPlan,
    preprocessing: Preprocessing,
    *,
    decoder: str = "pyav",
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Frames of a plan, cropped and resized, not flipped.

    Args:
        video: What probing found.
        plan: From `plan_clip`.
        preprocessing: Size and pixels.
        decoder: What decodes videos: `clips.decoder`.
        out: Where to write; by default a new array.

    Returns:
        (T, *preprocessing.frame_shape).

    Raises:
        DataError: A frame does not decode.
    """
    if out is None:
        out = np.empty((len(plan.indices), *preprocessing.frame_shape), dtype=np.uint8)
    if plan.stacks is not None:
        _read_motion(video, plan, plan.stacks, preprocessing, decoder, out)
    elif preprocessing.pixels == "i420":
        planes = take_frames(video, plan.indices, take_planes(video, plan.box), decoder=decoder)
        resize_i420(planes, preprocessing.size_px, out)
    else:
        images = take_frames(video, plan.indices, take_rgb(video, plan.box), decoder=decoder)
        out[...] = to_size(images, None, preprocessing.size_px).numpy()
    return out


def _read_motion(
    video: Video,
    plan: ClipPlan,
    stacks: Sequence[Sequence[int]],
    preprocessing: Preprocessing,
    decoder: str,
    out: NDArray[np.uint8],
) -> None:
    """Each picture is decoded, cut and scaled once, however many fields it is in."""
    wanted, places = distinct(stacks)
    pictures = read_plan(video, ClipPlan(indices=wanted, box=plan.box), still_pictures(preprocessing), decoder=decoder)
    fields(pictures, places, preprocessing, out)


def read_clip(clip: Clip, video: Video, preprocessing: Preprocessing) -> UInt8[Tensor, "T ..."]:
    """Frames of a clip as evaluation and use take them: (T, *preprocessing.frame_shape).

    Raises:
        DataError: A frame does not decode, or the clip's times lie outside its video.
    """
    return torch.from_numpy(read_plan(video, plan_clip(clip, video, preprocessing), preprocessing))


def from_rgb(
    frames: UInt8[np.ndarray, "_N H W 3"],
    indices: Sequence[int],
    preprocessing: Preprocessing,
    *,
    fps: float | None = None,
) -> UInt8[Tensor, "T ..."]:
    """Some of a clip's RGB frames as evaluation takes them: (T, *preprocessing.frame_shape).

    Args:
        frames: All of the clip.
        indices: T of them.
        preprocessing: How they are cut and scaled; or of which fields of motion.
        fps: Their rate, by which it is known how many frames lie between the two pictures of a field. None: none do.

    Raises:
        DataError: Nothing can move in a single frame.
    """
    if preprocessing.motion is not None:
        if len(frames) < 2:
            raise DataError("a single frame was given, in which nothing moves; give all of the clip")
        step = 1 if fps is None else preprocessing.motion.step(fps)
        stacks = stacks_between(indices, 0, len(frames) - 1, preprocessing.motion.stack, step=step)
        wanted, places = distinct(stacks)
        still = still_pictures(preprocessing)
        out = np.empty((len(indices), *preprocessing.frame_shape), dtype=np.uint8)
        fields(from_rgb(frames, wanted, still).numpy(), places, preprocessing, out)
        return torch.from_numpy(out)
    box = centre_box(frames.shape[1], frames.shape[2], preprocessing)
    chosen = [frames[index] for index in indices]
    if preprocessing.pixels == "rgb":
        return to_size(chosen, box, preprocessing.size_px)
    out = np.empty((len(chosen), *preprocessing.frame_shape), dtype=np.uint8)
    rgb_to_i420(chosen, box, preprocessing.size_px, out)
    return torch.from_numpy(out)


def still_pictures(preprocessing: Preprocessing) -> Preprocessing:
    """Of the pictures that fields of motion are made of."""
    pixels: Pixels = "rgb" if is_difference(preprocessing) else "i420"
    return replace(preprocessing, modality="rgb", motion=None, pixels=pixels)


def to_size(frames: Sequence[UInt8[np.ndarray, "_ _ 3"]], box: Box | None, size_px: int) -> UInt8[Tensor, "T 3 S S"]:
    """Cut `box` out of RGB frames of one size and scale it to a square, with antialiasing.

    Args:
        frames: (H, W, 3) each.
        box: What to cut out, inside the frames; None is all of them.
        size_px: Height and width of the result.
    """
    if box is not None:
        rows = slice(box.top_px, box.top_px + box.height_px)
        columns = slice(box.left_px, box.left_px + box.width_px)
        frames = [frame[rows, columns] for frame in frames]
    cropped = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    if cropped.shape[-2:] == (size_px, size_px):
        return cropped.contiguous()
    resized = F.interpolate(cropped, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
    return resized.contiguous()
