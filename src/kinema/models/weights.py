"""Weights to share: a folder with the tensors, how to build the model, and what an honest evaluation needs.

    model.safetensors   the tensors
    config.json         architecture and arguments, heads with class names, preprocessing per stream
    training.json       what it was trained on: class counts, accuracy on its training clips, groups and content
                        hashes of those clips
    calibration.json    temperatures by which logits are divided, and the clips they were fitted on; not of every folder
    rejection.json      the score below which a clip is said to show nothing of the classes; where one was fitted
    README.md           the same for a person

Nothing is unpickled that a stranger could have written.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kinema.files import read_json_object, write_atomically, write_json
from kinema.types import DataError, Heads, Inputs, Preprocessing
from kinema.version import __version__

FORMAT = 1
"""Version of the folder's layout. A folder of another version is refused."""


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Content of `config.json`: all that is needed to build the model and to feed it."""

    model: str
    arguments: Mapping[str, Any]
    heads: Heads
    preprocessing: Mapping[str, Preprocessing]

    @property
    def inputs(self) -> Inputs:
        return {stream: preprocessing.shape for stream, preprocessing in self.preprocessing.items()}


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """Content of `training.json`.

    Attributes:
        data: The recipe's `data:` section.
        seed: The recipe's seed: a validation split that was cut out of the training clips is cut by it.
        num_clips: Clips that it was trained on.
        class_counts: Task -> number of training clips per class.
        background: Task -> index of a class that stands for nothing; empty where there is none.
        commonest: Task -> index of the commonest class beside that; with several tasks also the commonest combination,
            under "joint", as a list in the order of the heads.
        accuracy: Task (and "joint") -> top-1 accuracy on training clips, without augmentation. Empty where it was not
            measured, which only an ensemble's may be.
        num_accuracy_clips: Clips on which `accuracy` was measured.
        epoch: Epoch whose weights these are, from 1; 0 of an ensemble.
        selected_by: How that epoch was chosen.
        groups: Groups of the training clips.
        contents: Content hash of each training video.
        unmeasured: Why `accuracy` is empty.
        preprocessing: Stream -> fingerprint of the preprocessing that it was trained with.
        inputs: Stream, or "features" -> mean and deviation of what the model was given of training clips; of stored
            features that there are of validation clips alone, of those.
        warnings: What was warned of while it was trained.
        combinations: With several tasks: classes of the tasks, in the order of the heads, and in how many training
            clips they came together.
    """

    data: Mapping[str, Any]
    seed: int
    num_clips: int
    class_counts: Mapping[str, list[int]]
    commonest: Mapping[str, Any]
    accuracy: Mapping[str, float]
    num_accuracy_clips: int
    epoch: int
    selected_by: str
    groups: list[str]
    contents: list[str]
    unmeasured: str = ""
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, list[float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    combinations: list[list[int]] = field(default_factory=list)
    background: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Content of `calibration.json`.

    Attributes:
        temperatures: Task -> what its logits are divided by before they become probabilities.
        split: The split that they were fitted on.
        clip_ids: The clips of it.
    """

    temperatures: Mapping[str, float]
    split: str
    clip_ids: list[str]


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Content of `rejection.json`.

    Attributes:
        method: Which score: `max_probability`, `energy` or `background`.
        threshold: Clips with a lower one are said to show nothing of the classes.
        recall: Share of clips of known classes that the threshold was to let through.
        background: Of `background`: the class that stands for nothing.
        split: The split that it was fitted on.
        clip_ids: The clips of it.
    """

    method: str
    threshold: float
    recall: float
    background: str | None
    split: str
    clip_ids: list[str]


def save(
    folder: Path,
    state: Mapping[str, Tensor],
    config: WeightsConfig,
    training: TrainingFacts,
    *,
    card: str,
    calibration: Calibration | None = None,
) -> None:
    """Write a weights folder.

    Raises:
        DataError: It cannot be written. Nothing half-written is left.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Each in its own memory: the format refuses tensors that share it.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
        }
        write_atomically(folder / "model.safetensors", safetensors.torch.save(copies))
        write_json(
            folder / "config.json",
            {
                "format": FORMAT,
                "kinema": __version__,
                "model": {"name": config.model, "arguments": dict(config.arguments)},
                "heads": {task: list(names) for task, names in config.heads.items()},
                "preprocessing": {
                    stream: {**asdict(preprocessing), "fingerprint": preprocessing.fingerprint}
                    for stream, preprocessing in config.preprocessing.items()
                },
            },
        )
        write_atomically(folder / "README.md", card.encode())
        (folder / "rejection.json").unlink(missing_ok=True)  # of other weights
        if calibration is None:
            (folder / "calibration.json").unlink(missing_ok=True)
        else:
            write_json(folder / "calibration.json", asdict(calibration))
        write_json(folder / "training.json", asdict(training))  # last: its presence says that the folder is whole
    except OSError as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"{folder}: the weights cannot be written: {error.strerror or error}") from error


def weights_folder(path: Path) -> Path:
    """The weights folder that a path names: itself, or the one inside a run."""
    return path / "weights" if (path / "weights" / "config.json").is_file() else path


def read_config(folder: Path) -> WeightsConfig:
    """Read `config.json`.

    Raises:
        DataError: The folder is not a weights folder of this version, or was changed by hand.
    """
    content = _read_json(folder, "config.json")
    if content.get("format") != FORMAT:
        raise DataError(
            f"{folder / 'config.json'}: format {content.get('format')!r}, but this kinema reads format {FORMAT}; "
            "use the kinema that wrote it"
        )
    try:
        preprocessing = {}
        for stream, values in content["preprocessing"].items():
            expected = values.pop("fingerprint")
            try:
                preprocessing[stream] = Preprocessing.from_dict(values)
            except DataError as error:
                raise DataError(f"{folder / 'config.json'}: {error}") from None
            if preprocessing[stream].fingerprint != expected:
                raise DataError(
                    f"{folder / 'config.json'}: the preprocessing of {stream!r} was changed after training "
                    f"(fingerprint {preprocessing[stream].fingerprint} instead of {expected}); restore it"
                )
        return WeightsConfig(
            model=content["model"]["name"],
            arguments=content["model"]["arguments"],
            heads={task: tuple(names) for task, names in content["heads"].items()},
            preprocessing=preprocessing,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / 'config.json'}: not a configuration of kinema ({error!r})") from None


def read_training(folder: Path) -> TrainingFacts:
    """Read `training.json`.

    Raises:
        DataError: It is missing or not of this version.
    """
    path = folder / "training.json"
    try:
        facts = TrainingFacts(**_read_json(folder, "training.json"))
    except TypeError as error:
        raise DataError(f"{path}: not written by this version of kinema ({error})") from None
    objects = {name: getattr(facts, name) for name in ("data", "class_counts", "commonest", "accuracy")}
    wrong = [name for name, value in objects.items() if not isinstance(value, dict)]
    if wrong or not isinstance(facts.data.get("name"), str):
        raise DataError(f"{path}: not written by this version of kinema ({(wrong or ['data.name'])[0]} is wrong)")
    return facts


def read_calibration(folder: Path) -> Calibration | None:
    """Read `calibration.json`; None where there is none.

    Raises:
        DataError: It is not what kinema wrote.
    """
    path = folder / "calibration.json"
    if not path.exists():
        return None
    try:
        found = Calibration(**_read_json(folder, "calibration.json"))
        right = all(type(t) in (int, float) and 0.01 <= t <= 100 for t in found.temperatures.values())
        right = right and isinstance(found.split, str) and all(isinstance(clip_id, str) for clip_id in found.clip_ids)
    except (TypeError, AttributeError):
        right = False
    if not right:
        raise DataError(f"{path}: no temperatures of kinema; remove it, and probabilities are as the model gives them")
    return found


def save_rejection(folder: Path, rejection: Rejection) -> None:
    """Write `rejection.json`.

    Raises:
        DataError: It cannot be written.
    """
    try:
        write_json(folder / "rejection.json", asdict(rejection))
    except OSError as error:
        raise DataError(f"{folder / 'rejection.json'}: cannot be written: {error.strerror or error}") from None


def read_rejection(folder: Path) -> Rejection | None:
    """Read `rejection.json`; None where there is none.

    Raises:
        DataError: It is not what kinema wrote.
    """
    path = folder / "rejection.json"
    if not path.exists():
        return None
    try:
        found = Rejection(**_read_json(folder, "rejection.json"))
        right = found.method in ("max_probability", "energy") or (
            found.method == "background" and isinstance(found.background, str)
        )
        right = right and type(found.threshold) in (int, float) and math.isfinite(found.threshold)
    except TypeError:
        right = False
    if not right:
        raise DataError(f"{path}: no threshold of kinema; remove it, and every clip is answered")
    return found


def classes_of_nothing(
    config: WeightsConfig, training: TrainingFacts, rejection: Rejection | None = None
) -> dict[str, int]:
    """Task -> index of a class that stands for nothing: made of training clips, or named with the threshold."""
    named = None if rejection is None else rejection.background
    found = {task: names.index(named) for task, names in config.heads.items() if named is not None and named in names}
    return {**training.background, **found}


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not folder.is_dir():
        raise DataError(f"{folder}: no such weights folder")
    if not path.is_file():
        raise DataError(f"{folder}: not a weights folder, {name} is missing")
    return read_json_object(path)
