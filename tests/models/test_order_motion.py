"""Order, on real videos: what `motion` shows forwards and backwards is told apart by every temporal module that sees
order, and by no other.

Whole trainings from scratch on the command line, with half the videos and half the frames of the recipe, about half a
minute each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.commands import Kinema

from kinema import registry

pytestmark = pytest.mark.slow

SEEING: dict[str, dict[str, Any]] = {
    "cnn_bert": {"width": None, "num_heads": 4},
    "cnn_conv1d": {},
    "cnn_conv1d_stack": {"num_steps": 16, "channels": 64, "num_blocks": 2, "out_channels": 128},
    "cnn_conv_lstm": {"channels": 64},
    "cnn_correlation": {"radius": 2},
    "cnn_difference": {"reduction": 1},
    "cnn_gru": {},
    "cnn_hybrid": {"width": 128, "hidden_size": 64, "num_layers": 1, "num_heads": 4, "feed_forward": 256},
    "cnn_lsta": {"channels": 64, "bank": 10},
    "cnn_lstm": {},
    "cnn_lstm, both directions": {"bidirectional": True},
    "cnn_multi_scale_transformer": {"windows": [4, 8, 16], "width": None, "num_layers": 1, "num_heads": 4},
    "cnn_perceiver": {"size": 128, "num_queries": 16},
    "cnn_rnn": {},
    "cnn_transformer": {"width": None, "num_layers": 2, "num_heads": 4},
    "cnn_transformer, mean": {"width": None, "num_layers": 2, "num_heads": 4, "pool": "mean"},
    "cross_task_attention": {
        "windows": [4, 8, 16],
        "width": None,
        "num_layers": 1,
        "num_heads": 4,
        "branch_width": 128,
        "head_hidden": [],
    },
    "cross_task_attention, frames": {
        "tokens": "frames",
        "width": None,
        "num_layers": 1,
        "num_heads": 4,
        "branch_width": 128,
        "head_hidden": [],
    },
    "frame_statistics": {"segments": 4},
    "tsm": {"backbone": "timm/resnet10t"},
}
"""Model, with a word on its settings where there are several -> what is another than in `tiny`'s defaults."""

BLIND: dict[str, dict[str, Any]] = {
    "frame_average": {},
    "frame_class_conv": {"channels": 128},
    "frame_max": {},
    "frame_statistics": {"segments": 1},
    "tsn": {},
}
"""Statistics of the whole clip, changes from frame to frame among them, are the same backwards."""

EPOCHS = {"cnn_conv_lstm": 40, "cnn_correlation": 40, "cnn_difference": 60, "tsm": 40}
"""Of those that 20 do not teach."""

SMALL = (
    "data.num_train_backgrounds=24",
    "data.num_validation_backgrounds=0",
    "data.num_test_backgrounds=12",
    "clips.num_frames=8",
    "clips.workers=0",
)


@pytest.fixture
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests find the videos that the first has written."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "motion"


def within_pairs(kinema: Kinema, videos: Path, title: str, arguments: dict[str, Any]) -> float:
    name = title.partition(",")[0]
    model = json.dumps({"name": name, "backbone": "tiny", "dropout": 0.2, **arguments})
    settings = (*SMALL, f"trainer.epochs={EPOCHS.get(name, 20)}", f"data.root={videos}", "output=run")
    done = kinema("train", "motion/cnn_conv1d", *settings, f"model={model}")
    assert done.code == 0, done.err
    found = kinema("evaluate", "run", "--json", "-").json
    action = found["tasks"]["action"]
    shares = [100 * value for value in (action["top1"], found["pairs"], action["train_top1"])]
    print(f"| {title} | " + " | ".join(f"{share:.1f} %" for share in shares) + " |")  # as docs/results.md has it
    accuracy = found["pairs"]
    assert isinstance(accuracy, float)
    return accuracy


@pytest.mark.parametrize("name", SEEING)
def test_what_sees_order_solves_pairs(kinema: Kinema, videos: Path, name: str) -> None:
    assert within_pairs(kinema, videos, name, SEEING[name]) > 0.95


@pytest.mark.parametrize("name", BLIND)
def test_what_is_blind_to_order_guesses(kinema: Kinema, videos: Path, name: str) -> None:
    assert 0.45 <= within_pairs(kinema, videos, name, BLIND[name]) <= 0.55


def test_none_is_left_out() -> None:
    with_backbone = {
        name
        for name, entry in registry.entries("model").items()
        if {"backbone", "backbone_cut"} <= {parameter.name for parameter in entry.parameters}
    }
    assert with_backbone == {title.partition(",")[0] for title in (*SEEING, *BLIND)}
