"""`kinema data prepare`: do once what would otherwise be done in every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinema.cli.console import JsonOption, Output
from kinema.cli.data_prepare_features import TypeName, store_features_of
from kinema.cli.data_prepare_frames import FitName, FlowName, FrameOptions, PixelsName, store_frames
from kinema.cli.data_prepare_job import Job, only_with, shard_of
from kinema.cli.data_prepare_videos import store_videos
from kinema.cli.data_section import (
    AnnotationsOption,
    NameArgument,
    OverridesArgument,
    RootArgument,
    SplitName,
)
from kinema.data.processes import available_cores
from kinema.types import UserError


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
        FlowName | None,
        typer.Option("--flow", help="Store optical flow, u and v in 8 bits, or what files hold; of RAFT by --recipe."),
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
    job = Job(
        name=name,
        root=root,
        overrides=overrides,
        annotations=annotations,
        folder=out.expanduser().absolute(),
        split=split,
        shard=shard_of(shard),
        workers=available_cores() if workers is None else workers,
        output=Output(json_file),
    )
    if not transcode:
        only_with("--transcode", key_every=key_every, crf=crf)
    if flow is None:
        only_with("--flow", bound=bound, stack=stack, interval=interval)
    else:
        only_with("--frames", recipe=recipe, short_side=short_side, rate=rate, pixels=pixels, quality=quality)
    if features is None:
        only_with("--features", weights=weights, dtype=dtype, maps=maps or None)
    if transcode:
        only_with("--frames", recipe=recipe, size=size, fit=fit, resize=resize, rate=rate, views=views)
        only_with("--frames", num_frames=num_frames, window=window, pixels=pixels, quality=quality)
        store_videos(job, short_side=short_side, key_every=key_every, crf=crf)
    elif features is not None:
        only_with("--frames", recipe=recipe, short_side=short_side, rate=rate, pixels=pixels, quality=quality)
        clips = {
            "size_px": size,
            "fit": fit and fit.value,
            "resize_px": resize,
            "num_frames": num_frames,
            "window_s": window,
        }
        store_features_of(job, features, weights=weights, clips=clips, dtype=dtype, maps=maps, views=views)
    else:
        options = FrameOptions(
            recipe=recipe,
            size=size,
            fit=fit,
            resize=resize,
            short_side=short_side,
            num_frames=num_frames,
            window=window,
            rate=rate,
            views=views,
            pixels=pixels,
            quality=quality,
        )
        motion = None
        if flow is not None:
            motion = {"method": flow.value, "bound_px": bound, "stack": stack, "interval_s": interval}
        store_frames(job, options, motion)
