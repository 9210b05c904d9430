"""Figures of a study's page."""

from __future__ import annotations

import re

import pytest

from kinema.report.study_figures import Point, scatter, share_bars


def point(x: float, y: float, **more: float) -> Point:
    return Point(name="a <b>", label="1", style="s0", x=x, y=y, **more)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("xs", [(1.0,), (3e-3, 7e-3), (1.0, 1e9), (5.0, 5.0)])
def test_points_lie_inside_the_axes(xs: tuple[float, ...], log: bool) -> None:
    drawn = scatter([point(x, 0.1 + 0.2 * n, spread=0.05) for n, x in enumerate(xs)], title="t", x_name="x", log=log)
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([-.\d]+)" cy="([-.\d]+)"', drawn)]
    assert len(places) == len(xs)
    assert all(46 <= x <= 446 and 0 <= y <= 250 for x, y in places)
    assert sorted(places) == places or xs[0] == xs[-1]


def test_more_accurate_is_higher_and_text_is_escaped() -> None:
    drawn = scatter([point(1, 0.2), point(2, 0.8)], title="t", x_name="x", log=False)
    low, high = [float(y) for y in re.findall(r'cy="([-.\d]+)"', drawn)]
    assert high < low
    assert "<b>" not in drawn.replace("<b>t</b>", "")


def test_bars_of_shares() -> None:
    drawn = share_bars([("optim.lr", 0.75), ("<x>", 0.25)], title="importance")
    assert 'width="75%"' in drawn
    assert "&lt;x&gt;" in drawn
