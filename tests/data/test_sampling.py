"""Times of frames: inside the clip, one in each part of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.data.sampling import sample_times_s, strided_frames, window_of_s

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


@given(
    st.integers(0, 1000),
    st.integers(1, 300),
    st.integers(1, 40),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_strided_frames_are_in_the_clip_and_evenly_apart(
    first: int, num_there: int, num_frames: int, strides: tuple[int, int], seed: int, random_start: bool
) -> None:
    last, (low, high) = first + num_there - 1, sorted(strides)
    rng = np.random.default_rng(seed)
    found = strided_frames(first, last, num_frames=num_frames, strides=(low, high), rng=rng, random_start=random_start)
    if num_there < num_frames:
        assert found is None
        return
    assert found is not None
    assert len(found) == num_frames
    assert first <= found[0]
    assert found[-1] <= last
    apart = set(np.diff(found).tolist())
    assert len(apart) <= 1
    if apart:
        stride = apart.pop()
        assert 1 <= stride <= high
        # Fewer apart than asked for only where the clip is too short, and then as far as it allows.
        assert stride >= low or (num_frames - 1) * (stride + 1) + 1 > num_there
    if not random_start:
        assert abs((found[0] - first) - (last - found[-1])) <= 1


def test_every_stride_and_every_start_is_drawn() -> None:
    rng = np.random.default_rng(0)
    found = [strided_frames(10, 49, num_frames=8, strides=(1, 5), rng=rng) for _ in range(2000)]
    drawn = [(int(one[1] - one[0]), int(one[0])) for one in found if one is not None]
    counts = np.bincount([stride for stride, _ in drawn], minlength=6)[1:]
    assert (abs(counts / 2000 - 0.2) < 0.04).all()
    assert {start for stride, start in drawn if stride == 5} == set(range(10, 15))
    assert {start for stride, start in drawn if stride == 1} == set(range(10, 43))


@pytest.mark.parametrize(
    ("window_s", "place", "expected"),
    [
        (2.0, 0.5, (2.0, 4.0)),
        (2.0, 0.0, (1.0, 3.0)),
        (2.0, 1.0, (3.0, 5.0)),
        (4.0, 0.0, (1.0, 5.0)),
        (9.0, 1.0, (1.0, 5.0)),
    ],
)
def test_a_window_lies_in_its_clip(window_s: float, place: float, expected: tuple[float, float]) -> None:
    assert window_of_s(1.0, 5.0, window_s, place=place) == expected
    assert window_of_s(1.0, 5.0, None, place=place) == (1.0, 5.0)


@given(STARTS_S, LENGTHS_S, st.floats(1e-3, 1e5), st.floats(0, 1), SEEDS)
def test_a_window_is_inside_and_as_long_as_it_can_be(
    start_s: float, length_s: float, window_s: float, place: float, seed: int | None
) -> None:
    stop_s = start_s + length_s
    first_s, last_s = window_of_s(start_s, stop_s, window_s, rng=generator(seed), place=place)
    assert start_s <= first_s < last_s <= stop_s
    assert last_s - first_s == pytest.approx(min(window_s, stop_s - start_s), rel=1e-6, abs=1e-9)


def test_random_windows_lie_everywhere_and_none_is_drawn_for_a_short_clip() -> None:
    rng = np.random.default_rng(0)
    starts_s = np.array([window_of_s(10.0, 20.0, 2.0, rng=rng)[0] for _ in range(400)])
    assert np.histogram(starts_s, bins=8, range=(10, 18))[0].min() > 20
    assert 10 <= starts_s.min() < starts_s.max() <= 18
    drawn = np.random.default_rng(1)
    assert window_of_s(10.0, 12.0, 2.0, rng=drawn) == (10.0, 12.0)
    assert drawn.random() == np.random.default_rng(1).random()  # versions of it are those without a window
