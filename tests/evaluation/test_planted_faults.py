"""Mistakes that have been published as results, planted one by one: each is caught, and named.

The model answers with what the frames' brightness says, so that an evaluation without a fault is right on every clip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.evaluation.made_up import predictions
from tests.models.facts import TRAINING
from tests.videos import write_video
from torch import Tensor, nn

from kinema.evaluation import evaluate as evaluating
from kinema.evaluation import predict as predicting
from kinema.evaluation.evaluate import evaluate
from kinema.evaluation.results import results
from kinema.evaluation.sanity import check_record, findings
from kinema.files import write_json
from kinema.models.weights import TrainingFacts, WeightsConfig, save
from kinema.report.record import _evaluations
from kinema.types import DataError, Preprocessing, UserError

CLASSES = ("dark", "grey", "light", "white")
RGB = Preprocessing(num_frames=2, size_px=16, resize_px=16, fit="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LEVELS = (20, 90, 160, 235)
NUM_PER_CLASS = 8


class Brightness(nn.Module):
    """Answers with the class whose brightness is the nearest."""

    def __init__(self, heads: Mapping[str, int] | None = None, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.levels = nn.Parameter((torch.tensor(LEVELS) / 255 - 0.5) / 0.25)
        self.heads = heads or {"action": len(CLASSES)}
        self.dropout = dropout

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mean = streams["rgb"].mean(dim=(1, 2, 3, 4))
        logits = -10 * (mean[:, None] - self.levels).abs()
        if self.dropout:
            logits = F.dropout(logits, self.dropout, training=True)
        return {task: logits[:, :number] for task, number in self.heads.items()}


def write_clips(root: Path, *, names: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """A folder per class; no clip twice."""
    rng = np.random.default_rng(seed)
    for level, name in zip(LEVELS, names, strict=True):
        folder = root / "test" / name
        folder.mkdir(parents=True)
        for number in range(NUM_PER_CLASS):
            frames = [np.full((16, 16, 3), level, np.uint8) + rng.integers(0, 9, (16, 16, 1), dtype=np.uint8)] * 2
            write_video(folder / f"{number}.mkv", frames, fps=4, codec="ffv1")
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


class Planted:
    """A weights folder that is evaluated, and the model that stands in it."""

    def __init__(self, folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights, self.root, self.model = folder, root, Brightness()
        self.config = WeightsConfig(
            model="frame_average", arguments={}, heads={"action": CLASSES}, preprocessing={"rgb": RGB}
        )
        self.facts = replace(
            TRAINING,
            data={"name": "folder", "root": str(root)},
            num_clips=40,
            class_counts={"action": [10, 10, 10, 10]},
            commonest={"action": 0},
            preprocessing={"rgb": RGB.fingerprint},
            inputs={"rgb": [0.0, 1.26]},
            groups=[],
            contents=[],
        )
        monkeypatch.setattr(evaluating, "load_model", lambda folder: (self.model.eval(), self.config))
        self.save()

    def save(self, **facts: Any) -> None:
        self.facts = replace(self.facts, **facts)
        save(self.weights, self.model.state_dict(), self.config, self.facts, card="")

    def evaluate(self, *overrides: str) -> Mapping[str, Any]:
        return evaluate(self.weights, ["clips.workers=0", *overrides]).record


@pytest.fixture
def planted(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    return Planted(tmp_path / "weights", clips, monkeypatch)


def faults(record: Mapping[str, Any]) -> dict[str, str]:
    return {finding["fault"]: finding["message"] for finding in record["findings"]}


def test_without_a_fault_nothing_is_said(planted: Planted) -> None:
    record = planted.evaluate()
    assert record["tasks"]["action"]["top1"] == 1
    assert record["findings"] == []


def test_normalisation_left_out_at_the_test(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Project G's: the frames reach the model as they are in the file."""
    plain = predicting.to_model_input
    neutral = {"rgb": replace(RGB, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))}
    monkeypatch.setattr(predicting, "to_model_input", lambda streams, _, **more: plain(streams, neutral, **more))
    message = faults(planted.evaluate())["preprocessing"]
    assert "in training it had 0 and 1.26" in message
    assert "not normalised" in message


def test_inputs_that_cannot_be_compared_are_said(planted: Planted) -> None:
    assert planted.evaluate()["inputs_unknown"] is None
    planted.save(inputs={"features": [0.0, 1.0]})
    record = planted.evaluate()
    assert record["inputs_unknown"] == ("of rgb, training kept no mean and deviation (it kept those of features)")
    assert record["findings"] == []


def test_another_preprocessing_than_in_training(planted: Planted) -> None:
    """Changed with its fingerprint, so that config.json by itself looks whole."""
    other = replace(RGB, mean=(0.0, 0.0, 0.0))
    planted.config = replace(planted.config, preprocessing={"rgb": other})
    planted.save()
    with pytest.raises(DataError, match=r"the preprocessing of 'rgb' in config\.json is not the one"):
        planted.evaluate()


def test_preprocessing_changed_by_hand(planted: Planted) -> None:
    path = planted.weights / "config.json"
    content = json.loads(path.read_text())
    content["preprocessing"]["rgb"]["mean"] = [0, 0, 0]
    write_json(path, content)
    from kinema.models.weights import read_config

    with pytest.raises(DataError, match="was changed after training"):
        read_config(planted.weights)


def test_labels_that_are_shifted_by_one(planted: Planted, tmp_path: Path) -> None:
    shifted = write_clips(tmp_path / "shifted", names=(*CLASSES[1:], CLASSES[0]))
    record = planted.evaluate(f"data.root={shifted}")
    assert record["tasks"]["action"]["top1"] == 0
    message = faults(record)["label shift"]
    assert message.startswith("action: 0.0 % are right, and 100.0 % would be under other names")
    assert "Labels are off by +1" in message


def test_classes_in_another_order(planted: Planted, tmp_path: Path) -> None:
    """Names that belong to other logits, in no regular way."""
    mixed = write_clips(tmp_path / "mixed", names=("light", "dark", "white", "grey"))
    assert "do not belong together" in faults(planted.evaluate(f"data.root={mixed}"))["label shift"]


def test_clips_that_are_in_both_splits(planted: Planted, clips: Path) -> None:
    from kinema.data.hashing import content_hash

    copied = [content_hash(clips / "test" / "dark" / f"{number}.mkv") for number in range(3)]
    planted.save(contents=copied)
    assert faults(planted.evaluate())["leakage"].startswith("3 of 32 clips are of a video that was trained on")


def test_groups_that_are_in_both_splits(planted: Planted, tmp_path: Path) -> None:
    root = tmp_path / "grouped"
    shutil.copytree(planted.root, root)
    rows = [f"test/{name}/{i}.mkv,{name},test,recording{i}" for name in CLASSES for i in range(NUM_PER_CLASS)]
    (root / "clips.csv").write_text("\n".join(["path,label,split,group", *rows]))
    planted.save(data={"name": "table", "root": str(root)}, groups=["recording2"])
    assert faults(planted.evaluate())["leakage"].startswith("4 of 32 clips are of a group that was trained on")


def test_the_same_clip_counted_twice(planted: Planted, tmp_path: Path) -> None:
    root = tmp_path / "twice"
    shutil.copytree(planted.root, root)
    rows = [f"test/{name}/{i % 6}.mkv,{name},test" for name in CLASSES for i in range(NUM_PER_CLASS)]
    (root / "clips.csv").write_text("\n".join(["path,label,split", *rows]))
    message = faults(planted.evaluate("data.name=table", f"data.root={root}"))["listed twice"]
    assert message.startswith("8 of 32 clips are listed more than once")


def test_a_module_that_was_never_trained(planted: Planted) -> None:
    """Project H's attention. Training says so (tests/training/test_sanity.py), and the weights keep it."""
    planted.save(warnings=["attention.query.weight: no gradient in the first 5 steps"])
    assert faults(planted.evaluate())["training"] == (
        "while it was trained: attention.query.weight: no gradient in the first 5 steps"
    )


def test_a_model_that_always_says_the_same(planted: Planted) -> None:
    planted.model.levels.data = torch.tensor([9.0, 9.0, 0.0, 9.0])
    record = planted.evaluate()
    assert faults(record)["one answer"].startswith("action: 'light' is the answer to 32 of 32 clips")
    assert record["tasks"]["action"]["above_majority"][0] <= 0


def test_dropout_that_does_not_know_of_the_test(planted: Planted) -> None:
    planted.model.dropout = 0.5
    with pytest.raises(UserError, match="depends on the clips beside it, or on chance"):
        planted.evaluate()


def test_batch_norm_that_takes_the_statistics_of_the_batch(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Brightness.forward

    def forward(self: Brightness, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frames = streams["rgb"]
        return plain(self, {"rgb": frames - frames.mean()})

    monkeypatch.setattr(Brightness, "forward", forward)
    with pytest.raises(UserError, match="depends on the clips beside it"):
        planted.evaluate()


def test_numbers_that_are_none(planted: Planted) -> None:
    planted.model.levels.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        planted.evaluate()


def test_fewer_nouns_than_there_are(planted: Planted) -> None:
    planted.model.heads = {"action": 3}
    with pytest.raises(UserError, match="action: there are 4 classes, and the model answers with 3"):
        planted.evaluate()


def test_clips_that_cannot_be_read(planted: Planted, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    shutil.copytree(planted.root, root)
    for number in range(3):
        (root / "test" / "grey" / f"{number}.mkv").write_bytes(b"no video")
    record = planted.evaluate(f"data.root={root}")
    assert record["num_skipped"] == 3
    assert faults(record)["skipped"].startswith("3 of 32 clips could not be read and are in no number")


def test_classes_without_training_clips(planted: Planted) -> None:
    planted.save(class_counts={"action": [20, 20, 0, 0]})
    message = faults(planted.evaluate())["class without training clips"]
    assert message.startswith("action: 16 of 32 clips are of 2 classes that had no training clip, such as 'light'")


def test_better_than_on_what_was_trained_on(planted: Planted) -> None:
    planted.save(accuracy={"action": 0.5})
    assert "only 50.0 % of those that were trained on" in faults(planted.evaluate())["above training"]


def test_clips_that_chose_the_epoch() -> None:
    made = predictions({"verb": np.eye(2, dtype=np.float32)}, {"verb": [0, 1]})
    facts = facts_of(made, selected_by="the best validation result")
    record = results(made, split="validation", training=facts, pairs={})
    assert "was kept for being the best on these very clips" in faults(record)["selected"]
    assert "selected" not in faults(results(made, split="test", training=facts, pairs={}))


def facts_of(made: Any, **more: Any) -> TrainingFacts:
    counts = {task: [5] * len(names) for task, names in made.classes.items()}
    common = dict.fromkeys(made.classes, 0) | {"joint": [0] * len(made.classes)}
    return replace(TRAINING, class_counts=counts, commonest=common, accuracy=dict.fromkeys(common, 1.0), **more)


@pytest.mark.parametrize("seed", range(5))
def test_actions_above_their_nouns(seed: int, tmp_path: Path) -> None:
    """Project G's: verbs and nouns counted over other clips than the pairs of both."""
    rng = np.random.default_rng(seed)
    labels = {"verb": rng.integers(0, 3, 40), "noun": rng.integers(0, 4, 40)}
    logits = {task: rng.normal(size=(40, k)).astype(np.float32) for task, k in (("verb", 3), ("noun", 4))}
    made = predictions(logits, labels)
    record = results(made, split="test", training=facts_of(made), pairs={})
    record["list"] = {"own": True, "source": "made up", "fingerprint": ""}
    check_record(record)
    record["joint"]["top1"] = min(of["top1"] for of in record["tasks"].values()) + 0.01
    with pytest.raises(UserError, match=r"metrics.json: right in all tasks at once .* (verb|noun) .*that cannot be"):
        check_record(record, where="metrics.json")
    (tmp_path / "evaluations" / "test").mkdir(parents=True)
    write_json(tmp_path / "evaluations" / "test" / "metrics.json", record)
    with pytest.raises(DataError, match=r"that cannot be.*; remove test and evaluate again"):
        _evaluations(tmp_path / "evaluations")
    record["joint"]["top1"] = 1.2
    with pytest.raises(UserError, match=r"joint: top1 is 1\.2, which is no share of clips"):
        check_record(record)


def test_chance_finds_no_other_names() -> None:
    """Of answers that are all guesses, and of few clips, nothing is said."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        num_clips, num_classes = int(rng.integers(20, 80)), int(rng.integers(2, 12))
        logits = {"verb": rng.normal(size=(num_clips, num_classes)).astype(np.float32)}
        made = predictions(logits, {"verb": rng.integers(0, num_classes, num_clips)})
        record = results(made, split="test", training=facts_of(made), pairs={})
        assert "label shift" not in faults(record)
        assert findings(made, record, facts_of(made)) == record["findings"]


def test_what_training_knows_is_kept(planted: Planted) -> None:
    from kinema.models.weights import read_training

    assert asdict(read_training(planted.weights)) == asdict(planted.facts)
