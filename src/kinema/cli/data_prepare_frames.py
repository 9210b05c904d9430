"""`kinema data prepare --frames` and `--flow`: clips decoded once, and flow computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kinema.cli.data_prepare_job import Job, finish, only_with, recipe_of, usable_clips
from kinema.cli.data_section import data_section
from kinema.types import UserError

if TYPE_CHECKING:
    from kinema.preparation.frames import FrameSettings
    from kinema.sections import Recipe

_QUALITY = 90
_NUM_FRAMES = 20
_OF_RECIPE = ("size", "fit", "resize", "short_side", "num_frames", "window", "rate")


class PixelsName(StrEnum):
    """How frames are stored."""

    i420 = "i420"
    rgb = "rgb"
    jpeg = "jpeg"


class FitName(StrEnum):
    """How frames become square."""

    crop = "crop"
    squash = "squash"


class FlowName(StrEnum):
    """Methods of optical flow that need no weights."""

    dis = "dis"
    farneback = "farneback"
    tvl1 = "tvl1"
    stored = "stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOptions:
    """What the command line says of frames; None is what is not said."""

    recipe: str | None
    size: int | None
    fit: FitName | None
    resize: int | None
    short_side: int | None
    num_frames: int | None
    window: float | None
    rate: float | None
    views: int | None
    pixels: PixelsName | None
    quality: int | None


def store_frames(job: Job, options: FrameOptions, flow: Mapping[str, Any] | None) -> None:
    """Store frames, or flow in place of them.

    Args:
        job: Of which clips, and where.
        options: What of each.
        flow: Keys of `clips.motion`, where flow is to be stored.
    """
    from kinema.data.stored_flow import METHOD
    from kinema.preparation.frames import prepare_frames

    taken = None if options.recipe is None else recipe_of(job, options.recipe)
    section = data_section(job.name, job.root, job.overrides, job.annotations) if taken is None else taken.data
    settings = _settings(options) if taken is None else _settings_of(taken, options)
    if flow is not None:
        settings = _of_flow(settings, flow)
    from_files = (settings.form.motion or {}).get("method") == METHOD
    seed = 0 if taken is None else taken.trainer.seed
    clips, videos, record = usable_clips(job, section, seed, decoder=settings.decoder, flow=from_files)
    stored = prepare_frames(
        clips,
        videos,
        settings,
        job.folder,
        root=section.root,
        shard=job.shard,
        workers=job.readers(settings.decoder),
        reporter=job.output.reporter,
    )
    finish(job, record, section, "clips", stored)


def _settings(options: FrameOptions) -> FrameSettings:
    from kinema.data.frame_store import FrameFormat
    from kinema.preparation.frames import FrameSettings

    size, resize, short_side = options.size, options.resize, options.short_side
    num_frames, window, rate = options.num_frames, options.window, options.rate
    only_with("--recipe", views=options.views)
    if size is not None and short_side is not None:
        raise UserError("--size makes square frames and --short-side keeps them whole; give one of them")
    if num_frames is not None and rate is not None:
        raise UserError("--num-frames and --rate: give one of them")
    if window is not None and rate is not None:
        raise UserError("--window and --rate: all frames of a clip are stored at a rate; give one of them")
    if short_side is not None:
        only_with("--size", fit=options.fit, resize=resize)
    fit = options.fit or FitName.crop
    side = None if short_side is not None else size or 224
    if resize is not None and (fit is FitName.squash or resize < (side or 0)):
        raise UserError(f"--resize: {resize} has no meaning with --fit {fit.value} and --size {side}")
    kept = options.pixels or (PixelsName.rgb if side is not None and side % 2 else PixelsName.i420)
    if kept is PixelsName.i420 and side is not None and side % 2:
        raise UserError(f"--size: {side} is odd, and i420 has even sides; give an even size, or --pixels rgb")
    form = FrameFormat(
        pixels=kept.value,
        size_px=side,
        resize_px=None if side is None else resize or side,
        fit=None if side is None else fit.value,
        short_side_px=short_side,
        quality=_quality(kept, options.quality),
    )
    num = None if rate is not None else num_frames or _NUM_FRAMES
    return FrameSettings(form=form, num_frames=num, window_s=window, rate_fps=rate)


def _of_flow(settings: FrameSettings, given: Mapping[str, Any]) -> FrameSettings:
    """The same with flow in place of frames."""
    from kinema.data.frame_store import FrameFormat
    from kinema.preprocessing import make_preprocessing
    from kinema.sections import ClipsSection

    form = settings.form
    motion = {key: value for key, value in given.items() if value is not None}
    clips = {"size_px": form.size_px, "resize_px": None if form.fit == "squash" else form.resize_px, "fit": form.fit}
    section = ClipsSection.model_validate({**clips, "motion": motion})
    wanted = make_preprocessing(section, "flow", mean=(0.5,) * 3, std=(0.5,) * 3)
    return replace(settings, form=FrameFormat.of(wanted))


def _settings_of(recipe: Recipe, options: FrameOptions) -> FrameSettings:
    """What a recipe's training and evaluation read."""
    from kinema.data.frame_store import FrameFormat
    from kinema.preparation.frames import FrameSettings
    from kinema.preprocessing import streams_of
    from kinema.types import only

    for option in _OF_RECIPE:
        if getattr(options, option) is not None:
            raise UserError(f"--{option.replace('_', '-')}: the recipe says that; leave it out, or leave out --recipe")
    pixels, quality, views = options.pixels, options.quality, options.views
    clips = recipe.clips
    wanted = only(streams_of(recipe, mean=(0.5,) * 3, std=(0.5,) * 3))
    if wanted.motion is not None:
        only_with("frames, and not fields of motion,", pixels=pixels, quality=quality)
    kept = pixels.value if pixels is not None else wanted.pixels
    augmentation = clips.augmentation
    if views is not None:
        augmentation = augmentation.model_copy(update={"views": views})
    form = FrameFormat(
        pixels=kept,
        size_px=clips.size_px,
        resize_px=clips.resize_px or clips.size_px,
        fit=clips.fit,
        quality=_quality(PixelsName(kept), quality),
        motion=FrameFormat.of(wanted).motion,
    )
    return FrameSettings(
        form=form,
        num_frames=clips.num_frames,
        window_s=clips.window_s,
        augmentation=augmentation if augmentation.num_views is not None else None,
        seed=recipe.trainer.seed,
        decoder=clips.decoder,
    )


def _quality(pixels: PixelsName, quality: int | None) -> int | None:
    if pixels is PixelsName.jpeg:
        return quality or _QUALITY
    only_with("--pixels jpeg", quality=quality)
    return None
