"""Perceiver and BERT-style pooling, against slow and plain references."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinema.models.layers.bert import BertPool
from kinema.models.layers.perceiver import PerceiverPool, fourier_positions
from kinema.types import ConfigError


def num(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def plain_attention(layer: Any, queries: Tensor, context: Tensor) -> Tensor:
    """Query by query and head by head."""
    answer = torch.zeros_like(queries)
    for row, clip in enumerate(queries):
        for place, query in enumerate(clip):
            heads = []
            for head in range(layer.num_heads):
                of_head = slice(64 * head, 64 * head + 64)
                q = layer.query.weight[of_head] @ query
                keys = context[row] @ layer.key_value.weight[: 64 * layer.num_heads][of_head].T
                values = context[row] @ layer.key_value.weight[64 * layer.num_heads :][of_head].T
                heads.append(torch.softmax(keys @ q / 8.0, dim=0) @ values)
            answer[row, place] = layer.out.weight @ torch.cat(heads) + layer.out.bias
    return answer


def plain_norm(layer: Any, values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + layer.eps) * layer.weight + layer.bias


def plain_feed_forward(layer: Any, values: Tensor) -> Tensor:
    wide = plain_norm(layer.norm, values) @ layer.widen.weight.T + layer.widen.bias
    half = wide.shape[-1] // 2
    gates = wide[..., half:]
    gated = wide[..., :half] * gates * 0.5 * (1 + torch.erf(gates / math.sqrt(2)))
    return gated @ layer.narrow.weight.T + layer.narrow.bias


def plain_perceiver(pool: Any, tokens: Tensor, shares: list[int]) -> Tensor:
    sizes = tokens.shape[1:-1]
    rows = []
    for place in itertools.product(*(range(size) for size in sizes)):
        row = []
        for index, size in zip(place, sizes, strict=True):
            x = -1 + 2 * index / (size - 1) if size > 1 else -1.0
            frequencies = [
                1 + band * (pool.max_freq / 2 - 1) / (pool.num_bands - 1) if pool.num_bands > 1 else 1.0
                for band in range(pool.num_bands)
            ]
            row += [math.sin(math.pi * f * x) for f in frequencies] + [math.cos(math.pi * f * x) for f in frequencies]
            row.append(x)
        rows.append(row)
    positions = torch.tensor(rows).expand(len(tokens), -1, -1)
    context = torch.cat([tokens.reshape(len(tokens), -1, tokens.shape[-1]), positions], dim=2)
    blocks = list(pool.blocks)
    hidden = torch.zeros(1)
    token = pool.class_token.expand(len(tokens), -1, -1) if len(blocks) else None
    for number, layer in enumerate(pool.cross):
        hidden = hidden + layer.queries.expand(len(tokens), -1, -1)
        hidden = hidden + plain_attention(
            layer.attention, plain_norm(layer.norm, hidden), plain_norm(layer.context_norm, context)
        )
        hidden = hidden + plain_feed_forward(layer.feed_forward, hidden)
        for _ in range(shares[number]):
            block = blocks.pop(0)
            everything = torch.cat([token, hidden], dim=1) if token is not None else hidden
            normed = plain_norm(block.norm, everything)
            everything = everything + plain_attention(block.attention, normed, normed)
            everything = everything + plain_feed_forward(block.feed_forward, everything)
            token, hidden = everything[:, :1], everything[:, 1:]
    return plain_norm(pool.norm, hidden.mean(1) if token is None else token[:, 0])


def alive(module: nn.Module) -> nn.Module:
    """Every parameter random: zeros and ones would hide what is not used."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5))
    return module.eval()


@pytest.mark.parametrize(
    ("num_cross", "num_self", "shares", "sizes"),
    [
        (1, 2, [2], (2, 3, 2)),
        (2, 3, [1, 2], (4,)),
        (2, 1, [0, 1], (3,)),
        (3, 2, [0, 1, 1], (3,)),
        (2, 0, [0, 0], (1, 3)),
        (1, 0, [0], (5,)),
    ],
)
def test_the_perceiver_is_the_slow_one(
    num_cross: int, num_self: int, shares: list[int], sizes: tuple[int, ...]
) -> None:
    pool = PerceiverPool(
        10, num_axes=len(sizes), num_cross=num_cross, num_self=num_self, num_queries=4, size=16, num_bands=3
    )
    alive(pool)
    tokens = torch.randn(2, *sizes, 10)
    with torch.no_grad():
        torch.testing.assert_close(pool(tokens), plain_perceiver(pool, tokens, shares), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_cross", "num_self"), [(1, 1), (2, 1), (3, 2), (2, 3), (3, 0), (0, 2)])
def test_the_answer_depends_on_every_layer_of_the_perceiver(num_cross: int, num_self: int) -> None:
    pool = alive(PerceiverPool(16, num_cross=num_cross, num_self=num_self, num_queries=4, size=16, num_bands=3))
    pool(torch.randn(2, 5, 16)).square().sum().backward()
    assert not [name for name, p in pool.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_without_cross_attention_tokens_attend_to_each_other() -> None:
    pool: Any = alive(PerceiverPool(16, num_axes=2, num_cross=0, num_self=1))
    tokens = torch.randn(2, 2, 3, 16)
    with torch.no_grad():
        everything = torch.cat([pool.class_token.expand(2, -1, -1), tokens.flatten(1, 2)], dim=1)
        (block,) = pool.blocks
        normed = plain_norm(block.norm, everything)
        everything = everything + plain_attention(block.attention, normed, normed)
        everything = everything + plain_feed_forward(block.feed_forward, everything)
        torch.testing.assert_close(pool(tokens), plain_norm(pool.norm, everything[:, 0]), rtol=0, atol=1e-5)


def test_positions_are_thirty_nine_numbers_and_all_differ() -> None:
    positions = fourier_positions((2, 7, 7), 6, 10.0)
    assert positions.shape == (2, 7, 7, 39)
    assert len(torch.unique(positions.flatten(0, 2), dim=0)) == 98


@pytest.mark.parametrize(("channels", "expected"), [(512, 3_421_134), (256, 3_387_854), (128, 3_371_214)])
def test_parameters_of_a_cross_attention(channels: int, expected: int) -> None:
    with torch.device("meta"):
        pool = PerceiverPool(channels, num_axes=3, num_cross=1, num_self=1)
    assert num(pool.cross) == expected
    assert num(pool.blocks) == 4_201_472


@pytest.mark.parametrize(("num_cross", "num_self"), [(0, 0), (-1, 2), (1, -1)])
def test_no_attention_at_all_is_refused(num_cross: int, num_self: int) -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_self: .* are no pooling"):
        PerceiverPool(8, num_cross=num_cross, num_self=num_self)


def plain_bert(pool: Any, features: Tensor) -> Tensor:
    hidden = torch.cat([pool.class_token.expand(len(features), -1, -1), features], dim=1)
    hidden = plain_norm(pool.norm, hidden + pool.positions[:, : hidden.shape[1]])
    for layer in pool.layers:
        attention = layer.self_attn
        size = hidden.shape[2]
        head_size = size // attention.num_heads
        query, key, value = (
            hidden @ attention.in_proj_weight[i * size : (i + 1) * size].T
            + attention.in_proj_bias[i * size : (i + 1) * size]
            for i in range(3)
        )
        heads = []
        for head in range(attention.num_heads):
            part = slice(head * head_size, (head + 1) * head_size)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(head_size)
            heads.append(torch.softmax(scores, dim=2) @ value[..., part])
        mixed = torch.cat(heads, dim=2) @ attention.out_proj.weight.T + attention.out_proj.bias
        hidden = plain_norm(layer.norm1, hidden + mixed)
        wide = F.gelu(hidden @ layer.linear1.weight.T + layer.linear1.bias)
        hidden = plain_norm(layer.norm2, hidden + wide @ layer.linear2.weight.T + layer.linear2.bias)
    return hidden[:, 0]


def test_bert_is_the_slow_one() -> None:
    pool = alive(BertPool(16, num_tokens=5, num_layers=2, num_heads=4))
    for num_tokens in (5, 3):
        features = torch.randn(2, num_tokens, 16)
        with torch.no_grad():
            torch.testing.assert_close(pool(features), plain_bert(pool, features), rtol=0, atol=1e-5)


def test_bert_sees_order_and_a_perceiver_does() -> None:
    features = torch.randn(2, 5, 16)
    for pool in (BertPool(16, num_tokens=5), PerceiverPool(16, num_queries=4, size=16, num_self=1)):
        alive(pool)
        with torch.no_grad():
            assert (pool(features) - pool(features.flip(1))).abs().max() > 1e-2


def test_pools_without_layers_queries_or_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_layers: has to be at least 1, got 0"):
        BertPool(16, num_tokens=3, num_layers=0)
    with pytest.raises(ConfigError, match=r"^model\.num_queries: has to be at least 1, got 0"):
        PerceiverPool(16, num_queries=0)
    with pytest.raises(ConfigError, match=r"^model\.size: has to be at least 1, got 0"):
        PerceiverPool(16, size=0)


def test_heads_that_do_not_divide_the_feature_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_heads: features of 10 numbers"):
        BertPool(10, num_tokens=3)
