"""The challenge's file: complete, or refused."""

from __future__ import annotations

import copy
import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinema.evaluation.submission import check_submission, write_submission
from kinema.types import DataError

LEVELS = {"sls_pt": 1, "sls_tl": 3, "sls_td": 3}


def read_submission(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["test.json"]
        content: dict[str, Any] = json.loads(archive.read("test.json"))
    return content


def scores_of(segments: list[str], seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {
        segment: {task: rng.normal(size=num).astype(np.float32) for task, num in (("verb", 97), ("noun", 300))}
        for segment in segments
    }


def test_the_real_test_list_is_whole(data_root: Path, tmp_path: Path) -> None:
    with (data_root / "epic_kitchens_100" / "EPIC_100_test_timestamps.csv").open(encoding="utf-8") as file:
        segments = [row["narration_id"] for row in csv.DictReader(file)]
    scores = scores_of(segments)
    path = tmp_path / "new" / "submission.zip"
    write_submission(path, scores, segments=segments, levels=LEVELS)
    content = read_submission(path)
    assert {key: value for key, value in content.items() if key != "results"} == {
        "version": "0.2",
        "challenge": "action_recognition",
        "sls_pt": 1,
        "sls_tl": 3,
        "sls_td": 3,
    }
    assert len(content["results"]) == len(segments) == 13_092
    check_submission(content, segments, source="it")
    for segment in segments[::1000]:
        for task, num in (("verb", 97), ("noun", 300)):
            found = [content["results"][segment][task][str(k)] for k in range(num)]
            assert found == pytest.approx(scores[segment][task].tolist(), abs=1e-6)
            assert int(np.argmax(found)) == int(scores[segment][task].argmax())


def drop(content: dict[str, Any]) -> None:
    del content["results"]["P01_11_1"]


def one_too_many(content: dict[str, Any]) -> None:
    content["results"]["P99_01_0"] = content["results"]["P01_11_0"]


def no_noun(content: dict[str, Any]) -> None:
    del content["results"]["P01_11_0"]["noun"]


def a_verb_less(content: dict[str, Any]) -> None:
    del content["results"]["P01_11_0"]["verb"]["96"]


def from_one(content: dict[str, Any]) -> None:
    verbs = content["results"]["P01_11_0"]["verb"]
    verbs["97"] = verbs.pop("0")


def not_finite(content: dict[str, Any]) -> None:
    content["results"]["P01_11_0"]["noun"]["7"] = float("nan")


def a_text(content: dict[str, Any]) -> None:
    content["results"]["P01_11_0"]["noun"]["7"] = "0.5"


def level(content: dict[str, Any]) -> None:
    content["sls_td"] = 6


def old(content: dict[str, Any]) -> None:
    content["version"] = "0.1"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (drop, "it: 1 of 2 segments are missing, such as P01_11_1"),
        (one_too_many, "it: P99_01_0 is no segment of the list"),
        (no_noun, "it: P01_11_0 has to have scores of verb and noun"),
        (a_verb_less, "it: P01_11_0 has to have a score for each of the 97 verbs"),
        (from_one, "it: P01_11_0 has to have a score for each of the 97 verbs"),
        (not_finite, "it: P01_11_0 has a noun score that is no number"),
        (a_text, "it: P01_11_0 has a noun score that is no number"),
        (level, "it: sls_td has to be a whole number from 0 to 5, not 6"),
        (old, "it: version and challenge have to be 0.2 and action_recognition"),
    ],
)
def test_what_the_challenge_would_not_take_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], expected: str
) -> None:
    segments = ["P01_11_0", "P01_11_1"]
    write_submission(tmp_path / "a.zip", scores_of(segments), segments=segments, levels=LEVELS)
    content = read_submission(tmp_path / "a.zip")
    check_submission(content, segments, source="it")
    spoilt = copy.deepcopy(content)
    spoil(spoilt)
    with pytest.raises(DataError) as caught:
        check_submission(spoilt, segments, source="it")
    assert str(caught.value) == expected


def test_nothing_is_written_that_is_not_valid(tmp_path: Path) -> None:
    scores = scores_of(["P01_11_0"])
    scores["P01_11_0"]["verb"][3] = np.inf
    with pytest.raises(DataError, match=r"a\.zip: P01_11_0 has a verb score that is no number"):
        write_submission(tmp_path / "a.zip", scores, segments=list(scores), levels=LEVELS)
    with pytest.raises(DataError, match=r"a\.zip: 1 of 2 segments are missing, such as P01_11_1"):
        write_submission(tmp_path / "a.zip", scores_of(["P01_11_0"]), segments=["P01_11_0", "P01_11_1"], levels=LEVELS)
    with pytest.raises(DataError, match=r"a\.zip: sls_pt has to be a whole number from 0 to 5, not None"):
        write_submission(tmp_path / "a.zip", scores_of(["P01_11_0"]), segments=["P01_11_0"], levels={})
    assert list(tmp_path.iterdir()) == []
