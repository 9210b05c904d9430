"""Where kinema keeps, for a user, what it can find out or make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$KINEMA_CACHE`, else `$XDG_CACHE_HOME/kinema`, else `~/.cache/kinema`."""
    own = os.environ.get("KINEMA_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "kinema"
