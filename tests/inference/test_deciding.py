"""Answers become actions by time, whatever their rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.inference.deciding import Decider, top
from kinema.inference.live_settings import LiveSection, live_settings
from kinema.inference.live_types import Answer, Segment
from kinema.models.weights import Rejection
from kinema.types import ConfigError, DataError, Heads

HEADS: Heads = {"action": ("wave", "kick", "nothing")}
AT_ONCE = LiveSection(smoothing_s=0.0, min_duration_s=0.0, cool_down_s=0.0)


def answer(time_s: float, *values: float, score: float | None = None, is_whole: bool = True) -> Answer:
    probabilities = {"action": np.array(values, dtype=np.float32)}
    return Answer(time_s=time_s, probabilities=probabilities, score=score, is_whole=is_whole)


WAVE, KICK, UNSURE = (0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.4, 0.3, 0.3)


def run(decider: Decider, shown: Sequence[tuple[float, tuple[float, ...]]], *, fps: float = 10) -> list[Segment]:
    """Of stretches that last so many seconds each."""
    found: list[Segment] = []
    number, until_s = 0, 0.0
    for length_s, values in shown:
        until_s += length_s
        while (number + 1) / fps <= until_s + 1e-9:
            number += 1
            found += decider.take(answer(number / fps, *values)).ended
    return found + list(decider.finish())


def told(segments: Sequence[Segment]) -> list[tuple[str, float, float]]:
    return [(segment.label, round(segment.start_s, 3), round(segment.stop_s, 3)) for segment in segments]


def test_actions_and_what_lies_between() -> None:
    found = run(Decider(HEADS, AT_ONCE), [(1, UNSURE), (1, WAVE), (1, UNSURE), (1, KICK)])
    # 40 % are enough to go on, and not to begin.
    assert told(found) == [("wave", 1.0, 3.0), ("kick", 3.0, 4.0)]
    assert found[1].confidence == pytest.approx(0.8, abs=1e-6)


def test_hysteresis() -> None:
    """Between the two thresholds an action goes on, and none begins."""
    settings = AT_ONCE.model_copy(update={"enter": 0.6, "leave": 0.3})
    between = (0.45, 0.3, 0.25)
    assert told(run(Decider(HEADS, settings), [(1, between), (1, WAVE), (1, between), (1, (0.2, 0.4, 0.4))])) == [
        ("wave", 1.0, 3.0)
    ]
    flickering = [(0.1, WAVE if number % 2 else between) for number in range(20)]
    assert len(run(Decider(HEADS, settings), flickering)) == 1
    without = settings.model_copy(update={"leave": 0.6})
    assert len(run(Decider(HEADS, without), flickering)) == 10


def test_what_is_short_is_no_action() -> None:
    settings = AT_ONCE.model_copy(update={"min_duration_s": 0.5})
    shown = [(1.0, UNSURE), (0.3, KICK), (1.0, (0.2, 0.2, 0.6)), (0.6, KICK)]
    decider = Decider({"action": ("wave", "kick", "rest")}, settings)
    assert [label for label, _, _ in told(run(decider, shown))] == ["rest", "kick"]


def test_an_action_shows_as_current_once_it_is_long_enough() -> None:
    decider = Decider(HEADS, AT_ONCE.model_copy(update={"min_duration_s": 0.25}))
    seen = [decider.take(answer(number / 10, *WAVE)).current for number in range(1, 6)]
    assert [current is not None for current in seen] == [False, False, False, True, True]
    assert seen[-1] is not None
    assert seen[-1].labels == {"action": "wave"}


def test_it_does_not_begin_again_while_it_cools_down() -> None:
    gap = [(1.0, WAVE), (0.4, (0.2, 0.4, 0.4)), (1.0, WAVE)]
    settings = AT_ONCE.model_copy(update={"cool_down_s": 0.5})
    assert told(run(Decider(HEADS, settings), gap)) == [("wave", 0.1, 2.4)]
    assert len(run(Decider(HEADS, AT_ONCE), gap)) == 2
    longer = [(1.0, WAVE), (0.8, (0.2, 0.4, 0.4)), (1.0, WAVE)]
    assert len(run(Decider(HEADS, settings), longer)) == 2
    other = [(1.0, WAVE), (0.2, UNSURE), (1.0, KICK)]
    assert [label for label, _, _ in told(run(Decider(HEADS, settings), other))] == ["wave", "kick"]


def test_an_ended_action_is_told_once() -> None:
    decider = Decider(HEADS, AT_ONCE.model_copy(update={"cool_down_s": 0.3}))
    shown = [WAVE if number < 10 else (0.1, 0.45, 0.45) for number in range(30)]
    decisions = [decider.take(answer((number + 1) / 10, *values)) for number, values in enumerate(shown)]
    ended = [decision for decision in decisions if decision.ended]
    assert len(ended) == 1
    assert ended[0].time_s == pytest.approx(1.4)
    assert decider.finish() == ()


def test_nothing_begins_below_the_threshold() -> None:
    rejection = Rejection(method="energy", threshold=2.0, recall=0.95, background=None, split="v", clip_ids=[])
    decider = Decider(HEADS, AT_ONCE, rejection)
    assert not decider.take(answer(0.1, *WAVE, score=1.9)).known
    found = decider.take(answer(0.2, *WAVE, score=2.1))
    assert found.known
    assert found.current is not None
    after = decider.take(answer(0.3, *WAVE, score=-np.inf))
    assert not after.known
    assert after.current is None
    assert decider.take(answer(0.4, *WAVE, score=2.0)).known  # what was infinite does not stay
    own = Decider(HEADS, AT_ONCE.model_copy(update={"threshold": 1.5}), rejection)
    assert own.take(answer(0.1, *WAVE, score=1.9)).known


def test_the_class_that_stands_for_nothing_is_no_action() -> None:
    decider = Decider(HEADS, AT_ONCE, nothing={"action": 2})
    assert decider.take(answer(0.1, 0.1, 0.1, 0.8)).current is None
    assert decider.take(answer(0.2, *WAVE)).current is not None
    assert decider.take(answer(0.3, 0.4, 0.0, 0.6)).current is None  # although 40 % would be enough to go on
    assert Decider(HEADS, AT_ONCE).take(answer(0.1, 0.1, 0.1, 0.8)).current is not None


def test_nothing_begins_before_the_short_window_is_full() -> None:
    decider = Decider(HEADS, AT_ONCE)
    assert decider.take(answer(0.1, *WAVE, is_whole=False)).current is None
    assert decider.take(answer(0.2, *WAVE)).current is not None


@pytest.mark.parametrize("fps", [5, 15, 60])
def test_the_rate_changes_no_action(fps: float) -> None:
    settings = LiveSection(smoothing_s=0.3, min_duration_s=0.4, cool_down_s=0.6)
    shown = [(2.0, WAVE), (1.0, (0.1, 0.1, 0.8)), (2.0, KICK), (2.0, (0.3, 0.35, 0.35))]
    heads: Heads = {"action": ("wave", "kick", "rest")}
    found, wanted = run(Decider(heads, settings), shown, fps=fps), run(Decider(heads, settings), shown, fps=240)
    assert [segment.label for segment in found] == [segment.label for segment in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.start_s == pytest.approx(other.start_s, abs=1.5 / fps)
        assert one.stop_s == pytest.approx(other.stop_s, abs=1.5 / fps)


def test_what_begins_behind_a_hole_begins_there() -> None:
    decider = Decider(HEADS, AT_ONCE)
    decider.take(answer(1.0, *UNSURE))
    current = decider.take(answer(9.0, *WAVE)).current
    assert current is not None
    assert current.start_s == 9.0


def test_nothing_goes_on_over_a_hole() -> None:
    decider = Decider(HEADS, AT_ONCE.model_copy(update={"cool_down_s": 0.5}))
    times = [number / 10 for number in range(1, 21)] + [60 + number / 10 for number in range(1, 21)]
    found = [segment for time_s in times for segment in decider.take(answer(time_s, *WAVE)).ended]
    assert told([*found, *decider.finish()]) == [("wave", 0.1, 2.0), ("wave", 60.1, 62.0)]
    assert found[0].confidence == pytest.approx(0.9, abs=1e-6)


def test_answers_that_always_lie_far_apart_have_no_holes_between() -> None:
    """As those of a network on whole clips, once for each half of a window of 3 s."""
    shown = [KICK, KICK, WAVE, KICK, KICK, KICK]
    decider = Decider(HEADS, LiveSection(smoothing_s=0.0))
    found = [s for number, values in enumerate(shown) for s in decider.take(answer(1.5 * number, *values)).ended]
    assert told([*found, *decider.finish(until_s=9.0)]) == [("kick", 0.0, 1.5), ("wave", 1.5, 3.0), ("kick", 3.0, 9.0)]


def test_what_flickers_to_another_class_goes_on() -> None:
    shown = [(2.0, WAVE), (0.2, KICK), (2.0, WAVE)]
    settings = AT_ONCE.model_copy(update={"min_duration_s": 0.3, "cool_down_s": 0.5})
    assert told(run(Decider(HEADS, settings), shown)) == [("wave", 0.1, 4.2)]
    longer = [(2.0, WAVE), (0.4, KICK), (2.0, WAVE)]
    assert told(run(Decider(HEADS, settings), longer)) == [("wave", 0.1, 2.0), ("kick", 2.0, 2.4), ("wave", 2.4, 4.4)]


def test_probabilities_are_smoothed_with_a_time_constant() -> None:
    decider = Decider(HEADS, LiveSection(smoothing_s=0.5))
    decider.take(answer(1.0, 1.0, 0.0, 0.0))
    found = decider.take(answer(1.5, 0.0, 1.0, 0.0)).probabilities["action"]
    np.testing.assert_allclose(found, [np.exp(-1), 1 - np.exp(-1), 0.0], atol=1e-6)


def test_several_tasks_begin_together() -> None:
    heads: Heads = {"verb": ("open", "close"), "noun": ("door", "jar")}

    def both(time_s: float, verb: float, noun: float) -> Answer:
        values = {"verb": np.array([verb, 1 - verb], np.float32), "noun": np.array([noun, 1 - noun], np.float32)}
        return Answer(time_s=time_s, probabilities=values)

    settings = AT_ONCE.model_copy(update={"enter": 0.7, "leave": 0.7})
    decider = Decider(heads, settings)
    assert decider.take(both(0.1, 0.9, 0.6)).current is None
    current = decider.take(both(0.2, 0.9, 0.8)).current
    assert current is not None
    assert current.labels == {"verb": "open", "noun": "door"}
    assert current.confidence == pytest.approx(0.72, abs=1e-6)
    changed = decider.take(both(0.3, 0.1, 0.8))
    assert [segment.label for segment in changed.ended] == ["open door"]
    assert changed.current is not None
    assert changed.current.label == "close door"


@given(st.lists(st.tuples(st.floats(0.02, 0.5), st.sampled_from([WAVE, KICK, UNSURE, (0.1, 0.1, 0.8)])), max_size=60))
def test_actions_never_overlap_and_none_is_short(shown: list[tuple[float, tuple[float, float, float]]]) -> None:
    settings = LiveSection(smoothing_s=0.1, min_duration_s=0.3, cool_down_s=0.4)
    decider = Decider(HEADS, settings)
    found: list[Segment] = []
    time_s = 0.0
    for passed_s, values in shown:
        time_s += passed_s
        found += decider.take(answer(time_s, *values)).ended
    found += decider.finish()
    for one, other in pairwise(found):
        assert one.stop_s <= other.start_s + 1e-9
    for segment in found:
        assert segment.stop_s - segment.start_s >= 0.3 - 1e-6
        assert 0 <= segment.start_s <= segment.stop_s <= time_s
        assert 0 <= segment.confidence <= 1


def test_settings_of_a_command_line(tmp_path: Path) -> None:
    assert live_settings(["slow_s=2", "enter=0.7"]) == LiveSection(slow_s=2.0, enter=0.7)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda path: live_settings(["slow=2"]), "slow: unknown key; did you mean 'slow_s'"),
        (lambda path: live_settings(["enter=1.2"]), "enter"),
        (lambda path: live_settings(["leave=0.9"]), "leave: 0.9 is above enter"),
        (lambda path: live_settings(["fast_s=2", "slow_s=1"]), "fast_s: 2 s is longer than slow_s"),
        (lambda path: live_settings(["fast_s=0"]), "fast_s"),
        (lambda path: live_settings([], path("- a")), "expected keys and values"),
        (lambda path: live_settings([], path(None)), "cannot be read"),
    ],
)
def test_settings_that_are_wrong(
    call: Callable[[Callable[[str | None], Path]], object], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "live.yaml"

    def path(text: str | None) -> Path:
        if text is not None:
            file.write_text(text)
        return file

    with pytest.raises((ConfigError, DataError)) as error:
        call(path)
    assert said in str(error.value)


def test_settings_of_a_file_give_way_to_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "live.yaml"
    file.write_text("slow_s: 3\nenter: 0.6\n")
    assert live_settings(["enter=0.8"], file) == LiveSection(slow_s=3.0, enter=0.8)


def test_the_best_classes() -> None:
    found = top({"action": np.array([0.2, 0.5, 0.3], np.float32)}, HEADS, 2)
    assert [name for name, _ in found["action"]] == ["kick", "nothing"]
