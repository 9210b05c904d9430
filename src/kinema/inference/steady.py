"""Reading a source for as long as it can be read: what is broken is passed over, what is lost is opened again."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from kinema.inference.live_types import Picture
from kinema.inference.sources import BrokenPictureError, Feed, Source
from kinema.inference.watch_figures import Figures
from kinema.types import DataError
from kinema.wording import duration

log = logging.getLogger(__name__)

_FIRST_TRY_S, _LONGEST_TRY_S = 0.25, 5.0
_SAY_EVERY_S = 10.0
_FOR_EVER_S = 1e6


class Say(Protocol):
    """Tells people what happened to a source."""

    def __call__(self, what: str, *, warns: bool = False) -> None:
        """Say it.

        Args:
            what: In words, without the name of the source.
            warns: It is a problem.
        """


class Unusable:
    """Pictures that cannot be used: each is counted, and the log says so now and then.

    Args:
        name: Of the source.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._num = 0
        self._said_s: float | None = None

    def add(self, num: int, reason: str) -> None:
        """So many more."""
        self._num += num
        if self._said_s is None or time.monotonic() - self._said_s > _SAY_EVERY_S:
            self.report(reason)

    def report(self, reason: str = "") -> None:
        """Say what was not yet said."""
        if self._num:
            what = "1 picture" if self._num == 1 else f"{self._num:,} pictures"
            words = f" ({reason})" if reason else ""
            log.warning("%s: %s could not be used and left out%s", self._name, what, words)
            self._num, self._said_s = 0, time.monotonic()


class SteadyFeed:
    """Pictures of a source that may break and be lost.

    Args:
        source: The source.
        feed: The source, open; closed by this.
        stop: What is waited for is not waited for any longer when this is set.
        retry_s: How long a live source that was lost is waited for.
        figures: Where what happens is counted.
        counts: Whether pictures are counted already.
        say: Where it is told.
    """

    def __init__(
        self,
        source: Source,
        feed: Feed,
        stop: threading.Event,
        *,
        retry_s: float,
        figures: Figures,
        counts: threading.Event,
        say: Say,
    ) -> None:
        self._source, self._feed = source, feed
        self._stop, self._retry_s = stop, retry_s
        self._figures, self._counts, self._say = figures, counts, say
        self._is_open = True
        self._skipped = 0
        self._gone_s: float | None = None  # since when
        self._reason = ""
        self._try_s = _FIRST_TRY_S
        self._unusable = Unusable(source.name)

    def next(self) -> Picture | None:
        """The next picture that is sound; None at the end.

        Raises:
            DataError: It was lost for too long, or is no source that comes back.
        """
        while not self._stop.is_set():
            if not self._is_open:
                self._open_again()
                continue
            try:
                picture = self._feed.read()
            except BrokenPictureError as error:
                self._figures.broken += 1
                self._unusable.add(1, str(error))
                continue
            except (DataError, OSError) as error:
                self._lose(error)
                continue
            finally:
                self._count_skipped()
            if picture is not None:
                self._is_back()
            return picture
        return None

    def close(self) -> None:
        """Let go of the source."""
        self._unusable.report()
        if self._is_open:
            self._is_open = False
            self._feed.close()

    def _lose(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        self._reason = reason.removeprefix(f"{self._source.name}: ")
        if not self._source.is_live:
            raise DataError(f"{self._source.name}: {self._reason}") from None
        self._is_open = False
        self._feed.close()
        if self._gone_s is None:
            self._gone_s = time.monotonic()
            how_long = "" if self._retry_s > _FOR_EVER_S else f" for {duration(self._retry_s)}"
            self._say(f"lost ({self._reason}); trying again{how_long}", warns=True)

    def _open_again(self) -> None:
        assert self._gone_s is not None
        left_s = self._retry_s - (time.monotonic() - self._gone_s)
        if left_s <= 0:
            raise DataError(
                f"{self._source.name}: lost, and not back within {duration(self._retry_s)} ({self._reason}); "
                "--retry-s says how long it is waited for"
            )
        if self._stop.wait(min(self._try_s, left_s)):
            return
        # Also where it can be opened and gives nothing: only a picture says that it is back.
        self._try_s = min(2 * self._try_s, _LONGEST_TRY_S)
        try:
            self._feed = self._source.open(self._stop)
        except (DataError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._reason = reason.removeprefix(f"{self._source.name}: ")
        else:
            self._is_open, self._skipped = True, 0

    def _is_back(self) -> None:
        if self._gone_s is not None:
            self._figures.reconnections += 1
            self._say(f"back after {time.monotonic() - self._gone_s:.1f} s")
            self._gone_s, self._try_s = None, _FIRST_TRY_S

    def _count_skipped(self) -> None:
        new = self._feed.skipped - self._skipped
        self._skipped += new
        if new and self._counts.is_set():
            self._figures.frames += new
            self._figures.dropped += new
