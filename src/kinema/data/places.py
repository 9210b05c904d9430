"""Where in stores entries lie that are read again and again: looked up once, so that reading one is a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinema.data.shards import Store


class Places:
    """The places of a table of keys. Of a key that several stores have, the first's.

    Args:
        stores: Where to look.
        keys: (..., 16), of `kinema.data.shards.entry_key`.
    """

    def __init__(self, stores: Sequence[Store], keys: NDArray[np.uint8]) -> None:
        flat = [row.tobytes() for row in np.ascontiguousarray(keys).reshape(-1, keys.shape[-1])]
        store_of, row_of = np.full(len(flat), -1, dtype=np.int16), np.full(len(flat), -1, dtype=np.int64)
        for number, store in reversed([*enumerate(stores)]):
            found = store.find(flat)
            store_of[found >= 0] = number
            row_of[found >= 0] = found[found >= 0]
        self._stores = list(stores)
        self._keys = keys
        self._store_of, self._row_of = store_of.reshape(keys.shape[:-1]), row_of.reshape(keys.shape[:-1])

    @property
    def held(self) -> NDArray[np.bool_]:
        """Of which keys there is an entry."""
        held: NDArray[np.bool_] = self._store_of >= 0
        return held

    @property
    def stores(self) -> list[Store]:
        """Those in which entries lie."""
        return [store for number, store in enumerate(self._stores) if (self._store_of == number).any()]

    @property
    def fingerprint(self) -> str:
        """Differs whenever the content of an entry does, or of which keys there are any; not with where they lie."""
        contents = np.zeros((*self._row_of.shape, 2), dtype=np.uint64)
        for number, store in enumerate(self._stores):
            here = self._store_of == number
            contents[here] = store.contents(self._row_of[here])
        digest = hashlib.blake2b(digest_size=16)
        for part in (self._keys, self.held, contents):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def read(self, place: tuple[int, ...], out: NDArray[Any]) -> bool:
        """Copy the data of an entry, if there is one.

        Args:
            place: Of its key in the table.
            out: C-contiguous, as large as the data.

        Raises:
            DataError: As `Store.read_into`.
        """
        number = int(self._store_of[place])
        if number < 0:
            return False
        self._stores[number].read_row(int(self._row_of[place]), out)
        return True
