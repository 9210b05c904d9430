"""Recognisers of a few weights and pictures of files, for what follows streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from tests.models.facts import MEAN, STD

from kinema.inference.live_types import Picture
from kinema.inference.recogniser import Recogniser
from kinema.models.build import build_model
from kinema.models.weights import Rejection, WeightsConfig
from kinema.types import Heads, InputShape, Preprocessing

RGB = Preprocessing(num_frames=5, size_px=32, resize_px=40, fit="crop", pixels="i420", mean=MEAN, std=STD)
HEADS: Heads = {"verb": ("open", "close", "push"), "noun": ("door", "jar")}


def recogniser(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    preprocessing: Mapping[str, Preprocessing] | None = None,
    heads: Heads = HEADS,
    rejection: Rejection | None = None,
) -> Recogniser:
    """Of random weights, which batch norms have seen something with."""
    streams = preprocessing or {"rgb": RGB}
    config = WeightsConfig(model=name, arguments=dict(arguments or {}), heads=heads, preprocessing=streams)
    torch.manual_seed(0)
    model = build_model(name, config.arguments, heads=heads, inputs=config.inputs)
    batch = {stream: _blocks(shape) for stream, shape in config.inputs.items()}
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch)
    return Recogniser(model, config, device="cpu", rejection=rejection)


def _blocks(shape: InputShape) -> torch.Tensor:
    """Clips of frames of a few large squares."""
    size = (shape.height_px, shape.width_px)
    squares = torch.randn(8 * shape.num_frames, shape.channels, 3, 4)
    frames = torch.nn.functional.interpolate(squares, size=size)
    return frames.reshape(8, shape.num_frames, *frames.shape[1:])


def pictures(path: Path, *, every: int = 1) -> Iterator[Picture]:
    """All of a file, or one of so many."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        rate = Fraction(stream.average_rate)
        for index, frame in enumerate(container.decode(stream)):
            if index % every == 0:
                yield Picture(image=frame, time_s=float(index / rate), duration_s=float(every / rate))
