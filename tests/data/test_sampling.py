"""Times of frames: inside the clip, one in each part of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.data.sampling import sample_times_s

STARTS_S = st.floats(0, 1e5)
LENGTHS_S = st.floats(1e-3, 1e5)
SEEDS = st.none() | st.integers(0, 2**32)


def generator(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


def test_without_randomness_it_is_the_middle_of_each_part() -> None:
    assert sample_times_s(1.0, 3.0, num_frames=4).tolist() == [1.25, 1.75, 2.25, 2.75]
    assert sample_times_s(0.0, 2.0, num_frames=1).tolist() == [1.0]


@given(STARTS_S, LENGTHS_S, st.integers(1, 200), SEEDS)
def test_times_are_inside_the_clip_and_ascend(
    start_s: float, length_s: float, num_frames: int, seed: int | None
) -> None:
    stop_s = start_s + length_s
    times_s = sample_times_s(start_s, stop_s, num_frames=num_frames, rng=generator(seed))
    assert times_s.shape == (num_frames,)
    assert times_s[0] >= start_s
    assert times_s[-1] < stop_s
    assert (np.diff(times_s) >= 0).all()


@given(STARTS_S, LENGTHS_S, st.integers(1, 200), SEEDS)
def test_each_part_of_the_clip_gives_one(start_s: float, length_s: float, num_frames: int, seed: int | None) -> None:
    stop_s = start_s + length_s
    times_s = sample_times_s(start_s, stop_s, num_frames=num_frames, rng=generator(seed))
    parts_s = np.linspace(start_s, stop_s, num_frames + 1)
    rounding_s = 4 * np.spacing(stop_s)
    assert (times_s >= parts_s[:-1] - rounding_s).all()
    assert (times_s <= parts_s[1:] + rounding_s).all()


@given(STARTS_S, LENGTHS_S, st.integers(1, 200))
def test_a_clip_seen_backwards_gives_the_mirrored_times(start_s: float, length_s: float, num_frames: int) -> None:
    stop_s = start_s + length_s
    times_s = sample_times_s(start_s, stop_s, num_frames=num_frames)
    np.testing.assert_allclose(start_s + stop_s - times_s[::-1], times_s, rtol=0, atol=4 * np.spacing(stop_s))


def test_the_end_is_never_reached_even_by_rounding() -> None:
    class Ones(np.random.Generator):
        def random(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
            return np.full(3, np.nextafter(1.0, 0.0))

    start_s = 1e9
    stop_s = float(np.nextafter(start_s, np.inf))
    times_s = sample_times_s(start_s, stop_s, num_frames=3, rng=Ones(np.random.PCG64()))
    assert times_s.tolist() == [start_s] * 3


def test_an_empty_clip_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        sample_times_s(1.0, 1.0, num_frames=2)
