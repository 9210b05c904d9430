"""Clips in several forms at once, each read as if it were the only one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from kinema.data.loading import ClipReader
from kinema.data.read_ahead import Drawn
from kinema.data.shared_batches import Layout
from kinema.types import Clip, only


class StreamsReader:
    """Reads every stream of a clip with a reader of its own, which knows where that form of the clip is stored.

    For evaluation: nothing is drawn at random for a clip.

    Args:
        readers: Stream -> what reads it; all of the same clips.
    """

    def __init__(self, readers: Mapping[str, ClipReader]) -> None:
        assert all(reader.augmentation is None for reader in readers.values())
        self.readers = readers

    @property
    def clips(self) -> Sequence[Clip]:
        return next(iter(self.readers.values())).clips

    @property
    def in_processes(self) -> bool:
        """Whether reading takes a processor."""
        return any(reader.in_processes for reader in self.readers.values())

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
        return drawn[0]  # the same look in each
