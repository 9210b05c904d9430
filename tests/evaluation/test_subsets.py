"""Rare classes and unseen people apart, against plain loops over EPIC-KITCHENS-100's definitions."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.made_up import predictions
from tests.models.facts import TRAINING

from kinema.evaluation.predictions import Predictions
from kinema.evaluation.results import results
from kinema.evaluation.subsets import subset_accuracy


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_without_such_classes_or_groups_there_is_nothing() -> None:
    some = predictions({"verb": np.eye(3, dtype=np.float32)}, {"verb": np.arange(3)})
    assert subset_accuracy(some, tail={}, unseen_groups=()) == {}


def test_of_an_action_either_class_may_be_rare() -> None:
    verbs, nouns = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    some = predictions(
        {"verb": np.eye(2, dtype=np.float32)[verbs], "noun": np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]},
        {"verb": verbs, "noun": nouns},
    )
    found = subset_accuracy(some, tail={"verb": {1}, "noun": {1}}, unseen_groups={"g1"})
    assert found["tail"] == {
        "verb": {"top1": 1.0, "num_clips": 2},
        "noun": {"top1": 0.0, "num_clips": 1},
        "joint": {"top1": 1 / 3, "num_clips": 3},
    }
    assert found["unseen"] == {
        "verb": {"top1": 1.0, "num_clips": 1},
        "noun": {"top1": 0.0, "num_clips": 1},
        "joint": {"top1": 0.0, "num_clips": 1},
    }
    nobody = subset_accuracy(some, tail={}, unseen_groups={"nobody"})
    assert nobody["unseen"]["verb"] == {"top1": None, "num_clips": 0}


def best_pairs(verbs: np.ndarray, nouns: np.ndarray, *, num: int) -> list[tuple[int, int]]:
    """The best pairs among the 100 best of both."""
    rows, columns = (np.argsort(-scores)[:100] for scores in (verbs, nouns))
    order = np.argsort(-np.outer(verbs[rows], nouns[columns]), axis=None)[:num]
    return [(int(rows[place // len(columns)]), int(columns[place % len(columns)])) for place in order]


def of_column(path: Path, column: str) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [row[column] for row in csv.DictReader(file)]


def made_of_the_validation_list(rows: list[dict[str, str]], seed: int) -> Predictions:
    """Answers to real segments: each true class is lifted above noise."""
    rng = np.random.default_rng(seed)
    labels = {task: np.array([int(row[f"{task}_class"]) for row in rows]) for task in ("verb", "noun")}
    logits = {}
    for task, num in (("verb", 97), ("noun", 300)):
        logits[task] = rng.normal(size=(len(rows), num)).astype(np.float32)
        logits[task][np.arange(len(rows)), labels[task]] += rng.choice([0, 2, 5], size=len(rows))
    made = predictions(logits, labels)
    clips = [
        replace(clip, clip_id=row["narration_id"], group=row["participant_id"])
        for clip, row in zip(made.clips, rows, strict=True)
    ]
    return replace(made, clips=clips)


def test_the_official_numbers_of_the_real_validation_list(data_root: Path) -> None:
    """A plain loop that follows the official definition word by word."""
    folder = data_root / "epic_kitchens_100"
    with (folder / "EPIC_100_validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tail = {task: {int(c) for c in of_column(folder / f"EPIC_100_tail_{task}s.csv", task)} for task in ("verb", "noun")}
    unseen = set(of_column(folder / "EPIC_100_unseen_participant_ids_validation.csv", "participant_id"))
    assert len(rows) == 9668
    made = made_of_the_validation_list(rows, seed=3)
    training = replace(
        TRAINING,
        commonest={"verb": 0, "noun": 0, "joint": [0, 0]},
        accuracy={"verb": 0.9, "noun": 0.9, "joint": 0.9},
        class_counts={},
    )
    record = results(made, split="validation", training=training, pairs={}, tail=tail, unseen_groups=unseen)

    hits: dict[str, list[bool]] = {}
    for number, row in enumerate(rows):
        verb, noun = int(row["verb_class"]), int(row["noun_class"])
        scores = {task: softmax(made.logits[task][number].astype(float)) for task in ("verb", "noun")}
        best = {task: np.argsort(-values, kind="stable") for task, values in scores.items()}
        action = best_pairs(scores["verb"], scores["noun"], num=5)
        is_tail = {"verb": verb in tail["verb"], "noun": noun in tail["noun"]}
        is_tail["action"] = is_tail["verb"] or is_tail["noun"]
        for k in (1, 5):
            right = {task: true in best[task][:k] for task, true in (("verb", verb), ("noun", noun))}
            right["action"] = (verb, noun) in action[:k]
            for name, value in right.items():
                hits.setdefault(f"all_{name}_accuracy_at_{k}", []).append(value)
                if k == 1 and is_tail[name]:
                    hits.setdefault(f"tail_{name}_accuracy_at_1", []).append(value)
                if k == 1 and row["participant_id"] in unseen:
                    hits.setdefault(f"unseen_{name}_accuracy_at_1", []).append(value)
    expected = {name: 100 * float(np.mean(values)) for name, values in hits.items()}
    assert record["epic"] == pytest.approx(expected)
    assert 0 < expected["tail_action_accuracy_at_1"] < 100
    assert len(hits["unseen_verb_accuracy_at_1"]) == sum(row["participant_id"] in unseen for row in rows) > 1000
