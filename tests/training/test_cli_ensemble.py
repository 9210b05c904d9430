"""`kinema ensemble` as a user has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.commands import Kinema


@pytest.fixture
def runs(kinema: Kinema, settings: dict[str, Any]) -> tuple[str, str]:
    """Two models, trained for an epoch each."""
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    assert kinema("train", "recipe.yaml", "output=one", "trainer.epochs=1").code == 0
    other = "model={name: frame_average, backbone: tiny}"
    seen = ("clips.num_frames=6", "clips.size_px=40", "clips.fit=squash")  # not as the other sees a clip
    assert kinema("train", "recipe.yaml", other, *seen, "output=two", "trainer.epochs=1", "trainer.seed=3").code == 0
    return "one", "two"


def test_it_is_evaluated_and_used_like_any_other(
    kinema: Kinema,
    runs: tuple[str, str],
    clips_root: Path,
) -> None:
    made = kinema("ensemble", *runs, "--out", "both", "--shares", "0.7,0.3", "--json", "-")
    assert made.code == 0
    assert made.json["weights"] == "both"
    assert [each["name"] for each in made.json["arguments"]["members"]] == ["cnn_lstm", "frame_average"]

    evaluated = kinema("evaluate", "both", "--split", "test", "--json", "-")
    assert evaluated.code == 0
    record = evaluated.json
    assert record["num_clips"] == 4
    assert record["gap"] is record["train_top1"] is None
    assert record["leakage"] == {"same_video": 0, "same_group": 0}
    assert kinema("evaluate", "both", "--split", "train", "--json", "-").json["num_clips"] == 16

    video = clips_root / "test" / "rising" / "0.mp4"
    said = {}
    for weights in (*runs, "both"):
        (answer,) = kinema("predict", weights, video, "--json", "-").json
        said[weights] = {each["class"]: each["probability"] for each in answer["tasks"]["action"]}
    for name in ("rising", "falling"):
        assert said["both"][name] == pytest.approx(0.7 * said["one"][name] + 0.3 * said["two"][name], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one", "two"), "Missing option '--out'; see kinema ensemble --help"),
        (("one", "--out", "both"), "an ensemble is made of two models at least, got 1"),
        (("none", "two", "--out", "both"), "none: no such weights folder"),
        (("one", "two", "--out", "."), ".: is there already; name a new folder with --out"),
        (("one", "two", "--out", "b", "--shares", "1"), "--shares: 1 of them for 2 models; give one for each"),
        (("one", "two", "--out", "b", "--shares", "1,-1"), "--shares: have to be above 0, got '1,-1'"),
        (("one", "two", "--out", "b", "--shares", "1,x"), "--shares: expected numbers with commas between them"),
    ],
)
def test_a_mistake_is_one_line(kinema: Kinema, arguments: Any, message: str) -> None:
    Path("mine.txt").touch()
    assert kinema("ensemble", *arguments).error().startswith(message)
    assert not Path("both").exists()
