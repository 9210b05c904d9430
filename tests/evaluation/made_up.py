"""Predictions that no model made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kinema.evaluation.predictions import Predictions
from kinema.types import Clip


def predictions(
    logits: Mapping[str, Any], labels: Mapping[str, Any], *, skipped: Mapping[str, str] | None = None
) -> Predictions:
    """Task -> logits (B, K) and labels (B,); classes are called like their task, with a number."""
    num_clips = len(next(iter(labels.values())))
    return Predictions(
        classes={task: tuple(f"{task}{k}" for k in range(values.shape[1])) for task, values in logits.items()},
        clips=[
            Clip(
                clip_id=f"clip{row}",
                video=Path("videos", f"{row}, or so.mp4"),
                start_s=float(row),
                stop_s=None if row % 2 else row + 1.5,
                labels={task: int(values[row]) for task, values in labels.items()},
                group=f"g{row}" if row % 3 else None,
            )
            for row in range(num_clips)
        ],
        logits=dict(logits),
        labels={task: np.asarray(values, dtype=np.int64) for task, values in labels.items()},
        skipped=skipped or {},
    )
