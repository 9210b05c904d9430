"""How evenly clips are spread over classes, as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FEW = 10
"""With fewer clips than this, a class is hardly learnt and its accuracy says little."""

_HEAD = 5
"""The head is one of so many classes: the commonest 20 %."""


def balance(counts: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Measures of class balance.

    Args:
        counts: Clips of each class of the class list, those without clips too.
        names: Of the classes; at least one.

    Returns:
        `num_clips`, `num_classes`, `num_classes_without_clips`, `num_classes_below_10` (those without clips among
        them) and, None where there is no clip:

        - `commonest`: the class that has most clips, the first of several; `majority_share`: its share of the clips.
        - `imbalance_factor`: clips of the largest class / clips of the smallest that has any.
        - `evenness`: entropy of the class distribution / logarithm of the number of classes: 1 where every class has
          as many clips, 0 where one has all. None for a single class.
        - `num_head_classes`: a fifth of the classes, rounded up; `head_share`: share of the clips that are of the
          commonest so many; `tail_share`: the rest.
        - `num_classes_for_80_percent`: how many of the commonest classes it takes to hold 80 % of the clips.
    """
    assert len(counts) == len(names) > 0, (len(counts), len(names))
    found: dict[str, Any] = {
        "num_clips": sum(counts),
        "num_classes": len(counts),
        "num_classes_without_clips": sum(count == 0 for count in counts),
        "num_classes_below_10": sum(count < FEW for count in counts),
        "commonest": None,
        "majority_share": None,
        "imbalance_factor": None,
        "evenness": None,
        "num_head_classes": -(-len(counts) // _HEAD),
        "head_share": None,
        "tail_share": None,
        "num_classes_for_80_percent": None,
    }
    total = found["num_clips"]
    if not total:
        return found
    falling = np.sort(np.asarray(counts, dtype=np.int64))[::-1]
    filled = falling[falling > 0]
    head = int(falling[: found["num_head_classes"]].sum())
    return found | {
        "commonest": names[int(np.argmax(counts))],
        "majority_share": int(falling[0]) / total,
        "imbalance_factor": int(filled[0]) / int(filled[-1]),
        "evenness": _evenness(filled / total, len(counts)),
        "head_share": head / total,
        "tail_share": (total - head) / total,
        # In whole numbers, so that exactly 80 % is enough.
        "num_classes_for_80_percent": int(np.argmax(5 * np.cumsum(falling) >= 4 * total)) + 1,
    }


def _evenness(shares: np.ndarray, num_classes: int) -> float | None:
    if num_classes < 2:
        return None
    entropy = -math.fsum(share * math.log(share) for share in shares.tolist())
    return min(max(0.0, entropy / math.log(num_classes)), 1.0)  # in this order, -0.0 becomes 0.0
