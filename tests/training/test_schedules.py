"""Optimisers and learning-rate schedules, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kinema.sections import OptimSection
from kinema.training.optimisers import build_optimiser
from kinema.training.schedules import build_schedule, lower_on_plateau


def shares(num_epochs: int, *, steps_per_epoch: int = 2, **settings: Any) -> list[float]:
    """The learning rate of each step, as a share of the highest."""
    optim = OptimSection(**settings)
    optimiser = build_optimiser(nn.Linear(1, 1), optim, fused=False)
    schedule = build_schedule(optimiser, optim, steps_per_epoch=steps_per_epoch, num_epochs=num_epochs)
    found = []
    for _ in range(steps_per_epoch * num_epochs):
        found.append(float(schedule.get_last_lr()[0]) / optim.lr)
        optimiser.step()
        schedule.step()
    return found


def test_the_cosine_rises_and_falls_to_zero() -> None:
    found = shares(10, steps_per_epoch=4, lr=0.1, warmup_epochs=1.5)
    assert found[:7] == pytest.approx([1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1.0])
    assert found[6:] == sorted(found[6:], reverse=True)
    assert found[6 + 17] == pytest.approx(0.5)  # half-way
    assert 0 < found[-1] < 0.003


def test_a_constant_rate_is_constant_after_its_warm_up() -> None:
    found = shares(3, steps_per_epoch=3, schedule="constant", warmup_epochs=1)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1])


def test_one_step_is_a_whole_training() -> None:
    assert shares(1, steps_per_epoch=1) == [1.0]


def test_steps_fall_at_their_epochs() -> None:
    found = shares(80, schedule="step")
    by_epoch = found[::2]
    assert found[::2] == found[1::2]  # whole epochs
    assert by_epoch[:34] == pytest.approx([1.0] * 34)
    assert by_epoch[34:54] == pytest.approx([0.2] * 20)  # from epoch 35 on
    assert by_epoch[54:74] == pytest.approx([0.04] * 20)
    assert by_epoch[74:] == pytest.approx([0.008] * 6)
    ours = shares(6, schedule={"name": "step", "first_epoch": 3, "every_epochs": 2, "factor": 0.5})[::2]
    assert ours == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_a_cosine_restarts_in_periods_that_grow() -> None:
    found = shares(7, schedule={"name": "cosine_restarts", "period_epochs": 1, "growth": 2}, steps_per_epoch=4)
    restarts = [step for step, share in enumerate(found) if share == 1.0]
    assert restarts == [0, 4, 12]
    assert found[2] == pytest.approx(0.5)
    assert found[8] == pytest.approx(0.5)
    torch_optimiser = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(torch_optimiser, T_0=4, T_mult=2)
    for share in found:
        assert share == pytest.approx(theirs.get_last_lr()[0])
        torch_optimiser.step()
        theirs.step()


def test_inverse_time_is_that_of_keras() -> None:
    found = shares(2, schedule={"name": "inverse_time", "decay": 0.5}, steps_per_epoch=3)
    assert found == pytest.approx([1 / (1 + 0.5 * step) for step in range(6)])


def test_every_schedule_is_warmed_up() -> None:
    for name in ("cosine", "cosine_restarts", "step", "plateau", "inverse_time", "constant"):
        assert shares(3, schedule=name, warmup_epochs=1)[:3] == pytest.approx([1 / 3, 2 / 3, 1]), name


def watched(losses: list[float], **settings: Any) -> list[float]:
    """The rate after each epoch's validation loss."""
    optim = OptimSection(**settings)
    optimiser = build_optimiser(nn.Linear(1, 1), optim, fused=False)
    schedule = build_schedule(optimiser, optim, steps_per_epoch=1, num_epochs=len(losses))
    found = []
    for loss in losses:
        optimiser.step()
        schedule.step()
        changed = lower_on_plateau(schedule, loss)
        found.append(optimiser.param_groups[0]["lr"])
        assert changed is None or changed == found[-1]
        assert schedule.get_last_lr()[0] == found[-1]
    return found


def test_on_a_plateau_the_rate_takes_the_next_value() -> None:
    found = watched(
        [3.0, 2.0, 2.0, 2.5, 2.0, 2.0, 2.0, 2.0, 2.0],
        lr=1e-4,
        schedule={"name": "plateau", "patience": 2, "rates": [5e-5, 1e-5]},
    )
    assert found == pytest.approx([1e-4] * 3 + [5e-5] * 2 + [1e-5] * 4)


def test_on_a_plateau_the_rate_is_multiplied_down_to_the_least() -> None:
    settings = {"name": "plateau", "patience": 1, "factor": 0.1, "min_lr": 0.02}
    assert watched([1.0, 0.5, 0.5, 0.5, 0.4], lr=1.0, schedule=settings) == pytest.approx([1, 1, 0.1, 0.02, 0.02])


def test_a_schedule_goes_on_from_its_state() -> None:
    optim = OptimSection(lr=1.0, schedule={"name": "plateau", "patience": 2, "factor": 0.5})

    def made() -> Any:
        optimiser = build_optimiser(nn.Linear(1, 1), optim, fused=False)
        return optimiser, build_schedule(optimiser, optim, steps_per_epoch=1, num_epochs=9)

    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    optimiser, schedule = made()
    states = []
    for loss in losses:
        optimiser.step()
        schedule.step()
        lower_on_plateau(schedule, loss)
        states.append((optimiser.state_dict(), schedule.state_dict(), optimiser.param_groups[0]["lr"]))
    again, resumed = made()
    again.load_state_dict(states[1][0])
    resumed.load_state_dict(states[1][1])
    for loss, (_, _, lr) in zip(losses[2:], states[2:], strict=True):
        again.step()
        resumed.step()
        lower_on_plateau(resumed, loss)
        assert again.param_groups[0]["lr"] == lr
    assert states[-1][2] == 0.25


@pytest.mark.parametrize(
    ("settings", "kind", "expected"),
    [
        ({"name": "adam"}, torch.optim.Adam, {"weight_decay": 0.01}),
        ({"name": "adamw"}, torch.optim.AdamW, {"weight_decay": 0.01}),
        ({"name": "sgd"}, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ({"name": "sgd", "momentum": 0.5, "nesterov": True}, torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
        ({"name": "rmsprop"}, torch.optim.RMSprop, {"momentum": 0.0}),
        ({"name": "rmsprop", "momentum": 0.9}, torch.optim.RMSprop, {"momentum": 0.9}),
    ],
)
def test_optimisers_by_name(settings: dict[str, Any], kind: type, expected: dict[str, Any]) -> None:
    optim = OptimSection(lr=0.1, **settings)
    outside = nn.Parameter(torch.zeros(2))
    optimiser = build_optimiser(nn.Linear(2, 2), optim, fused=True, beside=[outside])
    assert type(optimiser) is kind
    group = optimiser.param_groups[0]
    assert {name: group[name] for name in expected} == expected
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.01, 0.0, 0.0]
    assert optimiser.param_groups[-1]["params"] == [outside]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 0.9}, "momentum is of sgd and rmsprop; adamw has none"),
        ({"name": "rmsprop", "nesterov": True}, "nesterov is of sgd with momentum"),
        ({"name": "sgd", "momentum": 0, "nesterov": True}, "nesterov is of sgd with momentum"),
        ({"schedule": {"name": "plateau", "rates": [1e-2]}}, "0.01 is not below lr"),
        ({"schedule": {"name": "plateau", "min_lr": 1e-2}}, "0.01 is not below lr"),
        ({"schedule": {"name": "plateau", "rates": [1e-4], "factor": 0.5}}, "leave factor and min_lr out"),
        ({"schedule": {"name": "plateau", "rates": [1e-5, 1e-4]}}, "rates have to fall"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimSection(**settings)
