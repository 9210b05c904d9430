"""Whether what is to be written fits onto the disk."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from kinema.types import DataError
from kinema.wording import byte_size

log = logging.getLogger(__name__)

_SPARE = 1.01
"""Index, meta and padding beside the data."""


def check_room(folder: Path, num_bytes: int, what: str) -> None:
    """Say how much is going to be written, and refuse what will not fit.

    Args:
        folder: Where it is to be written.
        num_bytes: How much it is.
        what: What it is, for the message ("9,537 clips").

    Raises:
        DataError: There is not that much room.
    """
    if not num_bytes:
        return
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes * _SPARE > free:
        raise DataError(
            f"{folder}: {what} take about {byte_size(num_bytes)} and {byte_size(free)} are free there; "
            "give a folder on a larger disk, or store less of each clip"
        )
    log.info("%s: %s will take about %s; %s are free there", folder, what, byte_size(num_bytes), byte_size(free))
