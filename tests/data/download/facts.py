"""What the tests' server has."""

from __future__ import annotations

import hashlib
from pathlib import Path

CONTENT = bytes(range(256)) * 40  # 10,240 bytes


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
