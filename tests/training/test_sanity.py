"""Warnings before and while it trains, and learning some clips by heart."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.training.processes import Commands
from torch import nn

from kinema.models.frame_model import FrameModel
from kinema.sections import Recipe
from kinema.training.module import RecogniserTraining
from kinema.training.overfit import overfit, some_clips
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.sanity import (
    Sanity,
    blind_loss,
    is_constant,
    label_agreement,
    lagging_statistics,
    look_before,
)
from kinema.training.train import train
from kinema.types import Clip, UserError


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="kinema")
    return lambda: [record.getMessage() for record in caplog.records]


PLAIN = (
    "clips.augmentation={jitter: false, flip: 0, min_scale: 1, colour: 0}",
    "optim.warmup_epochs=0",
    "optim.schedule=constant",
)


def test_a_run_that_learns_says_nothing(recipe: Callable[..., Recipe], said: Callable[[], list[str]]) -> None:
    made = recipe("trainer.epochs=2", "trainer.sanity={baseline_epochs: 2, gap: null, waiting: null}", "optim.lr=1e-2")
    train(prepare(made), create_run(made))
    assert not [line for line in said() if "optimiser" in line or "gradient" in line]


def test_what_learns_nothing_is_said(recipe: Callable[..., Recipe], said: Callable[[], list[str]]) -> None:
    """At a rate of nothing, with every clip of one answer: validation at the baseline, loss that of guessing."""
    made = recipe(
        *PLAIN,
        "optim.lr=1e-9",
        "trainer={epochs: 2, select: last, accelerator: cpu, sanity: {baseline_epochs: 2, gap: 0.01}}",
    )
    prepared = prepare(made)
    assert isinstance(prepared.model, FrameModel)
    for parameter in prepared.model.heads.parameters():
        nn.init.zeros_(parameter)
    run = create_run(made)
    train(prepared, run)
    lines = said()
    (baseline,) = [line for line in lines if "not better than always answering" in line]
    assert baseline.startswith("epoch 2: top-1 on validation clips, 50.0 %,")
    assert "kinema train RECIPE --overfit 8" in baseline
    (labels,) = [line for line in lines if "labels look shuffled" in line]
    assert "0.693, is that of an answer that does not look at the clip (0.693)" in labels


@pytest.mark.parametrize("lags", [True, False])
def test_statistics_that_lag_are_said(
    recipe: Callable[..., Recipe], said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, lags: bool
) -> None:
    """Right while it is trained, by the batch's statistics, and not with those that are kept."""
    monkeypatch.setattr("kinema.training.sanity._DEVIATIONS", 0.0)  # of four clips chance would explain anything
    made = recipe(*PLAIN, "optim.lr=1e-2", "trainer={epochs: 12, select: last, accelerator: cpu}")
    prepared = prepare(made)
    if lags:
        norms = [part for part in prepared.model.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)]
        for part in norms:
            part.momentum = 0.0
        assert norms[-1].running_mean is not None
        norms[-1].running_mean.fill_(1e6)  # evaluation sees a constant
    run = create_run(made)
    train(prepared, run)
    lines = [line for line in said() if "running statistics of batch norm" in line]
    kept = json.loads((run.weights / "training.json").read_text())
    if not lags:
        assert not lines
        return
    (line,) = lines
    assert line.startswith("action: 100.0 % of the training clips were right while it was trained, and 50.0 % are with")
    assert line in kept["warnings"]


@pytest.mark.parametrize(
    ("in_training", "in_evaluation", "num_clips", "is_said"),
    [(0.43, 0.2, 60, True), (0.43, 0.2, 20, False), (0.43, 0.3, 6000, False), (0.2, 0.43, 60, False)],
)
def test_chance_is_no_lag(in_training: float, in_evaluation: float, num_clips: int, is_said: bool) -> None:
    metrics, measured = {"train/action_top1": in_training}, {"action": in_evaluation}
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert (lagging_statistics(normed, metrics, measured, num_clips=num_clips) is not None) is is_said
    assert lagging_statistics(nn.Linear(2, 2), metrics, measured, num_clips=num_clips) is None


@pytest.mark.parametrize(
    ("trainer", "epochs"),
    [
        ("epochs: 3, sanity: {baseline_epochs: 2}", ["2", "3, the last"]),
        ("epochs: 2, sanity: {baseline_epochs: 5}", ["2, the last"]),
        ("epochs: 2, sanity: {baseline_epochs: 2}", ["2"]),
        ("epochs: 9, patience: 2, sanity: {baseline_epochs: 5}", ["3, the last"]),
        ("epochs: 2, sanity: {baseline_epochs: null}", []),
    ],
)
def test_what_learns_nothing_is_said_of_the_last_epoch_too(
    recipe: Callable[..., Recipe], said: Callable[[], list[str]], trainer: str, epochs: list[str]
) -> None:
    """After `baseline_epochs` and after the last, whether it is the last that was asked for or patience ended it."""
    prepared = prepare(recipe(*PLAIN, "optim.lr=1e-60", "trainer={accelerator: cpu, " + trainer + "}"))
    assert isinstance(prepared.model, FrameModel)
    for parameter in prepared.model.heads.parameters():
        nn.init.zeros_(parameter)
    run = create_run(prepared.recipe)
    train(prepared, run)
    for what in ("not better than always answering", "labels look shuffled"):
        lines = [line for line in said() if what in line]
        assert [line.partition(":")[0] for line in lines] == [f"epoch {epoch}" for epoch in epochs]
    kept = json.loads((run.weights / "training.json").read_text())["warnings"]
    assert sum("not better than always answering" in line for line in kept) == len(epochs)


def test_each_task_is_held_against_its_own_baseline(
    recipe: Callable[..., Recipe], said: Callable[[], list[str]]
) -> None:
    """All tasks right at once may be above theirs, and each task below."""
    prepared = prepare(recipe())
    clips = [
        dataclasses.replace(clip, labels={"verb": number % 2, "noun": int(number % 4 == 1)})
        for number, clip in enumerate(prepared.clips["train"])
    ]
    dataset = dataclasses.replace(prepared.dataset, classes={"verb": ("a", "b"), "noun": ("c", "d")})
    prepared = dataclasses.replace(prepared, dataset=dataset, clips={"train": clips, "validation": clips})
    look = Sanity(prepared, SimpleNamespace())  # type: ignore[arg-type]
    look._check_learning(5, 0.6, 0.1, {"verb": (0.9, 0.45), "noun": (0.9, 0.9), "joint": (0.6, 0.6)})
    (line,) = said()
    assert line.startswith(
        "epoch 5: top-1 of verb on validation clips, 45.0 %, is not better than always answering the"
    )
    assert "(50.0 %); on training clips it is 90.0 %. " in line
    assert not [task for task in ("noun", "joint") if task in line]


def test_a_gap_and_waiting_are_said_once(recipe: Callable[..., Recipe], said: Callable[[], list[str]]) -> None:
    made = recipe("trainer.sanity={baseline_epochs: null, gap: 0.2, waiting: 0.4}")
    prepared = prepare(made)
    module = RecogniserTraining(
        prepared.model,
        made,
        classes=prepared.dataset.classes,
        preprocessing=prepared.preprocessing,
        validation_clips=[],
        steps_per_epoch=6,
        clips_fingerprint="",
    )
    module.sums = {"loss": 1.0, "clips": 10.0, "right_action": 9.0}
    progress = SimpleNamespace(waiting=(0.3, 60.0))
    sanity = Sanity(prepared, progress)  # type: ignore[arg-type]
    metrics = {"validation/action_top1": torch.tensor(0.75)}
    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=2, should_stop=False, callback_metrics=metrics)
    sanity.on_train_start(trainer, module)
    sanity.on_train_epoch_end(trainer, module)
    assert said() == []
    trainer.callback_metrics = {"validation/action_top1": torch.tensor(0.65)}
    progress.waiting = (0.5, 10.0)  # too short to say
    sanity.on_train_epoch_end(trainer, module)
    (gap,) = said()
    assert gap.startswith(
        "epoch 1: top-1 is 90.0 % on training clips and 65.0 % on validation clips, a gap above 20.0 %"
    )
    progress.waiting = (0.5, 60.0)
    sanity.on_train_epoch_end(trainer, module)
    assert said()[1].startswith("50.0 % of the time training waits for clips: raise clips.workers (now 0, of ")
    again = Sanity(prepared, progress)  # type: ignore[arg-type]
    again.load_state_dict(sanity.state_dict())
    again.on_train_start(trainer, module)  # what was said is kept with the module, in its checkpoint
    assert list(module.warned.values()) == said()
    again.on_train_epoch_end(trainer, module)
    assert len(said()) == 2


class Odd(nn.Module):
    """Makes a layer when it is used first, and has one that is not used."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Linear(3, 3)
        self.late: nn.Linear | None = None

    def forward(self, streams: Any) -> Any:
        if self.late is None:
            self.late = nn.Linear(2, 2)
        return {task: self.late(logits) for task, logits in self.model(streams).items()}


def test_parameters_that_do_not_learn_are_named(recipe: Callable[..., Recipe], said: Callable[[], list[str]]) -> None:
    made = recipe("trainer={epochs: 1, select: last, accelerator: cpu}")
    prepared = prepare(made)
    odd = Odd(prepared.model)
    object.__setattr__(prepared, "model", odd)
    train(prepared, create_run(made))
    lines = said()
    assert any("unused.weight, unused.bias: no gradient in the first 5 steps" in line for line in lines)
    assert any("late.weight, late.bias: in no group of the optimiser" in line for line in lines)


def clips(labels: list[int], groups: list[str | None] | None = None) -> list[Clip]:
    of_clips = groups or [None] * len(labels)
    return [
        Clip(clip_id=str(i), video=Path(f"{i}.mp4"), labels={"action": label}, group=group)
        for i, (label, group) in enumerate(zip(labels, of_clips, strict=True))
    ]


def test_neighbours_have_the_same_label_unless_labels_are_shuffled() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = rng.normal(size=(120, 8)) + 2 * np.eye(3, 8)[labels]
    found = label_agreement(features, clips(labels.tolist()), "action")
    assert found is not None
    share, chance, deviation = found
    assert chance == pytest.approx(1 / 3, abs=0.01)
    assert share > chance + 5 * deviation
    assert label_agreement(features[:40], clips(labels[:40].tolist()), "action") is None


def test_the_deviation_of_the_agreement_is_that_of_shuffled_labels() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = rng.normal(size=(120, 8))
    shuffled = [label_agreement(features, clips(rng.permutation(labels).tolist()), "action") for _ in range(200)]
    shares, chances, deviations = np.array([found for found in shuffled if found is not None]).T
    assert len(shares) == 200
    assert shares.mean() == pytest.approx(chances.mean(), abs=0.01)
    assert shares.std() == pytest.approx(deviations.mean(), rel=0.15)  # its own standard error is 5 %


def test_neighbours_of_the_same_group_do_not_count() -> None:
    """Each recording is its own class: without groups, neighbours agree; between groups they cannot."""
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(12), 10)
    features = 5 * rng.normal(size=(12, 8))[recording] + rng.normal(size=(120, 8))
    labels = rng.integers(0, 2, 12)[recording].tolist()
    alone = label_agreement(features, clips(labels), "action")
    grouped = label_agreement(features, clips(labels, [str(r) for r in recording]), "action")
    assert alone is not None
    assert grouped is not None
    assert alone[0] > 0.95
    assert grouped[0] < 0.9


def test_features_that_are_constant() -> None:
    rng = np.random.default_rng(0)
    assert is_constant(np.ones((8, 3, 5)) + 1e-5 * rng.normal(size=(8, 3, 5)))
    assert not is_constant(np.ones((8, 3, 5)) + 0.1 * rng.normal(size=(8, 3, 5)))


def test_the_loss_of_guessing_is_the_entropy_of_smoothed_labels(recipe: Callable[..., Recipe]) -> None:
    prepared = prepare(recipe("task.label_smoothing=0.2"))
    assert blind_loss(prepared) == pytest.approx(np.log(2))
    assert blind_loss(prepare(recipe("task.imbalance=focal"))) is None


def test_a_large_network_from_scratch_is_worth_a_word(
    recipe: Callable[..., Recipe], said: Callable[[], list[str]]
) -> None:
    look_before(prepare(recipe("model.backbone=resnet18")), None)
    (line,) = said()
    assert line.startswith("resnet18 starts from scratch: 11,176,512 parameters for 16 training clips.")
    assert "init.weights=published" in line
    look_before(prepare(recipe()), None)
    assert len(said()) == 1  # tiny has nothing published


def test_a_backbone_whose_features_are_constant_is_said(
    recipe: Callable[..., Recipe], tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    state = {name: torch.zeros_like(value) for name, value in model.backbone.body.state_dict().items()}
    last = [name for name, value in state.items() if name.endswith("bias") and value.ndim == 1][-1]
    state[last] += 1.0
    torch.save(state, tmp_path / "weights.pt")
    for views in (1, "null"):
        made = recipe(
            f"init.weights={tmp_path / 'weights.pt'}",
            "init.freeze=backbone",
            "init.mean=[0.5,0.5,0.5]",
            "init.std=[0.5,0.5,0.5]",
            f"clips.augmentation.views={views}",
            "trainer={epochs: 1, select: last, accelerator: cpu}",
            f"output={tmp_path / f'run-{views}'}",
        )
        train(prepare(made), create_run(made))
    assert len([line for line in said() if "hardly differ from clip to clip" in line]) == 2


# Learning by heart


def test_clips_are_of_as_many_classes_as_can_be() -> None:
    chosen = some_clips(clips([0, 0, 0, 1, 1, 2]), 4, task="action")
    assert [clip.labels["action"] for clip in chosen] == [0, 1, 2, 0]
    assert len(some_clips(clips([0, 1]), 8, task="action")) == 2


def test_a_few_clips_are_learned_by_heart(recipe: Callable[..., Recipe]) -> None:
    found = overfit(prepare(recipe("optim.lr=1e-2")), 6)
    assert found["clips"] == 6
    assert found["classes"] == {"action": 2}
    assert found["steps"] < 200


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, streams: Any) -> Any:
        return {"action": self.bias.expand(len(streams["rgb"]), 2)}


def test_what_cannot_be_learned_is_said(recipe: Callable[..., Recipe]) -> None:
    prepared = prepare(recipe())
    object.__setattr__(prepared, "model", Blind())
    with pytest.raises(UserError, match=r"^--overfit: top-1 66\.7 % on 3 clips after 10 steps, .* the same answer"):
        overfit(prepared, 3, most_steps=10)
    with pytest.raises(UserError, match=r"try another optim\.lr \(1e-09\)"):
        overfit(prepare(recipe("optim.lr=1e-9")), 4, most_steps=6)


def test_clips_that_show_the_same_and_are_called_differently_are_named(
    settings: dict[str, Any], recipe: Callable[..., Recipe], clips_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(clips_root, tmp_path / "clips")
    shutil.copy(root / "train" / "falling" / "0.mp4", root / "train" / "rising" / "0.mp4")
    with pytest.raises(
        UserError, match=r"falling/0\.mp4 and .*rising/0\.mp4 show the same frames and have different labels"
    ):
        overfit(prepare(recipe(f"data.root={root}")), 4)


def test_the_command_says_whether_it_can_be_learned(
    commands: Commands, settings: dict[str, Any], clips_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    ended = commands.run("train", path, "--overfit", "4", "optim.lr=1e-2")
    assert (ended.code, ended.stderr) == (0, "")
    assert "4 clips of 2 classes of action learned by heart in " in ended.stdout
    root = shutil.copytree(clips_root, tmp_path / "clips")
    shutil.copy(root / "train" / "falling" / "0.mp4", root / "train" / "rising" / "0.mp4")
    ended = commands.run("train", path, "--overfit", "4", f"data.root={root}")
    assert ended.code == 2
    assert ended.stderr.startswith("error: --overfit: ")
    assert ended.stderr.count("\n") == 1
    assert commands.run("train", path, "--overfit", "4", "--dry-run").code == 2
