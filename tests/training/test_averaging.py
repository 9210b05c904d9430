"""The average of the weights, and stages that begin to learn later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training.runs import rows
from torch import nn

from kinema.data.loading import Batch
from kinema.evaluation.evaluate import evaluate
from kinema.models.build import build_model
from kinema.models.frame_model import FrameModel
from kinema.models.freezing import freeze, stages
from kinema.sections import Recipe
from kinema.training.averaging import Average
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.train import train
from kinema.training.unfreezing import Thaw
from kinema.training_sections import Unfreezing
from kinema.types import ConfigError, InputShape


def test_the_average_is_exponential_with_a_quick_start() -> None:
    linear, norm = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)
    model = nn.Sequential(linear, norm)
    norm.weight.requires_grad_(False)
    average = Average(0.9)
    expected = None
    for step, value in enumerate([5.0, 1.0, 2.0, -1.0], start=1):
        nn.init.constant_(linear.weight, value)
        average.update(model)
        share = min(0.9, (1 + step) / (10 + step))
        expected = value if expected is None else share * expected + (1 - share) * value
    assert set(average.tensors) == {"0.weight", "1.bias"}  # what is frozen is not averaged, nor are its statistics
    assert float(average.tensors["0.weight"]) == pytest.approx(expected)
    average.swap(model)
    assert linear.weight.item() == pytest.approx(expected)
    average.swap(model)
    assert linear.weight.item() == -1.0
    other = Average(0.9)
    other.load_state_dict(average.state_dict())
    assert other.num_steps == 4
    assert torch.equal(other.tensors["0.weight"], average.tensors["0.weight"])


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_average_is_what_is_validated_and_kept(recipe: Callable[..., Recipe], select: str) -> None:
    made = recipe("optim.ema_decay=0.8", f"trainer={{epochs: 3, select: {select}, accelerator: cpu}}")
    run = create_run(made)
    prepared = prepare(made)
    trained = train(prepared, run)
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    kept = prepared.model.state_dict()
    if select == "last":
        for name, value in checkpoint["average"]["tensors"].items():
            assert torch.equal(kept[name], value), name
        live = checkpoint["state_dict"]
        assert any(not torch.equal(kept[name], live[f"model.{name}"]) for name in kept)
    again = evaluate(run.weights, ["clips.workers=0"], split="validation").record
    epoch = int(trained.best["epoch"])
    assert rows(run.folder)[epoch - 1]["validation/action_top1"] == again["tasks"]["action"]["top1"]
    assert rows(run.folder)[epoch - 1]["validation/loss"] == pytest.approx(again["tasks"]["action"]["loss"], rel=1e-4)


def frozen(num_stages: int | str = "backbone") -> nn.Module:
    inputs = {"rgb": InputShape(num_frames=2, channels=3, height_px=32, width_px=32)}
    model = build_model("frame_average", {"backbone": "resnet18"}, heads={"action": ("a", "b")}, inputs=inputs)
    freeze(model, num_stages)
    return model


def learning(model: nn.Module) -> set[str]:
    """Stages of the backbone that learn, with their statistics."""
    assert isinstance(model, FrameModel)
    found = set()
    for group in stages(model.backbone.body):
        trained = {p.requires_grad for _, module in group for p in module.parameters()}
        norms = {m.training for _, module in group for m in module.modules() if isinstance(m, nn.BatchNorm2d)}
        assert trained == norms
        assert len(trained) == 1
        if trained == {True}:
            found.add(group[-1][0])
    return found


def test_stages_begin_to_learn_from_the_last() -> None:
    model = frozen().train()
    thaw = Thaw(model, Unfreezing(first_epoch=3, every_epochs=2, stages=3))
    seen = []
    for epoch in range(1, 10):
        thaw.release(epoch)
        model.train()
        seen.append(len(learning(model)))
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert learning(model) == {"layer4", "layer3", "layer2"}
    again = frozen().train()
    Thaw(again, Unfreezing(first_epoch=3, every_epochs=2, stages=3)).release(6)  # where a run goes on
    assert learning(again) == {"layer4", "layer3"}
    partly = frozen(2).train()
    thaw = Thaw(partly, Unfreezing())
    assert learning(partly) == {"layer3", "layer4"}
    thaw.release(2)
    assert learning(partly) == {"layer2", "layer3", "layer4"}


def test_a_run_lets_go_of_its_stages(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
    made = recipe(
        f"init.weights={tmp_path / 'weights.pt'}",
        "init.freeze=backbone",
        "init.mean=[0.5,0.5,0.5]",
        "init.std=[0.5,0.5,0.5]",
        "optim.unfreeze={first_epoch: 2, stages: 1}",
        "optim.backbone_lr_factor=0.1",
        "clips.augmentation.views=2",
        "trainer={epochs: 2, select: last, accelerator: cpu}",
    )
    prepared = prepare(made)
    before = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    seen: dict[int, set[str]] = {}

    def watched(self: RecogniserTraining, batch: Batch, batch_idx: int) -> None:
        seen.setdefault(self.current_epoch, {n for n, v in self.model.state_dict().items() if not v.equal(before[n])})
        original(self, batch, batch_idx)

    original = RecogniserTraining.on_train_batch_start
    monkeypatch.setattr(RecogniserTraining, "on_train_batch_start", watched)
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)  # a command that ran before may have ended it
    caplog.set_level(logging.INFO, logger="kinema")
    train(prepared, create_run(made))
    assert not any(name.startswith("backbone") for name in seen[1])
    changed = {name for name, value in prepared.model.state_dict().items() if not value.equal(before[name])}
    stage = stages(model.backbone.body)[-1]
    assert {name.removeprefix("backbone.body.").partition(".")[0] for name in changed if "backbone" in name} <= {
        name.partition(".")[0] for name, _ in stage
    }
    assert any(name.startswith("backbone") for name in changed)
    assert "epoch 2: " in caplog.text
    assert " learn from now on" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.unfreeze={}"], r"^optim\.unfreeze: no stage of a backbone is frozen"),
        (["optim.unfreeze={first_epoch: 9}"], r"^optim\.unfreeze\.first_epoch: 9 is behind the last epoch"),
    ],
)
def test_unfreezing_without_an_effect_is_refused(
    recipe: Callable[..., Recipe], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(recipe(*overrides))
