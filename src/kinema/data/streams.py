"""Clips in several forms at once, each read as if it were the only one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from kinema.data.loading import ClipReader
from kinema.data.read_ahead import Drawn
from kinema.data.shared_batches import Layout
from kinema.types import Clip, fingerprint, only


class StreamsReader:
    """Reads every stream of a clip with a reader of its own, which knows where that form of the clip is stored.

    Args:
        readers: Stream -> what reads it; all of the same clips. In training of the same augmentation and seed, and of
            preprocessings of the same number of frames and size, so that all show the same cut of the same moments.
    """

    def __init__(self, readers: Mapping[str, ClipReader]) -> None:
        self.readers = readers

    @property
    def clips(self) -> Sequence[Clip]:
        return next(iter(self.readers.values())).clips

    @property
    def in_processes(self) -> bool:
        """Whether reading takes a processor."""
        return any(reader.in_processes for reader in self.readers.values())

    @property
    def source(self) -> str | None:
        """Differs with the content of what stands for videos; None where clips are what would be decoded."""
        sources = {stream: reader.source for stream, reader in self.readers.items()}
        return fingerprint(sources) if any(sources.values()) else None

    def __len__(self) -> int:
        return len(self.clips)

    def layout(self) -> Layout:
        """Stream -> shape and type of one clip."""
        return {stream: only(reader.layout()) for stream, reader in self.readers.items()}

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        """Write the frames of a clip.

        Raises:
            DataError: It cannot be read.
        """
        drawn = [reader.read(index, epoch, {stream: out[stream]}) for stream, reader in self.readers.items()]
        assert len({one.flip for one in drawn}) == 1
        # Streams of motion have no colours to change, and draw the same of everything else.
        colour = next((one.colour for one in drawn if one.colour is not None), None)
        changes = [one.changes for one in drawn if one.changes is not None]
        return replace(drawn[0], colour=colour, changes=max(changes, key=lambda one: one.num_drawn, default=None))
