"""Gathering logits batch by batch, in training as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from kinema.data.loading import Batch
from kinema.evaluation.predictions import Predictions
from kinema.types import Clip, Heads, UserError


def as_numbers(logits: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Task -> (B, K) in fp32, off the device.

    Raises:
        UserError: They are not finite.
    """
    for task, values in logits.items():
        if not torch.isfinite(values).all():
            # Comparisons with NaN are false, so the true class would seem to have the first rank.
            raise UserError(f"the model gives numbers that are not finite for {task!r}; its weights are broken")
    return {task: values.float().cpu().numpy() for task, values in logits.items()}


class Collector:
    """Gathers logits batch by batch."""

    def __init__(self) -> None:
        self._logits: dict[str, list[np.ndarray]] = {}
        self._indices: list[int] = []
        self._failures: dict[int, str] = {}

    def add(self, batch: Batch, logits: Mapping[str, torch.Tensor]) -> None:
        """Add a batch's logits, task -> (B, K)."""
        self._failures.update(batch.failures)
        self._indices.extend(batch.indices.tolist())
        for task, values in as_numbers(logits).items():
            self._logits.setdefault(task, []).append(values)

    @classmethod
    def merged(cls, parts: Sequence[Collector]) -> Collector:
        """What several have gathered of one list of clips, in the order of the list, as one would have it."""
        whole = cls()
        for part in parts:
            whole._indices += part._indices
            whole._failures |= part._failures
        order = np.argsort(np.array(whole._indices, dtype=np.int64), kind="stable")
        whole._indices = [whole._indices[place] for place in order]
        for task in {task: None for part in parts for task in part._logits}:
            values = np.concatenate([values for part in parts for values in part._logits.get(task, ())])
            whole._logits[task] = [values[order]]
        return whole

    def predictions(self, clips: Sequence[Clip], classes: Heads, skipped: Mapping[str, str]) -> Predictions:
        """All that was added.

        Args:
            clips: The list that the batches' indices point into.
            classes: Task -> class names.
            skipped: Clip id -> reason, of clips that were never in `clips`.
        """
        rows = [clips[index] for index in self._indices]
        empty = {task: np.zeros((0, len(names)), dtype=np.float32) for task, names in classes.items()}
        return Predictions(
            classes=classes,
            clips=rows,
            logits={t: np.concatenate(self._logits[t]) if t in self._logits else empty[t] for t in classes},
            labels={t: np.array([clip.labels[t] for clip in rows], dtype=np.int64) for t in classes},
            skipped={**skipped, **{clips[index].clip_id: reason for index, reason in self._failures.items()}},
        )
