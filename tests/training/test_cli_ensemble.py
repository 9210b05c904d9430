"""`kinema ensemble` as a user has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.commands import Kinema
from tests.training.runs import training_json
from tests.videos import write_video


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
    assert record["leakage"] == {"same_video": 0, "same_group": 0}
    on_training = kinema("evaluate", "both", "--split", "train", "--json", "-").json
    assert on_training["num_clips"] == 16
    (top1,) = made.json["train_top1"].values()
    assert record["train_top1"] == on_training["tasks"]["action"]["top1"] == top1
    assert record["gap"] == top1 - record["tasks"]["action"]["top1"]
    assert record["gap_unknown"] is made.json["gap_unknown"] is None
    assert "- training clips: top-1 " in Path("both/README.md").read_text()

    video = clips_root / "test" / "rising" / "0.mp4"
    for run in runs:  # the average is of what members say without their temperatures
        Path(run, "weights", "calibration.json").unlink(missing_ok=True)
    said = {}
    for weights in (*runs, "both"):
        (answer,) = kinema("predict", weights, video, "--json", "-").json
        said[weights] = {each["class"]: each["probability"] for each in answer["tasks"]["action"]}
    for name in ("rising", "falling"):
        assert said["both"][name] == pytest.approx(0.7 * said["one"][name] + 0.3 * said["two"][name], abs=1e-6)


def test_mistakes_are_looked_for_as_in_any_other(
    kinema: Kinema, runs: tuple[str, str], clips_root: Path, tmp_path: Path
) -> None:
    """All that is planted is found, of a model that is given two streams; and nothing where there is nothing."""
    assert kinema("ensemble", *runs, "--out", "both").code == 0
    facts = json.loads(Path("both/training.json").read_text())
    assert facts["inputs"].keys() == json.loads(Path("both/config.json").read_text())["preprocessing"].keys()
    clean = kinema("evaluate", "both", "--split", "test", "--json", "-").json
    assert clean["inputs_unknown"] is None
    assert {one["fault"] for one in clean["findings"]} <= {"above training", "training"}  # of two tiny models
    for label in ("falling", "rising"):
        folder = tmp_path / "white" / "test" / label
        folder.mkdir(parents=True)
        for number in range(12):
            frames = [np.full((48, 48, 3), 255 - number, np.uint8)] * 8
            write_video(folder / f"{number}.mp4", frames, fps=8)
        shutil.copy(clips_root / "train" / label / "0.mp4", folder / "known.mp4")
    (tmp_path / "white" / "test" / "rising" / "broken.mp4").write_bytes(b"no video")
    record = kinema("evaluate", "both", f"data.root={tmp_path / 'white'}", "--json", "-").json
    assert not record["list"]["own"]
    found = {one["fault"]: one["message"] for one in record["findings"]}
    assert "prepared" in found["preprocessing"]
    assert found["leakage"].startswith("2 of 26 clips are of a video that was trained on")
    assert "1 of 27 clips could not be read" in found["skipped"]


def test_it_is_measured_on_what_all_its_members_were_trained_on(kinema: Kinema, settings: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    for seed in (1, 2):
        half = (f"output=of_{seed}", f"trainer.seed={seed}", "data.fraction=0.5", "trainer.epochs=1")
        assert kinema("train", "recipe.yaml", *half).code == 0
    each = [set(training_json(Path(run))["contents"]) for run in ("of_1", "of_2")]
    assert 0 < len(each[0] & each[1]) < 8
    assert kinema("ensemble", "of_1", "of_2", "--out", "both").code == 0
    facts = json.loads(Path("both/training.json").read_text())
    assert facts["num_accuracy_clips"] == len(each[0] & each[1])
    assert facts["accuracy"].keys() == {"action"}


def test_why_it_cannot_be_measured_is_said_and_kept(
    kinema: Kinema, runs: tuple[str, str], clips_root: Path, tmp_path: Path
) -> None:
    def evaluated(*arguments: str) -> tuple[Any, str]:
        said = kinema("evaluate", "both", *arguments, "--split", "test", "--json", "-")
        assert said.code == 0
        return said.json, said.err

    assert kinema("ensemble", *runs, "--out", "both", "--no-measure").code == 0
    record, said = evaluated()
    assert record["gap"] is record["train_top1"] is None
    assert record["gap_unknown"] == "left out when it was made"
    assert "and the gap to it, are unknown: left out when it was made" in said
    shutil.rmtree("both")

    known = training_json(Path("two"))
    Path("two/weights/training.json").write_text(json.dumps({**known, "contents": ["a" * 24]}))
    assert kinema("ensemble", *runs, "--out", "both").code == 0
    assert evaluated()[0]["gap_unknown"] == f"no training clip of {clips_root} was trained on by all of the members"
    shutil.rmtree("both")

    elsewhere = str(tmp_path / "moved")
    for run in runs:
        facts = {**known, "data": {**known["data"], "root": elsewhere}}
        Path(run, "weights", "training.json").write_text(json.dumps(facts))
    assert kinema("ensemble", *runs, "--out", "both").code == 0
    record, said = evaluated(f"data.root={clips_root}")
    assert record["gap_unknown"].startswith(elsewhere)
    assert f"are unknown: {elsewhere}" in said


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
