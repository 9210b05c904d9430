"""The record of an evaluation, under the names that scripts of others use, and the files beside it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tests.evaluation.made_up import predictions
from tests.models.facts import TRAINING

from kinema.evaluation.predictions import Predictions
from kinema.evaluation.results import results, save_evaluation
from kinema.models.weights import Calibration

RNG = np.random.default_rng(0)
ONE = predictions(
    {"action": RNG.normal(size=(6, 4)).astype(np.float32)},
    {"action": np.array([0, 1, 2, 3, 1, 1])},
    skipped={"clip9": "videos/9.mp4: empty (0 bytes)"},
)
TWO = predictions(
    {"verb": RNG.normal(size=(6, 4)).astype(np.float32), "noun": RNG.normal(size=(6, 3)).astype(np.float32)},
    {"verb": np.array([0, 1, 2, 3, 1, 1]), "noun": np.array([0, 1, 2, 0, 1, 1])},
)
AWKWARD = predictions(
    {"group": ONE.logits["action"], "video": ONE.logits["action"]},
    {"group": ONE.labels["action"], "video": ONE.labels["action"]},
)
TRAINED_ONE = replace(TRAINING, commonest={"action": 1}, accuracy={"action": 0.9})
TRAINED_TWO = replace(
    TRAINING, commonest={"verb": 1, "noun": 1, "joint": [1, 1]}, accuracy={"verb": 0.8, "noun": 0.9, "joint": 0.7}
)

# What is promised to scripts, and what comes beside it.
TOP = {"split", "tasks", "train_top1", "gap", "gap_unknown", "num_clips", "num_skipped", "temperature_fitted_here"}
TOP |= {"inputs_unknown", "findings"}
TASK = {"top1", "top3", "top5", "mean_class", "chance", "majority"}
ALSO_IN_A_TASK = {
    "loss",
    "num_classes",
    "train_top1",
    "gap",
    "interval",
    "above_majority",
    "calibration",
    "classes",
} | {
    *(f"{name}_{kind}" for name in ("precision", "recall", "f1") for kind in ("macro", "weighted")),
    *("average_precision", "auroc"),
}
JOINT = {"top1", "top3", "top5", "chance", "majority", "train_top1", "gap", "interval", "above_majority"}


def test_the_keys_of_one_task() -> None:
    record = results(ONE, split="test", training=TRAINED_ONE, pairs={})
    assert set(record) == TOP
    assert set(record["tasks"]) == {"action"}
    assert set(record["tasks"]["action"]) == TASK | ALSO_IN_A_TASK
    assert (record["split"], record["num_clips"], record["num_skipped"]) == ("test", 6, 1)
    task = record["tasks"]["action"]
    assert (task["chance"], task["majority"], task["num_classes"]) == (0.25, 0.5, 4)
    assert record["train_top1"] == task["train_top1"] == 0.9
    assert record["gap"] == task["gap"] == pytest.approx(0.9 - task["top1"])
    assert record["gap_unknown"] is None


def test_the_keys_of_several_tasks_and_pairs() -> None:
    record = results(TWO, split="validation", training=TRAINED_TWO, pairs={"verb": (("verb0", "verb1"),)})
    assert set(record) == TOP | {"joint", "pairs", "pairs_by_name"}
    assert set(record["tasks"]) == {"verb", "noun"}
    assert all(set(task) == TASK | ALSO_IN_A_TASK for task in record["tasks"].values())
    assert set(record["joint"]) == JOINT
    assert record["joint"]["majority"] == 0.5
    assert record["joint"]["chance"] == 1 / 12
    assert isinstance(record["pairs"], float)
    assert record["pairs_by_name"] == {"verb0 / verb1": record["pairs"]}
    assert record["train_top1"] == 0.7
    assert record["gap"] == record["joint"]["gap"] == pytest.approx(0.7 - record["joint"]["top1"])


def test_what_was_trained_on_unequal_classes_has_common_and_rare_ones_apart() -> None:
    skewed = replace(TRAINED_ONE, class_counts={"action": [1, 60, 9, 20]})
    record = results(ONE, split="test", training=skewed, pairs={})
    task = record["tasks"]["action"]
    assert set(task) == TASK | ALSO_IN_A_TASK | {"head", "middle", "tail", "frequency"}
    right = ONE.logits["action"].argmax(axis=1) == ONE.labels["action"]
    assert task["head"] == right[[1, 4, 5]].mean()
    assert task["tail"] == right[0]
    assert task["middle"] == right[[2, 3]].mean()
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_it_is_json() -> None:
    record = results(TWO, split="test", training=TRAINED_TWO, pairs={"verb": (("verb0", "verb1"),)})
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("found", [ONE, TWO, AWKWARD], ids=["one", "two", "tasks named like columns"])
def test_predictions_have_one_row_per_clip(tmp_path: Path, found: Predictions) -> None:
    found.save(tmp_path / "new" / "folder")
    table = rows(tmp_path / "new" / "folder" / "predictions.csv")
    assert [row["clip_id"] for row in table] == [clip.clip_id for clip in found.clips]
    for number, (row, clip) in enumerate(zip(table, found.clips, strict=True)):
        assert row["video"] == str(clip.video)
        assert float(row["start_s"]) == clip.start_s
        assert row["stop_s"] == ("" if clip.stop_s is None else str(clip.stop_s))
        assert row["group"] == (clip.group or "")
        for task, names in found.classes.items():
            logits = found.logits[task][number].astype(float)
            best = int(logits.argmax())
            confidence = math.exp(logits[best]) / sum(math.exp(value) for value in logits)
            assert row[f"{task}_label"] == names[clip.labels[task]]
            assert row[f"{task}_predicted"] == names[best]
            assert float(row[f"{task}_confidence"]) == pytest.approx(confidence, abs=1e-6)
            assert int(row[f"{task}_rank"]) == 1 + (logits > logits[clip.labels[task]]).sum()
    saved = safetensors.numpy.load_file(tmp_path / "new" / "folder" / "logits.safetensors")
    assert all(np.array_equal(saved[task], found.logits[task]) for task in found.classes)


def test_skipped_clips_are_named_and_have_no_row(tmp_path: Path) -> None:
    ONE.save(tmp_path)
    assert rows(tmp_path / "skipped.csv") == [{"clip_id": "clip9", "reason": "videos/9.mp4: empty (0 bytes)"}]
    assert "clip9" not in (tmp_path / "predictions.csv").read_text()
    TWO.save(tmp_path / "two")
    assert not (tmp_path / "two" / "skipped.csv").exists()


def test_an_evaluation_is_kept_whole(tmp_path: Path) -> None:
    record = results(TWO, split="test", training=TRAINED_TWO, pairs={})
    save_evaluation(tmp_path / "test", record, TWO)
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == [
        "classes_noun.csv",
        "classes_verb.csv",
        "confusion_noun.csv",
        "confusion_verb.csv",
        "logits.safetensors",
        "metrics.json",
        "predictions.csv",
    ]
    assert json.loads((tmp_path / "test" / "metrics.json").read_text()) == record
    table = rows(tmp_path / "test" / "confusion_noun.csv")
    expected: dict[tuple[str, str], int] = {}
    for row, label in zip(TWO.logits["noun"], TWO.labels["noun"], strict=True):
        key = (f"noun{label}", f"noun{row.argmax()}")
        expected[key] = expected.get(key, 0) + 1
    found: dict[Any, int] = {
        (row["true \\ predicted"], name): int(count)
        for row in table
        for name, count in row.items()
        if name != "true \\ predicted" and int(count)
    }
    assert found == expected
    classes = {row["class"]: row for row in rows(tmp_path / "test" / "classes_noun.csv")}
    assert {name: (int(row["num_clips"]), int(row["right"])) for name, row in classes.items()} == {
        name: (sum(n for (true, _), n in found.items() if true == name), found.get((name, name), 0)) for name in classes
    }
    assert float(classes["noun1"]["recall"]) == pytest.approx(found.get(("noun1", "noun1"), 0) / 3, abs=1e-6)


def test_what_may_be_chance_is_told_from_what_is_not() -> None:
    """Of 40 clips, half of a class each."""
    labels = np.arange(40) % 2
    trained = replace(TRAINING, commonest={"action": 0}, accuracy={"action": 1.0})
    found = []
    for num_right in (23, 36):
        answers = np.where(np.arange(40) < num_right, labels, 1 - labels)
        some = predictions({"action": np.eye(2, dtype=np.float32)[answers]}, {"action": labels})
        task = results(some, split="test", training=trained, pairs={})["tasks"]["action"]
        assert task["interval"][0] < task["top1"] < task["interval"][1]
        assert task["above_majority"][0] < task["top1"] - task["majority"] < task["above_majority"][1]
        found.append(task["above_majority"][0] > 0)
    assert found == [False, True]


def test_the_temperature_of_the_weights_changes_confidence_alone() -> None:
    calibrated = Calibration(temperatures={"action": 2.0}, split="validation", clip_ids=[])
    plain = results(ONE, split="test", training=TRAINED_ONE, pairs={})["tasks"]["action"]
    record = results(ONE, split="test", training=TRAINED_ONE, pairs={}, calibrated=calibrated)
    task = record["tasks"]["action"]
    cooler = replace(ONE, logits={"action": ONE.logits["action"] / 2})
    expected = results(cooler, split="test", training=TRAINED_ONE, pairs={})["tasks"]["action"]
    assert task["calibration"].pop("after") == expected["calibration"]
    assert task["calibration"].pop("temperature") == 2
    assert task == plain
    assert record["temperature_fitted_here"] is False


def test_too_many_combinations_have_a_top1_alone() -> None:
    """Tasks of 378 million combinations: ranking them would take gigabytes for one clip."""
    sizes = {"verb": 97, "noun": 300, "verb_category": 13, "action": 1000}
    logits = {task: RNG.normal(size=(4, size)).astype(np.float32) for task, size in sizes.items()}
    right = {task: values.argmax(axis=1) for task, values in logits.items()}
    right["noun"] = right["noun"].copy()
    right["noun"][0] = (right["noun"][0] + 1) % 300
    trained = replace(
        TRAINING,
        commonest={**dict.fromkeys(sizes, 0), "joint": [0, 0, 0, 0]},
        accuracy=dict.fromkeys([*sizes, "joint"], 0.5),
    )
    joint = results(predictions(logits, right), split="test", training=trained, pairs={})["joint"]
    assert (joint["top1"], joint["top3"], joint["top5"]) == (0.75, None, None)


def test_any_k_may_be_asked_for() -> None:
    record = results(TWO, split="test", training=TRAINED_TWO, pairs={}, ks=(2, 4))
    for values in (*record["tasks"].values(), record["joint"]):
        assert {name for name in values if name.startswith("top")} == {"top1", "top2", "top4"}
    ranks = (TWO.logits["verb"] > TWO.logits["verb"][np.arange(6), TWO.labels["verb"]][:, None]).sum(axis=1)
    assert record["tasks"]["verb"]["top2"] == (ranks < 2).mean()


@pytest.mark.parametrize("seed", range(5))
def test_the_prior_of_pairs_is_that_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = {task: rng.normal(size=(20, k)).astype(np.float32) for task, k in (("verb", 3), ("noun", 4))}
    made = predictions(logits, {"verb": rng.integers(0, 3, 20), "noun": rng.integers(0, 4, 20)})
    seen = [[0, 0, 8], [0, 1, 2], [1, 2, 5], [2, 3, 1]]
    training = replace(TRAINED_TWO, combinations=seen)
    found = results(made, split="test", training=training, pairs={})["joint"]["with_prior"]
    counts = np.zeros((3, 4))
    for verb, noun, number in seen:
        counts[verb, noun] = number
    right = {1: 0, 3: 0, 5: 0}
    for row in range(20):
        scores = {}
        for verb in range(3):
            for noun in range(4):
                by_chance = (counts[verb].sum() + 1 / 3) / 17 * (counts[:, noun].sum() + 1 / 4) / 17
                together = (counts[verb, noun] + by_chance) / 17
                probability = made.probabilities("verb")[row, verb] * made.probabilities("noun")[row, noun]
                scores[verb, noun] = probability * together / by_chance
        order = sorted(scores, key=lambda pair: -scores[pair])
        place = order.index((int(made.labels["verb"][row]), int(made.labels["noun"][row])))
        for k in right:
            right[k] += place < k
    assert found == {f"top{k}": pytest.approx(number / 20) for k, number in right.items()}
    assert "with_prior" not in results(made, split="test", training=TRAINED_TWO, pairs={})["joint"]
