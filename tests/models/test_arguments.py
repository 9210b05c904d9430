"""Arguments that are impossible, or have no effect, are refused in one line that names them."""

from __future__ import annotations

from typing import Any

import pytest

from kinema.models.build import build_model
from kinema.types import ConfigError, InputShape

HEADS = {"verb": ("open", "close"), "noun": ("door", "cup", "box")}
INPUTS = {"rgb": InputShape(num_frames=4, channels=3, height_px=32, width_px=32)}
LEAST_1 = "has to be at least 1, got"
A_SHARE = "has to be at least 0 and less than 1, got"


def build(name: str, **arguments: Any) -> Any:
    return build_model(name, arguments, heads=HEADS, inputs=INPUTS)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("video_transformer", "num_layers", 0, LEAST_1),
        ("video_transformer", "num_layers", -1, LEAST_1),
        ("video_transformer", "num_heads", 0, LEAST_1),
        ("video_transformer", "patch_size", 0, LEAST_1),
        ("video_transformer", "hidden_size", 0, LEAST_1),
        ("cnn_perceiver", "layer_dropout", 1.5, A_SHARE),
        ("cnn_bert", "layer_dropout", 1.5, A_SHARE),
        ("cnn_lstm", "layer_dropout", 1.5, "has no effect with a single layer; leave it out, got"),
        ("r2plus1d_18", "attention_dropout", 1.5, A_SHARE),
        ("conv3d", "dropout", 1.5, A_SHARE),
        ("c3d", "dropout", 1.5, A_SHARE),
    ],
)
def test_what_cannot_be_is_named(name: str, key: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, **{key: value})
    assert str(caught.value) == f"model.{key}: {message} {value}"


@pytest.mark.parametrize(
    ("name", "arguments", "key", "where"),
    [
        ("cnn_lstm", {"layer_dropout": 0.5}, "layer_dropout", "with a single layer"),
        ("cnn_gru", {"layer_dropout": 0.5}, "layer_dropout", "with a single layer"),
        ("cnn_rnn", {"layer_dropout": 0.5}, "layer_dropout", "with a single layer"),
        ("r2plus1d_18", {"num_self": 2}, "num_self", "with model.pool=mean"),
        ("r2plus1d_18", {"num_cross": 0}, "num_cross", "with model.pool=mean"),
        ("r2plus1d_18", {"num_layers": 2}, "num_layers", "with model.pool=mean"),
        ("r2plus1d_18", {"attention_dropout": 0.5}, "attention_dropout", "with model.pool=mean"),
        ("r2plus1d_18", {"pool": "bert", "num_queries": 4}, "num_queries", "with model.pool=bert"),
        ("r2plus1d_18", {"pool": "perceiver", "num_layers": 2}, "num_layers", "with model.pool=perceiver"),
        ("cross_task_attention", {"tokens": "frames", "windows": (2, 4)}, "windows", "with model.tokens=frames"),
        ("cross_task_attention", {"tokens": "frames", "shared": True}, "shared", "with model.tokens=frames"),
        (
            "joint_ensemble",
            {"backbones": ("tiny",), "cnn_channels": (), "cnn_pool_last": False},
            "cnn_pool_last",
            "without model.cnn_channels",
        ),
    ],
)
def test_what_has_no_effect_is_refused(name: str, arguments: dict[str, Any], key: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, **arguments)
    assert str(caught.value) == f"model.{key}: has no effect {where}; leave it out, got {arguments[key]}"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cnn_lstm", {"num_layers": 2, "layer_dropout": 0.5}),
        ("cnn_lstm", {"further_sizes": (8,), "layer_dropout": 0.5}),
        ("cross_task_attention", {"tokens": "frames"}),
        ("cross_task_attention", {"tokens": "frames", "windows": [4, 8, 16], "shared": False}),  # as a run keeps them
    ],
)
def test_what_has_an_effect_or_is_the_default_is_not(name: str, arguments: dict[str, Any]) -> None:
    build(name, backbone="tiny", **arguments)
