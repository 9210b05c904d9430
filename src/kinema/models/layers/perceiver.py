"""Perceiver pooling: any number of tokens become one feature.

Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021, https://arxiv.org/abs/2103.03206.
Learned queries attend to the
tokens and the Fourier features of their positions; then a class token and the answers attend to each other.
Deviations: every cross attention has queries of its own, to which what came before is added, and its own weights; the
classifier sees the class token instead of the mean over queries, wherever there is self-attention; feed-forward layers
are gated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least
from kinema.types import ConfigError


class PerceiverPool(nn.Module):
    """Cross attention from learned queries to tokens, then self-attention, in equal shares.

    Everything that has weights is made here, so that an optimiser that is built from the model has them all.

    Args:
        num_inputs: Length of a token.
        num_axes: Axes of the grid of tokens: 1 for a sequence, 3 for a clip.
        num_cross: Cross attentions. 0: the tokens themselves go into the self-attention, without positions: their
            order is not seen.
        num_self: Self-attentions; spread over the cross attentions, the last of which get the rest, so that what the
            last one says is always used. 0: the answer is the mean over queries.
        num_queries: Learned queries of a cross attention.
        size: Length of a query, and of the answer.
        num_bands: Frequencies per axis of the positions' Fourier features.
        max_freq: The highest frequency is half of this.
        dropout: Of what feed-forward layers hand on.

    Raises:
        ConfigError: There is no attention at all, or a number is impossible.
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        num_axes: int = 1,
        num_cross: int = 1,
        num_self: int = 6,
        num_queries: int = 256,
        size: int = 512,
        num_bands: int = 6,
        max_freq: float = 10.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(num_cross, num_self) < 0 or num_cross + num_self < 1:
            raise ConfigError(f"model.num_self: {num_cross} cross and {num_self} self-attentions are no pooling")
        at_least(1, num_queries=num_queries, size=size)
        self.num_axes = num_axes
        self.num_bands = num_bands
        self.max_freq = max_freq
        self.num_features = size if num_cross else num_inputs
        num_position = num_axes * (2 * num_bands + 1)
        self.cross = nn.ModuleList(
            CrossAttention(size, num_inputs + num_position, num_queries=num_queries, dropout=dropout)
            for _ in range(num_cross)
        )
        self.blocks = nn.ModuleList(SelfAttention(self.num_features, dropout=dropout) for _ in range(num_self))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, self.num_features)) if num_self else None
        self.norm = nn.LayerNorm(self.num_features)

    def forward(self, tokens: Float[Tensor, "B *axes D"]) -> Float[Tensor, "B _E"]:
        tokens_flat = tokens.flatten(1, -2)
        if len(self.cross):
            positions = fourier_positions(tokens.shape[1:-1], self.num_bands, self.max_freq, device=tokens.device)
            positions = positions.to(tokens.dtype).flatten(0, -2).expand(len(tokens), -1, -1)
            context = torch.cat([tokens_flat, positions], dim=2)
            hidden = self.cross[0](None, context)
        else:
            hidden = tokens_flat
        if self.class_token is None:
            for layer in self.cross[1:]:
                hidden = layer(hidden, context)
            return self.norm(hidden.mean(dim=1))
        hidden = torch.cat([self.class_token.expand(len(hidden), -1, -1), hidden], dim=1)
        for number, blocks in enumerate(self._shares()):
            if number:
                hidden = torch.cat([hidden[:, :1], self.cross[number](hidden[:, 1:], context)], dim=1)
            for block in blocks:
                hidden = block(hidden)
        return self.norm(hidden[:, 0])

    def _shares(self) -> list[list[nn.Module]]:
        """The self-attentions behind each cross attention."""
        num = max(1, len(self.cross))
        least, rest = divmod(len(self.blocks), num)
        blocks = iter(self.blocks)
        return [[next(blocks) for _ in range(least + (number >= num - rest))] for number in range(num)]


class CrossAttention(nn.Module):
    """Learned queries attend to tokens: one head of 64.

    Args:
        size: Length of a query.
        num_inputs: Length of a token with its position.
        num_queries: Queries.
        dropout: Of what the feed-forward layer hands on.
    """

    def __init__(self, size: int, num_inputs: int, *, num_queries: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, size))
        self.norm = nn.LayerNorm(size)
        self.context_norm = nn.LayerNorm(num_inputs)
        self.attention = Attention(size, num_inputs, num_heads=1)
        self.feed_forward = _FeedForward(size, dropout)

    def forward(
        self, before: Float[Tensor, "B Q E"] | None, context: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B _Q _E"]:
        hidden = self.queries.expand(len(context), -1, -1)
        hidden = hidden if before is None else hidden + before
        hidden = hidden + self.attention(self.norm(hidden), self.context_norm(context))
        return hidden + self.feed_forward(hidden)


class SelfAttention(nn.Module):
    """Tokens attend to each other: eight heads of 64.

    Args:
        size: Length of a token.
        dropout: Of what the feed-forward layer hands on.
    """

    def __init__(self, size: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.attention = Attention(size, size, num_heads=8)
        self.feed_forward = _FeedForward(size, dropout)

    def forward(self, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        normed = self.norm(hidden)
        hidden = hidden + self.attention(normed, normed)
        return hidden + self.feed_forward(hidden)


class Attention(nn.Module):
    """Scaled dot products of queries and keys, in heads of 64.

    Args:
        size: Length of what asks, and of the answer.
        num_inputs: Length of what is asked.
        num_heads: Heads.
    """

    HEAD_SIZE = 64

    def __init__(self, size: int, num_inputs: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(size, num_heads * self.HEAD_SIZE, bias=False)
        self.key_value = nn.Linear(num_inputs, 2 * num_heads * self.HEAD_SIZE, bias=False)
        self.out = nn.Linear(num_heads * self.HEAD_SIZE, size)

    def forward(self, queries: Float[Tensor, "B Q E"], context: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q E"]:
        query, key, value = self._projected(queries, context)
        return self.out(nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    def weights(self, queries: Float[Tensor, "B Q E"], context: Float[Tensor, "B N D"]) -> Float[Tensor, "B heads Q N"]:
        """How much of each token each query's answer is made of, which `forward` does not tell."""
        query, key, _ = self._projected(queries, context)
        return (query @ key.transpose(2, 3) / self.HEAD_SIZE**0.5).softmax(dim=3)

    def _projected(self, queries: Tensor, context: Tensor) -> Iterator[Float[Tensor, "B heads _N 64"]]:
        """Queries, keys and values of each head."""
        key, value = self.key_value(context).chunk(2, dim=2)
        return (
            part.unflatten(2, (self.num_heads, self.HEAD_SIZE)).transpose(1, 2)
            for part in (self.query(queries), key, value)
        )


class _FeedForward(nn.Module):
    """With the gate of Shazeer, "GLU Variants Improve Transformer", 2020."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.widen = nn.Linear(size, 8 * size)
        self.narrow = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        values, gates = self.widen(self.norm(hidden)).chunk(2, dim=2)
        return self.dropout(self.narrow(values * nn.functional.gelu(gates)))


def fourier_positions(
    sizes: tuple[int, ...], num_bands: int, max_freq: float, *, device: torch.device | None = None
) -> Float[Tensor, "*axes _P"]:
    """Per place on a grid and per axis: the sines and cosines of its position, from -1 to 1, at frequencies from 1 to
    half of `max_freq`, and the position."""
    places = torch.meshgrid(*(torch.linspace(-1.0, 1.0, size, device=device) for size in sizes), indexing="ij")
    position = torch.stack(places, dim=-1).unsqueeze(-1)
    angles = position * torch.linspace(1.0, max_freq / 2, num_bands, device=device) * math.pi
    return torch.cat([angles.sin(), angles.cos(), position], dim=-1).flatten(-2)
