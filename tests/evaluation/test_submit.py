"""The official test list answered: whole, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.commands import Kinema
from tests.data.datasets.epic_tree import TEST, write_lists
from tests.evaluation.test_submission import read_submission
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video

import kinema as package
from kinema.data.datasets.epic_kitchens_100 import read_class_lists
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Preprocessing

LEVELS = ["--pre-training", "1", "--training-labels", "3", "--training-data", "3"]


@pytest.fixture
def kitchens(data_root: Path, tmp_path: Path) -> Path:
    """A small download with the official classes; of each video 2.25 seconds."""
    root = tmp_path / "epic"
    lists = write_lists(root / "epic-kitchens-100-annotations")
    for name in ("EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv"):
        shutil.copy(data_root / "epic_kitchens_100" / name, lists / name)
    for number, name in enumerate(TEST):
        video = name.rpartition("_")[0]
        path = root / video[:3] / "videos" / f"{video}.MP4"
        path.parent.mkdir(parents=True)
        write_video(path, numbered_frames(27, first=40 * number), fps=12)
    return root


@pytest.fixture
def weights(kitchens: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    verbs, nouns = read_class_lists(kitchens / "epic-kitchens-100-annotations")
    config = WeightsConfig(
        model="frame_average",
        arguments={"backbone": "tiny"},
        heads={"verb": verbs.names, "noun": nouns.names},
        preprocessing={
            "rgb": Preprocessing(num_frames=4, size_px=32, resize_px=36, fit="crop", mean=MEAN, std=STD),
        },
    )
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    facts = replace(
        TRAINING,
        data={"name": "epic_kitchens_100", "root": str(kitchens)},
        class_counts={"verb": [1] * 97, "noun": [1] * 300},
        commonest={"verb": 0, "noun": 0, "joint": [0, 0]},
        accuracy={"verb": 1.0, "noun": 1.0, "joint": 1.0},
    )
    save(tmp_path / "weights", model.state_dict(), config, facts, card="")
    return tmp_path / "weights"


def test_every_segment_has_the_scores_that_the_recogniser_gives(
    kinema: Kinema, weights: Path, kitchens: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sub" / "mine.zip"
    done = kinema("submit", weights, "clips.workers=0", "--out", out, *LEVELS, "--json", "-")
    assert done.json == {"file": str(out), "num_segments": 2}
    content = read_submission(out)
    assert content["results"].keys() == set(TEST)
    assert [content[name] for name in ("sls_pt", "sls_tl", "sls_td")] == [1, 3, 3]
    recogniser = package.load(weights, device="cpu")
    for segment in TEST:
        start_s = float(segment.rpartition("_")[2])
        video = kitchens / segment[:3] / "videos" / f"{segment.rpartition('_')[0]}.MP4"
        expected = recogniser.predict(video, start_s=start_s, stop_s=start_s + 1.5).probabilities
        for task, names in recogniser.config.heads.items():
            scores = torch.tensor([content["results"][segment][task][str(k)] for k in range(len(names))])
            assert scores.exp().tolist() == pytest.approx([expected[task][name] for name in names], abs=1e-5)


@pytest.mark.parametrize("part", ["data.participants=[P33, P02]", "data.folds={by: group, fold: 0}"])
def test_the_list_is_whole_whatever_was_trained_on(kinema: Kinema, weights: Path, tmp_path: Path, part: str) -> None:
    done = kinema("submit", weights, "clips.workers=0", part, "--out", tmp_path / "a.zip", *LEVELS, "--json", "-")
    assert done.json["num_segments"] == 2
    assert read_submission(tmp_path / "a.zip")["results"].keys() == set(TEST)


def test_scores_stand_under_the_official_numbers_of_classes(kinema: Kinema, weights: Path, tmp_path: Path) -> None:
    path = weights / "config.json"
    content = json.loads(path.read_text())
    content["heads"]["verb"] = content["heads"]["verb"][::-1]
    path.write_text(json.dumps(content))
    said = kinema("submit", weights, "--out", tmp_path / "a.zip", *LEVELS).error()
    assert said == f"{weights}: its verb classes are not the official ones, in their order"
    assert (
        kinema("submit", weights, "--out", tmp_path, *LEVELS).error() == f"--out: {tmp_path} is a folder; give a file"
    )
    nowhere = path / "a.zip"  # in a file
    said = kinema("submit", weights, "--out", nowhere, *LEVELS).error()
    assert said == f"--out: {nowhere} cannot be written: File exists; give another place"


def test_a_list_with_a_hole_is_not_answered(kinema: Kinema, weights: Path, kitchens: Path, tmp_path: Path) -> None:
    path = next((kitchens / "P33").rglob("*.MP4"))
    path.write_bytes(b"")
    arguments = ("submit", weights, "clips.workers=0", "--out", tmp_path / "a.zip", *LEVELS)
    assert kinema(*arguments).error().startswith("1 of 2 test segments cannot be read, such as P33_101_0: ")
    path.unlink()
    assert kinema(*arguments).error() == (
        f"{kitchens}: 1 of 2 segments of the test list have no video, such as {path}; "
        "the challenge takes whole lists only"
    )
    assert not (tmp_path / "a.zip").exists()


def test_what_is_of_another_data_set_is_refused(kinema: Kinema, weights: Path, tmp_path: Path) -> None:
    arguments = ("--out", tmp_path / "a.zip", *LEVELS)
    said = kinema("submit", weights, "data.name=folder", *arguments).error()
    assert said == "data.name: the challenge is of epic_kitchens_100, not of folder"
