"""Metrics against slow plain counting, and against torchmetrics where it has them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tests.evaluation.made_up import predictions
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from kinema.evaluation.baselines import baselines, class_counts, commonest
from kinema.evaluation.metrics import (
    TOP_K,
    accuracy,
    confusion_matrix,
    joint_ranks,
    main_task,
    pair_accuracy,
    task_metrics,
    top_k,
)
from kinema.evaluation.predictions import Predictions, log_softmax, ranks_of_truth

LOGITS = st.floats(-50, 50, width=32)
# Few different values, so that there are ties.
TIED = st.sampled_from([-1.0, 0.0, 1.0])


@st.composite
def made(draw: st.DrawFn, *, num_tasks: int | None = None, min_clips: int = 1) -> Predictions:
    """Predictions of one to three tasks of one to six classes."""
    num_clips = draw(st.integers(min_clips, 8))
    tasks = draw(st.integers(1, 3)) if num_tasks is None else num_tasks
    elements = draw(st.sampled_from([LOGITS, TIED]))
    logits, labels = {}, {}
    for number in range(tasks):
        num_classes = draw(st.integers(1, 6))
        logits[f"task{number}"] = draw(npst.arrays(np.float32, (num_clips, num_classes), elements=elements))
        labels[f"task{number}"] = draw(npst.arrays(np.int64, num_clips, elements=st.integers(0, num_classes - 1)))
    return predictions(logits, labels)


def plain_rank(scores: list[float], label: int) -> int:
    """Position of the label in the list of classes, best first, ties in the order of the classes."""
    return sorted(range(len(scores)), key=lambda k: (-scores[k], k)).index(label)


@given(made())
def test_task_metrics_equal_plain_counting(found: Predictions) -> None:
    for task in found.classes:
        logits, labels = found.logits[task], found.labels[task]
        metrics = task_metrics(found, task)
        ranks = [plain_rank(row.tolist(), label) for row, label in zip(logits, labels, strict=True)]
        for k in TOP_K:
            assert metrics[f"top{k}"] == pytest.approx(sum(rank < k for rank in ranks) / len(ranks))
        recalls = []
        for label in set(labels.tolist()):
            own = [rank for rank, truth in zip(ranks, labels, strict=True) if truth == label]
            recalls.append(sum(rank == 0 for rank in own) / len(own))
        assert metrics["mean_class"] == pytest.approx(sum(recalls) / len(recalls))
        losses = [
            math.log(sum(math.exp(value - row[label]) for value in row))
            for row, label in zip(logits.astype(float).tolist(), labels.tolist(), strict=True)
        ]
        assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-9)


@settings(max_examples=40)
@given(made(num_tasks=1), st.data())
def test_task_metrics_equal_torchmetrics(found: Predictions, data: st.DataObject) -> None:
    logits, labels = found.logits["task0"], found.labels["task0"]
    num_clips, num_classes = logits.shape
    if num_classes < 2:
        return
    # torchmetrics and we may order ties differently: every row is a permutation.
    order = [data.draw(st.permutations(range(num_classes))) for _ in range(num_clips)]
    distinct = predictions({"task0": np.array(order, dtype=np.float32)}, {"task0": labels})
    scores, truth = torch.from_numpy(distinct.logits["task0"]), torch.from_numpy(labels)
    metrics = task_metrics(distinct, "task0")
    for k in TOP_K:
        if k <= num_classes:
            theirs = multiclass_accuracy(scores, truth, num_classes, average="micro", top_k=k)
            assert metrics[f"top{k}"] == pytest.approx(theirs.item())
        else:
            assert metrics[f"top{k}"] == 1.0
    there = torch.unique(truth)
    by_class = multiclass_accuracy(scores, truth, num_classes, average="none")[there]
    assert metrics["mean_class"] == pytest.approx(by_class.mean().item())
    matrix = confusion_matrix(scores.argmax(1).numpy(), labels, num_classes=num_classes)
    theirs = multiclass_confusion_matrix(scores, truth, num_classes)
    assert matrix.tolist() == theirs.tolist()
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, truth).item(), abs=1e-5)


@given(made())
def test_top_k_grows_with_k_and_first_rank_is_argmax(found: Predictions) -> None:
    for task in found.classes:
        metrics = task_metrics(found, task)
        assert 0 <= metrics["top1"] <= metrics["top3"] <= metrics["top5"] <= 1
        assert metrics["top1"] == accuracy(found)[task]


@settings(max_examples=60)
@given(made(num_tasks=2) | made(num_tasks=3))
def test_joint_ranks_equal_brute_force(found: Predictions) -> None:
    tasks = list(found.classes)
    ranks = joint_ranks(found)
    for row in range(len(found.clips)):
        probabilities = {task: found.logits[task][row].astype(float) for task in tasks}
        combinations = list(itertools.product(*(range(len(found.classes[task])) for task in tasks)))
        scores = [sum(probabilities[t][k] for t, k in zip(tasks, labels, strict=True)) for labels in combinations]
        truth = combinations.index(tuple(int(found.labels[task][row]) for task in tasks))
        before = sum(score > scores[truth] + 1e-9 for score in scores)
        tied = sum(abs(score - scores[truth]) <= 1e-9 for score in scores)
        assert before <= ranks[row] < before + tied


@given(made(num_tasks=2) | made(num_tasks=3))
def test_joint_is_right_in_all_and_never_above_a_task(found: Predictions) -> None:
    joint = top_k(joint_ranks(found))
    right = np.logical_and.reduce([found.logits[t].argmax(1) == found.labels[t] for t in found.classes])
    assert joint["top1"] == accuracy(found)["joint"] == right.mean()
    assert joint["top1"] <= min(accuracy(found)[task] for task in found.classes)
    assert joint["top5"] <= min(task_metrics(found, task)["top5"] for task in found.classes)


def test_joint_is_no_better_than_a_task_where_rounding_makes_equals_of_classes() -> None:
    # Beside a best class of 1, the first two are both -1 in float64; alone, the second is before the first.
    logits = np.array([[-1e-27, 0, 1, 1, 1, 1]], dtype=np.float32)
    found = predictions({"a": logits, "b": np.zeros((1, 1), np.float32)}, {"a": np.array([0]), "b": np.array([0])})
    assert joint_ranks(found).tolist() == [5]
    assert top_k(joint_ranks(found))["top5"] == task_metrics(found, "a")["top5"] == 0.0


def test_joint_agrees_with_the_tasks_where_logits_hardly_differ() -> None:
    # As logarithms of probabilities the two classes are equal in float64.
    tiny = np.array([[0.0, 1e-30]], dtype=np.float32)
    found = predictions({"a": tiny, "b": tiny}, {"a": np.array([1]), "b": np.array([1])})
    assert accuracy(found)["joint"] == 1.0
    assert joint_ranks(found).tolist() == [0]


def test_joint_ranks_of_many_clips_and_classes() -> None:
    rng = np.random.default_rng(0)
    logits = {
        "verb": rng.normal(size=(150, 97)).astype(np.float32),
        "noun": rng.normal(size=(150, 300)).astype(np.float32),
    }
    labels = {"verb": rng.integers(0, 97, 150), "noun": rng.integers(0, 300, 150)}
    ranks = joint_ranks(predictions(logits, labels))
    for row in (0, 63, 64, 149):
        scores = logits["verb"][row].astype(float)[:, None] + logits["noun"][row].astype(float)
        assert ranks[row] == (scores > scores[labels["verb"][row], labels["noun"][row]]).sum()


def test_equal_scores_are_in_the_order_of_the_classes() -> None:
    assert ranks_of_truth(np.zeros((3, 3)), np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_log_softmax_of_large_logits() -> None:
    found = log_softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0.0, -1e4], [math.log(0.5)] * 2])


def test_without_clips_there_are_no_numbers() -> None:
    none = predictions(
        {"a": np.zeros((0, 3), np.float32), "b": np.zeros((0, 2), np.float32)},
        {"a": np.zeros(0, np.int64), "b": np.zeros(0, np.int64)},
    )
    assert all(math.isnan(value) for value in task_metrics(none, "a").values())
    assert all(math.isnan(value) for value in accuracy(none).values())
    assert all(math.isnan(value) for value in top_k(joint_ranks(none)).values())
    assert confusion_matrix(none.labels["a"], none.labels["a"], num_classes=3).tolist() == [[0] * 3] * 3
    assert pair_accuracy(none, {"a": (("a0", "a1"),)}) == {}


def test_the_headline() -> None:
    assert main_task(["action"]) == "action"
    assert main_task({"verb": 1, "noun": 2}) == "joint"


# Pairs


def test_pairs_offer_two_classes() -> None:
    logits = np.array(
        [
            [3, 2, 9, 0],  # of a0 and a1: a0
            [2, 3, 9, 0],  # a1
            [5, 0, 1, 2],  # of a2 and a3: a3
            [0, 0, 0, 0],  # the first of two that are equal
        ],
        dtype=np.float32,
    )
    found = predictions({"a": logits}, {"a": np.array([0, 0, 3, 2])})
    pairs = {"a": (("a0", "a1"), ("a2", "a3"), ("a0", "elsewhere"))}
    assert pair_accuracy(found, pairs) == {"all": 0.75, "a0 / a1": 0.5, "a2 / a3": 1.0}
    assert pair_accuracy(found, {"other task": (("x", "y"),)}) == {}
    assert pair_accuracy(found, {}) == {}


@given(made(num_tasks=1))
def test_pairs_equal_plain_counting(found: Predictions) -> None:
    names = found.classes["task0"]
    pairs = list(itertools.pairwise(names))[::2]
    hits: dict[str, list[bool]] = {}
    for row, label in zip(found.logits["task0"], found.labels["task0"], strict=True):
        for first, second in pairs:
            low, high = names.index(first), names.index(second)
            if label in (low, high):
                answer = high if row[high] > row[low] else low
                hits.setdefault(f"{first} / {second}", []).append(answer == label)
    every = [hit for own in hits.values() for hit in own]
    expected: dict[str, Any] = {name: sum(own) / len(own) for name, own in hits.items()}
    if every:
        expected["all"] = sum(every) / len(every)
    assert pair_accuracy(found, {"task0": pairs}) == pytest.approx(expected)


# Baselines


@given(made())
def test_baselines_equal_plain_counting(trained: Predictions) -> None:
    labels = [{task: int(trained.labels[task][row]) for task in trained.classes} for row in range(len(trained.clips))]
    common = commonest(trained.clips, trained.classes)
    found = baselines(trained, common)
    for task, names in trained.classes.items():
        counts = [sum(own[task] == k for own in labels) for k in range(len(names))]
        assert class_counts(trained.clips, trained.classes)[task] == counts
        assert common[task] == counts.index(max(counts))
        assert found[task] == pytest.approx({"chance": 1 / len(names), "majority": max(counts) / len(labels)})
    if len(trained.classes) > 1:
        together = [tuple(own.values()) for own in labels]
        most = max(together.count(combination) for combination in together)
        assert together.count(tuple(common["joint"])) == most
        number = math.prod(len(names) for names in trained.classes.values())
        assert found["joint"] == pytest.approx({"chance": 1 / number, "majority": most / len(labels)})
    else:
        assert "joint" not in found


def test_majority_is_the_training_clips_commonest_class_on_the_evaluated_clips() -> None:
    found = predictions({"a": np.zeros((4, 3), np.float32)}, {"a": np.array([0, 0, 0, 2])})
    assert baselines(found, {"a": 2})["a"] == {"chance": 1 / 3, "majority": 0.25}


def test_majority_of_combinations_is_not_the_combination_of_majorities() -> None:
    labels = {"a": np.array([0, 0, 0, 1, 1]), "b": np.array([0, 1, 2, 0, 0])}
    trained = predictions({t: np.zeros((5, 3), np.float32) for t in labels}, labels)
    common = commonest(trained.clips, trained.classes)
    assert common == {"a": 0, "b": 0, "joint": [1, 0]}
    assert baselines(trained, common)["joint"]["majority"] == 0.4
