"""What a model answered, pass after pass over the same clips: added up, and written down as it goes on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from kinema.evaluation.input_moments import Moments, added, mean_and_deviation
from kinema.evaluation.predictions import Predictions, log_softmax
from kinema.files import write_atomically
from kinema.types import JOINT, Clip, Heads

log = logging.getLogger(__name__)

Average = Literal["probabilities", "logits", "vote"]
AVERAGES: tuple[Average, ...] = get_args(Average)

AS_FILMED = "as filmed"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of some batches of one pass.

    Attributes:
        view: Which pass: the number of the view.
        num_batches: How many batches these are.
        indices: (B,) places in the list of clips.
        logits: Order of the frames -> task -> (B, K).
        failures: Place -> why that clip could not be read.
        moments: Stream, or "features" -> number, sum and sum of squares of what the model was given.
    """

    view: int
    num_batches: int
    indices: np.ndarray
    logits: Mapping[str, Mapping[str, np.ndarray]]
    failures: Mapping[int, str]
    moments: Moments = field(default_factory=dict)


class Sums:
    """Answers of all views of some clips, as one answer.

    Args:
        num_clips: In the list.
        classes: Task -> class names.
        num_views: Passes.
        average: How views become one: the mean of their probabilities or of their logits, or the class that most of
            them answer, the probable one where as many answer another.
        orders: Orders of the frames, each an answer of its own.
    """

    def __init__(
        self, num_clips: int, classes: Heads, *, num_views: int, average: Average, orders: Sequence[str]
    ) -> None:
        self._classes = classes
        self._average: Average = average if num_views > 1 else "logits"
        self._num_views = num_views
        self._totals = {
            order: {task: np.zeros((num_clips, len(names))) for task, names in classes.items()} for order in orders
        }
        self._answered = {task: np.full((num_views, num_clips), -1, dtype=np.int64) for task in classes}
        self._seen = np.zeros(num_clips, dtype=np.int64)
        self._failures: dict[int, str] = {}
        self._moments: Moments = {}

    def add(self, answers: Answers) -> None:
        """Count them in."""
        rows = answers.indices
        self._moments = added(self._moments, answers.moments)
        self._failures.update(answers.failures)
        self._seen[rows] += 1
        for order, tasks in answers.logits.items():
            for task, logits in tasks.items():
                self._totals[order][task][rows] += self._terms(logits)
        for task, logits in answers.logits.get(AS_FILMED, {}).items():
            self._answered[task][answers.view, rows] = logits.argmax(axis=1)

    def _terms(self, logits: np.ndarray) -> np.ndarray:
        if self._average == "logits":
            return logits.astype(np.float64)
        probabilities = np.exp(log_softmax(logits))
        if self._average == "vote":  # less than half a vote tells equals apart
            probabilities *= 0.5 / self._num_views
            probabilities[np.arange(len(logits)), logits.argmax(axis=1)] += 1
        return np.asarray(probabilities)

    def predictions(self, clips: Sequence[Clip], skipped: Mapping[str, str]) -> Predictions:
        """Of the clips that could be read in every view.

        Args:
            clips: The list.
            skipped: Clip id -> reason, of clips that were never in it.
        """
        whole = np.flatnonzero((self._seen == self._num_views) & ~np.isin(np.arange(len(clips)), [*self._failures]))
        rows = [clips[index] for index in whole.tolist()]
        labels = {task: np.array([clip.labels[task] for clip in rows], dtype=np.int64) for task in self._classes}
        logits = {
            order: {task: self._mean(values[whole]) for task, values in totals.items()}
            for order, totals in self._totals.items()
        }
        reasons = {clips[index].clip_id: reason for index, reason in self._failures.items()}
        for index in np.flatnonzero(self._seen != self._num_views).tolist():  # another process wrote in between
            reasons.setdefault(clips[index].clip_id, "not answered as often as it was asked about; evaluate again")
        return Predictions(
            classes=self._classes,
            clips=rows,
            logits=logits.pop(AS_FILMED),
            labels=labels,
            skipped={**skipped, **reasons},
            reordered=logits,
            inputs=mean_and_deviation(self._moments),
            single_view=self._of_single_views(labels, whole) if self._num_views > 1 else None,
        )

    def _mean(self, totals: np.ndarray) -> np.ndarray:
        if self._average == "logits":
            return (totals / self._num_views).astype(np.float32)
        shares = totals / totals.sum(axis=1, keepdims=True)
        return np.log(np.maximum(shares, np.finfo(np.float32).tiny)).astype(np.float32)

    def _of_single_views(self, labels: Mapping[str, np.ndarray], whole: np.ndarray) -> dict[str, float]:
        right = {task: self._answered[task][:, whole] == labels[task] for task in self._classes}
        if len(right) > 1:
            right[JOINT] = np.logical_and.reduce(list(right.values()))
        return {task: float(hits.mean()) if hits.size else float("nan") for task, hits in right.items()}


class Kept:
    """Answers in files, so that long work that was stopped goes on where it was. Short work writes none.

    Args:
        folder: For these answers alone: its name says of which model, which clips, and how.
        every_s: How long answers may lie in memory alone.
    """

    def __init__(self, folder: Path, *, every_s: float = 15.0) -> None:
        self.folder = folder
        self._every_s = every_s
        self._open: list[Answers] = []
        self._since_s = time.monotonic()
        self._num_files = 0
        self._can_write = True

    def restore(self) -> Iterator[Answers]:
        """What is there, in order."""
        while (path := self._path()).is_file():
            try:
                yield _read(path)
            except (SafetensorError, OSError, KeyError, ValueError):
                self._drop_from(self._num_files)
                return
            self._num_files += 1

    def _drop_from(self, number: int) -> None:
        """What follows a damaged file is computed again: files that are written then hold other batches."""
        for path in sorted(self.folder.glob("*.safetensors"))[number:]:
            path.unlink(missing_ok=True)

    def add(self, answers: Answers) -> None:
        """Take them, and write what there is when it is time."""
        self._open.append(answers)
        if time.monotonic() - self._since_s > self._every_s or answers.view != self._open[0].view:
            self.write()

    def write(self) -> None:
        """Write what is in memory alone."""
        self._since_s = time.monotonic()
        done, self._open = self._open, []
        by_view = {answers.view: [some for some in done if some.view == answers.view] for answers in done}
        for some in by_view.values():
            if not self._can_write:
                return
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path(), _as_file(_joined(some)))
            except OSError as error:
                log.info("answers are not kept, and would be computed again: %s: %s", self.folder, error.strerror)
                self._can_write = False
            self._num_files += 1

    def _path(self) -> Path:
        return self.folder / f"{self._num_files:06d}.safetensors"


def _joined(parts: Sequence[Answers]) -> Answers:
    with_clips = [part for part in parts if part.logits]
    orders = with_clips[0].logits if with_clips else {}
    return Answers(
        view=parts[0].view,
        num_batches=sum(part.num_batches for part in parts),
        indices=np.concatenate([part.indices for part in parts]),
        logits={
            order: {task: np.concatenate([part.logits[order][task] for part in with_clips]) for task in tasks}
            for order, tasks in orders.items()
        },
        failures={place: reason for part in parts for place, reason in part.failures.items()},
        moments=added(*(part.moments for part in parts)),
    )


def _as_file(answers: Answers) -> bytes:
    tensors = {
        f"{order}\n{task}": np.ascontiguousarray(values)
        for order, tasks in answers.logits.items()
        for task, values in tasks.items()
    }
    facts = {
        "view": str(answers.view),
        "num_batches": str(answers.num_batches),
        "failures": json.dumps(dict(answers.failures)),
        "moments": json.dumps(dict(answers.moments)),
    }
    return safetensors.numpy.save({**tensors, "indices": answers.indices}, facts)


def _read(path: Path) -> Answers:
    with safetensors.safe_open(path, framework="numpy") as file:
        facts = file.metadata()
        logits: dict[str, dict[str, np.ndarray]] = {}
        for key in file.keys():  # noqa: SIM118 - not a mapping
            if key != "indices":
                order, task = key.split("\n")
                logits.setdefault(order, {})[task] = file.get_tensor(key)
        return Answers(
            view=int(facts["view"]),
            num_batches=int(facts["num_batches"]),
            indices=file.get_tensor("indices"),
            logits=logits,
            failures={int(place): reason for place, reason in json.loads(facts["failures"]).items()},
            moments=json.loads(facts["moments"]),
        )
