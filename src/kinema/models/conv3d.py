"""A small network of four convolutions of three dimensions, to train from scratch.

`conv3d` of the UCF101 framework that kinema rebuilds, which has no paper. Deviations: convolutions are padded and a
clip is not pooled over time where it has but one moment left, so that it can be built for a clip of any length; the
framework's network cannot be built for the five frames that it is given. `padding: valid` is that one, which takes 46.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.checks import share
from kinema.models.layers.video import ClipBackbone
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs, only

_CHANNELS = (32, 64, 128, 256)

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=5,
        size_px=224,
        summary="conv3d of the UCF101 framework, mended, on the clips that it is given there.",
    ),
    Configuration(
        name="valid",
        arguments={"padding": "valid"},
        classes={"action": 101},
        num_frames=46,
        size_px=224,
        summary="conv3d of the UCF101 framework as it is there, on the fewest frames that it can be built for.",
    ),
)


class Conv3D(nn.Module):
    """All but the classifier.

    Args:
        num_frames: Frames per clip.
        height_px: Of a frame.
        width_px: Of a frame.
        padding: Of the convolutions.
        dropout: Behind the first linear layer.
    """

    def __init__(self, num_frames: int, height_px: int, width_px: int, *, padding: str, dropout: float) -> None:
        super().__init__()
        places = [num_frames, height_px, width_px]
        layers: list[nn.Module] = []
        num_in = 3
        for channels in _CHANNELS:
            places = [places[i] - (2 if padding == "valid" else 0) for i in range(3)]
            window = (1 if padding == "same" and places[0] < 2 else 2, 2, 2)
            layers += [nn.Conv3d(num_in, channels, 3, padding=padding), nn.ReLU(inplace=True), nn.MaxPool3d(window)]
            num_in = channels
            places = [n // w for n, w in zip(places, window, strict=True)]
            if min(places) < 1:
                least = "46 frames of 46 px" if padding == "valid" else "frames of 16 px"
                raise ConfigError(
                    f"model.padding: with {padding}, conv3d takes clips of at least {least}, got {num_frames} frames "
                    f"of {width_px}x{height_px} px"
                )
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_in * places[0] * places[1] * places[2], 512),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.ReLU(inplace=True),
        )

    def forward(self, clips: Tensor) -> Tensor:
        return self.hidden(self.features(clips))


@register_model
def conv3d(
    heads: Heads, inputs: Inputs, *, padding: Literal["same", "valid"] = "same", dropout: float = 0.5
) -> nn.Module:
    """A small network of four convolutions of three dimensions, to train from scratch.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        padding: `same` takes a clip of any length; `valid`, as the UCF101 framework has it, takes 46 frames and more.
        dropout: Behind each of the linear layers.

    Raises:
        ConfigError: The clips are too short or too small.
    """
    share(dropout=dropout)
    shape = only(inputs)
    body = Conv3D(shape.num_frames, shape.height_px, shape.width_px, padding=padding, dropout=dropout)
    return ClipModel(ClipBackbone(body, 256, name="conv3d"), None, heads, dropout=dropout)
