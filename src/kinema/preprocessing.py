"""What a recipe's `data.modality`, its `clips:` section and the normalisation of its weights amount to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kinema.sections import ClipsSection, Recipe
from kinema.types import ConfigError, DataError, Inputs, Modality, Motion, Preprocessing

_ZERO = 128 / 255
"""What stands for no motion in a channel with a sign, as a pixel in 0..1."""


def streams_of(recipe: Recipe, *, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Preprocessing]:
    """Stream -> how its frames become the model's input. A stream is called as what it holds.

    Args:
        recipe: Says which streams there are.
        mean: Normalisation of RGB that the model's weights expect, per channel, of pixels in 0..1.
        std: Likewise.

    Raises:
        ConfigError: The size is odd where it has to be even.
    """
    return {stream: make_preprocessing(recipe.clips, stream, mean=mean, std=std) for stream in recipe.data.streams}


def shapes(preprocessing: Mapping[str, Preprocessing]) -> Inputs:
    """Stream -> what a model receives."""
    return {stream: each.shape for stream, each in preprocessing.items()}


def make_preprocessing(
    clips: ClipsSection, modality: Modality = "rgb", *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocessing:
    """That of one stream.

    Raises:
        ConfigError: Frames of odd size are to be kept as I420, or flow is to be computed of them.
    """
    is_even = clips.size_px % 2 == 0
    if clips.pixels == "i420" and not is_even:
        raise ConfigError(
            f"clips.pixels: i420 has colour at half the size, and clips.size_px is odd ({clips.size_px}); "
            "use clips.pixels=rgb, or an even size"
        )
    rgb = Preprocessing(
        num_frames=clips.num_frames,
        window_s=clips.window_s,
        size_px=clips.size_px,
        resize_px=clips.resize_px or clips.size_px,
        fit=clips.fit,
        pixels=clips.pixels or ("i420" if is_even else "rgb"),
        mean=mean,
        std=std,
    )
    return rgb if modality == "rgb" else _of_motion(rgb, clips, modality)


def rgb_normalisation(streams: Mapping[str, Preprocessing]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB that those of a model's streams were made of, as far as they say."""
    for preprocessing in streams.values():
        if preprocessing.motion is None:
            return preprocessing.mean, preprocessing.std
    for preprocessing in streams.values():
        if preprocessing.modality == "rgb_difference":
            return (0.5,) * 3, preprocessing.std[:3]
    return (0.5,) * 3, next(iter(streams.values())).std[:1] * 3


def _of_motion(rgb: Preprocessing, clips: ClipsSection, modality: Modality) -> Preprocessing:
    """Where nothing moves, a model of motion gets zeros. What moves is scaled as weights of RGB expect: a difference as
    a difference of pixels; flow as if the bound were as far from no motion as white is from grey."""
    if modality != "rgb_difference" and clips.size_px % 2:
        raise ConfigError(
            f"clips.size_px: flow is computed on the brightness of I420, whose size is even; {clips.size_px} is odd"
        )
    given = clips.motion
    is_flow = modality != "rgb_difference"
    motion = Motion(
        stack=given.stack,
        interval_s=given.interval_s,
        method=given.method if is_flow else None,
        bound_px=given.bound_px if is_flow else None,
        magnitude=given.magnitude and modality == "flow",
        weights=given.weights if is_flow else None,
        digest=_digest(given.weights) if is_flow else None,
        stored_bound_px=given.stored_bound_px if is_flow else None,
    )
    grey = sum(rgb.std) / len(rgb.std)
    per_field = {
        "flow": ((_ZERO, grey), (_ZERO, grey), *([(0.0, grey)] if given.magnitude else [])),
        "flow_magnitude": ((0.0, grey),),
        "rgb_difference": tuple((_ZERO, std) for std in rgb.std),
    }[modality]
    mean, std = zip(*per_field * given.stack, strict=True)
    return replace(rgb, modality=modality, motion=motion, pixels="rgb", mean=mean, std=std)


def _digest(weights: str | None) -> str | None:
    """Of a file, which may be another one tomorrow."""
    if weights in (None, "published"):
        return None
    try:
        return hashlib.sha256(Path(str(weights)).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"clips.motion.weights: {weights}: {error.strerror or error}") from None
