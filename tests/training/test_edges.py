"""Sizes, settings and folders at the edge of what is possible."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.conftest import write_clip
from tests.training.runs import result

from kinema.preprocessing import make_preprocessing
from kinema.sections import ClipsSection, Recipe
from kinema.training import prepare as prepare_module
from kinema.training.prepare import prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.train import Trained, train
from kinema.types import ConfigError


def run_of(recipe: Recipe) -> Trained:
    return train(prepare(recipe), create_run(recipe))


@pytest.mark.parametrize("batch_size", [1, 5, 16, 1000])
def test_any_batch_size(recipe: Callable[..., Recipe], batch_size: int) -> None:
    trained = run_of(recipe(f"clips.batch_size={batch_size}", "trainer.epochs=1"))
    state = torch.load(trained.run.last_checkpoint, weights_only=True)["epoch_state"]
    assert state["batches_done"] == -(-16 // batch_size)
    assert state["sums"]["clips"] == 16


@pytest.mark.parametrize("model", ["cnn_lstm", "cnn_conv1d", "frame_average"])
def test_one_training_clip(recipe: Callable[..., Recipe], tmp_path: Path, model: str) -> None:
    write_clip(tmp_path / "one" / "train" / "rising" / "0.mp4", rises=True, seed=0)
    made = recipe(
        f"data.root={tmp_path / 'one'}",
        f"model={{name: {model}, backbone: tiny}}",
        "trainer={epochs: 2, accelerator: cpu}",
    )
    trained = run_of(made)
    assert trained.best["train_top1"] == 1.0  # there is one class


@pytest.mark.parametrize(("batch_size", "possible"), [(3, False), (1, False), (4, True)])
def test_batch_norm_and_a_batch_of_one_picture(recipe: Callable[..., Recipe], batch_size: int, possible: bool) -> None:
    made = recipe(f"clips.batch_size={batch_size}", "clips.num_frames=1", "trainer.epochs=1")
    if possible:
        assert run_of(made).best["epoch"] == 1
    else:
        with pytest.raises(ConfigError, match=rf"^clips\.batch_size: with {batch_size} and 16 training clips, an epo"):
            prepare(made)


def test_bf16_on_the_cpu(recipe: Callable[..., Recipe], undisturbed_here: dict[str, Any]) -> None:
    trained = run_of(recipe("trainer.precision=bf16"))
    found = result(trained.run.folder)
    assert found["model.safetensors"] != undisturbed_here["model.safetensors"]
    for row, expected in zip(found["metrics.csv"], undisturbed_here["metrics.csv"], strict=True):
        assert row["train/loss"] == pytest.approx(expected["train/loss"], rel=0.1)
    assert all(
        value.dtype == torch.float32
        for value in load_file(trained.run.weights / "model.safetensors").values()
        if value.is_floating_point()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("setting", ["trainer.precision=fp16", "trainer.accelerator=gpu"])
def test_a_gpu_that_is_not_there_is_missed_before_anything_is_done(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(prepare_module, "load_dataset", None)
    with pytest.raises(ConfigError, match=rf"^{setting.partition('=')[0]}: "):
        prepare(recipe(setting))


def test_runs_of_one_day_get_folders_of_their_own(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [create_run(recipe("output=null")).folder for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_folder_cnn_lstm(-[23])?", folder.name) for folder in folders)
    assert {folder.parent for folder in folders} == {Path("runs")}


def test_a_run_takes_an_empty_folder_and_no_other(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    made = recipe()
    (tmp_path / "run").mkdir()
    assert create_run(made) == Run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^output: .*run exists already and a run is never overwritten"):
        create_run(made)


def test_frames_are_planes_where_their_size_is_even() -> None:
    def pixels(**clips: Any) -> str:
        return make_preprocessing(ClipsSection(**clips), mean=(0.5,) * 3, std=(0.5,) * 3).pixels

    assert pixels() == "i420"
    assert pixels(size_px=33) == "rgb"
    assert pixels(pixels="rgb") == "rgb"
    with pytest.raises(ConfigError, match=r"^clips\.pixels: .* clips\.size_px is odd \(33\)"):
        pixels(size_px=33, pixels="i420")
