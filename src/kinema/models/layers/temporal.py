"""Temporal modules: the features of a clip's frames, (B, T, D), become one feature of the clip, (B, num_features)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MeanPool(nn.Module):
    """The mean over frames. It cannot see their order."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        return features.mean(dim=1)


class LSTMPool(nn.Module):
    """An LSTM over the frames; its output, averaged over time or taken at the end.

    Args:
        num_inputs: Length of a frame's feature.
        hidden_size: Units per direction.
        num_layers: Stacked layers.
        bidirectional: Read the clip in both directions.
        pool: `last`: the final state of each direction. `mean`: the mean of all outputs.
    """

    def __init__(self, num_inputs: int, *, hidden_size: int, num_layers: int, bidirectional: bool, pool: str) -> None:
        super().__init__()
        self.lstm = nn.LSTM(num_inputs, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)
        self.pool = pool
        self.num_features = hidden_size * (2 if bidirectional else 1)

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        outputs, (final, _) = self.lstm(features)
        if self.pool == "mean":
            return outputs.mean(dim=1)
        directions = 2 if self.lstm.bidirectional else 1
        return final[-directions:].transpose(0, 1).flatten(1)


class ConvNet1D(nn.Module):
    """Residual convolutions over time, then the mean over frames. Takes any number of frames.

    A clip is an image of height 1 here: convolutions of images have a form for tensors whose channels come last in
    memory, as those of features do, which train faster on a CPU than those of sequences.

    Args:
        num_inputs: Length of a frame's feature.
        channels: Filters of every convolution.
        num_blocks: Blocks of two convolutions.
        kernel_size: Frames that one convolution sees; odd.
    """

    def __init__(self, num_inputs: int, *, channels: int, num_blocks: int, kernel_size: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(num_inputs, channels, 1), nn.BatchNorm2d(channels))
        self.blocks = nn.ModuleList(_Block(channels, kernel_size) for _ in range(num_blocks))
        self.num_features = channels

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        hidden = self.project(features.transpose(1, 2).unsqueeze(2))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.mean(dim=(2, 3))


class _Block(nn.Module):
    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, (1, kernel_size), padding="same", bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.01),
            nn.Conv2d(channels, channels, (1, kernel_size), padding="same", bias=False),
            nn.BatchNorm2d(channels),
        )
        self.to(memory_format=torch.channels_last)
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, hidden: Float[Tensor, "B E 1 T"]) -> Float[Tensor, "B E 1 T"]:
        return self.activation(hidden + self.layers(hidden))
