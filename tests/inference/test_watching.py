"""A source is watched with a delay that has a bound, whatever happens to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest
from tests.inference.scripted import BrightnessFollower, ScriptedSource, Step, decider

from kinema.inference.live_types import Picture
from kinema.inference.mailbox import Mailbox
from kinema.inference.sources import BrokenPictureError, LostError
from kinema.inference.watch_figures import Delays, Figures
from kinema.inference.watching import Seen, Watcher, size_of
from kinema.types import DataError

SIZE = (64, 48)


def steps(num: int, *, every_s: float = 0.01, size: tuple[int, int] = SIZE) -> list[Step]:
    return [step for _ in range(num) for step in (every_s, size)]


def watcher(source: ScriptedSource, *, takes_s: float = 0.0, retry_s: float = 5.0, stall_s: float = 5.0) -> Watcher:
    made = Watcher(source, BrightnessFollower(takes_s=takes_s), decider(), retry_s=retry_s, stall_s=stall_s)
    source.begins = made._counts  # so that all pictures are counted, however long warming up takes
    return made


def watch(watching: Watcher, *, limit_s: float = 20.0) -> Figures:
    """To its end."""
    watching.start()
    until(lambda: not watching.is_running, limit_s=limit_s)
    watching.join()
    return watching.figures


def until(condition: Callable[[], bool], *, limit_s: float = 10.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it takes too long"
        time.sleep(0.005)


# What it counts


def test_every_picture_of_a_source_that_waits_is_answered() -> None:
    source = ScriptedSource([SIZE] * 100 + [None], is_live=False, waits=True)
    watching = watcher(source, takes_s=0.001)
    seen: list[Seen] = []
    watching.on_seen = seen.append
    figures = watch(watching)
    assert (figures.frames, figures.dropped, figures.looked_at, figures.answers) == (100, 0, 100, 100)
    assert [each.picture.time_s for each in seen] == pytest.approx([number / 30 for number in range(100)])
    # Each with what is known when it has been seen, and not later.
    assert all(each.decision is not None for each in seen)
    assert [each.decision.time_s for each in seen if each.decision] == pytest.approx(
        [(number + 1) / 30 for number in range(100)]
    )
    assert source.closed == 1


def test_where_there_is_no_time_pictures_are_dropped_and_the_delay_stays() -> None:
    """A camera of some 200 pictures per second and a model that takes 25 ms."""
    watching = watcher(ScriptedSource([*steps(300, every_s=0.005), None]), takes_s=0.025)
    figures = watch(watching)
    assert figures.looked_at == figures.answers
    assert figures.looked_at < 0.5 * figures.frames
    # Each is looked at, was dropped, or came while the last was looked at and the source ended.
    assert figures.frames - figures.dropped - figures.looked_at <= 1
    # It waits for the model to be done with another, and is looked at itself. Were none dropped, the last would be six
    # seconds late.
    assert 24 < (figures.delays.percentile(0.5) or 0) < 100
    assert (figures.delays.percentile(0.95) or 0) < 500


def test_where_there_is_time_nothing_is_dropped() -> None:
    figures = watch(watcher(ScriptedSource([*steps(40, every_s=0.05), None])))
    assert figures.frames == 40
    assert figures.dropped <= 2  # the machine may do something else
    assert figures.answers == 40 - figures.dropped
    assert 10 < (figures.answers_per_s or 0) < 21


def test_a_model_of_whole_clips_sees_all_and_answers_the_newest() -> None:
    source = ScriptedSource([*steps(100), None])
    watching = Watcher(source, BrightnessFollower(takes_s=0.1, dear=True), decider())
    source.begins = watching._counts
    figures = watch(watching)
    assert figures.dropped < 20
    assert figures.answers < 0.3 * figures.frames
    assert figures.frames - figures.looked_at <= 32  # when the source ended
    assert (figures.delays.percentile(0.5) or 0) < 400


def test_what_the_command_promises_is_in_the_record() -> None:
    record = watch(watcher(ScriptedSource([*steps(20), None]))).record()
    assert record.keys() >= {"answers_per_s", "latency_p50_ms", "latency_p95_ms", "dropped", "frames"}
    empty = watch(watcher(ScriptedSource([None]))).record()
    assert empty["frames"] == 0
    assert empty["latency_p95_ms"] is None


def test_warming_up_counts_for_nothing_and_is_forgotten() -> None:
    source = ScriptedSource([*steps(10), None])
    watching = watcher(source)
    watch(watching)
    follower = watching._follower
    assert isinstance(follower, BrightnessFollower)
    assert follower.resets >= 1
    assert len(follower.seen) > 10
    assert watching.figures.looked_at <= 10
    assert follower.threads == {"kinema-look"}  # one thread alone


# Actions


def test_actions_are_told_once_each_with_their_times() -> None:
    source = ScriptedSource([SIZE] * 60 + [None], is_live=False, waits=True)
    watching = watcher(source)
    watch(watching)
    (segment,) = watching.ended()
    assert watching.ended() == []
    assert segment.label == "light"
    assert segment.stop_s == pytest.approx(2.0)
    assert watching.figures.actions == 1


def test_reset_ends_what_goes_on_and_forgets() -> None:
    watching = watcher(ScriptedSource([*steps(400), None]))
    watching.start()
    until(lambda: watching.figures.answers > 20)
    watching.reset()
    until(lambda: watching.figures.actions >= 1)
    watching.stop()
    watching.join()
    assert len(watching.ended()) >= 2


# Pausing and stopping


def test_a_camera_that_is_paused_is_passed_over() -> None:
    watching = watcher(ScriptedSource([*steps(2000), None]))
    watching.start()
    until(lambda: watching.figures.answers > 10)
    watching.pause(True)
    assert watching.is_paused
    time.sleep(0.1)
    before = watching.figures.frames
    time.sleep(0.3)
    assert watching.figures.frames == before
    watching.pause(False)
    until(lambda: watching.figures.frames > before + 5)
    watching.stop()
    watching.join()
    assert len(watching.ended()) >= 2  # before and behind


def test_a_file_that_is_paused_waits() -> None:
    watching = watcher(ScriptedSource([SIZE] * 300 + [None], is_live=False, waits=True), takes_s=0.002)
    watching.start()
    until(lambda: watching.figures.answers > 10)
    watching.pause(True)
    time.sleep(0.3)
    before = watching.figures.answers
    time.sleep(2.0)
    assert watching.figures.answers == before
    watching.pause(False)
    until(lambda: not watching.is_running)
    watching.join()
    assert watching.figures.frames == watching.figures.answers == 300
    assert watching.figures.delays.longest_ms < 1500  # what was held does not count as old


@pytest.mark.parametrize("paused", [False, True])
def test_it_stops_soon(paused: bool) -> None:
    for source in (ScriptedSource([60.0]), ScriptedSource([SIZE] * 10**6, is_live=False, waits=True)):
        watching = watcher(source)
        watching.start()
        time.sleep(0.1)
        watching.pause(paused)
        began_s = time.monotonic()
        watching.stop()
        watching.join()
        assert time.monotonic() - began_s < 3.0
        assert source.closed == 1


def test_a_mistake_in_a_thread_is_no_silence() -> None:
    watching = watcher(ScriptedSource([*steps(5), RuntimeError("a mistake")]))
    watching.start()
    until(lambda: not watching.is_running)
    with pytest.raises(RuntimeError, match="a mistake"):
        watching.join()


# What happens to cameras


def test_one_that_disappears_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kinema")
    source = ScriptedSource(
        [*steps(20), LostError("No such device")], OSError(19, "No such device"), [*steps(20), None]
    )
    figures = watch(watcher(source))
    assert figures.reconnections == 1
    assert figures.frames == 40
    assert (source.opened, source.closed) == (3, 2)
    lost, back = (record.message for record in caplog.records)
    assert lost == "the test: lost (No such device); trying again for 5 s"
    assert back.startswith("the test: back after 0.")


def test_one_that_stays_away_ends_the_watch() -> None:
    watching = watcher(ScriptedSource([*steps(5), LostError("No such device")]), retry_s=1.0)
    watching.start()
    until(lambda: not watching.is_running)
    with pytest.raises(DataError, match=r"^the test: lost, and not back within 1 s \(No such device\); --retry-s"):
        watching.join()
    assert watching.figures.ended_s is not None


def test_one_that_opens_and_gives_nothing_is_not_back(caplog: pytest.LogCaptureFixture) -> None:
    nothing: list[list[Step]] = [[LostError("nothing")]] * 20
    watching = watcher(ScriptedSource([*steps(5), LostError("gone")], *nothing), retry_s=2.0)
    watching.start()
    until(lambda: not watching.is_running)
    with pytest.raises(DataError, match="not back within 2 s"):
        watching.join()
    assert watching.figures.reconnections == 0
    assert len(caplog.records) == 1  # told once, however often it was tried
    assert watching.source.opened < 8  # type: ignore[attr-defined]  # at longer and longer intervals


def test_one_that_stalls_is_told_of_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kinema")
    watching = watcher(ScriptedSource([*steps(20), 2.0, *steps(20), None]), stall_s=0.8)
    notices = set()
    watching.on_seen = lambda _: notices.add(watching.notice)
    figures = watch(watching)
    assert (figures.stalls, figures.reconnections, figures.frames) == (1, 0, 40)
    stalled, again = (record.message for record in caplog.records)
    assert stalled.startswith("the test: it has stalled: no picture for 0.")
    assert again == "the test: pictures come again"
    assert figures.delays.longest_ms < 1000
    assert notices == {None}  # by the time that pictures are seen again, all is well


def test_pictures_may_change_in_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kinema")
    figures = watch(watcher(ScriptedSource([*steps(10), *steps(10, size=(32, 24)), None])))
    assert figures.size_changes == 1
    assert figures.frames == 20
    assert [record.message for record in caplog.records] == [
        "the test: its pictures are 32 x 24 now, before they were 64 x 48"
    ]


def test_broken_pictures_are_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    broken: list[Step] = [BrokenPictureError("bits are missing")] * 50
    figures = watch(watcher(ScriptedSource([*steps(10), *broken, *steps(10), None])))
    assert (figures.broken, figures.frames, figures.answers + figures.dropped) == (50, 20, 20)
    assert [record.message for record in caplog.records] == [
        "the test: 1 picture could not be used and left out (bits are missing)",
        "the test: 49 pictures could not be used and left out",
    ]


def test_pictures_that_the_model_cannot_use_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ScriptedSource([*steps(10), *steps(3, size=(2, 2)), *steps(10), None], waits=True)
    watching = Watcher(source, BrightnessFollower(), decider(), at_once=1)
    see = watching._follower.see

    def picky(pictures: list[Picture], *, only_newest: bool = False) -> object:
        if any(size_of(picture)[1] < 10 for picture in pictures):
            raise DataError("too small")
        return see(pictures, only_newest=only_newest)

    monkeypatch.setattr(watching._follower, "see", picky)
    figures = watch(watching)
    assert (figures.broken, figures.answers) == (3, 20)


def test_behind_a_long_gap_a_stream_begins_anew() -> None:
    source = ScriptedSource([*steps(20), 0.8, *steps(20), None])
    watching = watcher(source, stall_s=5.0)
    watch(watching)
    assert len(watching.ended()) >= 2  # not one that lasts through the gap
    assert watching._follower.resets >= 2  # type: ignore[attr-defined]


def test_a_file_that_cannot_be_read_on_is_an_error() -> None:
    watching = watcher(ScriptedSource([SIZE, OSError(5, "Input/output error")], is_live=False, waits=True))
    watching.start()
    until(lambda: not watching.is_running)
    with pytest.raises(DataError, match=r"^the test: Input/output error$"):
        watching.join()


# Mailbox and figures


def test_the_newest_picture_wins() -> None:
    box = Mailbox(1, waits=False)
    pictures = [made(number) for number in range(4)]
    assert [box.put(picture) for picture in pictures] == [0, 1, 1, 1]
    assert box.take(0.0) == [pictures[-1]]
    assert box.take(0.01) == []
    box.put(pictures[0])
    box.close()
    assert not box.is_over
    assert box.put(pictures[1]) == 1
    assert box.take(0.0) == [pictures[0]]
    assert box.is_over


def test_what_waits_waits_for_room() -> None:
    box = Mailbox(2, waits=True)
    pictures = [made(number) for number in range(3)]
    assert box.put(pictures[0]) == box.put(pictures[1]) == 0
    thread = threading.Thread(target=box.put, args=(pictures[2],))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert box.take(0.0) == pictures[:2]
    thread.join(5.0)
    assert box.take(0.0) == [pictures[2]]


def made(number: int) -> Picture:
    import numpy as np

    return Picture(image=np.zeros((2, 2, 3), dtype=np.uint8), time_s=float(number), duration_s=1.0)


def test_percentiles_are_right_to_a_per_cent_in_constant_memory() -> None:
    delays = Delays()
    assert delays.percentile(0.5) is None
    for number in range(1, 10_001):
        delays.add(number / 10)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        assert delays.percentile(share) == pytest.approx(1000 * share, rel=0.011)
    assert delays.longest_ms == 1000
    delays.add(0.0)
    delays.add(1e12)
    assert len(delays._counts) < 2500
