"""Telling whether two videos are the same without reading all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PART = 64 * 1024


def content_hash(path: Path) -> str:
    """Hash of a file's length, beginning, middle and end, 64 KiB each: the same for equal files, and in practice
    different for different videos, at a cost that does not grow with their length.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=12)
    with path.open("rb") as file:
        for position in (0, size // 2, max(0, size - _PART)):
            file.seek(position)
            digest.update(file.read(_PART))
    return digest.hexdigest()
