"""Attention between tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinema.models.cross_task_attention import cross_task_attention
from kinema.models.layers.cross_task import CrossTaskAttention, CrossTaskHeads
from kinema.types import ConfigError, InputShape

HEADS = {"verb": ("open", "close"), "noun": ("door", "box", "jar")}


def attention(num_tasks: int = 2) -> CrossTaskAttention:
    torch.manual_seed(0)
    return CrossTaskAttention(16, ("verb", "noun", "hand")[:num_tasks], num_heads=4, dropout=0.0).eval()


def test_weights_depend_on_the_input() -> None:
    module = attention()
    tokens = [{task: torch.randn(2, 6, 16) for task in ("verb", "noun")} for _ in range(2)]
    first, second = (module.attend(given)[1] for given in tokens)
    for task in ("verb", "noun"):
        assert first[task].shape == (2, 6, 6)
        torch.testing.assert_close(first[task].sum(dim=2), torch.ones(2, 6))
        assert (first[task] - second[task]).abs().max() > 0.01
        assert first[task].std(dim=2).min() > 1e-3  # and they prefer some tokens to others


def test_with_one_token_they_would_not() -> None:
    """What the rebuilt study did."""
    tokens = {task: torch.randn(2, 1, 16) for task in ("verb", "noun")}
    assert all(torch.equal(weights, torch.ones(2, 1, 1)) for weights in attention().attend(tokens)[1].values())


def test_the_second_task_sees_the_first_as_it_has_become() -> None:
    module = attention()
    tokens = {task: torch.randn(2, 6, 16) for task in ("verb", "noun")}
    found = module(tokens)

    def one(task: str, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        key = f"task_{task}"
        own = module.norms[key](own + module.attention[key](own, other, other)[0])
        return own + module.feed_forward[key](own)

    verb = one("verb", tokens["verb"], tokens["noun"])
    torch.testing.assert_close(found["verb"], verb)
    torch.testing.assert_close(found["noun"], one("noun", tokens["noun"], verb))


@pytest.mark.parametrize(("num_tasks", "num_keys"), [(1, 5), (2, 5), (3, 10)])
def test_tasks_attend_to_all_others(num_tasks: int, num_keys: int) -> None:
    module = attention(num_tasks)
    tokens = {task: torch.randn(2, 5, 16) for task in module.tasks}
    assert {weights.shape for weights in module.attend(tokens)[1].values()} == {(2, 5, num_keys)}


def test_what_one_task_sees_changes_what_the_other_answers() -> None:
    torch.manual_seed(0)
    heads = CrossTaskHeads(8, HEADS, width=16, num_heads=4, branch_dropout=0.0, dropout=0.0).eval()
    tokens = torch.randn(2, 6, 8)
    before = heads(tokens)
    with torch.no_grad():
        next(heads.branches["task_noun"].parameters()).normal_()
    after = heads(tokens)
    assert not torch.allclose(before["verb"], after["verb"])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_heads: 3 does not divide the width of branches, 16"):
        CrossTaskAttention(16, ("verb",), num_heads=3, dropout=0.0)


SMALL: dict[str, Any] = {"backbone": "tiny", "width": None, "num_heads": 2, "branch_width": 8, "head_hidden": ()}


@pytest.mark.parametrize(
    ("arguments", "num_frames", "message"),
    [
        (
            {"windows": (16,)},
            16,
            r"model\.windows: \[16\] make one token of a clip of 16 frames, .*; give shorter windows",
        ),
        ({"windows": (8, 16), "shared": True}, 8, r"model\.windows: \[8, 16\] make one token of a clip of 8 frames"),
        ({"tokens": "frames"}, 1, r"model\.tokens: a clip of one frame is one token, .*; raise clips\.num_frames"),
    ],
)
def test_attention_to_one_token_is_refused(arguments: dict[str, Any], num_frames: int, message: str) -> None:
    inputs = {"rgb": InputShape(num_frames=num_frames, channels=3, height_px=32, width_px=32)}
    with pytest.raises(ConfigError, match=f"^{message}"):
        cross_task_attention(HEADS, inputs, **SMALL, **arguments)


@pytest.mark.parametrize("arguments", [{"windows": (8,)}, {"windows": (8, 16)}, {"tokens": "frames"}])
def test_attention_to_two_tokens_is_not(arguments: dict[str, Any]) -> None:
    num_frames = 16 if arguments.get("windows") == (8,) else 8
    inputs = {"rgb": InputShape(num_frames=num_frames, channels=3, height_px=32, width_px=32)}
    cross_task_attention(HEADS, inputs, **SMALL, **arguments)
