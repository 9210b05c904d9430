"""The small convolutional networks of the UCF101 framework that kinema rebuilds, as frame backbones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from kinema.models.layers.channels import RGB


class PlainCNN(nn.Sequential):
    """3x3 convolutions without padding, each with ReLU and a maximum over 2x2; then a grid of their features:
    (N, C, H, W) -> (N, D).

    Deviation: the grid has the size that frames of 224 px give; from frames of another size it is averaged to it, so
    that weights fit frames of any size.

    Args:
        channels: Filters of every convolution.
        grid: Height and width of the grid; 1 is the average over the frame.
        hidden: Units of a linear layer over the grid, with dropout of 0.5 before it; None: no such layer.
        pool_last: The last convolution has a maximum behind it like the others.
        input_channels: Of frames.
    """

    convolutions: nn.Sequential

    def __init__(
        self,
        channels: Sequence[int],
        *,
        grid: int,
        hidden: int | None = None,
        pool_last: bool = True,
        input_channels: int = RGB,
    ) -> None:
        layers: list[nn.Module] = []
        for num_in, num_out in pairwise([input_channels, *channels]):
            layers += [nn.Conv2d(num_in, num_out, 3), nn.ReLU(), nn.MaxPool2d(2)]
        if not pool_last:
            layers.pop()
        num_features = channels[-1] * grid * grid
        project = nn.Sequential(nn.Flatten())
        if hidden is not None:
            project.extend([nn.Dropout(0.5), nn.Linear(num_features, hidden), nn.ReLU()])
        super().__init__(
            OrderedDict(convolutions=nn.Sequential(*layers), grid=nn.AdaptiveAvgPool2d(grid), project=project)
        )
        self.num_features = hidden or num_features
