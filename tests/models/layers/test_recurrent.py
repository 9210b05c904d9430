"""Recurrent layers over frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinema.models.layers.recurrent import RecurrentPool
from kinema.types import ConfigError


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_the_last_state_is_that_of_both_directions_of_the_last_layer(kind: str) -> None:
    torch.manual_seed(0)
    pool = RecurrentPool(kind, 8, hidden_size=6, num_layers=2, further_sizes=(5,), bidirectional=True).eval()
    features = torch.randn(3, 7, 8)
    outputs, final = pool.outputs(features)
    assert pool.num_features == 10
    torch.testing.assert_close(final, torch.cat([outputs[:, -1, :5], outputs[:, 0, 5:]], dim=1))
    torch.testing.assert_close(pool(features), final)
    pool.pool = "mean"
    torch.testing.assert_close(pool(features), outputs.mean(dim=1))


def _steps(kind: str, pool: RecurrentPool, features: Tensor) -> Tensor:
    """The equations of Hochreiter and Schmidhuber, Cho et al. and Elman, step by step."""
    (layer,) = pool.layers
    w, u, b, c = (getattr(layer, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
    state = cell = torch.zeros(len(features), pool.num_features)
    for step in range(features.shape[1]):
        given, kept = features[:, step] @ w.T + b, state @ u.T + c
        if kind == "rnn":
            state = torch.tanh(given + kept)
        elif kind == "lstm":
            take, forget, new, out = (given + kept).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
            state = out.sigmoid() * cell.tanh()
        else:
            (given_r, given_z, given_n), (kept_r, kept_z, kept_n) = given.chunk(3, dim=1), kept.chunk(3, dim=1)
            update = (given_z + kept_z).sigmoid()
            new = (given_n + (given_r + kept_r).sigmoid() * kept_n).tanh()
            state = (1 - update) * new + update * state
    return state


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_step_by_step(kind: str) -> None:
    torch.manual_seed(0)
    pool = RecurrentPool(kind, 8, hidden_size=6)
    features = torch.randn(3, 7, 8)
    torch.testing.assert_close(pool(features), _steps(kind, pool, features), rtol=0, atol=1e-5)


def test_a_projection_comes_first() -> None:
    pool = RecurrentPool("lstm", 8, hidden_size=6, projection=3)
    features = torch.randn(2, 4, 8)
    expected = pool.layers[0](pool.projection(features))[1][0][-1]
    torch.testing.assert_close(pool(features), expected)


def test_dropout_is_between_layers_alone() -> None:
    features = torch.randn(2, 4, 8)
    for sizes, same in (((), True), ((5,), False)):
        pool = RecurrentPool("gru", 8, hidden_size=6, further_sizes=sizes, dropout=0.5).train()
        assert torch.equal(pool(features), pool(features)) == same


@pytest.mark.parametrize(
    "wrong", [{"hidden_size": 0}, {"num_layers": 0}, {"further_sizes": (4, 0)}, {"projection": 0}, {"dropout": 1.0}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    name = {"dropout": "layer_dropout"}.get(next(iter(wrong)), next(iter(wrong)))
    with pytest.raises(ConfigError, match=rf"^model\.{name}: has to be at least"):
        RecurrentPool("lstm", 8, **{"hidden_size": 4, **wrong})
