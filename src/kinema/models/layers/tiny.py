"""`tiny`, a small frame backbone to train from scratch on small pictures in seconds. Our own."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Tiny(nn.Module):
    """Four strided convolutions, then a linear layer over a coarse grid.

    The grid, instead of a global average, keeps where things are: without it a shape that moves from left to right
    looks the same in every frame.
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(3, 16), _convolution(16, 32), _convolution(32, 64), _convolution(64, 64)
        )
        self.grid = nn.AdaptiveAvgPool2d(4)
        self.project = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * 4 * 4, self.num_features), nn.BatchNorm1d(self.num_features), nn.ReLU()
        )

    def forward(self, frames: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        return self.project(self.grid(self.convolutions(frames)))


def _convolution(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
    )
