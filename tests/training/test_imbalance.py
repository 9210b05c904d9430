"""What is done about classes of unequal numbers of clips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kinema.data.loading import EpochOrder
from kinema.sections import TaskSection
from kinema.training.imbalance import draw, draw_of, skew_of, skews_of
from kinema.training.losses import check_tasks, multi_task_loss
from kinema.types import Clip, ConfigError

COUNTS = [80, 15, 5, 0]
LABELS = np.repeat(np.arange(4), COUNTS)


def section(imbalance: Any) -> TaskSection:
    return TaskSection(imbalance=imbalance)


def loss_of(imbalance: Any, logits: torch.Tensor, label: int) -> float:
    task = section(imbalance)
    found = multi_task_loss(
        {"action": logits[None]},
        {"action": torch.tensor([label])},
        task,
        skews=skews_of({"action": COUNTS}, task.imbalance),
    )
    return float(found)


LOGITS = torch.tensor([2.0, 0.5, -1.0, 0.0])


def test_weights_are_inverse_and_of_mean_one() -> None:
    skew = skew_of(COUNTS, section("class_weights").imbalance)
    assert skew is not None
    assert skew.weights is not None
    assert skew.weights.tolist() == pytest.approx([100 / 240, 100 / 45, 100 / 15, 0])
    assert float((skew.weights * torch.tensor(COUNTS)).sum() / 100) == pytest.approx(1)


def test_effective_numbers_are_between_equal_and_inverse_weights() -> None:
    def ratio(beta: float) -> float:
        skew = skew_of(COUNTS, section({"name": "effective_number", "beta": beta}).imbalance)
        assert skew is not None
        assert skew.weights is not None
        return float(skew.weights[2] / skew.weights[0])

    assert ratio(0.9) == pytest.approx((1 - 0.9**80) / (1 - 0.9**5), rel=1e-5)
    assert ratio(0.999999) == pytest.approx(16, rel=1e-3)
    assert ratio(0.01) == pytest.approx(1, rel=1e-3)


def test_a_rare_clip_counts_more() -> None:
    plain = [float(F.cross_entropy(LOGITS[None], torch.tensor([label]))) for label in range(3)]
    weighted = [loss_of("class_weights", LOGITS, label) for label in range(3)]
    assert [w / p for w, p in zip(weighted, plain, strict=True)] == pytest.approx([100 / 240, 100 / 45, 100 / 15])


def test_the_focal_loss_is_that_of_its_paper() -> None:
    p = torch.softmax(LOGITS, 0)[1]
    assert loss_of({"name": "focal", "gamma": 3}, LOGITS, 1) == pytest.approx(float(-((1 - p) ** 3) * torch.log(p)))


def test_what_is_certain_has_a_gradient_in_the_focal_loss() -> None:
    logits = torch.tensor([[200.0, 0, 0, 0]], requires_grad=True)
    task = section({"name": "focal", "gamma": 0.5})
    skews = skews_of({"action": COUNTS}, task.imbalance)
    torch.autograd.backward(multi_task_loss({"action": logits}, {"action": torch.tensor([0])}, task, skews=skews))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_logits_are_adjusted_by_the_prior_and_a_class_without_clips_like_the_commonest() -> None:
    prior = torch.tensor([0.8, 0.15, 0.05, 0.8])
    expected = F.cross_entropy((LOGITS + 0.5 * prior.log())[None], torch.tensor([2]))
    assert loss_of({"name": "logit_adjustment", "tau": 0.5}, LOGITS, 2) == pytest.approx(float(expected))


def test_adjusted_logits_make_rare_classes_as_likely_as_common_ones() -> None:
    """Of features that say nothing, a model learns the prior; with the adjustment it learns nothing of it."""
    for imbalance, expected in (("none", np.log([0.8, 0.15, 0.05])), ("logit_adjustment", np.zeros(3))):
        task = section(imbalance)
        logits = torch.zeros(3, requires_grad=True)
        optimiser = torch.optim.LBFGS([logits], max_iter=100)
        labels = {"action": torch.tensor(LABELS)}
        skews = skews_of({"action": COUNTS[:3]}, task.imbalance)

        def closure(
            optimiser: Any = optimiser, logits: Any = logits, task: Any = task, skews: Any = skews, labels: Any = labels
        ) -> Any:
            optimiser.zero_grad()
            loss = multi_task_loss({"action": logits.expand(100, 3)}, labels, task, skews=skews)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        found = logits.detach().numpy()
        assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=1e-3)


@pytest.mark.parametrize(("power", "expected"), [(0.0, [1 / 3, 1 / 3, 1 / 3]), (0.5, [0.589, 0.255, 0.147])])
def test_clips_are_drawn_in_shares(power: float, expected: list[float]) -> None:
    found = np.zeros(3)
    for seed in range(50):
        order = draw(np.random.default_rng(seed), LABELS, power=power)
        assert len(order) == len(LABELS)
        found += np.bincount(LABELS[order], minlength=3)[:3]
    assert found / found.sum() == pytest.approx(expected, abs=0.01)


def test_clips_of_a_class_come_as_often_as_each_other() -> None:
    times = np.bincount(draw(np.random.default_rng(0), LABELS, power=0.0), minlength=100)
    for label in range(3):
        of_class = times[label == LABELS]
        assert of_class.max() - of_class.min() <= 1
    assert times.sum() == 100
    assert sorted(draw(np.random.default_rng(0), LABELS, power=1.0)) == list(range(100))


def clips() -> list[Clip]:
    return [
        Clip(clip_id=str(index), video=Path("x"), labels={"verb": int(label), "noun": index % 2})
        for index, label in enumerate(LABELS)
    ]


def test_the_order_is_a_function_of_seed_and_epoch_and_repeats_are_other_versions() -> None:
    classes = {"verb": ("a", "b", "c", "d"), "noun": ("x", "y")}
    made = draw_of(clips(), section("balanced_sampling").imbalance, classes)

    def batches(epoch: int, first: int = 0, seed: int = 0) -> list[list[tuple[int, int]]]:
        order = EpochOrder(100, batch_size=8, seed=seed, draw=made)
        order.set_position(epoch=epoch, first_batch=first)
        return list(order)

    assert batches(3) == batches(3)
    assert batches(3)[5:] == batches(3, first=5)
    assert batches(3) != batches(4)
    assert batches(3) != batches(3, seed=1)
    items = [item for batch in batches(3) for item in batch]
    assert len(set(items)) == len(items) == 100  # no version of a clip comes twice
    assert {epoch for _, epoch in items} > {3}
    for views in (2, 4, 8):
        of_rare = [epoch % views for index, epoch in items if index == 99]
        assert len(set(of_rare)) == min(views, len(of_rare))
    by_noun = draw_of(clips(), section({"name": "balanced_sampling", "task": "noun"}).imbalance, classes)
    assert by_noun is not None
    assert sorted(by_noun(np.random.default_rng(0))) == list(range(100))  # both nouns are as common


def test_without_sampling_the_order_is_what_it_was() -> None:
    assert draw_of(clips(), section("focal").imbalance, {"verb": ("a", "b", "c", "d")}) is None
    order = EpochOrder(10, batch_size=4, seed=3)
    expected = np.arange(10)
    np.random.default_rng([3, 0]).shuffle(expected)
    assert [index for batch in order for index, _ in batch] == expected.tolist()
    assert {epoch for batch in order for _, epoch in batch} == {0}


def test_tasks_that_are_not_there_are_refused() -> None:
    classes = {"action": ("a", "b")}
    with pytest.raises(ConfigError, match=r"^task.imbalance.task: no such task; this data set has action"):
        draw_of([], section({"name": "sqrt_sampling", "task": "verb"}).imbalance, classes)
    with pytest.raises(ConfigError, match=r"^task.label_smoothing.verb: no such task"):
        check_tasks(TaskSection(label_smoothing={"verb": 0.1}), classes)
    with pytest.raises(ConfigError, match=r"^task.combine: uncertainty weighs several tasks"):
        check_tasks(TaskSection(combine="uncertainty"), classes)
    with pytest.raises(ValueError, match="leave them out"):
        TaskSection(combine="uncertainty", weights={"verb": 2})


def test_each_task_has_its_own_smoothing() -> None:
    logits = {"verb": LOGITS[None], "noun": LOGITS[None]}
    labels = {"verb": torch.tensor([0]), "noun": torch.tensor([1])}
    found = multi_task_loss(logits, labels, TaskSection(label_smoothing={"noun": 0.3}))
    expected = F.cross_entropy(LOGITS[None], labels["verb"])
    expected = expected + F.cross_entropy(LOGITS[None], labels["noun"], label_smoothing=0.3)
    assert float(found) == pytest.approx(float(expected))


def test_uncertain_tasks_are_weighted_down_to_what_their_loss_is_worth() -> None:
    """At its best, exp(s) is twice the loss: d/ds (exp(-s) L + s / 2) = 0."""
    logits = {"verb": LOGITS[None], "noun": 0.1 * LOGITS[None]}
    labels = {"verb": torch.tensor([0]), "noun": torch.tensor([2])}
    log_variances = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_variances], max_iter=200, tolerance_grad=1e-9)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = multi_task_loss(logits, labels, TaskSection(combine="uncertainty"), log_variances=log_variances)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    losses = [float(F.cross_entropy(logits[task], labels[task])) for task in logits]
    assert log_variances.tolist() == pytest.approx([math.log(2 * loss) for loss in losses], abs=1e-3)
