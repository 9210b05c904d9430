"""`kinema data prepare`: do once what would otherwise be done in every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.data_section import (
    AnnotationsOption,
    NameArgument,
    OverridesArgument,
    RootArgument,
    SplitName,
    data_section,
)
from kinema.data.processes import available_cores
from kinema.types import UserError
from kinema.wording import byte_size

if TYPE_CHECKING:
    from kinema.data.video import Video
    from kinema.preparation.frames import FrameSettings
    from kinema.preparation.storing import Stored
    from kinema.sections import DataSection, Recipe
    from kinema.types import Clip, Split

_QUALITY = 90
_SHOWN = 3
_NUM_FRAMES = 20
_KEY_EVERY, _CRF = 12, 18


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


class TypeName(StrEnum):
    """Numbers of stored features."""

    fp16 = "fp16"
    fp32 = "fp32"


def prepare(
    name: NameArgument,
    root: RootArgument,
    overrides: OverridesArgument = None,
    annotations: AnnotationsOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="STORE", help="Folder of the store.")] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Store decoded frames.")] = False,
    transcode: Annotated[bool, typer.Option("--transcode", help="Store videos with dense key frames.")] = False,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="RECIPE|BACKBONE", help="Store features of a recipe's, or a named, frozen backbone."
        ),
    ] = None,
    flow: Annotated[
        FlowName | None, typer.Option("--flow", help="Store optical flow, u and v in 8 bits; of RAFT by --recipe.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|published", help="--features BACKBONE: its weights.")
    ] = None,
    dtype: Annotated[TypeName | None, typer.Option(help="--features: type of the numbers; by default fp16.")] = None,
    maps: Annotated[
        bool,
        typer.Option(
            "--maps", help="--features: before they are averaged over the frame, as cnn_conv_lstm takes them."
        ),
    ] = False,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="--frames: what this recipe reads, exactly.")
    ] = None,
    bound: Annotated[
        float | None, typer.Option(min=0.1, metavar="PX", help="--flow: the longest movement; by default 20.")
    ] = None,
    stack: Annotated[
        int | None, typer.Option(min=1, metavar="L", help="--flow: fields one behind the other; by default 1.")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(min=0.0001, metavar="S", help="--flow: from frame to frame; by default 1/30.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, metavar="PX", help="--frames: side of square frames.")] = None,
    fit: Annotated[FitName | None, typer.Option(help="--size: how frames become square.")] = None,
    resize: Annotated[int | None, typer.Option(min=8, metavar="PX", help="--size: short side before the cut.")] = None,
    short_side: Annotated[
        int | None, typer.Option(min=16, metavar="PX", help="Whole frames, with at most this short side.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="--frames: that many, uniform in time; by default 20.")
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="SECONDS", help="--num-frames: of so many seconds in the middle of a clip."),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, metavar="FPS", help="--frames: all at this rate.")] = None,
    views: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="--recipe: random versions of training clips too.")
    ] = None,
    pixels: Annotated[PixelsName | None, typer.Option(help="--frames: how they are stored; by default i420.")] = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="--pixels jpeg: 90 by default.")] = None,
    key_every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="--transcode: frames between key frames; by default 12.")
    ] = None,
    crf: Annotated[
        int | None, typer.Option(min=0, max=51, help="--transcode: quality, the smaller the better; by default 18.")
    ] = None,
    split: Annotated[SplitName | None, typer.Option(help="Only this split.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Do the I-th of N parts: for array jobs.")] = "1/1",
    workers: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Processes to use. By default one for each core.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Store what reading clips takes time for. Stopped at any moment, the same command goes on; several shards can be
    made at once. clips.store=STORE reads from it; where it gives the same numbers, it is taken without being asked."""
    if [frames, transcode, features is not None, flow is not None].count(True) != 1:
        raise UserError("give one of --frames, --flow, --transcode and --features; see kinema data prepare --help")
    if out is None:
        raise UserError("--out: say where the store is to be, as in --out stores/frames")
    part = _shard(shard)
    output = Output(json_file)
    workers = available_cores() if workers is None else workers
    folder = out.expanduser().absolute()
    if not transcode:
        _only_with("--transcode", key_every=key_every, crf=crf)
    if flow is None:
        _only_with("--flow", bound=bound, stack=stack, interval=interval)
    else:
        _only_with("--frames", recipe=recipe, short_side=short_side, rate=rate, pixels=pixels, quality=quality)
    if features is None:
        _only_with("--features", weights=weights, dtype=dtype, maps=maps or None)
    if transcode:
        _only_with("--frames", recipe=recipe, size=size, fit=fit, resize=resize, rate=rate, views=views)
        _only_with("--frames", num_frames=num_frames, window=window, pixels=pixels, quality=quality)
        section = data_section(name, root, overrides, annotations)
        clips, videos, record = _clips(section, 0, split, workers, output)
        from kinema.preparation.transcode import TranscodeSettings, transcode_videos

        done = transcode_videos(
            videos,
            TranscodeSettings(
                short_side_px=short_side, key_every=key_every or _KEY_EVERY, crf=_CRF if crf is None else crf
            ),
            folder,
            root=section.root,
            shard=part,
            workers=workers,
            reporter=output.reporter,
        )
        _finish(output, record, section, folder, "videos", done)
        return
    if features is not None:
        _only_with("--frames", recipe=recipe, short_side=short_side, rate=rate, pixels=pixels, quality=quality)
        cut = {"size_px": size, "fit": fit and fit.value, "resize_px": resize}
        given = {**cut, "num_frames": num_frames, "window_s": window}
        of_frozen = _features(features, weights, given, name, root, overrides, annotations, maps=maps)
        clips, videos, record = _clips(
            of_frozen.data, of_frozen.trainer.seed, split, workers, output, decoder=of_frozen.clips.decoder
        )
        from kinema.cli.data_prepare_features import store_features

        done = store_features(
            of_frozen,
            clips,
            videos,
            folder,
            stored_as=(dtype or TypeName.fp16).value,
            maps=maps,
            views=views,
            still=weights is not None and views is None,
            shard=part,
            workers=_readers(of_frozen.clips.decoder, workers),
            reporter=output.reporter,
        )
        _finish(output, record, of_frozen.data, folder, "clips", done)
        return
    taken = _recipe(recipe, name, root, overrides, annotations)
    section = data_section(name, root, overrides, annotations) if taken is None else taken.data
    if taken is None:
        settings = _settings(size, fit, resize, short_side, num_frames, window, rate, pixels, quality, views)
        if flow is not None:
            settings = _of_flow(
                settings, {"method": flow.value, "bound_px": bound, "stack": stack, "interval_s": interval}
            )
    else:
        cut = {"size": size, "fit": fit, "resize": resize, "short_side": short_side}
        settings = _settings_of(taken, pixels, quality, views, **cut, num_frames=num_frames, window=window, rate=rate)
    seed = 0 if taken is None else taken.trainer.seed
    clips, videos, record = _clips(section, seed, split, workers, output, decoder=settings.decoder)
    from kinema.preparation.frames import prepare_frames

    stored = prepare_frames(
        clips,
        videos,
        settings,
        folder,
        root=section.root,
        shard=part,
        workers=_readers(settings.decoder, workers),
        reporter=output.reporter,
    )
    _finish(output, record, section, folder, "clips", stored)


def _readers(decoder: str, workers: int) -> int:
    """Processes that read: none but this one where a GPU decodes, which processes made by forking cannot use."""
    return 0 if decoder == "torchcodec_cuda" else workers


def _finish(
    output: Output, record: dict[str, Any], section: DataSection, folder: Path, unit: str, done: Stored
) -> None:
    """Say what became of it.

    Raises:
        UserError: There is nothing in the store of what was to be stored.
    """
    failures: dict[str, str] = {**record.pop("skipped"), **done.failures}
    output.say(
        f"{folder}: {done.num_new:,} {unit} stored, {byte_size(done.num_bytes)}"
        + (f"; {done.num_before:,} were there before" if done.num_before else "")
    )
    if failures:
        shown = [f"\n  {name}: {reason}" for name, reason in list(failures.items())[:_SHOWN]]
        more = f"\n  and {len(failures) - _SHOWN:,} more; --json FILE has them all" if len(failures) > _SHOWN else ""
        output.say(f"warning: {len(failures):,} {unit} cannot be read and are left out:{''.join(shown)}{more}")
    output.finish(
        {
            "store": str(folder),
            "data": section.model_dump(mode="json"),
            **record,
            "asked": done.num_asked,
            "before": done.num_before,
            "new": done.num_new,
            "bytes": done.num_bytes,
            "failed": failures,
        }
    )
    if done.failures and not done.num_new + done.num_before:
        raise UserError(f"{folder}: nothing is stored: none of the {unit} can be read")


def _clips(
    section: DataSection,
    seed: int,
    split: SplitName | None,
    workers: int,
    output: Output,
    *,
    decoder: str = "pyav",
) -> tuple[dict[Split, list[Clip]], dict[Path, Video], dict[str, Any]]:
    """Clips that can be read, as training and evaluation list them; their videos; and what to report of them."""
    from kinema.data.decoders import check_decoder
    from kinema.data.load_dataset import load_dataset
    from kinema.data.usable import probe_splits

    check_decoder(decoder, [])
    dataset = load_dataset(section, seed=seed, for_training=False, reporter=output.reporter)
    for note in dataset.notes:
        output.say(note)
    wanted: list[Split] = [name for name in dataset.splits if split is None or name == split.value]
    if not wanted:
        raise UserError(f"--split: there is no {split} split; there are {', '.join(dataset.splits)}")
    clips, videos, skipped = probe_splits(dataset, wanted, workers=workers, background=True, reporter=output.reporter)
    check_decoder(decoder, videos.values())
    reasons = {clip_id: reason for found in skipped.values() for clip_id, reason in found.items()}
    return clips, videos, {"clips": {name: len(some) for name, some in clips.items()}, "skipped": reasons}


def _recipe(
    recipe: str | None, name: str, root: Path, overrides: Sequence[str] | None, annotations: Path | None
) -> Recipe | None:
    """The recipe, with its data where NAME and ROOT say they are."""
    if recipe is None:
        return None
    from kinema import recipes
    from kinema.config import resolve

    values = dict(recipes.read(recipe))
    before = values.get("data")
    same = isinstance(before, Mapping) and before.get("name") == name
    values["data"] = {**(before if same else {}), "name": name, "root": str(root)}  # type: ignore[dict-item]
    if annotations is not None:
        values["data"]["annotations"] = str(annotations.expanduser().absolute())
    return resolve(values, list(overrides or []))


def _features(
    what: str,
    weights: str | None,
    given: Mapping[str, object],
    name: str,
    root: Path,
    overrides: Sequence[str] | None,
    annotations: Path | None,
    *,
    maps: bool,
) -> Recipe:
    """The recipe that is named, or the one that the name of a backbone stands for."""
    from kinema import recipes
    from kinema.cli.data_prepare_features import features_recipe

    if what in recipes.names() or what.endswith((".yaml", ".yml")):
        _only_with("--features BACKBONE", weights=weights, **_options(given))
        recipe = _recipe(what, name, root, overrides, annotations)
        assert recipe is not None
        return recipe
    if weights is None:
        raise UserError(f"--weights: say which weights {what} has: a file, or published")
    of_recipe = [given for given in overrides or [] if given.startswith(("init.", "clips."))]
    of_data = [given for given in overrides or [] if given not in of_recipe]
    data = data_section(name, root, of_data, annotations).model_dump(mode="json")
    kept = {key: value for key, value in given.items() if value is not None}
    return features_recipe(what, data, weights=weights, clips=kept, maps=maps, overrides=of_recipe)


def _settings(
    size: int | None,
    fit: FitName | None,
    resize: int | None,
    short_side: int | None,
    num_frames: int | None,
    window: float | None,
    rate: float | None,
    pixels: PixelsName | None,
    quality: int | None,
    views: int | None,
) -> FrameSettings:
    from kinema.data.frame_store import FrameFormat
    from kinema.preparation.frames import FrameSettings

    _only_with("--recipe", views=views)
    if size is not None and short_side is not None:
        raise UserError("--size makes square frames and --short-side keeps them whole; give one of them")
    if num_frames is not None and rate is not None:
        raise UserError("--num-frames and --rate: give one of them")
    if window is not None and rate is not None:
        raise UserError("--window and --rate: all frames of a clip are stored at a rate; give one of them")
    if short_side is not None:
        _only_with("--size", fit=fit, resize=resize)
    fit = fit or FitName.crop
    side = None if short_side is not None else size or 224
    if resize is not None and (fit is FitName.squash or resize < (side or 0)):
        raise UserError(f"--resize: {resize} has no meaning with --fit {fit.value} and --size {side}")
    kept = pixels or (PixelsName.rgb if side is not None and side % 2 else PixelsName.i420)
    if kept is PixelsName.i420 and side is not None and side % 2:
        raise UserError(f"--size: {side} is odd, and i420 has even sides; give an even size, or --pixels rgb")
    form = FrameFormat(
        pixels=kept.value,
        size_px=side,
        resize_px=None if side is None else resize or side,
        fit=None if side is None else fit.value,
        short_side_px=short_side,
        quality=_quality(kept, quality),
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


def _settings_of(
    recipe: Recipe, pixels: PixelsName | None, quality: int | None, views: int | None, **given: object
) -> FrameSettings:
    """What a recipe's training and evaluation read."""
    from kinema.data.frame_store import FrameFormat
    from kinema.preparation.frames import FrameSettings
    from kinema.preprocessing import streams_of
    from kinema.types import only

    for option, value in given.items():
        if value is not None:
            raise UserError(f"--{option.replace('_', '-')}: the recipe says that; leave it out, or leave out --recipe")
    clips = recipe.clips
    wanted = only(streams_of(recipe, mean=(0.5,) * 3, std=(0.5,) * 3))
    if wanted.motion is not None:
        _only_with("frames, and not fields of motion,", pixels=pixels, quality=quality)
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
    _only_with("--pixels jpeg", quality=quality)
    return None


def _options(given: Mapping[str, object]) -> dict[str, object]:
    """Values of keys of `clips:` by the name of their option, without `--`."""
    return {key.removesuffix("_px").removesuffix("_s"): value for key, value in given.items()}


def _only_with(option: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: has a meaning with {option} only")


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard: {text!r}: expected I/N, as in 1/4 for the first of four")
    return int(number), int(count)
