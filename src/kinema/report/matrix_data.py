"""What the page's script needs of confusion matrices: the cells that are not empty, and the clips in each."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kinema.report.clips import Sample
from kinema.report.record import Confusion, Evaluation

MAX_BYTES = 4_000_000
"""Beyond it, fewer clips of each cell are listed: a page is smaller than 10 MB whatever the data set."""

_CLIPS_OF_A_CELL = (1000, 300, 100, 30, 10, 3, 1, 0)
"""What is tried when not all fit."""

_Cells = dict[tuple[int, int], list[int]]


def matrix_data(
    evaluation: Evaluation, confusions: Sequence[Confusion], samples: Sequence[Sample], *, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """Content of the page's JSON block.

    Args:
        evaluation: Where the clips are from.
        confusions: Of its tasks.
        samples: All its clips.
        max_bytes: How long it may be.

    Returns:
        `clips`: identifiers. `matrices`, one for each task: `classes`, `totals` and `right` (clips of each class),
        `confidence` of each clip in thousandths, and `cells`: true class, answer, number of clips, and those that are
        listed (places in `clips`), the most confident first.
    """
    by_cell = {confusion.task: _by_cell(confusion, samples) for confusion in confusions}
    num_there = max((len(clips) for cells in by_cell.values() for clips in cells.values()), default=0)
    data: dict[str, Any] = {}
    for most in [num_there, *(num for num in _CLIPS_OF_A_CELL if num < num_there)]:
        data = _data(evaluation, confusions, samples, by_cell, most)
        if _size(data) <= max_bytes:
            return data
    for matrix in data["matrices"]:  # more pairs of classes than a page has room for: the most frequent ones
        matrix["cells"].sort(key=lambda cell: -cell[2])
        room = max_bytes / len(confusions) - _size({**matrix, "cells": []})
        num = max(int(room / (_size(matrix["cells"]) / max(len(matrix["cells"]), 1))), 0)
        matrix["cells"] = matrix["cells"][:num]
    return data


def _data(
    evaluation: Evaluation,
    confusions: Sequence[Confusion],
    samples: Sequence[Sample],
    by_cell: Mapping[str, _Cells],
    most: int,
) -> dict[str, Any]:
    wanted = sorted({i for cells in by_cell.values() for clips in cells.values() for i in clips[:most]})
    place = {i: new for new, i in enumerate(wanted)}
    matrices = []
    for confusion in confusions:
        counts, clips = confusion.counts, by_cell[confusion.task]
        cells = [
            [t, a, int(counts[t, a]), [place[i] for i in clips.get((t, a), [])[:most]]]
            for t, a in np.argwhere(counts).tolist()
        ]
        matrices.append(
            {
                "task": confusion.task,
                "classes": list(confusion.names),
                "totals": counts.sum(axis=1).tolist(),
                "right": counts.diagonal().tolist(),
                "confidence": [_thousandths(samples[i].answers[confusion.task][2]) for i in wanted],
                "cells": cells,
                "predictions": f"evaluations/{evaluation.name}/predictions.csv",
            }
        )
    return {"clips": [samples[i].clip_id for i in wanted], "matrices": matrices}


def _by_cell(confusion: Confusion, samples: Sequence[Sample]) -> _Cells:
    """(true class, answer) -> places of its clips, the most confident first."""
    places = {name: i for i, name in enumerate(confusion.names)}
    found: _Cells = defaultdict(list)
    for i, sample in enumerate(samples):
        true, answer, _ = sample.answers[confusion.task]
        if true in places and answer in places:
            found[places[true], places[answer]].append(i)
    for clips in found.values():
        clips.sort(key=lambda i: -_thousandths(samples[i].answers[confusion.task][2]))
    return dict(found)


def _thousandths(share: float) -> int:
    return round(1000 * share) if math.isfinite(share) else 0


def _size(data: Any) -> int:
    return len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").encode())
