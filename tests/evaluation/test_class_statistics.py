"""Every class by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score
from tests.evaluation import made_up

from kinema.evaluation.class_statistics import class_statistics, intervals
from kinema.evaluation.predictions import Predictions


def predictions(logits: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None = None) -> Predictions:
    found = made_up.predictions({"class": logits}, {"class": labels})
    if groups is None:
        return found
    clips = [replace(clip, group=f"g{group}") for clip, group in zip(found.clips, groups, strict=True)]
    return replace(found, clips=clips)


def made(num_clips: int, num_classes: int, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_clips)
    logits = rng.standard_normal((num_clips, num_classes)).astype(np.float32)
    logits[np.arange(num_clips), labels] += 0.7
    return predictions(logits, labels)


def close(found: float | None, expected: float) -> bool:
    return (found is None and np.isnan(expected)) or found == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(2, 7), st.integers(0, 2**31))
def test_they_are_scikit_learns(num_clips: int, num_classes: int, seed: int) -> None:
    some = made(num_clips, num_classes, seed)
    found = class_statistics(some, "class")
    labels, scores = some.labels["class"], some.probabilities("class")
    answers = scores.argmax(axis=1)
    present = np.unique(labels)
    for average in ("macro", "weighted"):
        expected = precision_recall_fscore_support(labels, answers, labels=present, average=average, zero_division=0.0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert close(found[f"{name}_{average}"], value)
    rows = {row["name"]: row for row in found["classes"]}
    assert {f"class{k}" for k in present} <= rows.keys()
    assert rows.keys() == {f"class{k}" for k in np.union1d(present, answers)}
    for k in present.tolist():
        row = rows[f"class{k}"]
        truth = labels == k
        assert close(row["recall"], (answers[truth] == k).mean())
        assert close(row["average_precision"], average_precision_score(truth, scores[:, k]))
        assert close(row["auroc"], roc_auc_score(truth, scores[:, k]) if not truth.all() else np.nan)
        assert (row["num_clips"], row["right"]) == (truth.sum(), (answers[truth] == k).sum())


def test_means_are_over_classes_that_have_clips() -> None:
    """A class without clips has no recall, and one that was never answered no precision."""
    logits = np.array([[2, 0, 0], [2, 0, 0], [2, 0, 1], [0, 0, 2]], np.float32)
    found = class_statistics(predictions(logits, np.array([0, 0, 0, 1])), "class")
    assert [row["name"] for row in found["classes"]] == ["class0", "class1", "class2"]
    assert [row["recall"] for row in found["classes"]] == [1.0, 0.0, None]
    assert [row["precision"] for row in found["classes"]] == [1.0, None, 0.0]
    assert found["recall_macro"] == 0.5
    assert found["precision_macro"] == 0.5
    assert found["recall_weighted"] == 0.75


def test_without_clips_there_are_no_numbers() -> None:
    found = class_statistics(predictions(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)), "class")
    assert found.pop("classes") == []
    assert set(found.values()) == {None}


def covered(num_groups: int, *, by_group: bool) -> float:
    """How often intervals hold the truth, 70 %, where all 10 clips of a group are right, or none is."""
    rng = np.random.default_rng(1)
    num = 0
    for _ in range(100):
        right = np.repeat(rng.random(num_groups) < 0.7, 10)
        groups = np.repeat(np.arange(num_groups), 10) if by_group else np.arange(10 * num_groups)
        found, _ = intervals(right, groups, num_resamples=300)
        assert found is not None
        num += found[0] <= 0.7 <= found[1]
    return num / 100


def test_intervals_hold_the_truth_where_clips_of_a_group_are_alike() -> None:
    assert covered(40, by_group=True) > 0.88
    assert covered(10, by_group=True) > 0.85
    assert covered(40, by_group=False) < 0.6  # what is wrong with drawing clips


def test_of_few_groups_too_little_is_known() -> None:
    values, groups = np.arange(40) % 3 > 0, np.arange(40) % 9
    assert intervals(values, groups) == (None, [None])
    labels = (np.arange(40) % 11 < 9).astype(np.int64)  # one class in 9 groups of 11
    whole, (few, many) = intervals(values, np.arange(40) % 11, labels, num_classes=2)
    assert whole is not None
    assert few is None
    assert many is None
    whole, (many,) = intervals(values, np.arange(40) % 11)
    assert whole == many


def test_where_all_are_right_it_could_have_been_otherwise() -> None:
    """Of 10 groups, all right: 69 % of all groups might be, with 2.5 % probability."""
    found, of_classes = intervals(np.ones(20, dtype=bool), np.arange(20) % 10)
    assert found == pytest.approx([0.6915, 1.0], abs=1e-4)
    assert of_classes == [found]
    found, _ = intervals(np.zeros(20, dtype=bool), np.arange(20) % 10)
    assert found == pytest.approx([0.0, 0.3085], abs=1e-4)


def test_more_draws_are_drawn() -> None:
    values, groups = np.arange(60) % 7 > 2, np.arange(60) % 20
    assert intervals(values, groups, num_resamples=50) != intervals(values, groups, num_resamples=100)
