"""The convolutional LSTM against a slow one, pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kinema.models.layers.conv_lstm import ConvLSTMPool, MapConvolution
from kinema.types import ConfigError


def convolve(maps: list[list[list[float]]], weight: Tensor, stride: int, *, same: bool) -> list[list[list[float]]]:
    """A convolution of one map (channels, rows, columns), in numbers of Python."""
    num_out, num_in, size, _ = weight.shape
    height, width = len(maps[0]), len(maps[0][0])
    before = (size - 1) // 2 if same else 0
    rows = height if same else (height - size) // stride + 1
    columns = width if same else (width - size) // stride + 1
    kernel = weight.tolist()
    answer = [[[0.0] * columns for _ in range(rows)] for _ in range(num_out)]
    for out in range(num_out):
        for y in range(rows):
            for x in range(columns):
                total = 0.0
                for channel in range(num_in):
                    for dy in range(size):
                        for dx in range(size):
                            row, column = y * stride + dy - before, x * stride + dx - before
                            if 0 <= row < height and 0 <= column < width:
                                total += kernel[out][channel][dy][dx] * maps[channel][row][column]
                answer[out][y][x] = total
    return answer


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def slow_state(pool: ConvLSTMPool, clip: Tensor) -> Tensor:
    """The last state of one clip (T, D, h, w)."""
    num, bias, stride = pool.num_features, pool.input.bias.tolist(), pool.input.stride[0]  # type: ignore[union-attr]
    state: list[list[list[float]]] | None = None
    cell: list[list[list[float]]] = []
    for frame in clip.tolist():
        given = convolve(frame, pool.input.weight, stride, same=stride == 1)
        rows, columns = len(given[0]), len(given[0][0])
        if state is None:
            state, cell = ([[[0.0] * columns for _ in range(rows)] for _ in range(num)] for _ in range(2))
        kept = convolve(state, pool.recurrent.weight, 1, same=True)
        for c in range(num):
            for y in range(rows):
                for x in range(columns):
                    take, forget, out, new = (
                        given[g * num + c][y][x] + kept[g * num + c][y][x] + bias[g * num + c] for g in range(4)
                    )
                    cell[c][y][x] = sigmoid(forget) * cell[c][y][x] + sigmoid(take) * math.tanh(new)
        for c in range(num):
            for y in range(rows):
                for x in range(columns):
                    out = given[2 * num + c][y][x] + kept[2 * num + c][y][x] + bias[2 * num + c]
                    state[c][y][x] = sigmoid(out) * math.tanh(cell[c][y][x])
    return torch.tensor(state)


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (4, 1), (4, 4), (1, 1), (3, 2)])
def test_pixel_by_pixel(kernel_size: int, stride: int) -> None:
    torch.manual_seed(0)
    pool = ConvLSTMPool(2, channels=3, kernel_size=kernel_size, stride=stride)
    maps = torch.randn(2, 4, 2, 8, 8)
    with torch.no_grad():
        found = pool.states(maps)
    for clip, state in zip(maps, found, strict=True):
        torch.testing.assert_close(state, slow_state(pool, clip), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("pool", "reduce"), [("mean", torch.mean), ("max", torch.amax)])
def test_its_last_state_is_pooled(pool: str, reduce: object) -> None:
    module = ConvLSTMPool(2, channels=3, pool=pool)
    maps = torch.randn(2, 4, 2, 5, 6)
    torch.testing.assert_close(module(maps), reduce(module.states(maps), dim=(2, 3)))  # type: ignore[operator]


def test_a_convolution_of_maps_is_that_of_each_frame() -> None:
    module = MapConvolution(2, channels=3)
    maps = torch.randn(2, 4, 2, 5, 6)
    frames = torch.stack([module(maps[:, step : step + 1]) for step in range(4)])
    torch.testing.assert_close(module(maps), frames.mean(dim=0))


def test_what_cannot_be_is_refused() -> None:
    for name in ("channels", "kernel_size", "stride"):
        settings: dict[str, Any] = {"channels": 3, name: 0}
        with pytest.raises(ConfigError, match=rf"^model\.{name}: has to be at least 1, got 0"):
            ConvLSTMPool(2, **settings)
    with pytest.raises(ConfigError, match=r"^model\.kernel_size: has to be odd, got 4"):
        MapConvolution(2, channels=3, kernel_size=4)
