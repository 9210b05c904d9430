"""Whether the best setting is better than the others by more than chance on the clips at hand.

Clips are the units: each was answered by both settings. With one seed, an exact McNemar test (McNemar, "Note on the
sampling error of the difference between correlated proportions", Psychometrika 1947; as a binomial test on the clips
that one got right and the other wrong). With several, each clip counts with the share of the seeds that got it right,
and signs of the differences are drawn at random (a paired permutation test, two-sided). Several comparisons are
corrected by Holm's method ("A simple sequentially rejective multiple test procedure", Scand. J. Statistics 1979).

What it does not see: that clips of one group are alike, and that the best was chosen by these same clips. Both make it
find differences more easily than it should.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_NUM_DRAWS = 20_000

Right = Mapping[str, float]
"""Clip -> share of the seeds with which it was right."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One setting beside the best.

    Attributes:
        name: Of the setting.
        difference: Accuracy of the best less that of this one, on the clips that both have.
        num_clips: How many these are.
        p: Of a difference as large, were the two alike.
        p_holm: Corrected for the number of comparisons.
        test: What computed it.
    """

    name: str
    difference: float
    num_clips: int
    p: float
    p_holm: float
    test: str


def compare(best: Right, others: Mapping[str, Right]) -> list[Comparison]:
    """The best setting with each of the others that has clips in common with it."""
    raw = []
    for name, other in others.items():
        clips = sorted(best.keys() & other.keys())
        if clips:
            differences = np.array([best[clip] - other[clip] for clip in clips])
            p, test = _p_value(differences, whole=_is_whole(best, clips) and _is_whole(other, clips))
            raw.append((name, float(differences.mean()), len(clips), p, test))
    corrected = holm([p for _, _, _, p, _ in raw])
    return [
        Comparison(name=name, difference=difference, num_clips=num, p=p, p_holm=p_holm, test=test)
        for (name, difference, num, p, test), p_holm in zip(raw, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def mcnemar(num_first: int, num_second: int) -> float:
    """Two-sided exact p-value of clips that only the first, and only the second, got right.

    Example:
        >>> mcnemar(0, 5)
        0.0625
    """
    total, fewer = num_first + num_second, min(num_first, num_second)
    if not total:
        return 1.0
    tail = sum(math.comb(total, num) for num in range(fewer + 1)) / 2**total
    return min(1.0, 2 * tail)


def permutation(differences: np.ndarray, *, num_draws: int = _NUM_DRAWS) -> float:
    """Two-sided p-value of a mean difference: how often signs drawn at random give one as large. The same each time."""
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(0)
    observed = abs(differences.sum())
    signs = rng.integers(0, 2, size=(num_draws, len(differences)), dtype=np.int8) * 2 - 1
    as_large = int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    return (as_large + 1) / (num_draws + 1)


def _p_value(differences: np.ndarray, *, whole: bool) -> tuple[float, str]:
    if whole:
        return mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "exact McNemar"
    return permutation(differences), "paired permutation"


def _is_whole(right: Right, clips: Sequence[str]) -> bool:
    return all(right[clip] in (0.0, 1.0) for clip in clips)
