"""Transformers over frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kinema.models.layers.transformer import (
    Block,
    MultiScalePool,
    Positions,
    TransformerPool,
    window_starts,
)
from kinema.types import ConfigError

SMALL: dict[str, Any] = {"num_frames": 6, "width": 16, "num_layers": 2, "num_heads": 4, "feed_forward": 24}
BLOCK: dict[str, Any] = {"num_heads": 4, "feed_forward": 24, "dropout": 0.0}


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_is_that_of_torch(norm: str) -> None:
    torch.manual_seed(0)
    block = Block(16, **BLOCK, drop_path=0.0, norm=norm).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.0, "gelu", batch_first=True, norm_first=norm == "pre").train()
    theirs.self_attn.load_state_dict(block.attention.state_dict())
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (block.feed_forward[0], theirs.linear1),
        (block.feed_forward[3], theirs.linear2),
        (block.norms[0], theirs.norm1),
        (block.norms[1], theirs.norm2),
    ]
    for own, layer in pairs:
        for parameter in own.parameters():
            nn.init.normal_(parameter)
        layer.load_state_dict(own.state_dict())
    tokens = torch.randn(3, 5, 16)
    torch.testing.assert_close(block(tokens), theirs(tokens), rtol=0, atol=1e-5)


def test_drop_path_takes_whole_clips_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(16, **BLOCK, drop_path=0.5).train()
    nn.init.zeros_(block.feed_forward[3].weight)  # type: ignore[arg-type]
    nn.init.zeros_(block.feed_forward[3].bias)  # type: ignore[arg-type]
    token = torch.randn(1, 5, 16)
    with torch.no_grad():
        changes = block(token.expand(400, -1, -1)) - token
        whole = block.eval()(token) - token
    passed = changes.abs().amax(dim=(1, 2)) == 0
    assert 150 < int(passed.sum()) < 250
    torch.testing.assert_close(changes[~passed], (2 * whole).expand(int((~passed).sum()), -1, -1), rtol=0, atol=1e-5)


def test_drop_path_grows_with_depth() -> None:
    pool = TransformerPool(16, **{**SMALL, "num_layers": 4}, drop_path=0.2)
    assert [block.drop_path.p for block in pool.encoder.blocks] == pytest.approx([0.05, 0.1, 0.15, 0.2])  # type: ignore[union-attr]


def test_cls_and_mean() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, 10)
    for pool, num_tokens in (("cls", 7), ("mean", 6)):
        module = TransformerPool(10, **SMALL, pool=pool).eval()
        tokens = module.tokens(features)
        assert tokens.shape == (2, num_tokens, 16)
        expected = tokens[:, 0] if pool == "cls" else tokens.mean(dim=1)
        torch.testing.assert_close(module(features), expected)


def test_without_a_width_features_are_not_projected() -> None:
    module = TransformerPool(12, **{**SMALL, "width": None})
    assert isinstance(module.project, nn.Identity)
    assert module.num_features == 12


@pytest.mark.parametrize(("positions", "sees"), [("learned", True), ("sinusoidal", True), ("none", False)])
def test_positions_let_it_see_order(positions: str, sees: bool) -> None:
    torch.manual_seed(0)
    module = TransformerPool(10, **SMALL, positions=positions).eval()
    if positions == "learned":
        nn.init.normal_(module.positions.table)
    features = torch.randn(2, 6, 10)
    same = torch.allclose(module(features), module(features.flip(1)), atol=1e-4)
    assert same != sees


def test_sinusoids_are_those_of_the_paper() -> None:
    found = Positions("sinusoidal", num_frames=9, width=8)(torch.zeros(1, 5, 8))[0]
    for step in range(5):
        for pair in range(4):
            angle = torch.tensor(step / 10_000 ** (2 * pair / 8))
            assert found[step, 2 * pair] == pytest.approx(angle.sin().item(), abs=1e-6)
            assert found[step, 2 * pair + 1] == pytest.approx(angle.cos().item(), abs=1e-6)
    assert Positions("sinusoidal", num_frames=9, width=7)(torch.zeros(1, 5, 7)).shape == (1, 5, 7)


def test_learned_positions_are_interpolated_to_another_length() -> None:
    positions = Positions("learned", num_frames=4, width=2)
    with torch.no_grad():
        positions.table.copy_(torch.arange(4.0)[:, None].expand(4, 2))
        assert torch.equal(positions(torch.zeros(1, 4, 2))[0, :, 0], torch.arange(4.0))
        found = positions(torch.zeros(1, 8, 2))[0, :, 0]
    assert torch.equal(found, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))


@pytest.mark.parametrize(
    ("num_frames", "window", "starts"),
    [(16, 4, [0, 4, 8, 12]), (16, 16, [0]), (5, 4, [0, 1]), (10, 4, [0, 3, 6]), (3, 8, [0]), (1, 4, [0])],
)
def test_windows_cover_the_clip(num_frames: int, window: int, starts: list[int]) -> None:
    found = window_starts(num_frames, window)
    assert found == starts
    assert {frame for start in found for frame in range(start, min(num_frames, start + window))} == set(
        range(num_frames)
    )


def test_windows_of_a_scale_are_seen_one_by_one() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {**SMALL, "num_frames": 8, "dropout": 0.0, "drop_path": 0.0}
    module = MultiScalePool(10, windows=(2, 8), shared=False, **settings).eval()
    features = torch.randn(2, 8, 10)
    fine, coarse = module.scales(features)
    assert (fine.shape, coarse.shape) == ((2, 4, 16), (2, 1, 16))
    tokens = module.positions(module.project(features))
    torch.testing.assert_close(fine[:, 1], module.encoders[0](tokens[:, 2:4]).mean(dim=1))
    torch.testing.assert_close(coarse[:, 0], module.encoders[1](tokens).mean(dim=1))
    torch.testing.assert_close(module(features), (fine.mean(dim=1) + coarse[:, 0]) / 2)
    module.pool = False
    torch.testing.assert_close(module(features), torch.cat([fine, coarse], dim=1))
    assert len(MultiScalePool(10, windows=(2, 8), shared=True, **settings).encoders) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": 3}, r"^model\.num_heads: 3 does not divide the width of tokens, 16"),
        ({"num_layers": 0}, r"^model\.num_layers: has to be at least 1, got 0"),
        ({"drop_path": 1.0}, r"^model\.drop_path: has to be at least 0 and less than 1, got 1\.0"),
        ({"windows": (4, 0)}, r"^model\.windows: has to be at least 1"),
        ({"windows": ()}, r"^model\.windows: give the length of at least one"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    settings = {**SMALL, "windows": (2,), "shared": False, "dropout": 0.0, "drop_path": 0.0, **wrong}
    with pytest.raises(ConfigError, match=message):
        MultiScalePool(10, **settings)
