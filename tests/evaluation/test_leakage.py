"""Clips that the model knows from its training do not pass for new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.models.facts import TRAINING

from kinema.data.hashing import content_hash
from kinema.evaluation import leakage as module
from kinema.evaluation.leakage import leakage_findings, unknown_leakage, video_contents
from kinema.models.weights import TrainingFacts
from kinema.types import Clip, Split

DATA: Mapping[str, Any] = {"name": "folder", "root": "clips", "validation": 0.0}


def leakage(
    clips: list[Clip], split: Split, training: TrainingFacts, *, data: Mapping[str, Any]
) -> dict[str, int] | None:
    return module.leakage(clips, split, training, data=data, contents=video_contents(clips))


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Three clips of two videos; the third is a copy of a training video and of a training group's name."""
    for name, content in (("new.avi", b"new" * 9000), ("known.avi", b"known" * 9000), ("copy.avi", b"known" * 9000)):
        (tmp_path / name).write_bytes(content)
    new = Clip(clip_id="a", video=tmp_path / "new.avi", stop_s=1.0, labels={"action": 0}, group="g7")
    return [
        new,
        replace(new, clip_id="b", start_s=1.0, stop_s=2.0),
        replace(new, clip_id="c", video=tmp_path / "copy.avi", group="g1"),
    ]


def test_copies_and_groups_are_counted(clips: list[Clip], tmp_path: Path) -> None:
    training = replace(TRAINING, contents=[content_hash(tmp_path / "known.avi")], groups=["g1", "g2"])
    found = leakage(clips, "test", training, data=DATA)
    assert found == {"same_video": 1, "same_group": 1}
    assert [finding["message"] for finding in leakage_findings(found, num_clips=3)] == [
        "1 of 3 clips are of a video that was trained on: accuracy on them says little about new data",
        "1 of 3 clips are of a group that was trained on: accuracy on them says little about new data",
    ]
    none = leakage(clips[:2], "validation", training, data=DATA)
    assert none == {"same_video": 0, "same_group": 0}
    assert leakage(clips, "train", training, data=DATA) is None
    assert leakage_findings(none, num_clips=2) == leakage_findings(None, num_clips=2) == []


def test_groups_of_another_data_set_are_others(clips: list[Clip]) -> None:
    training = replace(TRAINING, groups=["g1"])
    assert leakage(clips, "test", training, data={**DATA, "root": "elsewhere"}) == {"same_video": 0, "same_group": 0}


def test_groups_of_another_kind_are_others(clips: list[Clip]) -> None:
    cameras = replace(TRAINING, groups=["g1"], data={"name": "table", "root": "x", "holdout": {"camera": [3]}})
    same, other = {"camera": [1]}, {"person": [1]}
    table = {"name": "table", "root": "x", "validation": 0.2}
    for data, num in (
        ({**table, "holdout": same}, 1),
        ({**table, "holdout": other}, 0),
        ({**table, "holdout": same, "group": "person"}, 0),
        ({**table, "holdout": same, "csv": "b.csv"}, 0),
    ):
        found = leakage(clips, "test", cameras, data=data)
        assert found is not None
        assert found["same_group"] == num, data


def test_the_training_split_of_other_data_is_looked_at(clips: list[Clip], tmp_path: Path) -> None:
    training = replace(TRAINING, contents=[content_hash(tmp_path / "known.avi")])
    assert leakage(clips, "train", training, data={**DATA, "root": "elsewhere"}) == {"same_video": 1, "same_group": 0}


def test_a_video_that_is_gone_is_not_known(clips: list[Clip]) -> None:
    clips[2].video.unlink()
    assert leakage(clips, "test", TRAINING, data=DATA) == {"same_video": 0, "same_group": 1}


def test_unknown_clips_are_looked_at_too(clips: list[Clip], tmp_path: Path) -> None:
    training = replace(TRAINING, contents=[content_hash(tmp_path / "known.avi")], groups=["g1", "g2"])
    found = unknown_leakage(clips, training, video_contents(clips))
    assert found == {"same_video": 1, "same_group": 1}
    messages = [finding["message"] for finding in leakage_findings(found, num_clips=3, of="unknown clips")]
    assert messages[0].startswith("1 of 3 unknown clips are of a video that was trained on: how they are told apart")
    assert messages[1].startswith("1 of 3 unknown clips are of a group with the name of one that was trained on")
    assert unknown_leakage(clips[:2], training, video_contents(clips)) == {"same_video": 0, "same_group": 0}
