"""Several processes train as one does: the same losses, the same validation, interrupted or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.training.processes import Commands, at
from tests.training.runs import position, result, rows

from kinema.sections import Recipe
from kinema.training import follow, launch
from kinema.training.callbacks import Progress
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.train import train
from kinema.types import UserError

# No batch norm and no dropout: several processes compute what one does. 16 clips in batches of 3, of which the last has
# one, so that a process has none; 24 steps. Of SGD: unlike Adam's, they would show gradients of another scale, and they
# do not make much of the 1e-7 by which sums in another order differ.
SETTINGS = [
    "model.backbone=wide_cnn",
    "model.dropout=0",
    "trainer.epochs=4",
    "trainer.patience=null",
    "optim.name=sgd",
    "optim.lr=0.01",
]


def steps_of(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> tuple[list[float], Run]:
    """Train, and give the sum of the losses after each step."""
    seen: list[float] = []
    before = Progress.on_train_batch_end

    def look(self: Progress, trainer: Any, module: RecogniserTraining, *arguments: Any) -> None:
        seen.append(module.sums["loss"])
        before(self, trainer, module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_train_batch_end", look)
        try:
            trained = train(prepare(recipe), create_run(recipe))
        finally:
            if recipe.trainer.strategy.startswith("fsdp"):
                HAS_SHARDED.append(recipe.trainer.strategy)
    return seen, trained.run


HAS_SHARDED: list[str] = []
"""Strategies by which this process has trained: sharding begins threads of autograd, with which none can be forked."""


class Forked:
    """A follower that is forked from this process, which has loaded all of torch already: a new one takes longer for
    that than for what is tested."""

    def __init__(self, command: list[str], **_: Any) -> None:
        self._code: int | None = None
        self._pid = os.fork()
        if not self._pid:
            sys.argv = command[2:]
            try:
                follow.main()
            finally:
                os._exit(3)

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float = 60.0) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("follow", timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> list[Forked | subprocess.Popen[bytes]]:
    """Followers are forked where they can be, and are here."""
    found: list[Forked | subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **named: Any) -> Forked | subprocess.Popen[bytes]:
        found.append(popen(command, **named) if HAS_SHARDED else Forked(command, **named))
        return found[-1]

    names = {"DEVNULL": subprocess.DEVNULL, "TimeoutExpired": subprocess.TimeoutExpired}
    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=start, **names))
    return found


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    return {}


@pytest.fixture
def one(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: dict[str, Any]
) -> tuple[list[float], Run]:
    """What one process does; once for all tests."""
    if not memory:
        memory["one"] = steps_of(monkeypatch, recipe(*SETTINGS, f"output={tmp_path / 'one'}"))
    found: tuple[list[float], Run] = memory["one"]
    return found


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp_stage2", "fsdp_stage3"])
def test_two_processes_train_as_one(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, one: tuple[list[float], Run], strategy: str
) -> None:
    losses, run = steps_of(monkeypatch, recipe(*SETTINGS, "trainer.devices=2", f"trainer.strategy={strategy}"))
    assert len(losses) == len(one[0]) == 24
    assert np.abs(np.array(losses) - np.array(one[0])).max() < 1e-5
    for found, expected in zip(rows(run.folder), rows(one[1].folder), strict=True):
        del found["seconds"], expected["seconds"]
        assert found == pytest.approx(expected, abs=2e-5)
        accuracies = [name for name in expected if name.endswith("top1")]
        assert [found[name] for name in accuracies] == [expected[name] for name in accuracies]
    metrics = [json.loads((place.evaluations / "validation" / "metrics.json").read_text()) for place in (run, one[1])]
    assert metrics[0]["tasks"]["action"]["top1"] == metrics[1]["tasks"]["action"]["top1"]
    weights = [torch.load(place.last_checkpoint, weights_only=True)["state_dict"] for place in (run, one[1])]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], value, atol=1e-4) for name, value in weights[1].items())


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("name", "lr"), [("adamw", 1e-4), ("adam", 1e-4), ("rmsprop", 3e-5)])
def test_sharded_weights_are_stepped_by_any_optimiser(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, lr: float
) -> None:
    settings = [*SETTINGS, "trainer.epochs=1", f"optim.name={name}", f"optim.lr={lr}"]
    spread = ["trainer.devices=2", "trainer.strategy=fsdp_stage2"]
    losses, expected = (
        steps_of(monkeypatch, recipe(*settings, *more, f"output={tmp_path / str(len(more))}"))[0]
        for more in (spread, [])
    )
    assert len(losses) == 6
    assert np.abs(np.array(losses) - np.array(expected)).max() < 1e-5


MORE = [
    "optim.accumulate=2",
    "optim.ema_decay=0.8",
    "task.imbalance=balanced_sampling",
    "task.label_smoothing=0.1",
    "optim.schedule={name: plateau, patience: 1}",
]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    "overrides",
    [
        MORE,
        pytest.param(["task.imbalance=class_weights"], marks=pytest.mark.slow),
        pytest.param(["task.imbalance=logit_adjustment"], marks=pytest.mark.slow),
    ],
)
def test_what_training_has_more_is_the_same_in_two_processes(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, overrides: list[str]
) -> None:
    found = [
        steps_of(
            monkeypatch,
            recipe(*SETTINGS, *overrides, f"trainer.devices={devices}", f"output={tmp_path / str(devices)}"),
        )
        for devices in (1, 2)
    ]
    (losses, run), (expected, of_one) = found[1], found[0]
    assert np.abs(np.array(losses) - np.array(expected)).max() < 1e-5
    for row, row_of_one in zip(rows(run.folder), rows(of_one.folder), strict=True):
        del row["seconds"], row_of_one["seconds"]
        assert row == pytest.approx(row_of_one, abs=2e-5)


@pytest.mark.usefixtures("forked")
def test_what_a_model_adds_to_the_loss_is_learned_from_by_all(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It counts in the loss that is shown, and its gradient reaches what it is of."""
    small = "backbone: wide_cnn, grid: 4, flow_channels: 4, channels: 8, num_blocks: 1, dropout: 0"
    found = []
    for weight in (0, 50):
        model = f"model={{name: flow_attention, {small}, flow_weight: {weight}}}"
        more = [
            "data.modality=[rgb, flow_magnitude]",
            "clips.batch_size=8",
            "trainer.epochs=1",
            "trainer.patience=null",
        ]
        found.append(
            steps_of(monkeypatch, recipe(model, *more, "trainer.devices=2", f"output={tmp_path / str(weight)}"))
        )
    (without, of_none), (losses, of_some) = found
    assert losses[0] > without[0] + 8  # the sum over 8 clips
    weights = [torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (of_none, of_some)]
    name = "model.magnitude.0.weight"
    assert not torch.allclose(weights[0][name], weights[1][name], atol=1e-4)


@pytest.fixture
def recipe_file(settings: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


TWO = ["trainer.devices=2", "clips.workers=1"]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp_stage3", marks=pytest.mark.slow)])
def test_a_run_of_two_processes_that_is_interrupted_goes_on_as_if_it_had_not_been(
    commands: Commands, recipe_file: Path, tmp_path: Path, strategy: str
) -> None:
    # Dropout too; batch norm as FSDP wants it.
    settings = [*TWO, f"trainer.strategy={strategy}", "model.backbone=wide_cnn", "trainer.epochs=2"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    ended = commands.run("train", recipe_file, f"output={whole}", *settings)
    assert (ended.code, ended.stderr) == (0, "")
    assert f"2 processes ({strategy}, CPU), global batch 3 clips, 1 or 2 in each" in (whole / "log.txt").read_text()
    event = at("training", signal.SIGTERM, epoch=2, batch=3)
    ended = commands.run("train", recipe_file, f"output={stopped}", *settings, event=event)
    assert (ended.code, ended.stderr) == (143, f"stopped; go on with: kinema train --resume {stopped}\n")
    assert ended.children() == []
    assert position(stopped) == (2, 3)
    ended = commands.run("train", "--resume", stopped)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.children() == []
    assert result(stopped) == result(whole)


def test_a_run_goes_on_over_other_processes(commands: Commands, recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    event = at("training", signal.SIGINT, signal.SIGKILL, epoch=2, batch=3, to_group=True)
    often = "trainer.checkpoint_minutes=1e-9"
    settings = [*SETTINGS[:2], "trainer.epochs=2", often]
    ended = commands.run("train", recipe_file, f"output={run}", *TWO, *settings, event=event)
    assert ended.code == -signal.SIGKILL
    assert position(run) == (2, 2)
    ended = commands.run("train", "--resume", run, "trainer.devices=1")
    assert (ended.code, ended.stderr) == (0, "")
    assert len(rows(run)) == 2


@pytest.mark.usefixtures("forked")
def test_clips_that_cannot_be_read_are_left_out_by_all(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    found = []
    for devices in (1, 2):
        changed = recipe(
            *SETTINGS[:2], "trainer.epochs=1", f"trainer.devices={devices}", f"output={tmp_path / str(devices)}"
        )
        prepared = prepare(changed)
        gone = [clip.video for clip in prepared.clips["train"][1:13]]
        for path in gone:
            prepared.videos[path].path.rename(path.with_suffix(".away"))
        try:
            run = train(prepared, create_run(changed)).run
        finally:
            for path in gone:
                path.with_suffix(".away").rename(path)
        state = torch.load(run.last_checkpoint, weights_only=True)
        assert state["epoch_state"]["skipped"] == dict.fromkeys(range(1, 13), 1)
        found.append(state)
    assert found[0]["epoch_state"]["sums"] == pytest.approx(found[1]["epoch_state"]["sums"], abs=1e-4)
    weights = [state["state_dict"] for state in found]
    assert all(torch.allclose(weights[0][name], value, atol=1e-4) for name, value in weights[1].items())


def test_what_ends_a_follower_is_said_in_a_line(
    recipe: Callable[..., Recipe], forked: list[Forked], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(recipe(*SETTINGS, "trainer.devices=2"))
    before = Progress.on_train_batch_end

    def kill(self: Progress, trainer: Any, module: RecogniserTraining, *arguments: Any) -> None:
        before(self, trainer, module, *arguments)
        for follower in forked:
            follower.kill()

    monkeypatch.setattr(Progress, "on_train_batch_end", kill)
    with pytest.raises(UserError, match="process 1 of 2 was killed by signal 9; out of memory"):
        train(prepared, create_run(recipe()))


@pytest.mark.slow
def test_torchrun_may_start_them(recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "kinema.cli.main", "train"]
    run = tmp_path / "run"
    overrides = [f"output={run}", *TWO, *SETTINGS[:2], "trainer.epochs=1"]
    done = subprocess.run([*command, str(recipe_file), *overrides], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run: ") == 1
    assert "2 processes (ddp, CPU)" in done.stdout
    assert (run / "weights" / "model.safetensors").is_file()
