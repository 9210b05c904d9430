"""The same for equal files, another for different ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kinema.data.hashing import content_hash

PART = 64 * 1024


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 10 * PART])
def test_a_copy_has_the_same_hash(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    first, second = write(tmp_path / "a.mp4", content), write(tmp_path / "b.avi", content)
    assert content_hash(first) == content_hash(second)
    assert len(content_hash(first)) == 24


def test_files_that_differ_where_it_looks_differ(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(10 * PART)
    hashes = {content_hash(write(tmp_path / "whole", content))}
    for place in (0, PART - 1, 5 * PART, 6 * PART - 1, 9 * PART, 10 * PART - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        hashes.add(content_hash(write(tmp_path / f"at{place}", bytes(changed))))
    assert len(hashes) == 7


def test_length_alone_makes_a_difference(tmp_path: Path) -> None:
    hashes = {content_hash(write(tmp_path / str(size), bytes(size))) for size in (0, 1, PART, 3 * PART, 3 * PART + 1)}
    assert len(hashes) == 5


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        content_hash(tmp_path / "nowhere")
