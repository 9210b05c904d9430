"""Weights folders: whole, or refused in one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.facts import MEAN, STD, TRAINING

from kinema.models.build import build_model
from kinema.models.load import load_model
from kinema.models.weights import (
    Calibration,
    WeightsConfig,
    read_calibration,
    read_config,
    read_training,
    save,
    weights_folder,
)
from kinema.state_dict import read_state_dict
from kinema.types import ConfigError, DataError, Preprocessing

RGB = Preprocessing(num_frames=2, size_px=32, resize_px=36, fit="crop", mean=MEAN, std=STD)
CONFIG = WeightsConfig(
    model="frame_average",
    arguments={"backbone": "tiny", "dropout": 0.1},
    heads={"action": ("open", "close", "push")},
    preprocessing={"rgb": RGB},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "weights", CONFIG)


def written(folder: Path, config: WeightsConfig) -> Path:
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    save(folder, model.state_dict(), config, TRAINING, card="# A model\n")
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_temperatures_are_kept_beside_the_tensors(folder: Path) -> None:
    assert read_calibration(folder) is None
    calibration = Calibration(temperatures={"action": 1.5}, split="validation", clip_ids=["a", "b"])
    model = load_model(folder)[0]
    save(folder, model.state_dict(), CONFIG, TRAINING, card="", calibration=calibration)
    assert read_calibration(folder) == calibration
    save(folder, model.state_dict(), CONFIG, TRAINING, card="")
    assert read_calibration(folder) is None


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "{}",
        '{"temperatures": {"action": 0}, "split": "test", "clip_ids": []}',
        '{"temperatures": 2, "split": "test", "clip_ids": []}',
        '{"temperatures": {"a": "x"}, "split": "s", "clip_ids": []}',
        '{"temperatures": {"action": true}, "split": "test", "clip_ids": []}',
        '{"temperatures": {"action": 1e-50}, "split": "test", "clip_ids": []}',
        '{"temperatures": {"action": 1}, "split": ["x"], "clip_ids": []}',
        '{"temperatures": {"action": 1}, "split": "test", "clip_ids": [1]}',
    ],
)
def test_what_is_no_temperature_is_refused(folder: Path, content: str) -> None:
    (folder / "calibration.json").write_text(content)
    with pytest.raises(DataError, match=r"calibration\.json: ") as caught:
        read_calibration(folder)
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    assert read_config(folder) == CONFIG
    assert asdict(read_training(folder)) == asdict(TRAINING)
    assert json.loads((folder / "config.json").read_text())["preprocessing"]["rgb"]["fingerprint"] == RGB.fingerprint


def test_any_other_preprocessing_has_another_fingerprint() -> None:
    changes: list[dict[str, Any]] = [
        {"num_frames": 3},
        {"size_px": 33},
        {"resize_px": 37},
        {"fit": "squash"},
        {"mean": (0.5, 0.4, 0.31)},
        {"std": (0.2, 0.25, 0.31)},
    ]
    assert len({RGB.fingerprint, *(replace(RGB, **change).fingerprint for change in changes)}) == len(changes) + 1


def test_a_run_stands_for_its_weights(folder: Path) -> None:
    assert weights_folder(folder.parent) == folder
    assert weights_folder(folder) == folder
    assert weights_folder(Path("nowhere")) == Path("nowhere")


def test_no_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such weights folder"
    assert refusal(tmp_path) == f"{tmp_path}: not a weights folder, config.json is missing"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == f"{tmp_path / 'file'}: no such weights folder"


def test_another_format(folder: Path) -> None:
    edit(folder / "config.json", lambda content: content.update(format=2))
    assert refusal(folder).startswith(f"{folder / 'config.json'}: format 2, but this kinema reads format 1")


@pytest.mark.parametrize(("key", "value"), [("size_px", 64), ("fit", "squash"), ("mean", [0, 0, 0]), ("num_frames", 3)])
def test_preprocessing_that_was_edited(folder: Path, key: str, value: object) -> None:
    edit(folder / "config.json", lambda content: content["preprocessing"]["rgb"].update({key: value}))
    assert refusal(folder).startswith(
        f"{folder / 'config.json'}: the preprocessing of 'rgb' was changed after training (fingerprint "
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("heads"),
        lambda content: content.pop("model"),
        lambda content: content.update(model="frame_average"),
        lambda content: content.update(heads=["open"]),
        lambda content: content.update(preprocessing=None),
        lambda content: content["preprocessing"]["rgb"].pop("fingerprint"),
        lambda content: content["preprocessing"]["rgb"].pop("mean"),
        lambda content: content["preprocessing"]["rgb"].update(colour="bgr"),
        lambda content: content["preprocessing"].update(rgb=3),
    ],
)
def test_a_config_that_is_not_ours(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(folder / "config.json", change)
    assert refusal(folder).startswith(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"text"'])
def test_a_config_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert refusal(folder).startswith(f"{folder / 'config.json'}: ")


def test_a_model_that_is_not_registered_here(folder: Path) -> None:
    edit(folder / "config.json", lambda content: content["model"].update(name="theirs"))
    with pytest.raises(ConfigError, match=r"^model\.name: there is no model 'theirs'"):
        load_model(folder)


def test_arguments_that_the_model_does_not_have(folder: Path) -> None:
    edit(folder / "config.json", lambda content: content["model"]["arguments"].update(depth=3))
    with pytest.raises(ConfigError, match="unexpected keyword argument 'depth'"):
        load_model(folder)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_tensors(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert refusal(folder).startswith(f"{path}: cannot be read as weights: ")


def test_tensors_that_are_not_there(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"{folder / 'model.safetensors'}: no such file of weights"


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIG, heads={"action": ("open", "close")}),
        replace(CONFIG, heads={"verb": ("open", "close", "push")}),
        replace(CONFIG, model="cnn_lstm"),
    ],
)
def test_folders_that_were_mixed(folder: Path, tmp_path: Path, other: WeightsConfig) -> None:
    tensors = written(tmp_path / "other", other) / "model.safetensors"
    tensors.replace(folder / "model.safetensors")
    message = refusal(folder)
    assert message.startswith(f"{folder / 'model.safetensors'}: ")
    assert "tensors do not belong to the model in config.json, such as " in message


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("commonest"),
        lambda content: content.update(more=1),
        lambda content: content.update(data=None),
        lambda content: content.update(data={}),
        lambda content: content.update(accuracy=0.5),
    ],
)
def test_facts_of_training_that_are_not_ours(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(folder / "training.json", change)
    with pytest.raises(DataError, match="not written by this version of kinema") as caught:
        read_training(folder)
    assert str(caught.value).startswith(f"{folder / 'training.json'}: ")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the weights cannot be written"):
        save(tmp_path / "file" / "weights", {"a": torch.zeros(1)}, CONFIG, TRAINING, card="")


def test_a_full_disk_leaves_the_folder_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        save(folder, {"a": torch.zeros(1)}, CONFIG, TRAINING, card="")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_tensors_that_share_memory_or_are_not_contiguous_are_written(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    save(tmp_path / "w", {"a": base, "b": base.T, "c": base[:1]}, CONFIG, TRAINING, card="")
    found = read_state_dict(tmp_path / "w" / "model.safetensors")
    assert torch.equal(found["a"], base)
    assert torch.equal(found["b"], base.T)
    assert torch.equal(found["c"], base[:1])
