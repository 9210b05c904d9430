"""What a model said about every clip: kept, so that any number can be computed again without running the model."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float, Float32, Int64

from kinema.files import locked, write_atomically
from kinema.types import Clip, Heads


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Logits of the clips that could be read, beside their labels.

    Attributes:
        classes: Task -> class names, in the order of the logits.
        clips: The clips, one per row.
        logits: Task -> (B, K).
        labels: Task -> (B,) class indices.
        skipped: Clip id -> why that clip could not be read. None of these has a row.
        reordered: Order of the frames -> task -> (B, K), where that was asked for.
        inputs: Stream, or "features" -> mean and deviation of the numbers that the model was given.
        kept: Folder of the answers as they were written on the way, of no use once these are saved.
        single_view: Task (and "joint") -> mean accuracy of single views, where the logits are of several.
    """

    classes: Heads
    clips: Sequence[Clip]
    logits: Mapping[str, Float32[np.ndarray, "B _K"]]
    labels: Mapping[str, Int64[np.ndarray, "B"]]
    skipped: Mapping[str, str]
    reordered: Mapping[str, Mapping[str, Float32[np.ndarray, "B _K"]]] = field(default_factory=dict)
    single_view: Mapping[str, float] | None = None
    inputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kept: Path | None = None

    def forget(self) -> None:
        """Remove what was written on the way, unless another process goes on from it at this moment."""
        if self.kept is None:
            return
        with contextlib.suppress(OSError), locked(claim_of(self.kept), wait=False) as is_mine:
            if is_mine:
                shutil.rmtree(self.kept, ignore_errors=True)

    def probabilities(self, task: str) -> np.ndarray:
        """Softmax of a task's logits, (B, K), in float64."""
        return np.asarray(np.exp(log_softmax(self.logits[task])))

    def save(self, folder: Path) -> None:
        """Write `predictions.csv` (one row per clip), `logits.safetensors` and, if clips were skipped, `skipped.csv`.

        Raises:
            OSError: They cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "predictions.csv", _csv(self._rows()))
        logits = {task: np.ascontiguousarray(values) for task, values in self.logits.items()}
        write_atomically(folder / "logits.safetensors", safetensors.numpy.save(logits))
        if self.skipped:
            rows = [{"clip_id": clip_id, "reason": reason} for clip_id, reason in self.skipped.items()]
            write_atomically(folder / "skipped.csv", _csv(rows))

    def _rows(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = [
            {
                "clip_id": clip.clip_id,
                "video": str(clip.video),
                "start_s": clip.start_s,
                "stop_s": "" if clip.stop_s is None else clip.stop_s,
                "fps": "" if clip.fps is None else clip.fps,
                "group": clip.group or "",
            }
            for clip in self.clips
        ]
        for task, names in self.classes.items():
            probabilities = self.probabilities(task)
            ranks = ranks_of_truth(self.logits[task], self.labels[task])
            for row, label, values, rank in zip(rows, self.labels[task], probabilities, ranks, strict=True):
                best = int(values.argmax())
                row[f"{task}_label"] = names[label]
                row[f"{task}_predicted"] = names[best]
                row[f"{task}_confidence"] = round(float(values[best]), 6)
                row[f"{task}_rank"] = int(rank) + 1
        return rows


def claim_of(kept: Path) -> Path:
    """The file that a process holds while it reads and writes a folder of answers; outside of it, to stay when that is
    removed."""
    return kept.parent.parent / "locks" / kept.name


def log_softmax(logits: Float[np.ndarray, "B K"]) -> np.ndarray:
    """Logarithm of the softmax over classes, (B, K), in float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def ranks_of_truth(scores: np.ndarray, labels: Int64[np.ndarray, "B"]) -> Int64[np.ndarray, "B"]:
    """How many classes come before the true one, 0 where the prediction is right. Equal scores are in the order of
    the classes, as `argmax` has them.

    Args:
        scores: (B, K).
        labels: True class of each row.
    """
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    return np.asarray(((scores > true) | ((scores == true) & before)).sum(axis=1), dtype=np.int64)


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()
