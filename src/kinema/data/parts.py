"""What of each batch one of several processes reads."""

from __future__ import annotations

from collections.abc import Iterator

from kinema.data.loading import Order


class Part:
    """Every n-th clip of each batch. The parts of all processes together are the batches of one process, in number as
    in content; a part of a small batch may have no clip.

    Args:
        order: The batches.
        rank: Whose part, from 0.
        num_parts: Of how many.
    """

    def __init__(self, order: Order, *, rank: int, num_parts: int) -> None:
        self._order = order
        self._rank = rank
        self._num_parts = num_parts

    @property
    def batch_size(self) -> int:
        """Clips of the largest part."""
        return -(-self._order.batch_size // self._num_parts)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._order:
            yield batch[self._rank :: self._num_parts]
