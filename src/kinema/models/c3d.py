"""C3D: eight convolutions of three dimensions and two wide linear layers.

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015,
https://arxiv.org/abs/1412.0767. Weights of mmaction2 fit `padded`; their names are translated.
Deviations: without `padded` the last pooling leaves out the edge of a map of 7 x 7 places, as that of
the Kinetics project that kinema rebuilds does, so that the first linear layer has 4,608 inputs instead of 8,192 for
clips of 16 frames of 112 px; it has as many inputs as the clip asks for, so that a clip may have any length.
"""

from __future__ import annotations

from torch import Tensor, nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.checks import at_least, share
from kinema.models.layers.video import ClipBackbone
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs, only

# Name, channels, and whether the clip is pooled behind it.
_LAYERS = (
    ("conv1a", 64, True),
    ("conv2a", 128, True),
    ("conv3a", 256, False),
    ("conv3b", 256, True),
    ("conv4a", 512, False),
    ("conv4b", 512, True),
    ("conv5a", 512, False),
    ("conv5b", 512, True),
)

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 600},
        num_frames=16,
        size_px=112,
        summary="That of the Kinetics project, on Kinetics-600.",
    ),
    Configuration(
        name="padded",
        arguments={"padded": True},
        classes={"action": 101},
        num_frames=16,
        size_px=112,
        summary="The paper's network, and mmaction2's: 8,192 inputs of the first linear layer.",
    ),
)


class C3D(nn.Module):
    """All but the classifier.

    Args:
        num_frames: Frames per clip.
        height_px: Of a frame.
        width_px: Of a frame.
        padded: The last pooling takes the edges of a map with an odd number of places along.
        num_hidden: Units of both linear layers.
        dropout: Behind the first linear layer; before the classifier there is another.
    """

    def __init__(
        self, num_frames: int, height_px: int, width_px: int, *, padded: bool, num_hidden: int, dropout: float
    ) -> None:
        super().__init__()
        places = [num_frames, height_px, width_px]
        num_in = 3
        pools: list[nn.Module] = []
        for number, (name, channels, is_pooled) in enumerate(_LAYERS):
            setattr(self, name, nn.Conv3d(num_in, channels, 3, padding=1))
            num_in = channels
            if is_pooled:
                first, last = number == 0, number == len(_LAYERS) - 1
                window = (1 if first or places[0] < 2 else 2, 2, 2)  # a short clip stays as long as it is
                padding = (0, int(padded and last), int(padded and last))
                pools.append(nn.MaxPool3d(window, window, padding))
                places = [(n + 2 * p - w) // w + 1 for n, p, w in zip(places, padding, window, strict=True)]
        if min(places) < 1:
            raise ConfigError(
                f"clips.size_px: frames of {width_px}x{height_px} px are too small for c3d; take 32 px or more"
            )
        self.pools = nn.ModuleList(pools)
        self.fc6 = nn.Linear(num_in * places[0] * places[1] * places[2], num_hidden)
        self.fc7 = nn.Linear(num_hidden, num_hidden)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, clips: Tensor) -> Tensor:
        pools = iter(self.pools)
        hidden = clips
        for name, _, is_pooled in _LAYERS:
            hidden = self.relu(getattr(self, name)(hidden))
            hidden = next(pools)(hidden) if is_pooled else hidden
        hidden = self.dropout(self.relu(self.fc6(hidden.flatten(1))))
        return self.relu(self.fc7(hidden))


@register_model
def c3d(
    heads: Heads, inputs: Inputs, *, padded: bool = False, num_hidden: int = 4096, dropout: float = 0.5
) -> nn.Module:
    """C3D: eight convolutions of three dimensions and two wide linear layers.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        padded: The last pooling takes the edges of the map along, as in the paper.
        num_hidden: Units of both linear layers.
        dropout: Behind each of the linear layers.

    Raises:
        ConfigError: The frames are too small, or there are no units.
    """
    at_least(1, num_hidden=num_hidden)
    share(dropout=dropout)
    shape = only(inputs)
    body = C3D(shape.num_frames, shape.height_px, shape.width_px, padded=padded, num_hidden=num_hidden, dropout=dropout)
    return ClipModel(ClipBackbone(body, num_hidden, name="c3d", classifier="fc8"), None, heads, dropout=dropout)
