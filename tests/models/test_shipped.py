"""What is written down about shipped configurations is what is measured, and the page says it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tests.conftest import REPOSITORY
from torch import nn

from kinema.models.build import build_model
from kinema.models.configurations import Configuration, configurations, described, record
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.shipped import about, page, records, written_down
from kinema.models.streaming import streaming
from kinema.registry import entries
from kinema.types import InputShape

EVERY = [(name, one) for name, some in configurations().items() for one in some]
QUICK = {"c3d", "conv3d", "mc3_18", "tsm", "frame_average", "r2plus1d_18"}
"""Measured in a moment."""
AGAIN = "what is written down is not what the code says: make models"


def test_every_configuration_is_written_down() -> None:
    found = written_down()
    assert {name: [one["name"] for one in some] for name, some in found.items()} == {
        name: [one.name for one in some] for name, some in configurations().items()
    }, AGAIN
    for name, one in EVERY:
        (written,) = (known for known in found[name] if known["name"] == one.name)
        said = described(one)
        assert {key: written[key] for key in said} == said, AGAIN


def check(name: str, one: Configuration) -> None:
    (written,) = (known for known in records(name) if known["name"] == one.name)
    assert record(name, one) == written, AGAIN


@pytest.mark.parametrize("name", sorted(QUICK))
def test_figures_are_those_that_are_measured(name: str) -> None:
    check(name, configurations()[name][0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "one"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].name}") for pair in EVERY])
def test_all_figures_are_those_that_are_measured(name: str, one: Configuration) -> None:
    check(name, one)


def test_the_page_is_what_is_written_down() -> None:
    committed = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    assert committed == page(), AGAIN
    for name, one in EVERY:
        assert f"| `{name}` |" in committed
        assert f"| `{one.name}`: {one.summary} |" in committed


def test_where_a_model_comes_from_is_what_its_file_says() -> None:
    found = about(entries("model")["mvit"])
    assert found.startswith('Fan et al., "Multiscale Vision Transformers", ICCV 2021')


@pytest.mark.parametrize("name", list(entries("model")))
def test_every_model_names_its_source_and_its_deviations(name: str) -> None:
    found = about(entries("model")[name])
    assert len(re.findall(r"\bDeviations?[:,] ", found)) == 1
    assert (
        re.search(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.|cs\.stanford\.edu)", found)
        or "no paper" in found
    )
    _, _, deviations = found.partition("Deviation")
    assert f"<br>Deviation{deviations} |" in page()
    assert "kinema.models.layers" not in found


def build(name: str, **arguments: Any) -> nn.Module:
    shape = InputShape(num_frames=4, channels=3, height_px=32, width_px=32)
    chosen = {"backbone": "tiny", **arguments}
    return build_model(name, chosen, heads={"action": ("a", "b")}, inputs={"rgb": shape})


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("cnn_lstm", {}, "state"),
        ("cnn_lstm", {"pool": "mean"}, "state"),
        ("cnn_lstm", {"bidirectional": True}, "window"),
        ("cnn_lstm", {"feature_norm": "batch"}, "state"),
        ("cnn_lstm", {"feature_norm": "clip"}, "window"),
        ("cnn_conv_lstm", {"channels": 4}, "state"),
        ("cnn_lsta", {"channels": 4}, "state"),
        ("frame_average", {}, "state"),
        ("frame_max", {}, "state"),
        ("frame_class_conv", {"channels": 4}, "state"),
        ("tsn", {}, "state"),
        ("frame_statistics", {}, "window"),
        ("cnn_conv1d", {}, "window"),
        ("cnn_transformer", {"width": 16, "num_heads": 2}, "window"),
        ("tsm", {"backbone": "timm/mobilenetv2_050"}, None),
        ("c3d", {"num_hidden": 8}, None),
    ],
)
def test_how_models_follow_a_stream(name: str, arguments: dict[str, Any], expected: str | None) -> None:
    if name == "c3d":
        shape = InputShape(num_frames=4, channels=3, height_px=32, width_px=32)
        model = build_model(name, arguments, heads={"action": ("a", "b")}, inputs={"rgb": shape})
    else:
        model = build(name, **arguments)
    assert streaming(model) == expected


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_a_state_is_all_that_a_recurrent_module_needs(kind: str) -> None:
    """Frame by frame from the state alone, it answers what it answers to the whole."""
    pool = RecurrentPool(kind, 6, hidden_size=5, further_sizes=(3,)).eval()
    frames = torch.randn(2, 9, 6)
    states: list[Any] = [None] * len(pool.layers)
    with torch.no_grad():
        for step in range(9):
            hidden = frames[:, step : step + 1]
            for index, layer in enumerate(pool.layers):
                hidden, states[index] = layer(hidden, states[index])
            torch.testing.assert_close(hidden[:, 0], pool(frames[:, : step + 1]))


def test_models_of_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinema.models.shipped.written_down", dict)
    assert records("conv3d") == [record("conv3d", one) for one in configurations()["conv3d"]]
