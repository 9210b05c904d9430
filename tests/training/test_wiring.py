"""Settings of reading and computing reach what reads and computes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kinema.data import loading
from kinema.data.frame_store import FrameFormat
from kinema.evaluation.evaluate import evaluate
from kinema.preparation.frames import FrameSettings, prepare_frames
from kinema.sections import Recipe
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.train import train
from kinema.types import DataError


def test_every_frame_comes_from_the_decoder_that_is_named(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    from kinema.data.decoders.opencv import OpenCV

    taken: list[Path] = []
    take = OpenCV.take

    def counted(self: OpenCV, video: Any, *arguments: Any) -> Any:
        taken.append(video.path)
        return take(self, video, *arguments)

    monkeypatch.setattr(OpenCV, "take", counted)
    chosen = recipe("clips.decoder=opencv", "clips.store=none", "trainer.epochs=1")
    prepared = prepare(chosen)
    run = create_run(chosen)
    train(prepared, run)
    # Training, validation, and measuring on both in the end.
    assert len(taken) == 2 * sum(len(clips) for clips in prepared.clips.values())
    taken.clear()
    evaluation = evaluate(run.weights, ["clips.decoder=opencv", "clips.workers=0"], split="validation")
    assert len(taken) == len(evaluation.predictions.clips) > 0


def test_the_last_measurements_are_of_what_the_store_holds(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(f"clips.store={tmp_path / 'store'}", "trainer.epochs=1", "clips.augmentation.views=1")
    prepared = prepare(recipe())
    form = FrameFormat.of(prepared.preprocessing["rgb"])
    settings = FrameSettings(form=form, num_frames=4, augmentation=chosen.clips.augmentation)
    clips = {split: list(of_split) for split, of_split in prepared.clips.items()}
    prepare_frames(clips, prepared.videos, settings, tmp_path / "store", root=chosen.data.root)
    monkeypatch.setattr(loading, "read_plan", None)  # nothing is decoded any more
    trained = train(prepare(chosen), create_run(chosen))
    assert trained.best["split"] == "validation"


def test_a_store_that_is_not_there_is_said_before_a_run_exists(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a store"):
        prepare(recipe(f"clips.store={tmp_path / 'none'}"))
    assert not (tmp_path / "run").exists()


def test_training_is_compiled_where_it_is_asked_for(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.INFO, logger="kinema")
    chosen = recipe("trainer.runtime.compile=on", "trainer.epochs=1")
    prepared = prepare(chosen)
    run = create_run(chosen)
    train(prepared, run)
    assert any(part is prepared.model for part in compiled)
    assert torch.load(run.last_checkpoint, weights_only=True)["epoch_state"]["compiled"] is True
    assert "torch.compile: " in caplog.text


def test_short_training_is_not_compiled_by_itself(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda _self: pytest.fail("compiled"))
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.INFO, logger="kinema")
    chosen = recipe("trainer.runtime.compile=auto", "trainer.epochs=1")
    train(prepare(chosen), create_run(chosen))
    assert "torch.compile is not used: " in caplog.text
