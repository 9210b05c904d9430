"""What tests of studies share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kinema.files import to_yaml

SMALL: dict[str, Any] = {
    "data.num_train_backgrounds": 1,
    "data.num_validation_backgrounds": 1,
    "data.num_test_backgrounds": 0,
    "data.size_px": 32,
    "clips.num_frames": 2,
    "clips.size_px": 32,
    "clips.resize_px": None,
    "clips.workers": 0,
    "trainer.epochs": 2,
    "trainer.accelerator": "cpu",
}
"""Ten training and ten validation clips of two frames."""


@pytest.fixture
def study_file(tmp_path: Path) -> Any:
    """Writes a study of the smallest runs there are."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        overrides = {**SMALL, **changes.pop("overrides", {})}
        path.write_text(to_yaml({"name": "small", "base": "motion/frame_average", "overrides": overrides, **changes}))
        return path

    return write


@pytest.fixture(autouse=True)
def _untouched_state() -> Iterator[None]:
    """Training seeds torch and takes over the log."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    logger = logging.getLogger("kinema")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
