"""A window of so many seconds, from training through the weights to evaluation and use."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training.conftest import write_clip

import kinema
from kinema.data.decoding import probe, read_frames
from kinema.data.loading import ClipReader
from kinema.data.views import Views
from kinema.evaluation.evaluate import evaluate
from kinema.sections import Recipe
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.train import train


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[int, ...]]]:
    """Split -> which frames of a video of eight were read as a clip."""
    found: dict[str, set[tuple[int, ...]]] = {}
    plan = ClipReader.plan

    def watched(self: ClipReader, index: int, epoch: int) -> object:
        plans, drawn = plan(self, index, epoch)
        split = "training" if self.augmentation is not None else "evaluation"
        found.setdefault(split, set()).add(plans["rgb"].indices)
        return plans, drawn

    monkeypatch.setattr(ClipReader, "plan", watched)
    return found


def test_a_window_is_drawn_in_training_and_in_the_middle_afterwards(
    recipe: Callable[..., Recipe], seen: dict[str, set[tuple[int, ...]]], tmp_path: Path
) -> None:
    made = recipe("clips.window_s=0.5", "trainer.epochs=2")
    prepared = prepare(made)
    run = train(prepared, create_run(made)).run
    spans = {frames[-1] - frames[0] for frames in seen["training"]}
    assert spans <= {2, 3, 4}  # half a second of eight frames a second, beginning anywhere between two of them
    assert {frames[0] for frames in seen["training"]} >= {0, 1, 2, 3, 4}
    assert seen.pop("evaluation") == {(2, 3, 4, 5)}
    (config,) = json.loads((run.weights / "config.json").read_text())["preprocessing"].values()
    assert config["window_s"] == 0.5
    assert config["fingerprint"] == prepared.preprocessing["rgb"].fingerprint
    assert config["fingerprint"] != prepare(recipe()).preprocessing["rgb"].fingerprint
    assert (
        "4 frames, uniform over 0.5 s in the middle of the clip, 32 x 32 px" in (run.weights / "README.md").read_text()
    )

    evaluate(run.weights, ["clips.workers=0"], split="validation", views=Views(clips=3))
    assert seen["evaluation"] == {(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7)}
    video = write_clip(tmp_path / "clip.mp4", rises=True, seed=5)
    recogniser = kinema.load(run.weights, device="cpu")
    middle = torch.stack([torch.from_numpy(frame) for frame in read_frames(probe(video), range(2, 6))])
    found, wanted = (recogniser.predict(what, fps=fps) for what, fps in ((video, None), (middle, 8)))
    assert found.probabilities["action"] == pytest.approx(wanted.probabilities["action"], abs=2e-2)


def test_clips_that_are_no_longer_are_counted(recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kinema"):
        prepare(recipe("clips.window_s=2"))
    assert "clips.window_s: 16 of 16 training clips are no longer than 2 s, and are taken whole" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="kinema"):
        prepare(recipe("clips.window_s=0.9"))
    assert "clips.window_s" not in caplog.text
