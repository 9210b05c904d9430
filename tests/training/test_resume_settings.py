"""Whatever a recipe asks for, a run that was interrupted ends as if it had not been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import result

from kinema.data.loading import Batch
from kinema.models.frame_model import FrameModel
from kinema.sections import Recipe
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.train import train
from kinema.types import UserError

MIXED = (
    "clips.augmentation.mixup=0.4",
    "clips.augmentation.cutmix=1",
    "task.imbalance=balanced_sampling",
    "optim.name=sgd",
    "optim.ema_decay=0.9",
    "optim.accumulate=2",
    "optim.schedule={name: plateau, patience: 1, factor: 0.5}",
)
UNFROZEN = (
    "init.freeze=backbone",
    "init.mean=[0.5,0.5,0.5]",
    "init.std=[0.5,0.5,0.5]",
    "optim.unfreeze={first_epoch: 2}",
    "optim.ema_decay=0.9",
    "task.imbalance={name: focal, gamma: 1}",
)


class Interrupted(Exception):  # noqa: N818
    """Something that nobody expected."""


@pytest.mark.parametrize("changes", [MIXED, UNFROZEN], ids=["mixed", "unfrozen"])
@pytest.mark.parametrize("batch", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_goes_on_as_if_it_had_not_been_interrupted(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
    batch: int,
) -> None:
    extra = ["trainer={epochs: 3, select: best, accelerator: cpu, checkpoint_minutes: 1e-9}"]
    if changes is UNFROZEN:
        model = prepare(recipe()).model
        assert isinstance(model, FrameModel)
        torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
        extra.append(f"init.weights={tmp_path / 'weights.pt'}")

    def made(name: str) -> Recipe:
        return recipe(*changes, *extra, f"output={tmp_path / name}")

    train(prepare(made("whole")), create_run(made("whole")))
    step = RecogniserTraining.training_step

    def interrupted(self: RecogniserTraining, at: Batch, batch_idx: int) -> Any:
        if self.current_epoch == 1 and self.batches_done == batch:
            raise Interrupted
        return step(self, at, batch_idx)

    monkeypatch.setattr(RecogniserTraining, "training_step", interrupted)
    run = create_run(made("parts"))
    with pytest.raises(Interrupted):
        train(prepare(made("parts")), run)
    state = torch.load(run.last_checkpoint, weights_only=True)["epoch_state"]
    assert state["batches_done"] % (2 if changes is MIXED else 1) == 0  # no gradient waited for another batch
    monkeypatch.setattr(RecogniserTraining, "training_step", step)
    train(prepare(made("parts")), Run(run.folder))
    assert result(run.folder) == result(tmp_path / "whole")


def test_accumulated_batches_are_as_one(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Sixteen clips in batches of 3: of 3 + 1 clips in the last step, each of which counts as much."""
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
    found = []
    for size, number in ((6, 1), (3, 2)):
        made = recipe(
            f"clips.batch_size={size}",
            f"optim.accumulate={number}",
            "clips.augmentation={jitter: false, flip: 0, min_scale: 1, colour: 0}",
            "model={name: frame_average, backbone: tiny, dropout: 0}",
            f"init.weights={tmp_path / 'weights.pt'}",
            "init.freeze=backbone",
            "init.mean=[0.5,0.5,0.5]",
            "init.std=[0.5,0.5,0.5]",
            "optim.name=sgd",
            "optim.lr=0.05",
            "trainer={epochs: 2, select: last, accelerator: cpu}",
            f"output={tmp_path / str(size)}",
        )
        prepared = prepare(made)
        train(prepared, create_run(made))
        found.append(prepared.model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_lost(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe("trainer.checkpoint_minutes=1e-9")
    step = RecogniserTraining.training_step

    def broken(self: RecogniserTraining, batch: Batch, batch_idx: int) -> Any:
        loss = step(self, batch, batch_idx)
        if self.current_epoch == 1 and self.batches_done == 3:
            weight: Any = next(self.model.parameters())
            weight.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(RecogniserTraining, "training_step", broken)
    run = create_run(made)
    with pytest.raises(UserError, match=r"^the gradient is nan in epoch 2, batch 3 \(clips .*\); lower optim"):
        train(prepare(made), run)
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    assert checkpoint["epoch_state"]["batches_done"] == 2
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
