"""Whole runs: what they write, which epoch they keep, what they do about clips that cannot be read."""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tests.training.runs import result, rows, training_json

from kinema.data import reading
from kinema.data.decoding import Video
from kinema.data.reading import ClipPlan, plan_clip
from kinema.evaluation.calibration import fit_temperature
from kinema.models.load import load_model
from kinema.models.weights import read_calibration
from kinema.sections import Recipe
from kinema.training import callbacks, module
from kinema.training import finish as finish_module
from kinema.training.callbacks import History
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.train import Trained, train
from kinema.types import Clip, ConfigError, DataError


def run_of(recipe: Recipe) -> Trained:
    return train(prepare(recipe), create_run(recipe))


@pytest.fixture
def own_clips(clips_root: Path, tmp_path: Path) -> Path:
    """A copy of the clips, to be spoilt."""
    return shutil.copytree(clips_root, tmp_path / "own clips")


# The same again


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_seed_gives_the_same_weights(
    recipe: Callable[..., Recipe], undisturbed_here: dict[str, Any], workers: int
) -> None:
    trained = run_of(recipe(f"clips.workers={workers}"))
    assert result(trained.run.folder) == undisturbed_here


def test_another_seed_gives_other_weights(recipe: Callable[..., Recipe], undisturbed_here: dict[str, Any]) -> None:
    found = result(run_of(recipe("trainer.seed=1")).run.folder)
    assert found["model.safetensors"] != undisturbed_here["model.safetensors"]
    assert found["metrics.csv"] != undisturbed_here["metrics.csv"]


# What is kept


def test_the_best_epoch_is_kept(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest accuracy; among equal ones the lowest loss, however little it is lower."""
    tops = [0.5, 0.75, 0.75, 0.75, 0.5]
    losses = [0.1, 0.3000, 0.2999, 0.2999, 0.05]
    left_tops, left_losses = iter(tops), iter(losses)
    monkeypatch.setattr(module, "accuracy", lambda _predictions: {"action": next(left_tops)})
    monkeypatch.setattr(module, "task_metrics", lambda _predictions, _task: {"loss": next(left_losses)})
    made = recipe("trainer.epochs=5", "trainer.patience=null")
    states = []
    save = callbacks.AtomicCheckpointIO.save_checkpoint

    def watched(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        state = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
        states.append((Path(path).name, checkpoint["epoch"], state))
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(callbacks.AtomicCheckpointIO, "save_checkpoint", watched)
    trained = run_of(made)
    assert [row["validation/action_top1"] for row in rows(trained.run.folder)] == tops
    assert [row["validation/loss"] for row in rows(trained.run.folder)] == pytest.approx(losses)
    assert trained.best["epoch"] == training_json(trained.run.folder)["epoch"] == 3
    assert training_json(trained.run.folder)["selected_by"] == "the best validation result"
    assert [epoch + 1 for name, epoch, _ in states if name == "best.ckpt"] == [1, 2, 3]
    of_third = next(state for name, epoch, state in states if (name, epoch) == ("last.ckpt", 2))
    kept = load_file(trained.run.weights / "model.safetensors")
    assert all(torch.equal(kept[name.removeprefix("model.")], value) for name, value in of_third.items())


def test_the_best_epoch_is_the_best_in_the_metrics(recipe: Callable[..., Recipe]) -> None:
    trained = run_of(recipe("trainer.epochs=4", "optim.lr=0.02"))
    table = rows(trained.run.folder)
    best = max(table, key=lambda row: (row["validation/action_top1"], -row["validation/loss"]))
    assert trained.best["epoch"] == best["epoch"]
    assert trained.best["top1"] == pytest.approx(best["validation/action_top1"])
    metrics = json.loads((trained.run.evaluations / "validation" / "metrics.json").read_text())
    assert metrics["tasks"]["action"]["loss"] == pytest.approx(best["validation/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("select", "validation", "expected"), [("last", True, "last"), ("auto", True, "best"), ("auto", False, "last")]
)
def test_which_epoch_is_asked_for(
    recipe: Callable[..., Recipe], own_clips: Path, select: str, validation: bool, expected: str
) -> None:
    if not validation:
        shutil.rmtree(own_clips / "validation")
    made = recipe(f"data.root={own_clips}", "trainer.patience=null", f"trainer.select={select}", "trainer.epochs=2")
    prepared = prepare(made)
    assert prepared.select == expected
    run = create_run(made)
    trained = train(prepared, run)
    assert run.best_checkpoint.exists() == (expected == "best")
    if expected == "last":
        assert trained.best["epoch"] == 2
        assert training_json(run.folder)["selected_by"] == "being the last epoch"
        last = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
        kept = load_file(run.weights / "model.safetensors")
        assert all(torch.equal(kept[name.removeprefix("model.")], value) for name, value in last.items())
    assert ("validation/loss" in rows(run.folder)[0]) == validation
    assert (run.evaluations / "validation").exists() == validation


def test_selecting_needs_a_validation_split(recipe: Callable[..., Recipe], own_clips: Path) -> None:
    shutil.rmtree(own_clips / "validation")
    with pytest.raises(ConfigError, match=r"^trainer\.select: best needs a validation split"):
        prepare(recipe(f"data.root={own_clips}", "trainer.patience=null"))
    with pytest.raises(ConfigError, match=r"^trainer\.patience: needs a validation split"):
        prepare(recipe(f"data.root={own_clips}", "trainer.select=auto"))


def test_a_validation_split_is_cut_out(recipe: Callable[..., Recipe], own_clips: Path) -> None:
    shutil.rmtree(own_clips / "validation")
    trained = run_of(recipe(f"data.root={own_clips}", "data.validation=0.25", "trainer.epochs=1"))
    assert training_json(trained.run.folder)["class_counts"] == {"action": [6, 6]}
    metrics = json.loads((trained.run.evaluations / "validation" / "metrics.json").read_text())
    assert metrics["num_clips"] == 4


def test_the_test_split_is_never_looked_at(
    recipe: Callable[..., Recipe], own_clips: Path, undisturbed_here: dict[str, Any]
) -> None:
    for path in (own_clips / "test").rglob("*.mp4"):
        path.write_bytes(b"")
    spoilt = result(run_of(recipe(f"data.root={own_clips}")).run.folder)
    assert spoilt["model.safetensors"] == undisturbed_here["model.safetensors"]
    assert spoilt["metrics.csv"] == undisturbed_here["metrics.csv"]


# Clips that cannot be read


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"not a video\n" * 100}[how])


def test_broken_clips_are_counted_and_left_out(
    recipe: Callable[..., Recipe], own_clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, how in enumerate(["empty", "truncated", "text"]):
        spoil(own_clips / "train" / "falling" / f"{number}.mp4", how)
    spoil(own_clips / "validation" / "rising" / "0.mp4", "text")
    made = recipe(f"data.root={own_clips}", "trainer.epochs=1")
    with caplog.at_level(logging.WARNING):
        prepared = prepare(made)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert warnings[0].startswith("train: 3 of 16 clips cannot be read and are left out")
    assert warnings[1].startswith("validation: 1 of 4 clips cannot be read and are left out")
    caplog.clear()
    run = create_run(made)
    train(prepared, run)
    assert caplog.records == []
    facts = training_json(run.folder)
    assert facts["class_counts"] == {"action": [5, 8]}
    assert facts["num_clips"] == facts["num_accuracy_clips"] == len(facts["contents"]) == 13
    assert facts["commonest"] == {"action": 1}
    metrics = json.loads((run.evaluations / "validation" / "metrics.json").read_text())
    assert (metrics["num_clips"], metrics["num_skipped"]) == (3, 1)


def test_the_temperature_is_fitted_on_validation_clips(recipe: Callable[..., Recipe]) -> None:
    run = run_of(recipe("trainer.epochs=1")).run
    kept = read_calibration(run.weights)
    assert kept is not None
    assert (kept.split, len(kept.clip_ids)) == ("validation", 4)
    metrics = json.loads((run.evaluations / "validation" / "metrics.json").read_text())
    assert metrics["temperature_fitted_here"] is True
    assert metrics["tasks"]["action"]["calibration"]["temperature"] == kept.temperatures["action"]
    logits = load_file(run.evaluations / "validation" / "logits.safetensors")["action"].numpy()
    labels = [clip.labels["action"] for clip in prepare(run.recipe()).clips["validation"]]
    assert kept.temperatures == {"action": pytest.approx(fit_temperature(logits, np.array(labels)))}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_a_readable_clip(recipe: Callable[..., Recipe], own_clips: Path, split: str) -> None:
    for path in (own_clips / split).rglob("*.mp4"):
        spoil(path, "text")
    expected = rf"^none of the (16|4) {split} clips can be read; the first: .*/{split}/falling/0\.mp4"
    with pytest.raises(DataError, match=expected):
        prepare(recipe(f"data.root={own_clips}"))


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets clips break when they are read, after they were probed well."""

    def arrange(pattern: str) -> None:
        def read(clip: Clip, video: Video, *arguments: Any, **keywords: Any) -> ClipPlan:
            if re.search(pattern, clip.clip_id):
                raise DataError(f"{video.path}: it broke")
            return plan_clip(clip, video, *arguments, **keywords)

        monkeypatch.setattr(reading, "plan_clip", read)

    return arrange


@pytest.mark.parametrize("workers", [0, 1])
def test_clips_that_break_when_they_are_read(
    recipe: Callable[..., Recipe],
    breaks: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    breaks("train/falling/[12345]|validation/falling/1")
    made = recipe("trainer.epochs=2", "clips.batch_size=2", f"clips.workers={workers}")
    with caplog.at_level(logging.WARNING):
        trained = run_of(made)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("5 training clips could not be read and were left out: train/falling/1.mp4, ")
    facts = training_json(trained.run.folder)
    assert facts["class_counts"] == {"action": [3, 8]}
    assert facts["num_clips"] == 11
    metrics = json.loads((trained.run.evaluations / "validation" / "metrics.json").read_text())
    assert (metrics["num_clips"], metrics["num_skipped"]) == (3, 1)
    assert "validation/falling/1.mp4" in (trained.run.evaluations / "validation" / "skipped.csv").read_text()


def test_batches_of_which_nothing_is_left(recipe: Callable[..., Recipe], breaks: Callable[[str], None]) -> None:
    breaks("train/falling")
    trained = run_of(recipe("trainer.epochs=1", "clips.batch_size=1"))
    assert training_json(trained.run.folder)["class_counts"] == {"action": [0, 8]}
    assert rows(trained.run.folder)[0]["train/loss"] > 0


def test_a_clip_that_was_read_once_was_trained_on(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = []

    def read(clip: Clip, video: Video, *arguments: Any, **keywords: Any) -> ClipPlan:
        if clip.clip_id == "train/rising/3.mp4":
            times.append(1)
            if len(times) == 1:
                raise DataError(f"{video.path}: the network was away")
        return plan_clip(clip, video, *arguments, **keywords)

    monkeypatch.setattr(reading, "plan_clip", read)
    trained = run_of(recipe("trainer.epochs=2"))
    assert training_json(trained.run.folder)["class_counts"] == {"action": [8, 8]}


def test_no_training_clip_can_be_read(recipe: Callable[..., Recipe], breaks: Callable[[str], None]) -> None:
    breaks("train/")
    with pytest.raises(DataError, match=r"^no training clip could be read in epoch 1; .*it broke$"):
        run_of(recipe())


def test_no_validation_clip_can_be_read(recipe: Callable[..., Recipe], breaks: Callable[[str], None]) -> None:
    breaks("validation/")
    with pytest.raises(DataError, match=r"^none of the 4 validation clips can be read; the first: .*it broke$"):
        run_of(recipe())


# What a run writes


def test_tensorboard_has_the_numbers_of_the_metrics(recipe: Callable[..., Recipe]) -> None:
    trained = run_of(recipe())
    table = rows(trained.run.folder)
    events = EventAccumulator(str(trained.run.folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(table[0]) - {"epoch", "seconds"}
    for name in events.Tags()["scalars"]:
        values = events.Scalars(name)
        assert [event.step for event in values] == [1, 2, 3]
        assert [event.value for event in values] == pytest.approx([row[name] for row in table], rel=1e-5)


def test_every_column_of_the_metrics_is_explained(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    explained = re.findall(r"^    (\S+)  ", History.__doc__ or "", flags=re.MULTILINE)
    columns = [name.replace("TASK", "action") for name in explained]
    two_rates = run_of(recipe("trainer.epochs=1", "optim.backbone_lr_factor=0.5"))
    assert list(rows(two_rates.run.folder)[0]) == columns
    one_rate = run_of(recipe("trainer.epochs=1", f"output={tmp_path / 'one'}"))
    assert list(rows(one_rate.run.folder)[0]) == [name for name in columns if name != "lr_backbone"]


def test_the_metrics_mean_what_they_say(recipe: Callable[..., Recipe]) -> None:
    trained = run_of(recipe("trainer.epochs=2", "optim.schedule=constant", "optim.warmup_epochs=0"))
    table = rows(trained.run.folder)
    assert [row["epoch"] for row in table] == [1, 2]
    assert [row["lr"] for row in table] == [3e-3, 3e-3]
    assert all(row["train/action_top1"] * 16 == round(row["train/action_top1"] * 16) for row in table)
    assert all(0 < row["seconds"] < 60 for row in table)


def test_a_run_says_what_it_depends_on(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/kinema", "train", "recipe.yaml"])
    made = recipe("trainer.seed=7")
    run = create_run(made)
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["command"] == ["kinema", "train", "recipe.yaml"]
    assert environment["seed"] == 7
    versions = environment["versions"]
    assert set(versions) == {"kinema", "python", "torch", "torchvision", "timm", "lightning", "av", "numpy"}
    assert all(versions.values())
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["hardware"]["cores"] >= 1
    assert environment["hardware"]["memory_gib"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", environment["started"])
    git = environment["kinema_git"]
    assert git is None or re.fullmatch("[0-9a-f]{40}", git["commit"])
    assert run.recipe().to_dict() == made.to_dict()
    assert yaml.safe_load(run.config.read_text())["optim"]["weight_decay"] == 0.01  # a default


def test_the_weights_are_what_the_run_ended_in(recipe: Callable[..., Recipe]) -> None:
    made = recipe("trainer.epochs=1")
    prepared = prepare(made)
    train(prepared, create_run(made))
    model, config = load_model(made.output / "weights" if made.output else Path())
    assert config.preprocessing == prepared.preprocessing
    assert config.heads == {"action": ("falling", "rising")}
    state = prepared.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_no_process_of_training_is_left_when_the_result_is_measured(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    predict = finish_module.predict_clips

    def watched(*arguments: Any, **keywords: Any) -> Any:
        counts.append(len(multiprocessing.active_children()))
        return predict(*arguments, **keywords)

    monkeypatch.setattr(finish_module, "predict_clips", watched)
    run_of(recipe("clips.workers=1", "trainer.epochs=1"))
    assert counts == [0, 0]
