"""Whether another order of the frames costs anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.made_up import predictions

from kinema.evaluation.frame_orders import FRAME_ORDERS, frame_places, reorder
from kinema.evaluation.time_test import MEANING, meaning, no_use, time_test, uses_time


def test_orders_are_what_they_are_called() -> None:
    frames = torch.arange(6).float().expand(3, 6).contiguous()
    assert reorder(frames, frame_places("reversed", 6, [0, 1, 2])).tolist() == [[5, 4, 3, 2, 1, 0]] * 3
    assert reorder(frames, frame_places("still", 6, [0, 1, 2])).tolist() == [[3] * 6] * 3
    shuffled = reorder(frames, frame_places("shuffled", 6, [0, 1, 2]))
    assert all(sorted(row) == list(range(6)) and row != list(range(6)) for row in shuffled.tolist())
    assert len({tuple(row) for row in shuffled.tolist()}) == 3
    again = reorder(frames[1:2], frame_places("shuffled", 6, [1]))
    assert torch.equal(again, shuffled[1:2])  # whatever clips are beside it
    assert frame_places("shuffled", 1, [0]).tolist() == [[0]]


def test_drops_are_counted_clip_by_clip() -> None:
    rng = np.random.default_rng(0)
    labels = {"verb": rng.integers(0, 3, 60), "noun": rng.integers(0, 2, 60)}
    logits = {task: rng.normal(size=(60, k)).astype(np.float32) for task, k in (("verb", 3), ("noun", 2))}
    other = {task: rng.normal(size=values.shape).astype(np.float32) for task, values in logits.items()}
    found = time_test(replace(predictions(logits, labels), reordered={"reversed": other}))["reversed"]
    right, after = {}, {}
    for task in logits:
        right[task] = logits[task].argmax(1) == labels[task]
        after[task] = other[task].argmax(1) == labels[task]
        assert found[task]["top1"] == pytest.approx(after[task].mean())
        assert found[task]["drop"] == pytest.approx(right[task].mean() - after[task].mean())
        assert found[task]["same"] == pytest.approx((logits[task].argmax(1) == other[task].argmax(1)).mean())
        drops = [row["drop"] for row in found[task]["classes"]]
        assert drops == sorted(drops, reverse=True)
        for row in found[task]["classes"]:
            chosen = labels[task] == int(row["name"][-1])
            assert row["num_clips"] == chosen.sum()
            assert row["drop"] == pytest.approx(right[task][chosen].mean() - after[task][chosen].mean())
    both = (right["verb"] & right["noun"]).mean() - (after["verb"] & after["noun"]).mean()
    assert found["joint"]["drop"] == pytest.approx(both)


@pytest.mark.parametrize("sees_order", [True, False])
def test_who_sees_no_order_is_told_so(sees_order: bool) -> None:
    labels = {"verb": np.arange(40) % 2}
    logits = {"verb": np.eye(2, dtype=np.float32)[labels["verb"]]}
    other = {"verb": logits["verb"][:, ::-1] if sees_order else logits["verb"]}
    found = time_test(replace(predictions(logits, labels), reordered=dict.fromkeys(FRAME_ORDERS, other)))
    assert uses_time({order: tasks["verb"] for order, tasks in found.items()}) is sees_order


def test_of_few_groups_nothing_is_said() -> None:
    labels = {"verb": np.arange(4) % 2}
    logits = {"verb": np.eye(2, dtype=np.float32)[labels["verb"]]}
    found = time_test(replace(predictions(logits, labels), reordered={"still": logits}))
    assert uses_time({"still": found["still"]["verb"]}) is None


def test_of_motion_less_is_said() -> None:
    """A model may use the motion in each moment and be the same in any order of them."""
    assert no_use([]) == "it does not use time"
    assert no_use(["flow"]).startswith("it does not use the order of moments, whatever it makes of the motion in each")
    for order in FRAME_ORDERS:
        assert meaning(order, []) == MEANING[order]
        assert "motion" in meaning(order, ["flow"]) or "moments" in meaning(order, ["flow"])
