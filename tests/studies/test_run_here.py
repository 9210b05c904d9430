"""Runs of a study done in this process: what is written down, what fails, what is done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands import Kinema

from kinema.report.figure_files import FigureFiles
from kinema.studies.beside_source import below_majority, beside_source
from kinema.studies.jobs import Place, jobs_of, write_study
from kinema.studies.outcomes import outcomes_of
from kinema.studies.page import study_page
from kinema.studies.running import open_jobs, run_here
from kinema.studies.study import read_study

RUNS: list[dict[str, Any]] = [
    {"name": "mean"},
    {"name": "<lstm>", "overrides": {"model": {"name": "cnn_lstm", "backbone": "tiny", "hidden_size": 8}}},
    {"name": "broken", "overrides": {"init.weights": "missing.pt"}},
]


def test_a_study_runs_once_and_a_failure_stops_no_other(study_file: Any, tmp_path: Path) -> None:
    path = study_file(runs=RUNS, source={"title": "theirs", "columns": ["val"], "rows": {"mean": [45]}})
    study = read_study(str(path), output=tmp_path / "out")
    jobs, place = jobs_of(study), Place(tmp_path / "out")
    run_here(jobs, place)
    assert [job.setting for job in open_jobs(jobs, place)] == ["broken"]
    assert "missing.pt" in (place.failure(jobs[-1]) or "")
    record = place.result(jobs[0])
    assert record is not None
    assert record["parameters"] > record["gflops"] > 0
    assert record["clips_per_s"] > 0
    assert record["memory_bytes"] > 1e8
    assert record["epochs"] == 2
    assert (jobs[0].folder / "weights" / "training.json").is_file()
    assert not (jobs[0].folder / "checkpoints").exists()

    found = outcomes_of(study, jobs)
    saved = json.loads((jobs[0].folder / "evaluations" / "validation" / "metrics.json").read_text())
    row = found.rows[0]
    assert row.score is not None
    assert row.score.mean == saved["tasks"]["action"]["top1"] == sum(row.right.values()) / 10
    assert row.gap == pytest.approx(saved["gap"])
    assert set(found.comparisons) | {found.best.name if found.best else ""} == {"mean", "<lstm>"}
    of_task = saved["tasks"]["action"]
    assert row.tasks == {"action": {key: of_task[key] for key in ("top1", "top3", "top5", "loss", "majority")}}
    assert (row.loss, row.between_folds) == (of_task["loss"], None)
    assert row.train_loss is not None
    assert row.facts()["tasks"] == row.tasks
    head, (beside, *_) = beside_source(found)
    shown = dict(zip(head, beside, strict=True))
    assert (shown["val, there"], shown["trained"]) == ("45", f"{record['trainable']:,}")
    assert shown["top-1 / 3 / 5"] == " / ".join(f"{100 * of_task[key]:.1f}" for key in ("top1", "top3", "top5"))
    assert shown["validation loss"] == f"{of_task['loss']:.4g}"
    page = study_page(found, FigureFiles())
    assert "&lt;lstm&gt;" in page
    assert "<lstm>" not in page
    assert "missing.pt" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    # Another file with one run more: only that one is done.
    more = [*RUNS[:2], {"name": "longer", "overrides": {"trainer.epochs": 1}}]
    before = (jobs[0].folder / "metrics.csv").stat().st_mtime_ns
    changed = read_study(str(study_file(runs=more)), output=tmp_path / "out")
    again = jobs_of(changed)
    assert [job.setting for job in open_jobs(again, place)] == ["longer"]
    run_here(again, place)
    assert not open_jobs(again, place)
    assert (jobs[0].folder / "metrics.csv").stat().st_mtime_ns == before


def test_crossval_holds_every_group_out(kinema: Kinema) -> None:
    settings = [
        "data.num_train_backgrounds=2",
        "data.num_validation_backgrounds=0",
        "data.num_test_backgrounds=0",
        "data.size_px=32",
        "clips.num_frames=2",
        "clips.size_px=32",
        "clips.resize_px=null",
        "clips.workers=0",
        "trainer.epochs=1",
    ]
    command = ["crossval", "motion/frame_average", "by=group", *settings, "--seeds", "0,1", "--json", "-"]
    answer = kinema(*command)
    assert answer.code == 0, answer.err
    found = answer.json
    assert {"top1_mean", "top1_std", "folds", "pooled_top1", "chance", "majority", "gap"} <= found.keys()
    assert (found["runs"], found["done"], found["num_clips"]) == (4, 4, 20)
    accuracies = [fold["top1"] for fold in found["folds"]]
    assert found["top1_mean"] == pytest.approx(sum(accuracies) / 2)
    assert found["pooled_top1"] == pytest.approx(found["top1_mean"])  # folds of one size
    assert found["chance"] == pytest.approx(0.1)
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1]
    again = kinema(*command)
    assert "4 runs, 0 of them to be done" in again.err
    assert again.json == found
    training = [json.loads(path.read_text()) for path in Path(found["folder"]).glob("runs/*/weights/training.json")]
    assert len({tuple(facts["groups"]) for facts in training}) == 2
    assert all(len(facts["groups"]) == 1 for facts in training)
    assert all(facts["selected_by"] == "being the last epoch" for facts in training)


@pytest.mark.slow
def test_common_and_rare_classes_are_shown_apart(study_file: Any, tmp_path: Path, kinema: Kinema) -> None:
    runs = [{"name": "even"}, {"name": "skewed", "overrides": {"data.imbalance": 4}}]
    overrides = {"data.num_train_backgrounds": 4, "trainer.epochs": 1}
    path = study_file(runs=runs, overrides=overrides, seeds=[0, 1])
    answer = kinema("study", "run", str(path), "--out", str(tmp_path / "out"), "--json", "-")
    assert answer.code == 0, answer.err
    even, skewed = answer.json["rows"]
    assert even["groups"] == {}
    saved = [
        json.loads((job.folder / "evaluations" / "validation" / "metrics.json").read_text())["tasks"]["action"]
        for job in jobs_of(read_study(str(path), output=tmp_path / "out"))
        if job.setting == "skewed"
    ]
    assert len(saved) == 2
    for group in ("head", "middle", "tail"):
        assert skewed["groups"][group] == pytest.approx(sum(values[group] for values in saved) / 2)
    assert "tail" in answer.err
    assert "Common and rare classes" in (tmp_path / "out" / "report.html").read_text()


def test_one_run_of_a_study_alone(study_file: Any, tmp_path: Path, kinema: Kinema) -> None:
    path = study_file(runs=[{"name": "first"}, {"name": "second"}], overrides={"trainer.epochs": 1})
    command = ["study", "run", str(path), "--out", str(tmp_path / "out"), "--only", "second", "--json", "-"]
    answer = kinema(*command)
    assert answer.code == 0, answer.err
    assert "2 runs, 1 of them wanted, 1 of them to be done" in answer.err
    assert [(row["name"], row["done"]) for row in answer.json["rows"]] == [("first", 0), ("second", 1)]
    assert kinema("study", "run", str(path), "--only", "secnd").code == 2


def test_memory_is_that_of_the_run_and_not_of_those_before(study_file: Any, tmp_path: Path) -> None:
    large = {"model": {"name": "conv3d"}, "clips.num_frames": 8, "clips.size_px": 112, "trainer.epochs": 1}
    runs = [{"name": "large", "overrides": large}, {"name": "small"}]
    study = read_study(str(study_file(runs=runs, seeds=[0, 1])), output=tmp_path / "out")
    (large_0, _, small_0, small_1), place = jobs_of(study), Place(tmp_path / "out")
    run_here([small_0, large_0, small_1], place)
    small, again, large_run = (place.result(job) for job in (small_0, small_1, large_0))
    assert small is not None
    assert again is not None
    assert large_run is not None
    assert again["memory_bytes"] == pytest.approx(small["memory_bytes"], rel=0.1)
    assert large_run["memory_bytes"] > 1.3 * small["memory_bytes"]


def test_spread_between_seeds_and_between_folds_and_every_task_s_baseline(
    study_file: Any, tmp_path: Path, kinema: Kinema
) -> None:
    """Of results as runs write them."""
    overrides = {"data.num_train_backgrounds": 2, "data.tasks": ["verb", "noun"]}
    path = study_file(overrides=overrides, seeds=[0, 1], folds={"by": "group"})
    study = read_study(str(path), output=tmp_path / "out")
    jobs, place = jobs_of(study), Place(tmp_path / "out")
    assert len(jobs) == 6
    top1 = {"seed": 0.02, "fold": 0.2}
    for job in jobs:
        fold = job.recipe.data.folds
        assert fold is not None
        share = 0.1 + top1["seed"] * job.seed + top1["fold"] * fold.fold
        tasks = {
            "verb": {"top1": 0.19, "majority": 0.2, "top3": None, "loss": 1.5},
            "noun": {"top1": 0.5, "majority": 0.2, "top3": 0.75, "loss": 2.0},
            "joint": {"top1": share, "majority": 0.05},
        }
        measured = {"top1": share, "chance": 0.02, "majority": 0.05, "num_clips": 10, "groups": {}, "of_tasks": tasks}
        (job.folder / "evaluations" / "test").mkdir(parents=True)
        (job.folder / "evaluations" / "test" / "predictions.csv").write_text("clip_id,verb_label,verb_predicted\n")
        (job.folder / "config.yaml").write_text(job.recipe.to_yaml())
        place.keep_result(job, {"measured": {"test": measured}, "train_top1": 1.0, "train_loss": 0.1 * job.seed})
    (row,) = outcomes_of(study, jobs).rows
    ((task, below, majority),) = below_majority(row)
    assert task == "verb"
    assert (below, majority) == pytest.approx((0.19, 0.2))
    facts = row.facts()
    assert facts["seeds_std"] == pytest.approx(0.02 / 2**0.5)
    assert facts["folds_std"] == pytest.approx(0.2)
    assert (facts["train_runs_std"], facts["loss"]) == (0, pytest.approx(3.5))
    assert facts["train_loss"] == pytest.approx(0.05)
    assert facts["tasks"]["noun"]["top3"] == pytest.approx(0.75)
    write_study(tmp_path / "out", study, [])
    answer = kinema("study", "show", str(path), "--out", str(tmp_path / "out"))
    assert max(map(len, answer.out.splitlines())) > 140  # no cell is broken where nobody's terminal is too narrow
    assert "31.0 % ± 1.4 between seeds, ± 20.0 between folds" in answer.out
    assert "small, verb: 19.0 % is not better than always answering the commonest training class (20.0 %)" in answer.out
    page = study_page(outcomes_of(study, jobs), FigureFiles())
    assert "between folds" in page
    assert "small, verb alone: 19.0" in page
