"""Pictures on their way from the thread that reads them to the one that looks at them."""

from __future__ import annotations

import threading
from collections import deque

from kinema.inference.live_types import Picture


class Mailbox:
    """Holds few pictures, whatever the two threads do.

    Args:
        limit: How many.
        waits: Where there is no room, a new picture waits for it; else it takes the place of the oldest.
    """

    def __init__(self, limit: int, *, waits: bool) -> None:
        assert limit > 0
        self._limit = limit
        self._waits = waits
        self._pictures: deque[Picture] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, picture: Picture) -> int:
        """Put the newest picture in.

        Returns:
            How many went to make room for it, itself too where nobody takes any more.
        """
        with self._changed:
            while self._waits and len(self._pictures) >= self._limit and not self._closed:
                self._changed.wait()
            if self._closed:
                return 1
            dropped = 0
            while len(self._pictures) >= self._limit:
                self._pictures.popleft()
                dropped += 1
            self._pictures.append(picture)
            self._changed.notify_all()
            return dropped

    def take(self, timeout_s: float) -> list[Picture]:
        """All that there are, the oldest first, as soon as there is one; none where none came in time, or where it is
        closed and empty."""
        with self._changed:
            if not self._pictures and not self._closed:
                self._changed.wait(timeout_s)
            taken = list(self._pictures)
            self._pictures.clear()
            self._changed.notify_all()
            return taken

    def empty(self) -> int:
        """Throw away what is there; how many."""
        with self._changed:
            num = len(self._pictures)
            self._pictures.clear()
            self._changed.notify_all()
            return num

    def close(self) -> None:
        """No more will come; what is there can be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """No more will come, and all was taken."""
        with self._changed:
            return self._closed and not self._pictures
