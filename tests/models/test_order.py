"""Order: what shows the same frames forwards and backwards can be told apart by modules that see order, and only by
those.

Short sequences of features stand for frames, so that this takes seconds; on videos the same is seen in the slow suite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinema.models.layers.bert import BertPool
from kinema.models.layers.conv_lstm import ConvLSTMPool, MapConvolution
from kinema.models.layers.lsta import LSTAPool
from kinema.models.layers.motion import DifferencePool
from kinema.models.layers.perceiver import PerceiverPool
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.layers.temporal import (
    ConvNet1D,
    ConvStack1D,
    HybridPool,
    MaxPool,
    MeanPool,
    StatisticsPool,
)
from kinema.models.layers.transformer import MultiScalePool, TransformerPool

NUM_FRAMES, WIDTH, GRID = 8, 16, 3
TRANSFORMER: dict[str, Any] = {
    "num_frames": NUM_FRAMES,
    "width": None,
    "num_layers": 1,
    "num_heads": 4,
    "feed_forward": 32,
    "dropout": 0.0,
    "drop_path": 0.0,
}


def _hybrid() -> HybridPool:
    lstm = RecurrentPool("lstm", WIDTH, hidden_size=8, bidirectional=True)
    return HybridPool(WIDTH, lstm=lstm, transformer=TransformerPool(WIDTH, pool="mean", **TRANSFORMER), width=WIDTH)


SEEING: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: RecurrentPool("rnn", WIDTH, hidden_size=16),
    "gru": lambda: RecurrentPool("gru", WIDTH, hidden_size=16),
    "lstm": lambda: RecurrentPool("lstm", WIDTH, hidden_size=16),
    "bidirectional lstm": lambda: RecurrentPool("lstm", WIDTH, hidden_size=16, bidirectional=True),
    "conv_lstm": lambda: ConvLSTMPool(WIDTH, channels=8),
    "conv1d": lambda: ConvNet1D(WIDTH, channels=16, num_blocks=1, kernel_size=3),
    "conv1d_stack": lambda: ConvStack1D(
        WIDTH, num_steps=NUM_FRAMES, channels=16, num_blocks=1, kernel_size=3, out_channels=16
    ),
    "transformer cls": lambda: TransformerPool(WIDTH, pool="cls", **TRANSFORMER),
    "transformer mean": lambda: TransformerPool(WIDTH, pool="mean", **TRANSFORMER),
    "multi-scale": lambda: MultiScalePool(WIDTH, windows=(2, 4, 8), shared=False, **TRANSFORMER),
    "hybrid": _hybrid,
    "bert": lambda: BertPool(WIDTH, num_tokens=NUM_FRAMES, num_heads=4, dropout=0.0),
    "perceiver": lambda: PerceiverPool(WIDTH, num_self=1, num_queries=4, size=16),
    "lsta": lambda: LSTAPool(WIDTH, channels=8, bank=4),
    "differences that count": lambda: DifferencePool(WIDTH, kind="excitation", reduction=2),
    "differences that are added": lambda: DifferencePool(WIDTH, kind="motion", reduction=2),
    "segments": lambda: StatisticsPool(WIDTH, deviation=True, difference=True, segments=2),
}
BLIND: dict[str, Callable[[], nn.Module]] = {
    "mean": lambda: MeanPool(WIDTH),
    "max": lambda: MaxPool(WIDTH),
    "statistics": lambda: StatisticsPool(WIDTH, deviation=True, difference=False, segments=1),
    "perceiver without cross attention": lambda: PerceiverPool(WIDTH, num_cross=0, num_self=1),
    "map convolution": lambda: MapConvolution(WIDTH, channels=8),
}


def pairs(num: int, *, maps: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences that go from one direction of feature space to another, and the same ones reversed."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    rise = torch.linspace(0, 1, NUM_FRAMES)[:, None]
    forwards = ends[0] * (1 - rise) + ends[1] * rise + 0.3 * torch.randn(num, NUM_FRAMES, WIDTH, generator=generator)
    features = torch.cat([forwards, forwards.flip(1)])
    if maps:
        noise = 0.3 * torch.randn(*features.shape, GRID, GRID, generator=generator)
        noise[num:] = noise[:num].flip(1)
        features = features[..., None, None] + noise
    return features, torch.arange(2).repeat_interleave(num)


def trained_accuracy(pool: nn.Module) -> float:
    """On sequences of which it was not trained on, after some steps."""
    model = nn.Sequential(pool, nn.Linear(pool.num_features, 2))  # type: ignore[arg-type]
    maps = bool(getattr(pool, "takes_maps", False))
    features, labels = pairs(32, maps=maps, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(features), labels))
        optimiser.step()
    features, labels = pairs(50, maps=maps, seed=2)
    with torch.inference_mode():
        return float((model.eval()(features).argmax(dim=1) == labels).float().mean())


@pytest.mark.parametrize("name", SEEING)
def test_what_sees_order_solves_pairs(name: str) -> None:
    torch.manual_seed(0)
    assert trained_accuracy(SEEING[name]()) >= 0.95


@pytest.mark.parametrize("name", BLIND)
def test_what_is_blind_to_order_cannot(name: str) -> None:
    """It answers the same in any order; so half of all pairs is right whatever it has learnt."""
    torch.manual_seed(0)
    pool = BLIND[name]()
    features, _ = pairs(4, maps=bool(getattr(pool, "takes_maps", False)), seed=1)
    expected = pool(features)
    for _ in range(5):
        torch.testing.assert_close(pool(features[:, torch.randperm(NUM_FRAMES)]), expected, rtol=0, atol=1e-5)
