"""`tiny`, a small frame backbone to train from scratch on small pictures in seconds. Our own."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class Tiny(nn.Sequential):
    """Four strided convolutions, then a linear layer over a coarse grid: (N, C, H, W) -> (N, D).

    The grid, instead of a global average, keeps where things are: without it a shape that moves from left to right
    looks the same in every frame.
    """

    num_features = 128
    convolutions: nn.Sequential

    def __init__(self) -> None:
        convolutions = nn.Sequential(
            _convolution(3, 16), _convolution(16, 32), _convolution(32, 64), _convolution(64, 64)
        )
        project = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * 4 * 4, self.num_features), nn.BatchNorm1d(self.num_features), nn.ReLU()
        )
        super().__init__(OrderedDict(convolutions=convolutions, grid=nn.AdaptiveAvgPool2d(4), project=project))


def _convolution(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
    )
