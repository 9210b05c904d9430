"""A tiny data set of real videos, and recipes that train on it in a second."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.processes import Commands, fork_server
from tests.training.runs import result
from tests.videos import write_video

from kinema.config import resolve
from kinema.sections import Recipe
from kinema.training.prepare import prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.train import train

NUM_CLIPS = {"train": 8, "validation": 2, "test": 2}
"""Clips per class."""

CLASSES = ("falling", "rising")


def write_clip(path: Path, *, rises: bool, seed: int) -> Path:
    """Eight frames of 48 px: a bright bar over noise that moves up or down."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = rng.integers(0, 90, size=(8, 48, 48, 3), dtype=np.uint8)
    left = int(rng.integers(0, 24))
    for time, frame in enumerate(frames):
        top = 5 * (7 - time if rises else time)
        frame[top : top + 10, left : left + 20] = rng.integers(150, 250, size=3)
    return write_video(path, list(frames), fps=8)


@pytest.fixture(scope="session")
def clips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per split with a folder per class: 16 training, 4 validation and 4 test clips."""
    root = tmp_path_factory.mktemp("clips")
    seed = 0
    for split, number in NUM_CLIPS.items():
        for label, name in enumerate(CLASSES):
            for index in range(number):
                seed += 1
                write_clip(root / split / name / f"{index}.mp4", rises=bool(label), seed=seed)
    return root


@pytest.fixture(scope="session")
def settings(clips_root: Path) -> dict[str, Any]:
    """A recipe with everything random in it: 6 batches an epoch, the last one of one clip."""
    return {
        "data": {"name": "folder", "root": str(clips_root)},
        "clips": {
            "num_frames": 4,
            "size_px": 32,
            "batch_size": 3,
            "workers": 0,
            "augmentation": {"jitter": True, "flip": 0.5, "min_scale": 0.5, "colour": 0.3},
        },
        "model": {"name": "cnn_lstm", "backbone": "tiny", "hidden_size": 16, "dropout": 0.5},
        "optim": {"lr": 3e-3, "warmup_epochs": 0.5},
        "trainer": {
            "epochs": 3,
            "select": "best",
            "patience": 3,
            "accelerator": "cpu",
            "sanity": {"gap": None, "waiting": None, "baseline_epochs": None},  # of so few clips, on any machine
        },
    }


@pytest.fixture
def recipe(settings: dict[str, Any], tmp_path: Path) -> Callable[..., Recipe]:
    """Makes a recipe with `section.key=value` changed; its run is `tmp_path/run`."""

    def make(*overrides: str) -> Recipe:
        return resolve(settings, [f"output={tmp_path / 'run'}", *overrides])

    return make


@pytest.fixture(scope="session")
def server() -> Iterator[Popen[str]]:
    with fork_server() as process:
        yield process


@pytest.fixture
def commands(server: Popen[str], tmp_path: Path) -> Commands:
    """Starts `kinema` in a folder of its own."""
    folder = tmp_path / "commands"
    folder.mkdir()
    return Commands(server, folder, {"KINEMA_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"})


@pytest.fixture(autouse=True)
def _untouched_state() -> Iterator[None]:
    """Training seeds torch, a command takes over logging and signals: other tests do not depend on that."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)  # as in `processes.py`
    logger = logging.getLogger("kinema")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def _memory() -> dict[str, Any]:
    return {}


@pytest.fixture
def undisturbed_here(recipe: Callable[..., Recipe], tmp_path: Path, _memory: dict[str, Any]) -> dict[str, Any]:
    """What a run in this process that nothing happened to ends in; trained once in a session."""
    if not _memory:
        run = Run(tmp_path / "undisturbed")
        trained = train(prepare(recipe(f"output={run.folder}")), create_run(recipe(f"output={run.folder}")))
        assert trained.run == run
        _memory.update(result(run.folder))
    return _memory
