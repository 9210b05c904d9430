"""A source watched by a model, with a delay that has a bound.

Two threads: one reads pictures, one looks at them; whoever shows or saves what was seen does that in a third. Between
the first two lies a mailbox of one, in which a new picture takes the place of one that nobody had time for: a model
that is too slow answers about fewer pictures, never about older ones. (A model that sees whole clips anew for every
answer takes all pictures that came meanwhile, up to `MOST_KEPT`, and answers the newest.) Nothing else holds pictures,
and nothing grows.

A source that is live and is lost is opened again, at longer and longer intervals. Whatever happens to it is logged, and
counted in `Figures`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from av.video.frame import VideoFrame

from kinema.data.processes import available_cores
from kinema.inference.deciding import Decider
from kinema.inference.following import Follower
from kinema.inference.live_types import Answer, Decision, Picture, Segment
from kinema.inference.mailbox import Mailbox
from kinema.inference.sources import Feed, Source
from kinema.inference.steady import SteadyFeed, Unusable
from kinema.inference.watch_figures import Figures
from kinema.types import DataError

log = logging.getLogger(__name__)

RETRY_S = 60.0
"""How long a source that was lost is waited for, unless it is said."""
STALL_S = 2.0
"""A live source that gives nothing for so long has stalled."""
AT_ONCE = 8
"""Pictures of a file that wait together: a model sees several faster than one by one."""

MOST_KEPT = 32
"""Pictures that are kept for a model that is so slow that it takes several at once and answers the newest alone."""

_TAKE_S = 0.1
_WARM_UP_S = 3.0
"""How long warming up may take behind the first answer."""
_USUAL_RATE = 30.0
_JOIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A picture that was looked at, and what is known then.

    Attributes:
        picture: The picture.
        decision: The newest there is; None before the first answer.
    """

    picture: Picture
    decision: Decision | None


class Watcher:
    """Watches one source.

    Args:
        source: What gives pictures.
        follower: What answers; used by no other thread while this runs.
        decider: What makes actions of answers; likewise.
        retry_s: How long a live source that was lost is waited for.
        stall_s: A live source that gives nothing for so long has stalled.
        at_once: How many pictures of a source that waits are looked at together.

    Attributes:
        figures: What was counted.
        seen: The newest picture that was looked at.
        notice: What happened last to the source, for a window to show; None where all is well.
        on_seen: Called with every picture that was looked at, in the thread that looks: it has to be quick.
    """

    def __init__(
        self,
        source: Source,
        follower: Follower,
        decider: Decider,
        *,
        retry_s: float = RETRY_S,
        stall_s: float = STALL_S,
        at_once: int = AT_ONCE,
    ) -> None:
        self.source, self.figures = source, Figures()
        self.seen: Seen | None = None
        self.notice: str | None = None
        self._follower, self._decider = follower, decider
        self._retry_s, self._stall_s = retry_s, stall_s
        self.on_seen: Callable[[Seen], None] | None = None
        self._gap_s = decider.settings.windows_s(follower.recogniser.config.preprocessing)[1]
        # A model that sees whole clips answers rarely, and has to have seen what was there meanwhile.
        self._only_newest = follower.is_dear and not source.waits
        limit = at_once if source.waits else MOST_KEPT if self._only_newest else 1
        self._mailbox = Mailbox(limit, waits=source.waits)
        # What goes on while nobody looks is gone.
        self._passes = source.is_live and not source.waits
        self._ended: queue.SimpleQueue[Segment] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._counts = threading.Event()
        self._begin_anew = threading.Event()
        self._feed: Feed | None = None
        self._error: BaseException | None = None
        self._lost: DataError | None = None
        self._came_s = 0.0  # when the last picture came
        self._stalled = False
        self._unusable = Unusable(source.name)
        self._reader = threading.Thread(target=self._guarded, args=(self._read,), name="kinema-read", daemon=True)
        self._looker = threading.Thread(target=self._guarded, args=(self._look,), name="kinema-look", daemon=True)

    def start(self) -> None:
        """Open the source and begin.

        Raises:
            DataError: It cannot be opened.
        """
        self._feed = self.source.open(self._stop)
        self._looker.start()
        if self._passes:
            self._reader.start()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()
        self._goes_on.set()
        self._mailbox.close()

    def join(self) -> None:
        """Wait until it has ended, after `stop` or by itself.

        Raises:
            DataError: The source was lost and did not come back, or could not be read on.
        """
        self._looker.join()
        self.stop()
        # A driver may hang for ever; what reads from it ends with the process.
        if self._reader.is_alive():
            self._reader.join(_JOIN_S)
        elif self._reader.ident is None and self._feed is not None:  # it ended before it began
            self._feed.close()
        if self._error is not None:
            raise self._error
        if self._lost is not None:
            raise self._lost

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self._looker.is_alive()

    @property
    def is_paused(self) -> bool:
        return not self._goes_on.is_set()

    def pause(self, paused: bool) -> None:
        """Look at nothing until told to go on. A file waits; of what is live, all is passed over."""
        if paused and self._passes:
            self._begin_anew.set()
        if paused:
            self._goes_on.clear()
        else:
            self._goes_on.set()

    def reset(self) -> None:
        """Forget what was seen: the stream begins anew."""
        self._begin_anew.set()

    def ended(self) -> list[Segment]:
        """Actions that are over since this was last asked."""
        found = []
        while True:
            try:
                found.append(self._ended.get_nowait())
            except queue.Empty:
                return found

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by `join`
            self._error = self._error or error
            self._stop.set()
        finally:
            self._mailbox.close()

    # What reads

    def _read(self) -> None:
        assert self._feed is not None
        steady = SteadyFeed(
            self.source,
            self._feed,
            self._stop,
            retry_s=self._retry_s,
            figures=self.figures,
            counts=self._counts,
            say=self.say,
        )
        try:
            while not self._stop.is_set():
                picture = steady.next()
                if picture is None:
                    return
                self._arrived(picture)
        except DataError as error:
            self._lost = error
        finally:
            steady.close()

    def _arrived(self, picture: Picture) -> None:
        self._came_s = time.monotonic()
        if self._stalled:
            self._stalled = False
            if self.notice is not None:
                self.say("pictures come again")
        if self._passes and (self.is_paused or not self._counts.is_set()):
            return
        if self.is_paused:
            self._goes_on.wait()
            picture = replace(picture, captured_s=time.monotonic())
        self.figures.frames += 1
        self.figures.dropped += self._mailbox.put(picture)

    def say(self, what: str, *, warns: bool = False) -> None:
        """Log what happened to the source.

        Args:
            what: In words.
            warns: It is a problem; a window shows it until all is well again.
        """
        self.notice = what if warns else None
        log.log(logging.WARNING if warns else logging.INFO, "%s: %s", self.source.name, what)

    # What looks

    def _look(self) -> None:
        assert self._feed is not None
        with torch.inference_mode():
            warm_up(self._follower, self._feed, self._gap_s + self._decider.settings.slow_every_s, stop=self._stop)
            self._mailbox.empty()
            self._came_s = self.figures.began_s = time.monotonic()
            self._counts.set()
            if not self._passes:
                self._reader.start()
            last: Picture | None = None
            try:
                while not self._stop.is_set() and not self._mailbox.is_over:
                    pictures = self._mailbox.take(_TAKE_S)
                    self._notice_stalls()
                    if self._begin_anew.is_set():
                        self._begin_anew.clear()
                        self._forget()
                    if not pictures:
                        continue
                    if last is not None:
                        self._notice_gap(last, pictures[0])
                    last = pictures[-1]
                    self._answer(pictures)
            finally:
                self._unusable.report()
                self._over(self._decider.finish())
                self.figures.ended_s = time.monotonic()

    def _answer(self, pictures: list[Picture]) -> None:
        try:
            answers = self._follower.see(pictures, only_newest=self._only_newest)
        except DataError as error:
            self.figures.broken += len(pictures)
            self._unusable.add(len(pictures), str(error))
            return
        now_s = time.monotonic()
        self.figures.looked_at += len(pictures)
        waiting = list(reversed(answers))
        decision = None if self.seen is None else self.seen.decision
        for picture in pictures:
            while waiting and (picture is pictures[-1] or waiting[-1].time_s <= picture.stop_s + 1e-6):
                decision = self._decide(waiting.pop())
                self.figures.answered(now_s, 1e3 * (now_s - picture.captured_s))
            self.seen = Seen(picture=picture, decision=decision)
            if self.on_seen is not None:
                self.on_seen(self.seen)

    def _decide(self, answer: Answer) -> Decision:
        decision = self._decider.take(answer)
        self._over(decision.ended)
        return decision

    def _over(self, segments: tuple[Segment, ...]) -> None:
        for segment in segments:
            self.figures.actions += 1
            self._ended.put(segment)

    def _forget(self) -> None:
        self._over(self._decider.finish())
        self._follower.reset()
        if self.seen is not None:
            self.seen = Seen(picture=self.seen.picture, decision=None)

    def _notice_gap(self, last: Picture, picture: Picture) -> None:
        # Behind a gap that is longer than all that the model sees at once, nothing of before is of use.
        if picture.time_s - last.stop_s > self._gap_s:
            self._forget()
        before, after = size_of(last), size_of(picture)
        if before != after:
            self.figures.size_changes += 1
            self.say(f"its pictures are {after[0]} x {after[1]} now, before they were {before[0]} x {before[1]}")

    def _notice_stalls(self) -> None:
        if not self.source.is_live or self._stalled or self.notice is not None:
            return
        silent_s = time.monotonic() - self._came_s
        if silent_s > self._stall_s:
            self.figures.stalls += 1
            self._stalled = True
            self.say(f"it has stalled: no picture for {silent_s:.1f} s", warns=True)


def share_cores(follower: Follower) -> None:
    """Let this process compute on all cores but one, which is for reading and showing pictures; on all, where answers
    are dear and pictures beside them cheap. What it was told before to take no more of stays."""
    cores = available_cores() - (0 if follower.is_dear else 1)
    torch.set_num_threads(max(1, min(cores, torch.get_num_threads())))


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height, upright."""
    if isinstance(picture.image, np.ndarray):
        return picture.image.shape[1], picture.image.shape[0]
    size_px = picture.image.width, picture.image.height
    return size_px[::-1] if picture.orientation.transposed else size_px


def warm_up(follower: Follower, feed: Feed, seconds: float, *, stop: threading.Event) -> None:
    """Let a model see grey pictures as a source gives them, until it has answered about full windows: what is slow the
    first time is then done.

    Args:
        follower: Reset behind it.
        feed: Of these pictures.
        seconds: Of stream to go through.
        stop: No further when this is set.
    """
    width_px, height_px = (max(2, size // 2 * 2) for size in feed.size_px)
    grey = np.full((height_px * 3 // 2, width_px), 128, dtype=np.uint8)
    fps = feed.fps or _USUAL_RATE
    until_s: float | None = None
    for number in range(int(seconds * fps) + 2):
        frame = VideoFrame.from_ndarray(grey, format="yuv420p")
        now_s = time.monotonic()
        picture = Picture(image=frame, time_s=number / fps, duration_s=1 / fps, captured_s=now_s)
        try:
            has_answered = bool(follower.see([picture]))
        except DataError:  # its own pictures are of another size than it said
            break
        if has_answered and until_s is None:
            until_s = time.monotonic() + _WARM_UP_S
        if stop.is_set() or (until_s is not None and time.monotonic() > until_s):
            break
    follower.reset()
