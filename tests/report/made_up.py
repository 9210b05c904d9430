"""A made-up run that holds what training and evaluation write, and a page taken apart."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinema import recipes
from kinema.config import resolve
from kinema.evaluation.baselines import class_counts, commonest
from kinema.evaluation.clip_list import clip_list
from kinema.evaluation.metrics import accuracy
from kinema.evaluation.predictions import Predictions
from kinema.evaluation.results import results, save_evaluation
from kinema.models.weights import Calibration, TrainingFacts, WeightsConfig, save
from kinema.training.run_folder import Run, create_run
from kinema.types import Clip, Heads, Preprocessing, Split

VOID = {"br", "col", "img", "link", "meta", "source", "wbr"}
ACTIONS: Heads = {"action": ("open", "close", "rise")}
TASKS: Heads = {"verb": ("open", "close", "rise"), "noun": ("cup", "door")}


class Page(HTMLParser):
    """A page taken apart. It must be well-formed: every element is closed, in the right order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.data: dict[str, Any] = {}
        source = path.read_text(encoding="utf-8")
        self.num_bytes = path.stat().st_size
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        if "script" in self.open:
            if self.tags[-1][1].get("type") == "application/json":
                self.data = json.loads(data)
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def of_class(self, name: str) -> list[str]:
        return [tag for tag, attributes in self.tags if name in attributes.get("class", "").split()]


def make_run(
    folder: Path,
    *,
    heads: Heads = ACTIONS,
    evaluated: Sequence[Split] = ("validation", "test"),
    videos: Sequence[Path] = (),
    num_clips: int = 24,
    skill: float = 3.0,
    pairs: Mapping[str, tuple[tuple[str, str], ...]] | None = None,
    skipped: Mapping[str, str] | None = None,
    finished: bool = True,
    temperature: float | None = None,
) -> Run:
    """A run as training and evaluation leave it.

    Args:
        folder: Where.
        heads: Task -> class names.
        evaluated: Which splits.
        videos: Files of the clips, in turn. By default files that are not there.
        num_clips: In each split.
        skill: How far the true class's logit is lifted above the noise.
        pairs: Pairs of classes that the data set declares.
        skipped: Clip id -> reason, of each evaluation.
        finished: Whether the weights were written.
        temperature: Of the weights, where they have one.
    """
    recipe = resolve(recipes.read("motion/cnn_lstm"), [f"output={json.dumps(str(folder))}", "trainer.epochs=4"])
    run = create_run(recipe)
    _write_history(folder / "metrics.csv", heads)
    train = _predictions("train", heads, num_clips=num_clips, skill=9.0, videos=videos)
    training = TrainingFacts(
        data=recipe.data.model_dump(mode="json"),
        seed=0,
        num_clips=num_clips,
        class_counts=class_counts(train.clips, heads),
        commonest=commonest(train.clips, heads),
        accuracy=accuracy(train),
        num_accuracy_clips=num_clips,
        epoch=3,
        selected_by="the best validation result",
        groups=["train"],
        contents=[],
    )
    if finished:
        preprocessing = Preprocessing(
            num_frames=8, size_px=64, resize_px=72, fit="crop", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
        )
        config = WeightsConfig(model="cnn_lstm", arguments={}, heads=heads, preprocessing={"rgb": preprocessing})
        save(run.weights, {"weight": torch.zeros(1)}, config, training, card="")
    calibrated = None
    if temperature is not None:
        calibrated = Calibration(temperatures=dict.fromkeys(heads, temperature), split="validation", clip_ids=[])
    for split in evaluated:
        predictions = _predictions(split, heads, num_clips=num_clips, skill=skill, videos=videos, skipped=skipped or {})
        record = results(predictions, split=split, training=training, pairs=pairs or {}, calibrated=calibrated)
        record["list"] = clip_list(predictions.clips, heads, {}, is_own=True, source="motion")
        save_evaluation(run.new_evaluation(record), record, predictions)
    return run


def evaluate_again(
    run: Run,
    name: str,
    *,
    of: str = "test",
    source: str | None = None,
    views: Mapping[str, Any] | None = None,
    **values: Any,
) -> Path:
    """Another evaluation of a run, like one that it has.

    Args:
        run: From `make_run`.
        name: Of its folder.
        of: Name of the one that it is like.
        source: Where its clips come from, if these are not the run's own.
        views: As `kinema evaluate --views` writes them.
        values: What else is in its record.
    """
    folder = run.evaluations / name
    shutil.copytree(run.evaluations / of, folder)
    record = json.loads((folder / "metrics.json").read_text()) | values
    if source is not None:
        record["list"] = {"own": False, "source": source, "fingerprint": f"of {source}"}
    if views is not None:
        record["views"] = dict(views)
    (folder / "metrics.json").write_text(json.dumps(record))
    return folder


def put_predictions(evaluation: Path, heads: Heads, *, num_clips: int) -> None:
    """Put other clips into an evaluation, many of them, without the numbers that take long to compute."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = [
        {
            "clip_id": f"part_{i // 1000}/video_of_a_kitchen_{i:06d}.mp4",
            "video": f"/nowhere/{i}.mp4",
            "start_s": 0.0,
            "stop_s": "",
            "fps": "",
            "group": f"g{i % 50}",
        }
        for i in range(num_clips)
    ]
    for task, names in heads.items():
        true = rng.integers(len(names), size=num_clips)
        answers = np.where(rng.random(num_clips) < 0.5, true, rng.integers(len(names), size=num_clips))
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(counts, (true, answers), 1)
        with (evaluation / f"confusion_{task}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["true \\ predicted", *names])
            writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
        for row, t, a, share in zip(rows, true, answers, rng.random(num_clips), strict=True):
            said = {"label": names[t], "predicted": names[a], "confidence": round(float(share), 6), "rank": 1}
            row |= {f"{task}_{key}": value for key, value in said.items()}
    with (evaluation / "predictions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _predictions(
    split: Split,
    heads: Heads,
    *,
    num_clips: int,
    skill: float,
    videos: Sequence[Path],
    skipped: Mapping[str, str] | None = None,
) -> Predictions:
    rng = np.random.default_rng(len(split))
    labels = {task: np.arange(num_clips, dtype=np.int64) % len(names) for task, names in heads.items()}
    logits = {}
    for task, names in heads.items():
        values = rng.normal(size=(num_clips, len(names)))
        values[np.arange(num_clips), labels[task]] += skill
        logits[task] = values.astype(np.float32)
    clips = [
        Clip(
            clip_id=f"{split} {i}",
            video=videos[i % len(videos)] if videos else Path(f"/nowhere/{split}_{i}.mp4"),
            labels={task: int(values[i]) for task, values in labels.items()},
        )
        for i in range(num_clips)
    ]
    return Predictions(classes=heads, clips=clips, logits=logits, labels=labels, skipped=skipped or {})


def _write_history(path: Path, heads: Heads) -> None:
    names = [*heads, "joint"] if len(heads) > 1 else list(heads)
    with path.open("w", newline="") as file:
        measures = ["loss", *(f"{name}_top1" for name in names)]
        columns = [f"{split}/{measure}" for split in ("train", "validation") for measure in measures]
        writer = csv.writer(file)
        writer.writerow(["epoch", "lr", *columns, "seconds"])
        for epoch in range(1, 5):
            values = [1.5 / epoch, *(epoch / 4 - 0.1 for _ in names)]
            writer.writerow([epoch, 0.001, *values, *(0.9 * value for value in values), 2.5])
