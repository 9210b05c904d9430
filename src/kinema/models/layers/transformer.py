"""Transformers over the features of a clip's frames.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017; with the norm in front of each part, Xiong et al., "On Layer
Normalization in the Transformer Architecture", ICML 2020; drop path, Huang et al., "Deep Networks with Stochastic
Depth", ECCV 2016.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from kinema.models.layers.checks import at_least, share
from kinema.types import ConfigError


class Block(nn.Module):
    """Self-attention and two linear layers, each beside a way around it.

    Args:
        width: Of tokens.
        num_heads: Of attention.
        feed_forward: Units between the two linear layers.
        dropout: Of attention's output and in the linear layers.
        drop_path: Probability that a clip takes the way around alone.
        norm: `pre`: layer norm in front of each part; `post`: behind it.
    """

    def __init__(
        self, width: int, *, num_heads: int, feed_forward: int, dropout: float, drop_path: float, norm: str = "pre"
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feed_forward, width)
        )
        self.dropout = nn.Dropout(dropout)
        self.drop_path = StochasticDepth(drop_path, "row")
        self.is_pre = norm == "pre"

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        before, behind = self.norms
        if self.is_pre:
            tokens = tokens + self._dropped(self._attend(before(tokens)))
            return tokens + self._dropped(self.feed_forward(behind(tokens)))
        tokens = before(tokens + self._dropped(self._attend(tokens)))
        return behind(tokens + self._dropped(self.feed_forward(tokens)))

    def _dropped(self, tokens: Tensor) -> Tensor:
        return self.drop_path(self.dropout(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        answer: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return answer


class Encoder(nn.Module):
    """Blocks whose drop path grows linearly with depth; with `pre`, a last norm behind them.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self,
        width: int,
        *,
        num_layers: int,
        num_heads: int,
        feed_forward: int | None,
        dropout: float,
        drop_path: float,
        norm: str = "pre",
    ) -> None:
        super().__init__()
        at_least(1, width=width, num_layers=num_layers, num_heads=num_heads, feed_forward=feed_forward)
        share(layer_dropout=dropout, drop_path=drop_path)
        if width % num_heads:
            raise ConfigError(f"model.num_heads: {num_heads} does not divide the width of tokens, {width}")
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads=num_heads,
                feed_forward=feed_forward or 4 * width,
                dropout=dropout,
                drop_path=drop_path * (index + 1) / num_layers,
                norm=norm,
            )
            for index in range(num_layers)
        )
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class Positions(nn.Module):
    """Adds to every frame's token what says when it is.

    Args:
        kind: `learned`, `sinusoidal` or `none`.
        num_frames: As many positions are learned; to a clip of another length they are interpolated.
        width: Of tokens.
    """

    def __init__(self, kind: str, *, num_frames: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            # As large as tokens are: smaller ones, as language models begin with, drown in features that nothing has
            # normalised, and training finds no order in 20 epochs of `motion` (tests/models/test_order_motion.py).
            self.table = nn.Parameter(torch.randn(num_frames, width))

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if self.kind == "none":
            return tokens
        if self.kind == "sinusoidal":
            return tokens + _sinusoids(tokens.shape[1], tokens.shape[2]).to(tokens)
        table: Tensor = self.table
        if len(table) != tokens.shape[1]:
            table = nn.functional.interpolate(table.T[None], tokens.shape[1], mode="linear", align_corners=False)[0].T
        return tokens + table


class TransformerPool(nn.Module):
    """A Transformer over the frames.

    Args:
        num_inputs: Length of a frame's feature.
        num_frames: Frames of a clip.
        width: Of tokens; None: that of the features, which are not projected then.
        num_layers: Blocks.
        num_heads: Of attention.
        feed_forward: Units of a block's linear layers; None: four times the width.
        pool: `cls`: what a learned token has become; `mean`: the mean over frames; `none`: the frames' tokens.
        positions: See `Positions`.
        dropout: Inside blocks.
        drop_path: Of the last block.
        norm: See `Block`.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        num_frames: int,
        width: int | None,
        num_layers: int,
        num_heads: int,
        feed_forward: int | None,
        pool: str = "cls",
        positions: str = "learned",
        dropout: float = 0.1,
        drop_path: float = 0.0,
        norm: str = "pre",
    ) -> None:
        super().__init__()
        self.num_features = width or num_inputs
        self.encoder = Encoder(
            self.num_features,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward=feed_forward,
            dropout=dropout,
            drop_path=drop_path,
            norm=norm,
        )
        self.project = nn.Identity() if width is None else nn.Linear(num_inputs, width)
        self.positions = Positions(positions, num_frames=num_frames, width=self.num_features)
        self.pool = pool
        self.cls = nn.Parameter(torch.zeros(self.num_features)) if pool == "cls" else None
        if self.cls is not None:
            nn.init.trunc_normal_(self.cls, std=0.02)

    def tokens(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B N E"]:
        """What becomes of the CLS token, if there is one, and of the frames."""
        tokens = self.positions(self.project(features))
        if self.cls is not None:
            tokens = torch.cat([self.cls.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)
        return self.encoder(tokens)

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B *N E"]:
        tokens = self.tokens(features)
        if self.pool == "none":
            return tokens
        return tokens.mean(dim=1) if self.pool == "mean" else tokens[:, 0]


class MultiScalePool(nn.Module):
    """Transformers over windows of several lengths.

    The windows of one length lie evenly over the clip, as few as cover it, so that every frame is seen at every scale.
    What a window's frames have become is averaged, which gives one token for each window.

    Args:
        num_inputs: Length of a frame's feature.
        num_frames: Frames of a clip.
        windows: Lengths of windows, in frames. One longer than the clip is the clip.
        shared: One Transformer for all lengths instead of one for each.
        width: Of tokens; None: that of the features.
        num_layers: Blocks of each Transformer.
        num_heads: Of attention.
        feed_forward: Units of a block's linear layers; None: four times the width.
        dropout: Inside blocks.
        drop_path: Of the last block.
        pool: Average over windows and then scales; without it the windows' tokens are the answer.
        positions: See `Positions`: of frames in the clip.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        num_frames: int,
        windows: tuple[int, ...],
        shared: bool,
        width: int | None,
        num_layers: int,
        num_heads: int,
        feed_forward: int | None,
        dropout: float,
        drop_path: float,
        pool: bool = True,
        positions: str = "learned",
    ) -> None:
        super().__init__()
        at_least(1, windows=windows)
        if not windows:
            raise ConfigError("model.windows: give the length of at least one")
        self.num_features = width or num_inputs
        self.windows = tuple(windows)
        self.pool = pool
        self.project = nn.Identity() if width is None else nn.Linear(num_inputs, width)
        self.positions = Positions(positions, num_frames=num_frames, width=self.num_features)
        self.encoders = nn.ModuleList(
            Encoder(
                self.num_features,
                num_layers=num_layers,
                num_heads=num_heads,
                feed_forward=feed_forward,
                dropout=dropout,
                drop_path=drop_path,
            )
            for _ in ([0] if shared else windows)
        )

    def scales(self, features: Float[Tensor, "B T D"]) -> list[Float[Tensor, "B _N E"]]:
        """The windows' tokens of each length."""
        tokens = self.positions(self.project(features))
        answers = []
        for index, window in enumerate(self.windows):
            starts = window_starts(tokens.shape[1], window)
            cut = torch.stack([tokens[:, start : start + window] for start in starts], dim=1)
            encoder = self.encoders[index % len(self.encoders)]
            answers.append(encoder(cut.flatten(0, 1)).mean(dim=1).unflatten(0, cut.shape[:2]))
        return answers

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B *N E"]:
        scales = self.scales(features)
        if not self.pool:
            return torch.cat(scales, dim=1)
        return torch.stack([tokens.mean(dim=1) for tokens in scales]).mean(dim=0)


def window_starts(num_frames: int, window: int) -> list[int]:
    """Where windows begin: as few as cover the frames, at even distances."""
    num = math.ceil(num_frames / window)
    last = max(0, num_frames - window)
    return [round(index * last / max(1, num - 1)) for index in range(num)]


def _sinusoids(num_frames: int, width: int) -> Float[Tensor, "T D"]:
    """Vaswani et al., section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(num_frames)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
