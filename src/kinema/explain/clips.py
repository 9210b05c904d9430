"""A clip as a model sees it, and as people do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from kinema.data.device import to_model_input, to_rgb
from kinema.data.one_clip import open_clip
from kinema.data.reading import plan_clip, read_plan
from kinema.models.ensemble import Ensemble
from kinema.types import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip.

    Attributes:
        inputs: Stream -> (1, T, C, H, W), as the model takes it.
        frames: Stream -> (T, 3, H, W), RGB, of the same pixels.
        times_s: Stream -> when in its file each frame is.
        duration_s: Of the clip.
    """

    inputs: Mapping[str, Float[Tensor, "1 _T _C _H _W"]]
    frames: Mapping[str, UInt8[Tensor, "_T 3 _H _W"]]
    times_s: Mapping[str, tuple[float, ...]]
    duration_s: float

    def streams_of(self, model: nn.Module, layer: str) -> Sequence[str]:
        """Streams that a layer may see: those of the member of an ensemble that it is a part of."""
        if isinstance(model, Ensemble) and model.streams is not None and layer.startswith("members."):
            return list(model.streams[int(layer.split(".")[1])].values())
        return list(self.inputs)


def read_shown(
    video: Path,
    preprocessing: Mapping[str, Preprocessing],
    *,
    start_s: float = 0.0,
    stop_s: float | None = None,
    fps: float | None = None,
    device: torch.device | str = "cpu",
) -> Shown:
    """Read a clip as evaluation reads it.

    Args:
        video: A video file, a still image, or a folder of frames.
        preprocessing: Stream -> how the model sees it.
        start_s: Where the clip begins in the file.
        stop_s: Where it ends; None is the end of the file.
        fps: Frames per second of a folder of frames.
        device: Where the model is.

    Raises:
        DataError: The file cannot be read, or the times lie outside it.
    """
    clip, found = open_clip(video, start_s=start_s, stop_s=stop_s, fps=fps)
    stored: dict[str, Tensor] = {}
    times: dict[str, tuple[float, ...]] = {}
    for stream, each in preprocessing.items():
        plan = plan_clip(clip, found, each)
        stored[stream] = torch.from_numpy(read_plan(found, plan, each))
        times[stream] = tuple(float(found.times_s[index]) for index in plan.indices)
    on_device = {stream: values[None].to(device) for stream, values in stored.items()}
    stop = min(found.duration_s if stop_s is None else stop_s, found.duration_s)
    return Shown(
        inputs=to_model_input(on_device, preprocessing),
        frames={stream: to_rgb(values, preprocessing[stream]) for stream, values in stored.items()},
        times_s=times,
        duration_s=stop - start_s,
    )
