"""A disk that fills up, as a small one in memory does. Where none can be mounted, `test_files_that_may_not_grow` in
`test_resume.py` remains."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import position, result, rows, temporary_files

from kinema.sections import Recipe
from kinema.training import callbacks
from kinema.training import finish as finish_module
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.tensorboard import EventFile
from kinema.training.train import train
from kinema.types import ConfigError, DataError


class Disk:
    """A small disk; its folder `run` is for a run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = Run(root / "run")

    def fill(self, *, but: int = 0) -> None:
        """Leave so many bytes free."""
        place = os.statvfs(self.root)
        with (self.root / "filler").open("ab") as file:
            file.write(bytes(max(0, place.f_bavail * place.f_frsize - but)))

    def make_room(self) -> None:
        (self.root / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(root)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, Callable[[], None]], None]:
    """Has something done once at the beginning of a batch."""

    def arrange(epoch: int, batch: int, action: Callable[[], None]) -> None:
        step = RecogniserTraining.training_step
        done: list[bool] = []

        def step_with_action(self: RecogniserTraining, *arguments: Any) -> Any:
            if not done and (self.current_epoch + 1, self.batches_done + 1) == (epoch, batch):
                done.append(True)
                action()
            return step(self, *arguments)

        monkeypatch.setattr(RecogniserTraining, "training_step", step_with_action)

    return arrange


def test_full_while_a_checkpoint_is_written(
    disk: Disk,
    recipe: Callable[..., Recipe],
    before_step: Callable[..., None],
    undisturbed_here: dict[str, Any],
) -> None:
    made = recipe(f"output={disk.run.folder}")
    before_step(2, 2, lambda: disk.fill(but=1_000_000))  # for best.ckpt, not for last.ckpt
    with pytest.raises(DataError) as raised:
        train(prepare(made), create_run(made))
    message = str(raised.value)
    assert message.startswith(f"{disk.run.last_checkpoint}: the checkpoint of 2 MB cannot be written: No space left")
    assert message.endswith(f"make room and go on with --resume {disk.run.folder}, the last checkpoint is untouched")
    assert "\n" not in message
    assert not temporary_files(disk.run.folder)
    assert position(disk.run.folder) == (1, 6)
    disk.make_room()
    train(prepare(made), disk.run)
    assert result(disk.run.folder) == undisturbed_here


def test_full_at_the_very_first_checkpoint(
    disk: Disk, recipe: Callable[..., Recipe], before_step: Callable[..., None]
) -> None:
    made = recipe(f"output={disk.run.folder}")
    before_step(1, 1, lambda: disk.fill(but=200_000))
    with pytest.raises(DataError, match=r"best\.ckpt: .*No space left on device; make room and begin again$"):
        train(prepare(made), create_run(made))


def test_full_while_the_metrics_are_written(
    disk: Disk,
    recipe: Callable[..., Recipe],
    before_step: Callable[..., None],
    undisturbed_here: dict[str, Any],
) -> None:
    made = recipe(f"output={disk.run.folder}")
    before_step(2, 2, disk.fill)
    with pytest.raises(DataError, match=r"run/metrics\.csv: cannot be written: No space left on device; make room"):
        train(prepare(made), create_run(made))
    assert len(rows(disk.run.folder)) == 1
    assert not temporary_files(disk.run.folder)
    disk.make_room()
    train(prepare(made), disk.run)
    assert result(disk.run.folder) == undisturbed_here


@pytest.mark.parametrize("room", [0, 100_000])
def test_full_while_the_weights_are_written(
    disk: Disk,
    recipe: Callable[..., Recipe],
    undisturbed_here: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    made = recipe(f"output={disk.run.folder}")
    make_card = finish_module.model_card

    def fill_and_make_card(*arguments: Any) -> str:
        disk.fill(but=room)
        return make_card(*arguments)

    monkeypatch.setattr(finish_module, "model_card", fill_and_make_card)
    with pytest.raises(DataError, match=r"run/weights: the weights cannot be written: No space left on device"):
        train(prepare(made), create_run(made))
    assert not disk.run.weights.exists()
    assert not disk.run.is_finished
    monkeypatch.setattr(finish_module, "model_card", make_card)
    disk.make_room()
    train(prepare(made), disk.run)
    assert result(disk.run.folder) == undisturbed_here


def test_full_while_the_evaluation_is_written(
    disk: Disk,
    recipe: Callable[..., Recipe],
    undisturbed_here: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = recipe(f"output={disk.run.folder}")
    save_evaluation = finish_module.save_evaluation

    def fill_and_save(*arguments: Any) -> None:
        disk.fill()
        save_evaluation(*arguments)

    monkeypatch.setattr(finish_module, "save_evaluation", fill_and_save)
    with pytest.raises(DataError, match=r"validation/predictions\.csv: cannot be written: No space left on device"):
        train(prepare(made), create_run(made))
    monkeypatch.setattr(finish_module, "save_evaluation", save_evaluation)
    disk.make_room()
    train(prepare(made), disk.run)
    assert result(disk.run.folder) == undisturbed_here


def test_full_before_the_run_begins(disk: Disk, recipe: Callable[..., Recipe]) -> None:
    disk.fill()
    with pytest.raises(ConfigError, match=r"^output: .*run cannot be written: No space left on device$"):
        create_run(recipe(f"output={disk.run.folder}"))
    assert not disk.run.folder.exists()


def test_tensorboard_s_events_are_given_up_with_a_warning(
    disk: Disk, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    events = EventFile(disk.root / "tensorboard")
    events.log_metrics({"loss": 1.0}, step=1)
    disk.fill()
    with caplog.at_level(logging.WARNING):
        for step in range(2, 2000):  # until the last block is full
            events.log_metrics({"loss": 1.0}, step=step)
    (record,) = caplog.records
    assert "TensorBoard's events are not written from here on: No space left on device" in record.getMessage()
    assert str(disk.root / "tensorboard") in record.getMessage()
    assert capfd.readouterr().err == ""


def test_training_goes_on_without_tensorboard(
    recipe: Callable[..., Recipe], undisturbed_here: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = create_run(recipe())
    (run.folder / "tensorboard").write_text("in the way")
    train(prepare(recipe()), run)
    assert result(run.folder) == undisturbed_here
    assert "TensorBoard's events are not written" in caplog.text


def test_a_checkpoint_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = callbacks.AtomicCheckpointIO()
    path = tmp_path / "checkpoints" / "last.ckpt"
    storage.save_checkpoint({"value": torch.ones(3)}, path)

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match="the last checkpoint is untouched"):
        storage.save_checkpoint({"value": torch.zeros(3)}, path)
    assert torch.equal(storage.load_checkpoint(path)["value"], torch.ones(3))
    assert [place.name for place in path.parent.iterdir()] == ["last.ckpt"]
