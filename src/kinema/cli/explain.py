"""`kinema explain`: what in a clip speaks for a class, what units answer to, where attention looks, and what moves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import ConfigError, DataError, UserError
from kinema.wording import percent

if TYPE_CHECKING:
    from kinema.explain.clips import Shown
    from kinema.explain.opened import Opened
    from kinema.explain.subjects import Subject

app = typer.Typer(
    help="Look into a trained model: saliency, features of its layers, attention. And optical flow of a video.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Weights = Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A weights folder, or a run.")]
Video = Annotated[Path, typer.Argument(metavar="VIDEO", help="A video, a still image or a folder of frames.")]
Start = Annotated[float, typer.Option("--start", min=0.0, help="Where the clip begins in the file, in seconds.")]
Stop = Annotated[
    float | None, typer.Option("--stop", help="Where it ends, in seconds; by default the end of the file.")
]
Fps = Annotated[float | None, typer.Option(help="Frames per second of a folder of frames.")]
OptionalWeights = Annotated[
    Path | None, typer.Argument(metavar="[WEIGHTS]", help="A weights folder, or a run; or else --backbone.")
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help="An image network of torchvision or timm.")
]
File = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Of the backbone; by default the published ones.")
]
Mean = Annotated[
    str | None, typer.Option(help="Normalisation of the file's weights: one number or three, 0.5,0.5,0.5.")
]
Std = Annotated[str | None, typer.Option(help="Like --mean: the standard deviation.")]
Size = Annotated[int | None, typer.Option("--size", min=16, help="Height and width of still pictures; by default 128.")]


@app.command("saliency")
def saliency_command(
    weights: Weights,
    video: Video,
    task: Annotated[str | None, typer.Option(help="By default the first.")] = None,
    label: Annotated[str | None, typer.Option("--class", help="A class; by default the most probable.")] = None,
    layer: Annotated[str | None, typer.Option(help="By default the last that knows places.")] = None,
    start_s: Start = 0.0,
    stop_s: Stop = None,
    fps: Fps = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="By default saliency/VIDEO.")] = None,
    check: Annotated[bool, typer.Option(help="See what becomes of the probability without what is marked.")] = True,
    json_file: JsonOption = None,
) -> None:
    """Show where in a clip, and when, a class is seen: Grad-CAM, as a video and a strip of frames."""
    from kinema.explain.drawing import png
    from kinema.explain.saliency import saliency
    from kinema.explain.saliency_pictures import strip
    from kinema.explain.saliency_pictures import video as overlay

    output = Output(json_file)
    opened = _open(weights)
    shown = _read(opened, video, start_s, stop_s, fps)
    found = saliency(opened.model, shown, opened.config.heads, task=task, label=label, layer=layer, check=check)
    folder = out or Path("saliency") / _stem(video)
    name = re.sub(r"[^\w.-]+", "_", f"{found.task}_{found.label}")
    files = [folder / f"{name}.png", folder / f"{name}.mp4"]
    _write(folder, {files[0]: png(strip(found, shown)), files[1]: overlay(found, shown)})
    times = shown.times_s[found.stream]
    output.say(f"{found.task}: {found.label}, {percent(found.probability)}; predicted: {found.predicted}")
    if found.moments is None:
        output.say(f"nothing that {found.layer} sees speaks for this class")
    else:
        best = max(range(len(times)), key=found.moments.__getitem__)
        output.say(
            f"{found.layer}: most at {times[best]:.2f} s ({percent(found.moments[best])} of all; "
            f"{percent(1 / len(times))} would be even)"
        )
    if found.check is not None:
        output.say(
            f"with the marked fifth blurred the class has {percent(found.check.without_marked)}, with a random fifth "
            f"{percent(found.check.without_random)}"
        )
    output.say("written: " + ", ".join(map(str, files)))
    facts: dict[str, Any] = {
        key: getattr(found, key) for key in ("task", "label", "predicted", "probability", "logit", "layer", "stream")
    }
    facts |= {"moments": found.moments, "times_s": times, "check": None, "files": files}
    if found.check is not None:
        facts["check"] = {key: getattr(found.check, key) for key in ("whole", "without_marked", "without_random")}
    output.finish(facts)


@app.command("attention")
def attention_command(
    weights: Weights,
    video: Video,
    start_s: Start = 0.0,
    stop_s: Stop = None,
    fps: Fps = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="By default attention/VIDEO.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Show which frames attention looks at: a picture for each layer, and the weights of all heads as arrays."""
    from kinema.explain.attention import attention
    from kinema.explain.attention_pictures import pictures

    output = Output(json_file)
    opened = _open(weights)
    shown = _read(opened, video, start_s, stop_s, fps)
    found = attention(opened.model, shown)
    folder = out or Path("attention") / _stem(video)
    made = pictures(found, shown)
    _write(folder, {folder / name: content for name, content in made.items()})
    times = shown.times_s[found.stream]
    rows = []
    for look in found.looks:
        best = int(look.summary.argmax())
        rows.append([look.name, look.who, look.num_heads, f"{times[best]:.2f} s", percent(float(look.summary[best]))])
    output.table(["layer", "who looks", "heads", "most at", "share"], rows)
    output.say(f"written: {folder} ({', '.join(made)})")
    looks = [
        {"layer": look.name, "who": look.who, "heads": look.num_heads, "frames": look.summary.tolist()}
        for look in found.looks
    ]
    output.finish({"stream": found.stream, "times_s": times, "looks": looks, "folder": folder, "files": list(made)})


@app.command("features")
def features_command(
    weights: OptionalWeights = None,
    backbone: Backbone = None,
    file: File = None,
    mean: Mean = None,
    std: Std = None,
    layers: Annotated[str | None, typer.Option(help="Names, with commas; by default some from first to last.")] = None,
    channels: Annotated[int, typer.Option(min=1, help="Units of each layer, evenly spread over it.")] = 6,
    units: Annotated[str | None, typer.Option(help="Numbers of units instead, with commas.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of gradient ascent.")] = 256,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Pictures in it are not made again.")] = Path(
        "features"
    ),
    json_file: JsonOption = None,
) -> None:
    """Show what units of layers answer to most: pictures made by gradient ascent, and a grid of them."""
    from kinema.explain.gallery import make_gallery
    from kinema.explain.subjects import choose_layers, choose_units, settings_of

    output = Output(json_file)
    subjects = _subjects(weights, backbone, file, mean, std, size)
    chosen = choose_layers(subjects, None if layers is None else [name.strip() for name in layers.split(",")])
    numbers = None if units is None else _whole_numbers(units)
    named = {
        name: choose_units(layer, subject, num=channels, named=numbers) for name, (subject, layer) in chosen.items()
    }
    records = make_gallery(
        out,
        {name: (subject, layer.name) for name, (subject, layer) in chosen.items()},
        named,
        {name: settings_of(subject, steps=steps, seed=seed) for name, (subject, _) in chosen.items()},
        reporter=output.reporter,
    )
    rows = [[one["layer"], one["unit"], one["activation"], one["noise"], one["file"]] for one in records]
    output.table(["layer", "unit", "activation", "of noise at most", "file"], rows)
    silent = sum(one["activation"] <= one["noise"] for one in records)
    if silent:
        output.say(f"{silent} of {len(records)} pictures move their unit no more than noise: they show nothing of it")
    output.say(f"written: {out}")
    output.finish(records)


@app.command("layers")
def layers_command(
    weights: OptionalWeights = None,
    backbone: Backbone = None,
    size: Size = None,
    json_file: JsonOption = None,
) -> None:
    """List layers by the names that the other commands take."""
    from kinema.explain.subjects import rows_of_layers

    output = Output(json_file)
    subjects = _subjects(weights, backbone, None, None, None, size, random=True)
    rows = rows_of_layers(subjects)
    output.table(["layer", "kind", "gives", "saliency", "features"], [list(row.values()) for row in rows])
    output.finish(rows)


@app.command("flow")
def flow_command(
    video: Video,
    method: Annotated[str, typer.Option(help="dis, farneback, tvl1 or raft.")] = "dis",
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Of raft; by default the published ones.")
    ] = None,
    bound_px: Annotated[
        float | None,
        typer.Option("--bound", metavar="PX", help="Motion of the full colour; by default one that fits."),
    ] = None,
    size_px: Annotated[
        int, typer.Option("--size", metavar="PX", min=16, max=512, help="Short side that larger frames are scaled to.")
    ] = 256,
    num_pairs: Annotated[int, typer.Option("--pairs", min=1, max=16, help="Columns of the picture.")] = 8,
    movie: Annotated[bool, typer.Option(help="Make a video of the clip as well: of at most 100 pairs.")] = True,
    start_s: Start = 0.0,
    stop_s: Stop = None,
    fps: Fps = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="By default flow/VIDEO.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Show optical flow between neighbouring frames: u, v, magnitude and direction, as a picture and a video."""
    from kinema.data.optical_flow import flow_of
    from kinema.explain.drawing import png
    from kinema.explain.flow import MOST_OF_A_MOVIE, flow_of_clip
    from kinema.explain.flow_pictures import strip
    from kinema.explain.flow_pictures import video as moving

    output = Output(json_file)
    if bound_px is not None and not 0 < bound_px < float("inf"):
        raise ConfigError(f"--bound: {bound_px:g} px is no bound of flow; give a number above 0")
    estimate = flow_of(method, weights=weights)
    found = flow_of_clip(
        video,
        estimate,
        method,
        num_pairs=max(num_pairs, MOST_OF_A_MOVIE) if movie else num_pairs,
        short_side_px=size_px,
        start_s=start_s,
        stop_s=stop_s,
        fps=fps,
        reporter=output.reporter,
    )
    bound = found.fitting_bound_px() if bound_px is None else bound_px
    few = found.some(num_pairs)
    folder = out or Path("flow") / _stem(video)
    made = {folder / f"{method}.png": png(strip(few, bound, name=_stem(video)))}
    if movie:
        made[folder / f"{method}.mp4"] = moving(found, bound)
    _write(folder, made)
    rows = few.facts(bound)
    columns = ["time", "mean motion", "at most", "beyond the bound"]
    output.table(
        columns,
        [
            [f"{row['time_s']:.2f} s", f"{row['mean_px']:.2f} px", f"{row['max_px']:.1f} px", percent(row["beyond"])]
            for row in rows
        ],
    )
    output.say(f"{method}: full colour is {bound:g} px from frame to frame")
    output.say("written: " + ", ".join(map(str, made)))
    output.finish({"method": method, "bound_px": bound, "pairs": rows, "num_all": found.num_all, "files": list(made)})


def _open(weights: Path) -> Opened:
    from kinema.explain.opened import open_weights
    from kinema.models.runtime import keep_memory

    keep_memory()
    return open_weights(weights)


def _read(opened: Opened, video: Path, start_s: float, stop_s: float | None, fps: float | None) -> Shown:
    from kinema.explain.clips import read_shown

    return read_shown(video, opened.config.preprocessing, start_s=start_s, stop_s=stop_s, fps=fps, device=opened.device)


def _subjects(
    weights: Path | None,
    backbone: str | None,
    file: Path | None,
    mean: str | None,
    std: str | None,
    size: int | None,
    *,
    random: bool = False,
) -> list[Subject]:
    from kinema.explain.subjects import of_backbone, of_model

    if (weights is None) == (backbone is None):
        raise UserError("give either WEIGHTS, a folder or a run, or --backbone NAME")
    if backbone is None:
        assert weights is not None
        given = [name for name, value in (("--weights", file), ("--mean", mean), ("--std", std)) if value is not None]
        if given:
            raise ConfigError(f"{given[0]}: is for --backbone; a weights folder brings its own")
        return of_model(_open(weights), size_px=size)
    normalisation = _three(mean, "--mean"), _three(std, "--std")
    return [of_backbone(backbone, file, mean=normalisation[0], std=normalisation[1], size_px=size, random=random)]


def _three(words: str | None, option: str) -> tuple[float, float, float] | None:
    if words is None:
        return None
    try:
        values = [float(word) for word in words.split(",")]
    except ValueError:
        raise ConfigError(f"{option}: {words!r} is not a number, or three with commas") from None
    if len(values) not in (1, 3) or (option == "--std" and min(values) <= 0):
        raise ConfigError(f"{option}: give one number or three with commas, not {words!r}")
    first, second, third = values if len(values) == 3 else values * 3
    return first, second, third


def _whole_numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise ConfigError(f"--units: {words!r} are not whole numbers with commas between") from None


def _stem(video: Path) -> str:
    return video.stem or video.resolve().name


def _write(folder: Path, files: dict[Path, bytes]) -> None:
    from kinema.files import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            write_atomically(path, content)
    except OSError as error:
        raise DataError(f"--out: {folder} cannot be written: {error.strerror}") from error
