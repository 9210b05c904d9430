"""Confidence beside accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from kinema.evaluation.calibration import NUM_BINS, calibration, fit_temperature


def made(num_clips: int, num_classes: int, seed: int, *, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((num_clips, num_classes))).astype(np.float32)
    return logits, rng.integers(num_classes, size=num_clips)


def mean_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    values, any_class = torch.from_numpy(logits).double() / temperature, 1 / (len(labels) + 1)
    return float(torch.nn.functional.cross_entropy(values, torch.from_numpy(labels), label_smoothing=any_class))


@given(st.integers(1, 200), st.integers(2, 12), st.integers(0, 2**31))
def test_the_error_is_that_of_torchmetrics(num_clips: int, num_classes: int, seed: int) -> None:
    logits, labels = made(num_clips, num_classes, seed)
    found = calibration(logits, labels)
    expected = multiclass_calibration_error(
        torch.from_numpy(logits).double().softmax(1), torch.from_numpy(labels), num_classes, n_bins=NUM_BINS
    )
    assert found["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert sum(one["num_clips"] for one in found["bins"]) == num_clips
    assert all(one["low"] <= one["confidence"] <= one["high"] + 1e-12 for one in found["bins"])


def test_without_clips_there_is_no_error() -> None:
    assert calibration(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) == {
        "ece": None,
        "confidence": None,
        "bins": [],
    }


@given(st.integers(2, 300), st.integers(2, 8), st.integers(0, 2**31), st.floats(0.2, 20))
def test_no_other_temperature_is_better(num_clips: int, num_classes: int, seed: int, scale: float) -> None:
    logits, labels = made(num_clips, num_classes, seed, scale=scale)
    best = fit_temperature(logits, labels)
    least = mean_loss(logits, labels, best)
    for factor in (0.5, 0.9, 1.1, 2.0):
        if 0.01 <= best * factor <= 100:
            assert least <= mean_loss(logits, labels, best * factor) + 1e-9


def test_the_temperature_that_made_the_labels_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((40_000, 5)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)
    labels = (logits + noise).argmax(axis=1)  # drawn from the softmax of the logits
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)
    before, after = calibration(3 * logits, labels)["ece"], calibration(logits, labels)["ece"]
    assert before > 0.2
    assert after < 0.02


def test_few_clips_that_are_all_right_do_not_make_it_sure_of_everything() -> None:
    found = []
    for num in (4, 40, 400):
        labels = np.arange(num) % 4
        found.append(fit_temperature(np.eye(4, dtype=np.float32)[labels], labels))
    confidence = [np.exp(1 / t) / (np.exp(1 / t) + 3) for t in found]
    assert confidence == pytest.approx([1 - 0.75 / 5, 1 - 0.75 / 41, 1 - 0.75 / 401])


def test_what_is_always_wrong_is_sure_of_nothing() -> None:
    assert fit_temperature(-np.eye(4, dtype=np.float32), np.arange(4)) == 100
