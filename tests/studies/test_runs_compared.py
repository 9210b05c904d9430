"""Runs beside each other, clip by clip."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.commands import Kinema
from tests.report.made_up import ACTIONS, TASKS, evaluate_again, make_run

from kinema.studies.runs_compared import compare_runs
from kinema.studies.significance import mcnemar
from kinema.training.run_folder import Run
from kinema.types import ConfigError, DataError


def answer(run: Path, right: Sequence[bool], *, groups: int) -> Path:
    """Rewrite what a run has said: which clips are right."""
    path = run / "evaluations" / "test" / "predictions.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ACTIONS["action"]
    for number, (row, is_right) in enumerate(zip(rows, right, strict=True)):
        true = row["action_label"]
        row["action_predicted"] = true if is_right else names[(names.index(true) + 1) % len(names)]
        row["group"] = f"g{number % groups}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, right: Sequence[bool], *, groups: int = 12) -> Path:
        made = make_run(tmp_path / name, num_clips=len(right))
        return answer(made.folder, right, groups=groups)

    return make


RIGHT_A = [True] * 20 + [False] * 4
RIGHT_B = [False] * 9 + [True] * 12 + [False] * 2 + [True]


def test_where_one_is_right_and_the_other_wrong(run: Callable[..., Path], kinema: Kinema) -> None:
    a, b = run("a", RIGHT_A), run("b", RIGHT_B)
    found = compare_runs([b, a])
    assert (found.split, found.task, found.num_clips, found.num_left_out) == ("test", "action", 24, 0)
    assert found.best == str(a)
    assert found.accuracy == pytest.approx({str(a): 20 / 24, str(b): 13 / 24})
    (one,) = found.differences.values()
    assert one.test.difference == pytest.approx(7 / 24)
    assert (len(one.only_best), len(one.only_other)) == (9, 2)
    assert one.only_other == ["test 20", "test 23"]
    assert one.test.p == one.test.p_holm == mcnemar(9, 2)
    assert one.interval is not None
    assert one.interval[0] < 7 / 24 < one.interval[1]
    labels = np.arange(24) % 3
    expected = {
        name: float(np.mean(np.array(RIGHT_A)[labels == k]) - np.mean(np.array(RIGHT_B)[labels == k]))
        for k, name in enumerate(ACTIONS["action"])
    }
    assert one.classes == pytest.approx(expected)
    done = kinema("compare", a, b, "--json", "-")
    assert done.json["best"] == str(a)
    assert done.json["differences"][str(b)]["only_other"] == ["test 20", "test 23"]


def test_clips_that_not_all_have_are_left_out(run: Callable[..., Path]) -> None:
    a, b = run("a", RIGHT_A), run("b", RIGHT_B)
    path = b / "evaluations" / "test" / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-4]))
    found = compare_runs([a, b])
    assert (found.num_clips, found.num_left_out) == (20, 4)
    assert found.accuracy[str(a)] == 1


def test_of_one_group_there_is_no_interval(run: Callable[..., Path]) -> None:
    found = compare_runs([run("a", RIGHT_A, groups=1), run("b", RIGHT_B, groups=1)])
    assert {found.differences[name].interval for name in found.differences} == {None}
    assert set(found.intervals.values()) == {None}


def test_several_tasks_are_right_together(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, heads=TASKS, skill=skill, num_clips=60).folder
        for name, skill in (("a", 4.0), ("b", 1.0))
    ]
    found = compare_runs(runs, split="validation")
    assert (found.task, found.best) == ("joint", str(runs[0]))


def test_what_cannot_be_compared_is_refused(run: Callable[..., Path], tmp_path: Path, kinema: Kinema) -> None:
    a = run("a", RIGHT_A)
    assert kinema("compare", a).error() == "kinema compare: give two runs or more, each once"
    with pytest.raises(ConfigError, match="each once"):
        compare_runs([a, a])
    b = make_run(tmp_path / "b", evaluated=("validation",)).folder
    assert compare_runs([a, b]).split == "validation"
    assert kinema("compare", a, b, "--split", "test").error() == (
        f"{b}: not evaluated on the test split; run kinema evaluate {b} --split test"
    )
    other = make_run(tmp_path / "other", heads=TASKS).folder
    with pytest.raises(DataError, match=r"is of verb, noun, not of action like the first$"):
        compare_runs([a, other])
    c = run("c", RIGHT_B)
    path = c / "evaluations" / "test" / "predictions.csv"
    text = path.read_text()
    path.write_text(text.replace("open,", "rise,", 1))
    with pytest.raises(DataError, match=r"^clip test \d+ has several labels of action: open, rise$"):
        compare_runs([a, c])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"predictions\.csv: not the predictions of kinema"):
        compare_runs([a, c])
    assert kinema("compare", a, tmp_path / "nowhere").error().startswith(f"{tmp_path / 'nowhere'}: not a run")


def test_what_is_compared_is_of_the_same_clips(run: Callable[..., Path], kinema: Kinema) -> None:
    a, b = run("a", RIGHT_A), run("b", RIGHT_B)
    views = {"clips": 5, "crops": 1, "flip": False, "average": "logits", "num": 5}
    evaluate_again(Run(a), "test_5x1", views=views)
    evaluate_again(Run(a), "other", source="a list")
    evaluate_again(Run(b), "other", source="another list")
    assert compare_runs([a, b]).evaluations == {str(a): "test", str(b): "test"}
    evaluate_again(Run(b), "other-2", source="a list")
    assert compare_runs([a, b]).evaluations == {str(a): "test", str(b): "test"}
    found = compare_runs([a, b], named=["other"])
    assert found.evaluations == {str(a): "other", str(b): "other-2"}
    assert found.is_same_list
    assert found.asked[str(b)] == "test split of a list, each looked at once"
    found = compare_runs([b, a], named=["other", "test_5x1"])
    assert found.evaluations == {str(b): "other", str(a): "test_5x1"}
    assert not found.is_same_list
    done = kinema("compare", a, b, "--evaluation", "other")
    assert f"{b}: evaluation other-2 (test split of a list, each looked at once)" in " ".join(done.out.split())
    with pytest.raises(ConfigError, match=r"^--evaluation: .*b has no evaluation 'nothing'; it has "):
        compare_runs([b, a], named=["nothing"])
    with pytest.raises(ConfigError, match=r"a: not evaluated on the clips of .*other; evaluate it on the same"):
        compare_runs([b, a], named=["other"])
    with pytest.raises(ConfigError, match=r"once for each of the 2 runs; there are 3$"):
        compare_runs([b, a], named=["other", "other", "other"])


def test_the_same_views_come_before_others(run: Callable[..., Path]) -> None:
    a, b = run("a", RIGHT_A), run("b", RIGHT_B)
    views = {"clips": 5, "crops": 1, "flip": False, "average": "logits", "num": 5}
    for one in (a, b):
        evaluate_again(Run(one), "test_5x1", views=views)
    assert set(compare_runs([a, b]).evaluations.values()) == {"test"}
    shutil.rmtree(b / "evaluations" / "test")
    assert compare_runs([a, b]).evaluations == {str(a): "test_5x1", str(b): "test_5x1"}
    shutil.rmtree(a / "evaluations" / "test_5x1")
    assert compare_runs([a, b]).evaluations == {str(a): "test", str(b): "test_5x1"}


def test_other_lists_of_clips_are_said_or_refused(run: Callable[..., Path], kinema: Kinema) -> None:
    a, b = run("a", RIGHT_A), run("b", RIGHT_B)
    path = b / "evaluations" / "test" / "metrics.json"
    record = json.loads(path.read_text())
    record["list"]["fingerprint"] = "with one clip less"
    path.write_text(json.dumps(record))
    assert not compare_runs([a, b]).is_same_list
    assert "! these were asked about other lists of clips" in kinema("compare", a, b).out
    record["list"]["own"] = False
    path.write_text(json.dumps(record))
    assert kinema("compare", a, b).error() == (
        f"{b}: was evaluated on no list of clips that all of these runs were evaluated on; run kinema evaluate {b} "
        "--split test, or name what to compare by --evaluation"
    )
