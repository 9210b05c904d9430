"""Sweeps: trials in one file, taken up where they were."""

from __future__ import annotations

from typing import Any

import pytest
from tests.commands import Kinema

from kinema.report.figure_files import FigureFiles
from kinema.studies.jobs import Place
from kinema.studies.study import Study, read_study
from kinema.studies.sweep import (
    _next,
    _recipe,
    _values,
    best_of,
    check_sweep,
    importances,
    open_storage,
    search_on,
    take_up,
    trials_of,
)
from kinema.studies.sweep_page import sweep_page
from kinema.types import ConfigError

SPACE = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.dropout": [0.0, 0.5]}


def test_trials_are_tried_kept_and_not_repeated(study_file: Any, tmp_path: Any) -> None:
    path = study_file(space=SPACE, trials=2, overrides={"trainer.epochs": 1})
    study = read_study(str(path), output=tmp_path / "out")
    check_sweep(study)
    search_on(study, num_trials=2)
    search = open_storage(study)
    first = trials_of(search)
    assert [trial.state for trial in first] == ["complete", "complete"]
    assert all(0 <= (trial.value or 0) <= 1 and trial.epochs == 1 for trial in first)
    assert set(first[0].params) == set(SPACE)
    assert first[0].params["model.dropout"] in ("0.0", "0.5")
    search_on(study, num_trials=2)
    assert len(trials_of(open_storage(study))) == 2

    # A process that was killed leaves a trial behind that nobody holds: it is begun again with the same settings.
    trial = _next(study, search, 3)
    values = _values(study, trial)
    take_up(study, search)
    search_on(study, num_trials=3)
    trials = trials_of(open_storage(study))
    assert [trial.state for trial in trials] == ["complete"] * 3
    assert trials[-1].params == {key: str(value) for key, value in trial.params.items()}
    assert _recipe(study, values).optim.lr == pytest.approx(float(trials[-1].params["optim.lr"]))
    assert best_of(trials) is not None
    assert Place(study.folder).folder.joinpath("runs").is_dir()
    page = sweep_page(study, trials, importances(search), FigureFiles())
    assert "trial" in page


def test_an_impossible_trial_fails_and_the_others_are_tried(study_file: Any, tmp_path: Any) -> None:
    space = {"optim.name": ["adamw", "sgd"], "optim.momentum": [0.5, 0.9]}
    overrides = {"trainer.epochs": 1, "optim.name": "sgd", "optim.weight_decay": 0.001}
    study = read_study(str(study_file(space=space, trials=4, overrides=overrides)), output=tmp_path / "out")
    check_sweep(study)
    search_on(study, num_trials=4)
    trials = trials_of(open_storage(study))
    impossible = [trial for trial in trials if trial.params["optim.name"] == "adamw"]
    assert len(trials) == 4
    assert 0 < len(impossible) < 4
    assert {trial.state for trial in impossible} == {"failed"}
    assert all("momentum is of sgd and rmsprop; adamw has none" in str(trial.error) for trial in impossible)
    assert {trial.state for trial in trials if trial not in impossible} == {"complete"}


def test_a_sweep_is_shown_by_its_own_command(study_file: Any, tmp_path: Any, kinema: Kinema) -> None:
    path, out = study_file(space=SPACE), tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("the sweep's page")
    (out / "study.json").write_text("{}")
    for command in ("show", "report"):
        answer = kinema("study", command, str(path), "--out", str(out))
        assert answer.code == 2
        assert "has a space to search; kinema sweep" in answer.err
    assert (out / "report.html").read_text() == "the sweep's page"


def test_a_sweep_proposes_the_same_again(study_file: Any, tmp_path: Any) -> None:
    def proposals(place: str) -> list[dict[str, Any]]:
        study: Study = read_study(str(study_file(space=SPACE)), output=tmp_path / place)
        search = open_storage(study, create=True)
        found = []
        for number in range(4):
            trial = _next(study, search, 9)
            found.append(_values(study, trial))
            search.tell(trial, number / 10)
        return found

    assert proposals("one") == proposals("two")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"space: missing; say what to search"),
        ({"space": SPACE, "seeds": [0, 1]}, r"seeds: a sweep trains each setting once"),
        ({"space": SPACE, "folds": {"by": "group"}}, r"folds: a sweep trains each setting once"),
        ({"space": SPACE, "split": "test"}, r"the test split never selects anything"),
        (
            {"space": SPACE, "overrides": {"data.num_validation_backgrounds": 0}},
            r"chooses by the validation split, and this data set has none .*; cut one out",
        ),
    ],
)
def test_sweeps_that_cannot_be(study_file: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sweep(read_study(str(study_file(**changes))))
