"""Every frame and every time of real files against a full sequential decode."""

from __future__ import annotations

import random
from pathlib import Path

import av
import pytest
from tests.decoded import check, decode_all

from kinema.data.decoding import probe
from kinema.types import DataError

SAMPLE = (
    "ut_interaction/*/set1_seq01_001.avi",
    "ut_interaction/*/set1_seq02_008.avi",
    "ut_interaction/*/set2_seq1[89]_0*.avi",
    "ucf101/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ucf101/UCF-101/Biking/*_g10_c02.avi",
    "ucf101/UCF-101/LongJump/*_g15_c02.avi",
    "hmdb51/*/*/*.avi",
    "edge_cases/*.*",
)


def real_files(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    assert all(found), f"nothing matches one of {patterns}"
    return [path for paths in found for path in paths if not path.name.startswith("LICENSE")]


def has_frames(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.video)


def test_real_sample_equals_full_decode(data_root: Path) -> None:
    rng = random.Random(0)
    for path in real_files(data_root, SAMPLE):
        if not has_frames(path):
            with pytest.raises(DataError, match="no video stream"):
                probe(path)
            continue
        truth = decode_all(path)
        num_frames = len(truth.images)
        requests = [[rng.randrange(num_frames) for _ in range(6)], [num_frames - 1, 0]]
        check(probe(path), truth, requests)


def test_known_lengths_of_real_files(data_root: Path) -> None:
    """The header of the first claims 120 frames, that of the third 427."""
    for pattern, num_frames, fps in [
        ("ut_interaction/*/set1_seq01_001.avi", 118, 30.0),
        ("ucf101/UCF-101/*/v_ApplyEyeMakeup_g01_c01.avi", 164, 25.0),
        ("hmdb51/*/pour/*.avi", 430, 30.0),
        ("edge_cases/discard_first_keyframe.mp4", 25, 25.0),
        ("edge_cases/nasa_13013_rotated.mp4", 17, 30000 / 1001),
    ]:
        video = probe(next(data_root.glob(pattern)))
        assert len(video.times_s) == num_frames, pattern
        assert video.fps == pytest.approx(fps), pattern


@pytest.mark.slow
def test_all_real_files_equal_full_decode(data_root: Path) -> None:
    for path in real_files(data_root, ("*/**/*.avi", "edge_cases/*.*")):
        truth = decode_all(path)
        check(probe(path), truth, [list(range(len(truth.images)))])
