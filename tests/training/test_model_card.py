"""The card of a weights folder, as Hugging Face's own library reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from tests.report.made_up import TASKS, make_run

from kinema.models.weights import read_config, read_training
from kinema.report.page import write_page
from kinema.training.model_card import MARK, model_card, update_model_card
from kinema.training.run_folder import Run
from kinema.wording import percent, percent_range


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run", heads=TASKS)
    card = model_card(read_config(made.weights), read_training(made.weights))
    (made.weights / "README.md").write_text(card)
    return made


def test_front_matter_is_hugging_faces(run: Run) -> None:
    write_page(run.folder)
    card = ModelCard((run.weights / "README.md").read_text())
    data = front_matter(card)
    assert data["license"] == "unknown"
    assert data["library_name"] == "kinema"
    assert data["pipeline_tag"] == "video-classification"
    assert data["tags"] == ["action-recognition", "video"]
    assert data["metrics"] == ["accuracy"]
    found = {
        (result.dataset_split, result.task_name, result.metric_name): result.metric_value
        for result in card.data.eval_results  # type: ignore[attr-defined]
    }
    for split in ("validation", "test"):
        record = json.loads((run.evaluations / split / "metrics.json").read_text())
        for task, values in {**record["tasks"], "joint": record["joint"]}.items():
            assert found[split, f"action recognition, {task}", "top-1"] == pytest.approx(values["top1"], abs=1e-6)


def test_every_evaluation_renews_the_numbers(run: Run) -> None:
    path = run.weights / "README.md"
    assert "not evaluated on test clips" in path.read_text()
    write_page(run.folder)
    text = path.read_text()
    assert "not evaluated on test clips" not in text
    record = json.loads((run.evaluations / "test" / "metrics.json").read_text())
    joint = record["joint"]
    row = ["test", "joint", "24", percent(joint["top1"]), percent_range(joint["interval"])]
    row += [percent(joint[key]) for key in ("chance", "majority", "gap")]
    assert f"| {' | '.join(row)} |" in text
    assert update_model_card(run.weights, [])
    assert "| test |" not in path.read_text()


def test_a_card_that_was_taken_over_stays(run: Run) -> None:
    path = run.weights / "README.md"
    mine = path.read_text().replace(MARK, "").replace("license: unknown", "license: mit")
    path.write_text(mine)
    write_page(run.folder)
    assert path.read_text() == mine
    path.unlink()
    assert not update_model_card(run.weights, [])
    assert not path.exists()


def test_numbers_that_are_not_there(run: Run) -> None:
    record = {"split": "test", "num_clips": 0, "tasks": {"verb": {"top1": math.nan, "interval": None, "gap": None}}}
    text = model_card(read_config(run.weights), read_training(run.weights), [record])
    assert "| test | verb | 0 | - | - | - | - | - |" in text
    assert "model-index" not in front_matter(ModelCard(text))


def front_matter(card: ModelCard) -> dict[str, Any]:
    found: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    return found


def test_each_evaluation_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Taken at once, so that two processes never write into the same."""
    run = Run(tmp_path)
    own: dict[str, Any] = {"split": "test", "list": {"own": True}}
    views = {"clips": 10, "crops": 3, "flip": True}
    records = [own, own, own | {"views": views}, own | {"list": {"own": False}}]
    assert [run.new_evaluation(record).name for record in records] == ["test", "test-2", "test_10x3_flip", "other"]
    assert all((tmp_path / "evaluations" / name).is_dir() for name in ("test", "test-2", "test_10x3_flip", "other"))
