"""Accuracy on common and on rare classes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.evaluation.made_up import predictions

from kinema.evaluation.frequency import accuracy_by_frequency, frequency_groups


def test_thirds_of_the_classes() -> None:
    counts = [1, 50, 20, 100, 3, 30, 5, 9, 0, 70]
    groups = frequency_groups(counts)
    assert groups == {"head": [1, 3, 9], "middle": [2, 5, 7], "tail": [0, 4, 6]}


def test_equal_classes_are_in_one_group() -> None:
    assert frequency_groups([90, 40, 40, 2, 2, 2]) == {"head": [0, 1, 2], "middle": [], "tail": [3, 4, 5]}
    assert frequency_groups([10, 9, 8, 7]) is None  # hardly skewed
    assert frequency_groups([10, 1]) is None
    assert frequency_groups([9, 1, 1, 1, 1, 1]) is None  # head and tail would share classes
    assert frequency_groups([0, 0, 0]) is None


def test_each_class_counts_the_same_within_its_group() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    answers = np.array([0, 0, 0, 1, 1, 0, 2])
    made = predictions({"action": np.eye(4, dtype=np.float32)[answers]}, {"action": labels})
    found = accuracy_by_frequency(made, "action", [50, 10, 1, 0])
    assert (found["head"], found["middle"], found["tail"]) == pytest.approx((0.75, 1.0, 0.5))
    assert found["frequency"]["tail"] == {
        "num_classes": 1,
        "num_clips": 2,
        "fewest_training_clips": 1,
        "most_training_clips": 1,
    }
    assert accuracy_by_frequency(made, "action", [5, 5, 5, 5]) == {}
    assert accuracy_by_frequency(made, "action", []) == {}  # of an ensemble that does not know


def test_a_group_without_clips_has_no_accuracy() -> None:
    made = predictions({"action": np.eye(3, dtype=np.float32)}, {"action": np.array([0, 1, 0])})
    assert accuracy_by_frequency(made, "action", [50, 10, 1])["tail"] is None
