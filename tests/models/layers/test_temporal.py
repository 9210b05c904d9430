"""Temporal modules without recurrence or attention, and classifiers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinema.models.layers.heads import ConsensusHeads, LinearHeads
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.layers.temporal import ConvStack1D, HybridPool, MaxPool, MeanPool, StatisticsPool
from kinema.models.layers.transformer import TransformerPool
from kinema.types import ConfigError

HEADS = {"verb": ("open", "close"), "noun": ("door", "box", "jar")}


@pytest.mark.parametrize(
    "pool",
    [MeanPool(5), MaxPool(5), StatisticsPool(5, deviation=True, difference=False, segments=1)],
    ids=["mean", "max", "statistics"],
)
def test_blind_modules_answer_the_same_in_any_order(pool: nn.Module) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 8, 5)
    for _ in range(5):
        torch.testing.assert_close(pool(features[:, torch.randperm(8)]), pool(features), rtol=0, atol=1e-6)


def test_differences_do_not_tell_forwards_from_backwards() -> None:
    pool = StatisticsPool(5, deviation=True, difference=True, segments=1)
    features = torch.randn(3, 8, 5)
    torch.testing.assert_close(pool(features.flip(1)), pool(features))
    assert not torch.allclose(pool(features[:, [0, 2, 1, 3, 4, 6, 5, 7]]), pool(features))


def test_statistics_are_what_they_say() -> None:
    features = torch.randn(3, 6, 5)
    found = StatisticsPool(5, deviation=True, difference=True, segments=3)(features)
    means = [features[:, 2 * part : 2 * part + 2].mean(dim=1) for part in range(3)]
    deviation = features.std(dim=1, correction=0)
    change = sum((features[:, step + 1] - features[:, step]).abs() for step in range(5)) / 5
    torch.testing.assert_close(found, torch.cat([*means, deviation, torch.as_tensor(change)], dim=1), rtol=0, atol=1e-5)


def test_differences_of_parts_are_what_they_say() -> None:
    features = torch.randn(3, 8, 5)
    pool = StatisticsPool(5, deviation=False, difference=True, segments=1, difference_step=2, difference_segments=3)
    changes = torch.stack([(features[:, step + 2] - features[:, step]).abs() for step in range(6)], dim=1)
    expected = [features.mean(dim=1), *(changes[:, 2 * part : 2 * part + 2].mean(dim=1) for part in range(3))]
    torch.testing.assert_close(pool(features), torch.cat(expected, dim=1), rtol=0, atol=1e-6)
    assert pool.num_features == 20


def test_differences_of_parts_tell_when_something_moves() -> None:
    """Features that change early and then stay, and the same the other way round: only parts tell them apart."""
    early = torch.zeros(1, 8, 1)
    early[:, 1] = 1
    late = early.flip(1)
    blind = StatisticsPool(1, deviation=True, difference=True, segments=1)
    seeing = StatisticsPool(1, deviation=True, difference=True, segments=1, difference_segments=2)
    torch.testing.assert_close(blind(early), blind(late))
    assert not torch.allclose(seeing(early), seeing(late))


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_short_clips_differ_by_their_ends(num_frames: int) -> None:
    features = torch.randn(2, num_frames, 5)
    pool = StatisticsPool(5, deviation=False, difference=True, segments=1, difference_step=4, difference_segments=2)
    change = (features[:, -1] - features[:, 0]).abs()
    torch.testing.assert_close(pool(features)[:, 5:], torch.cat([change, change], dim=1))


@pytest.mark.parametrize("setting", [{"difference_step": 2}, {"difference_segments": 3}])
def test_settings_of_differences_that_are_not_taken_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(setting))}: there are no differences"):
        StatisticsPool(5, deviation=True, difference=False, segments=1, **setting)


@pytest.mark.parametrize("parts", [1, 2])
def test_statistics_of_one_frame_have_a_gradient(parts: int) -> None:
    features = torch.randn(2, 1, 5, requires_grad=True)
    pool = StatisticsPool(5, deviation=True, difference=True, segments=2, difference_segments=parts)
    torch.autograd.backward(pool(features).sum())
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_the_stack_ends_in_one_step() -> None:
    stack = ConvStack1D(6, num_steps=20, channels=3, num_blocks=4, kernel_size=3, out_channels=7).eval()
    lengths = []
    for layer in stack.layers:
        if isinstance(layer, nn.Conv1d):
            layer.register_forward_hook(lambda *arguments: lengths.append(arguments[2].shape[2]))
    assert stack(torch.randn(2, 20, 6)).shape == (2, 7)
    assert lengths == [18, 16, 14, 12, 10, 8, 6, 4, 1]


def test_a_clip_of_another_length_is_brought_to_the_stacks() -> None:
    stack = ConvStack1D(6, num_steps=20, channels=3, num_blocks=4, kernel_size=3, out_channels=7).eval()
    features = torch.randn(2, 10, 6)
    torch.testing.assert_close(stack(features), stack(features.repeat_interleave(2, dim=1)))
    assert stack(torch.randn(2, 33, 6)).shape == (2, 7)


def test_a_stack_that_would_use_up_the_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_steps: 4 blocks take away 16 steps, .* at least 17, got 16"):
        ConvStack1D(6, num_steps=16, channels=3, num_blocks=4, kernel_size=3, out_channels=7)


def test_the_hybrid_joins_both() -> None:
    torch.manual_seed(0)
    lstm = RecurrentPool("lstm", 8, hidden_size=3, bidirectional=True)
    transformer = TransformerPool(8, num_frames=4, width=None, num_layers=1, num_heads=2, feed_forward=8, pool="mean")
    hybrid = HybridPool(5, lstm=lstm, transformer=transformer, width=8).eval()
    features = torch.randn(2, 4, 5)
    projected = hybrid.project(features)
    expected = hybrid.join(torch.cat([lstm(projected), transformer(projected)], dim=1))
    torch.testing.assert_close(hybrid(features), expected)
    assert hybrid.join.in_features == 6 + 8


def test_classifiers_may_have_hidden_layers_of_their_own() -> None:
    heads = LinearHeads(6, HEADS, dropout=0.4, hidden=(5, 4), hidden_dropout=0.1, norm="layer")
    sizes = [[p.shape[0] for p in heads.linear[f"task_{task}"].parameters() if p.ndim == 2] for task in HEADS]
    assert sizes == [[5, 4, 2], [5, 4, 3]]
    assert [part.p for part in heads.modules() if isinstance(part, nn.Dropout)] == [0.4, 0.1, 0.1, 0.1, 0.1]
    assert isinstance(heads.norm, nn.LayerNorm)
    feature = torch.randn(2, 6)
    first, second, last = (layer for layer in heads.linear["task_noun"].modules() if isinstance(layer, nn.Linear))
    expected = last(torch.relu(second(torch.relu(first(heads.norm(feature))))))
    torch.testing.assert_close(heads.eval()(feature)["noun"], expected)


def test_consensus_is_of_the_frames_scores() -> None:
    heads = LinearHeads(6, HEADS, dropout=0.0, hidden=(5,))
    features = torch.randn(2, 4, 6)
    each = torch.stack([heads(features[:, step])["verb"] for step in range(4)], dim=1)
    torch.testing.assert_close(ConsensusHeads(heads, "mean")(features)["verb"], each.mean(dim=1))
    torch.testing.assert_close(ConsensusHeads(heads, "max")(features)["verb"], each.amax(dim=1))


@pytest.mark.parametrize(("name", "values"), [("dropout", {"dropout": 1.0}), ("head_hidden", {"hidden": (0,)})])
def test_classifiers_that_cannot_be_are_refused(name: str, values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name}: has to be at least"):
        LinearHeads(6, HEADS, **{"dropout": 0.5, **values})  # type: ignore[arg-type]
