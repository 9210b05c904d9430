"""A trained recogniser that follows a stream: every picture is seen once, as it comes, and answered."""

from __future__ import annotations

from collections.abc import Sequence

from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Picture
from kinema.inference.recogniser import Recogniser


class Follower:
    """Follows one stream. Not to be shared between threads.

    Args:
        recogniser: What looks at it.
        settings: Windows, and how often they are looked at.

    Raises:
        ConfigError: The settings ask for what the model cannot do.
    """

    def __init__(self, recogniser: Recogniser, settings: LiveSection | None = None) -> None:
        self.recogniser = recogniser
        self.settings = settings or LiveSection()

    @property
    def how(self) -> str:
        """One line: what is done with each picture."""
        raise NotImplementedError

    def see(self, pictures: Sequence[Picture]) -> list[Answer]:
        """Take pictures, in the order of time, one as a camera gives it or many of a file, and answer what is due.

        Raises:
            DataError: Pixels of a picture cannot be read.
        """
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all that was seen: the stream begins anew."""
        raise NotImplementedError
