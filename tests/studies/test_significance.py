"""Paired tests, against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.studies.significance import compare, holm, mcnemar, permutation


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 32), (1, 9, 2 * 11 / 1024), (10, 0, 2 / 1024)]
)
def test_mcnemar_is_the_binomial_test(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)
    assert mcnemar(second, first) == pytest.approx(p)


@given(st.integers(0, 12), st.integers(0, 12))
def test_the_permutation_test_agrees_with_it(first: int, second: int) -> None:
    differences = np.array([1.0] * first + [-1.0] * second)
    assert permutation(differences) == pytest.approx(mcnemar(first, second), abs=0.015)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_best_beside_the_others() -> None:
    clips = [f"c{n}" for n in range(20)]
    best = dict.fromkeys(clips, 1.0)
    alike = {**best, "c0": 0.0}
    worse = {clip: float(n < 8) for n, clip in enumerate(clips)}
    found = {comparison.name: comparison for comparison in compare(best, {"alike": alike, "worse": worse})}
    assert found["alike"].p == 1.0
    assert found["worse"].p == pytest.approx(2 / 2**12)
    assert found["worse"].p_holm == pytest.approx(4 / 2**12)
    assert found["worse"].difference == pytest.approx(0.6)
    assert {comparison.test for comparison in found.values()} == {"exact McNemar"}
    shares = dict.fromkeys(clips, 0.5)
    (several,) = compare(best, {"half": shares})
    assert several.test == "paired permutation"
    assert several.p < 0.001
