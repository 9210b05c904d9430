"""Long short-term attention against a slow one, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from tests.models.layers.test_conv_lstm import convolve, sigmoid
from torch import Tensor

from kinema.models.layers.lsta import LSTAPool
from kinema.types import ConfigError

Map = list[list[list[float]]]


def _mean(one: Map) -> list[float]:
    return [sum(map(sum, channel)) / (len(channel) * len(channel[0])) for channel in one]


def _mixture(scores: list[float], rows: list[list[float]]) -> list[float]:
    shares = [math.exp(score - max(scores)) for score in scores]
    return [sum(s * row[i] for s, row in zip(shares, rows, strict=True)) / sum(shares) for i in range(len(rows[0]))]


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _slow(pool: LSTAPool, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Memory behind the last frame and attention in each, of one clip (T, D, h, w), in numbers of Python."""
    num, (height, width) = pool.num_features, clip.shape[2:]
    places = [(y, x) for y in range(height) for x in range(width)]
    find, pooled, coupling = (part.weight.tolist() for part in (pool.find, pool.pooled, pool.coupling))
    bias_a, bias_i, bias_o = (part.bias.tolist() for part in (pool.attention, pool.input, pool.output))  # type: ignore[union-attr]

    def empty(channels: int) -> Map:
        return [[[0.0] * width for _ in range(height)] for _ in range(channels)]

    memory, out, place, shown, looked = empty(num), empty(num), empty(1), empty(1), []
    for frame in clip.tolist():
        means = _mean(frame)
        row = _mixture([_dot(means, of_bank) for of_bank in find], find)
        found = empty(1)
        for y, x in places:
            found[0][y][x] = _dot(row, [channel[y][x] for channel in frame])
        gates = convolve(found + shown, pool.attention.weight, 1, same=True)
        for y, x in places:
            take, forget, show, new = (gates[g][y][x] + bias_a[g] for g in range(4))
            place[0][y][x] = sigmoid(forget) * place[0][y][x] + sigmoid(take) * math.tanh(new)
            shown[0][y][x] = sigmoid(show) * math.tanh(place[0][y][x])
        total = sum(math.exp(found[0][y][x] + shown[0][y][x]) for y, x in places)
        look = [[math.exp(found[0][y][x] + shown[0][y][x]) / total for x in range(width)] for y in range(height)]
        looked.append(look)
        seen = [[[look[y][x] * channel[y][x] for x in range(width)] for y in range(height)] for channel in frame]
        kept = empty(num)
        for c in range(num):
            for y, x in places:
                kept[c][y][x] = out[c][y][x] * math.tanh(memory[c][y][x])
        given = convolve(seen, pool.input.weight, 1, same=True)
        again = convolve(kept, pool.recurrent.weight, 1, same=True)
        for c in range(num):
            for y, x in places:
                take, forget, new = (
                    given[g * num + c][y][x] + again[g * num + c][y][x] + bias_i[g * num + c] for g in range(3)
                )
                memory[c][y][x] = sigmoid(forget) * memory[c][y][x] + sigmoid(take) * math.tanh(new)
        means_m, means_s = _mean(memory), _mean(seen)
        row = _mixture([_dot(means_m, a) + _dot(means_s, b) for a, b in zip(pooled, coupling, strict=True)], pooled)
        weighted = [[[row[c] * memory[c][y][x] for x in range(width)] for y in range(height)] for c in range(num)]
        gates = convolve(weighted + kept, pool.output.weight, 1, same=True)
        out = [[[sigmoid(gates[c][y][x] + bias_o[c]) for x in range(width)] for y in range(height)] for c in range(num)]
    return torch.tensor(memory), torch.tensor(looked)


def test_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    pool = LSTAPool(3, channels=4, bank=5)
    maps = 3 * torch.randn(2, 4, 3, 4, 5)
    with torch.no_grad():
        memory, looked = pool.run(maps)
        features = pool(maps)
    for clip, of_clip, where, feature in zip(maps, memory, looked, features, strict=True):
        expected_memory, expected_look = _slow(pool, clip)
        torch.testing.assert_close(of_clip, expected_memory, rtol=0, atol=1e-5)
        torch.testing.assert_close(where, expected_look, rtol=0, atol=1e-5)
        torch.testing.assert_close(feature, expected_memory.mean(dim=(1, 2)), rtol=0, atol=1e-5)


def test_it_looks_where_the_frame_says_and_remembers_it() -> None:
    torch.manual_seed(0)
    pool = LSTAPool(3, channels=4, bank=5)
    maps = 3 * torch.randn(1, 3, 3, 4, 5)
    other = maps.clone()
    other[:, 0] = maps[:, 0].flip(-1)
    with torch.no_grad():
        looked, elsewhere = pool.run(maps)[1], pool.run(other)[1]
    torch.testing.assert_close(looked.sum(dim=(2, 3)), torch.ones(1, 3))
    assert not torch.allclose(looked[:, 0], elsewhere[:, 0], atol=1e-3)
    assert not torch.allclose(looked[:, 1], elsewhere[:, 1], atol=1e-5)  # the same frame, with another one before it


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"channels": 0}, {"bank": 0}, {"kernel_size": 2}):
        with pytest.raises(ConfigError, match=rf"^model\.{next(iter(wrong))}: has to be"):
            LSTAPool(3, **{"channels": 4, "bank": 5, **wrong})
