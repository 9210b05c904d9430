"""Attention: what the layers themselves computed, on the frames that it is of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.explain.test_saliency import shown_of
from torch import Tensor, nn

from kinema.explain.attention import Attentions, attention
from kinema.explain.attention_pictures import pictures
from kinema.models.build import build_model
from kinema.models.layers.perceiver import Attention
from kinema.types import Heads, Inputs, InputShape, UserError

T, SIZE = 8, 32
ONE: Heads = {"action": ("a", "b")}
TWO: Heads = {"verb": ("a", "b"), "noun": ("c", "d")}
TRANSFORMER = {"backbone": "tiny", "width": 32, "num_layers": 2, "num_heads": 4}


def built(name: str, arguments: dict[str, Any], heads: Heads = ONE) -> nn.Module:
    torch.manual_seed(0)
    inputs: Inputs = {"rgb": InputShape(num_frames=T, channels=3, height_px=SIZE, width_px=SIZE)}
    return build_model(name, arguments, heads=heads, inputs=inputs).eval()


def clip(seed: int = 0) -> Tensor:
    return torch.randn(1, T, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[str, dict[str, Any], Heads, int]] = {
    "class_token": ("cnn_transformer", TRANSFORMER, ONE, 3),
    "mean": ("cnn_transformer", TRANSFORMER | {"pool": "mean"}, ONE, 3),
    "perceiver": ("cnn_perceiver", {"backbone": "tiny", "size": 32, "num_queries": 5, "num_cross": 2}, ONE, 5),
    "bert": ("cnn_bert", {"backbone": "tiny"}, ONE, 1),
    "hybrid": ("cnn_hybrid", {"backbone": "tiny", "width": 32, "num_layers": 1, "num_heads": 4}, ONE, 1),
    "windows": ("cnn_multi_scale_transformer", TRANSFORMER | {"windows": (3, 8), "num_layers": 1}, ONE, 2),
    "tasks": (
        "cross_task_attention",
        TRANSFORMER | {"tokens": "frames", "branch_width": 16, "num_layers": 1, "head_hidden": (8,)},
        TWO,
        3,
    ),
    "tasks_of_windows": (
        "cross_task_attention",
        TRANSFORMER | {"windows": (3, 8), "branch_width": 16, "num_layers": 1, "head_hidden": (8,)},
        TWO,
        4,
    ),
    "clip": ("r2plus1d_18", {"num_blocks": 2, "pool": "perceiver", "num_self": 1, "num_queries": 4}, ONE, 3),
}


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[nn.Module, Attentions]]:
    models = {case: built(name, arguments, heads) for case, (name, arguments, heads, _) in CASES.items()}
    return {case: (model, attention(model, shown_of(clip()))) for case, model in models.items()}


@pytest.mark.parametrize("case", CASES)
def test_rows_sum_to_one_and_follow_the_input(case: str, found: dict[str, tuple[nn.Module, Attentions]]) -> None:
    model, first = found[case]
    assert len(first.looks) == CASES[case][3]
    for weights in first.weights:
        torch.testing.assert_close(weights.values.sum(dim=-1), torch.ones(weights.values.shape[:-1]))
    for look in first.looks:
        assert look.frames.shape == (len(look.rows), T)
        is_class = look.rows[0] == "class"
        assert look.frames.min() >= 0
        torch.testing.assert_close(look.frames.sum(dim=1), torch.ones(len(look.rows)))
        torch.testing.assert_close(look.summary, look.frames[0] if is_class else look.frames.mean(dim=0))
    other = attention(model, shown_of(clip(1)))
    for one, another in zip(first.looks, other.looks, strict=True):
        assert one.name == another.name
        assert not torch.allclose(one.frames, another.frames, atol=1e-6), one.name


@pytest.mark.parametrize("case", CASES)
def test_as_recomputed_plainly(case: str, found: dict[str, tuple[nn.Module, Attentions]]) -> None:
    model, first = found[case]
    seen: list[Tensor] = []

    def plainly(module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any], _: object) -> None:
        queries, keys = (given[0], given[1]) if given else (named["query"], named["key"])
        if isinstance(module, nn.MultiheadAttention):
            assert module.in_proj_weight is not None
            (w_q, w_k, _), (b_q, b_k, _) = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
            q, k, heads = queries @ w_q.T + b_q, keys @ w_k.T + b_k, module.num_heads
        else:
            assert isinstance(module, Attention)
            heads = module.num_heads
            q, k = module.query(queries), module.key_value(keys)[..., : 64 * heads]
        rows = []
        for head in range(heads):
            width = q.shape[-1] // heads
            part = slice(head * width, (head + 1) * width)
            rows.append((q[..., part] @ k[..., part].mT / width**0.5).softmax(dim=-1))
        seen.append(torch.stack(rows, dim=1))

    torch.backends.mha.set_fastpath_enabled(False)
    handles = [
        module.register_forward_hook(plainly, with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention | Attention)
    ]
    with torch.no_grad():
        model({"rgb": clip()})
    for handle in handles:
        handle.remove()
    torch.backends.mha.set_fastpath_enabled(True)
    assert len(seen) == len(first.weights)
    for one, expected in zip(first.weights, seen, strict=True):
        torch.testing.assert_close(one.values, expected, rtol=1e-4, atol=1e-5)


def test_frames_that_the_class_token_looks_at(found: dict[str, tuple[nn.Module, Attentions]]) -> None:
    _, first = found["class_token"]
    weights = first.weights[0].values[0].mean(dim=0)
    expected = weights[:, 1:] / weights[:, 1:].sum(dim=1, keepdim=True)
    torch.testing.assert_close(first.looks[0].frames, expected)
    own = torch.cat([torch.zeros(1, T), torch.eye(T)])
    through = own
    for one in first.weights:
        mean = one.values[0].mean(dim=0)
        through = 0.5 * (mean @ through) + 0.5 * through
        through = through / through.sum(dim=1, keepdim=True)
    assert first.looks[-1].name == "all layers"
    torch.testing.assert_close(first.looks[-1].frames, through)


def test_windows_that_a_task_looks_at(found: dict[str, tuple[nn.Module, Attentions]]) -> None:
    _, first = found["tasks_of_windows"]
    looks = {look.who: look for look in first.looks}
    assert list(looks) == ["frames, in windows of 3", "frames, in windows of 8", "verb, at noun", "noun, at verb"]
    weights = first.weights[-1].values[0].mean(dim=0)
    spans = [(0, 3), (2, 5), (5, 8), (0, 8)]
    expected = torch.zeros(4, T)
    for column, (start, stop) in enumerate(spans):
        expected[:, start:stop] += weights[:, column : column + 1] / (stop - start)
    torch.testing.assert_close(looks["noun, at verb"].frames, expected)
    assert looks["noun, at verb"].rows == ("1 to 3", "3 to 5", "6 to 8", "1 to 8")


@pytest.mark.parametrize("case", ["class_token", "windows", "tasks", "clip"])
def test_pictures(case: str, found: dict[str, tuple[nn.Module, Attentions]]) -> None:
    _, first = found[case]
    files = pictures(first, shown_of(clip()))
    assert len(files) == len(first.looks) + 2
    assert all(content.startswith(b"\x89PNG") for name, content in files.items() if name.endswith(".png"))


def test_a_model_without_any() -> None:
    with pytest.raises(UserError, match="no attention over frames; models with it are cnn_transformer"):
        attention(built("frame_average", {"backbone": "tiny"}), shown_of(clip()))
