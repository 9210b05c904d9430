"""Saying that a clip shows nothing of the classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from tests.evaluation.made_up import predictions

from kinema.evaluation.rejection import (
    background_class,
    fit_threshold,
    is_background,
    rejection_record,
    roc,
    scores,
    separation,
)
from kinema.models.weights import Rejection
from kinema.types import ConfigError

LOGITS = {
    task: np.random.default_rng(k).normal(size=(50, k)).astype(np.float32) * 3 for task, k in (("verb", 4), ("noun", 6))
}


def test_scores_are_those_of_the_literature() -> None:
    tensors = {task: torch.from_numpy(values).double() for task, values in LOGITS.items()}
    best = tensors["verb"].softmax(1).amax(1) * tensors["noun"].softmax(1).amax(1)
    np.testing.assert_allclose(scores(LOGITS, "max_probability"), best.numpy(), rtol=1e-6)
    energy = tensors["verb"].logsumexp(1) + tensors["noun"].logsumexp(1)
    np.testing.assert_allclose(scores(LOGITS, "energy"), energy.numpy(), rtol=1e-6)
    nothing = tensors["verb"].softmax(1)[:, 3] * tensors["noun"].softmax(1)[:, 5]
    found = scores(LOGITS, "background", background={"verb": 3, "noun": 5})
    np.testing.assert_allclose(found, 1 - nothing.numpy(), rtol=1e-6)
    warm = scores({"verb": LOGITS["verb"]}, "max_probability", temperatures={"verb": 2.5})
    np.testing.assert_allclose(warm, (tensors["verb"] / 2.5).softmax(1).amax(1).numpy(), rtol=1e-6)


@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_separation_is_that_of_scikit_learn(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    known, unknown = rng.normal(0.7, 1, 30), rng.normal(0, 1, 45)
    if ties:
        known, unknown = known.round(0), unknown.round(0)
    truth, values = np.r_[np.ones(30), np.zeros(45)], np.r_[known, unknown]
    found = separation(known, unknown)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, values))
    false_positive, recall, _ = roc_curve(truth, values, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(false_positive[recall >= 0.95].min())


@given(seed=st.integers(0, 10_000), recall=st.floats(0.01, 1), num=st.integers(1, 60))
def test_a_threshold_lets_through_what_was_asked_for_and_hardly_more(seed: int, recall: float, num: int) -> None:
    known = np.random.default_rng(seed).normal(size=num)
    threshold = fit_threshold(known, recall)
    assert (known >= threshold).mean() >= recall - 1e-9
    let_through = known[known >= threshold]
    assert (known > let_through.min()).mean() < recall
    assert threshold < let_through.min()  # so that rounding decides nothing


def test_classes_that_stand_for_nothing_are_found_by_name() -> None:
    heads = {"verb": ("a", "none"), "noun": ("x", "y", "none")}
    assert background_class("none", heads) == {"verb": 1, "noun": 2}
    assert background_class("y", heads) == {"noun": 1}
    with pytest.raises(ConfigError, match="--background: 'z' is no class of this model"):
        background_class("z", heads)
    labels = {"verb": np.array([1, 1, 0]), "noun": np.array([2, 0, 2])}
    assert is_background(labels, {"verb": 1, "noun": 2}).tolist() == [True, False, False]


def test_a_record_says_what_a_threshold_comes_to() -> None:
    labels = {task: values.argmax(1) for task, values in LOGITS.items()}
    labels["verb"][:5] = (labels["verb"][:5] + 1) % 4  # five are wrong
    known = predictions(LOGITS, labels)
    unknown = predictions({task: 0.1 * values for task, values in LOGITS.items()}, labels)
    kept = Rejection(
        method="max_probability", threshold=0.5, recall=0.95, background=None, split="validation", clip_ids=["a"]
    )
    found = rejection_record(known, unknown, kept=kept, temperatures=None)
    answered = scores(LOGITS, "max_probability") >= 0.5
    assert found["known_accepted"] == pytest.approx(answered.mean())
    assert found["top1_accepted"] == pytest.approx(np.arange(50)[answered].__ge__(5).mean())
    assert found["unknown_accepted"] == (scores(unknown.logits, "max_probability") >= 0.5).mean() == 0
    assert found["methods"].keys() == {"max_probability", "energy"}
    assert found["methods"]["max_probability"] == separation(
        scores(LOGITS, "max_probability"), scores(unknown.logits, "max_probability")
    )
    assert sum(found["scores"]["known"]) == sum(found["scores"]["unknown"]) == 50
    assert len(found["scores"]["edges"]) == len(found["scores"]["known"]) + 1
    assert "energy" not in rejection_record(known, unknown, kept=None, temperatures=None, has_logits=False)["methods"]
    made = rejection_record(known, unknown, kept=None, temperatures=None, background={"verb": 0})
    assert made["methods"].keys() == {"max_probability", "energy", "background"}
    assert "threshold" not in made
    assert "methods" not in rejection_record(known, None, kept=kept, temperatures=None)


def test_clips_of_nothing_are_not_among_the_known() -> None:
    labels = {"verb": np.arange(50) % 4}
    logits = {"verb": LOGITS["verb"]}
    known, unknown = predictions(logits, labels), predictions(logits, labels)
    found = rejection_record(known, unknown, kept=None, temperatures=None, background={"verb": 2})
    shown = scores({"verb": logits["verb"][labels["verb"] != 2]}, "energy")
    assert found["methods"]["energy"] == separation(shown, scores(logits, "energy"))
    assert sum(found["scores"]["known"]) == len(shown)


@pytest.mark.parametrize("num", [7, 2000])
def test_the_area_under_the_curve_is_the_auroc(num: int) -> None:
    """Beside scikit-learn's curve, with scores that several clips share; thinned out it is the same to a hundredth."""
    rng = np.random.default_rng(num)
    known, unknown = rng.normal(1, 1, num).round(1), rng.normal(0, 1, num + 3).round(1)
    found = roc(known, unknown, most=10**6)
    is_known = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    fpr, tpr, thresholds = roc_curve(is_known, np.concatenate([known, unknown]), drop_intermediate=False)
    np.testing.assert_allclose(found["unknown"], fpr[1:])
    np.testing.assert_allclose(found["known"], tpr[1:])
    np.testing.assert_allclose(found["threshold"], thresholds[1:])
    area = separation(known, unknown)["auroc"]
    assert np.trapezoid([0, *found["known"]], [0, *found["unknown"]]) == pytest.approx(area)
    thin = roc(rng.normal(1, 1, num), rng.normal(0, 1, num), most=100)
    assert len(thin["known"]) <= 100
    assert (thin["known"][-1], thin["unknown"][-1]) == (1, 1)


def test_the_curve_of_what_is_told_apart_in_full() -> None:
    found = roc(np.array([2.0, 3.0]), np.array([1.0, 0.0]))
    assert found == {"threshold": [3, 2, 1, 0], "unknown": [0, 0, 0.5, 1], "known": [0.5, 1, 1, 1]}
