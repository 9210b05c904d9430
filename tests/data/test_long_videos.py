"""A frame far inside a long video: exact, and without going through what lies before."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.decoded import check, decode_all
from tests.videos import numbered_frames, read_number, write_video

from kinema.data import decoding
from kinema.data.decoding import probe, read_frames


@pytest.fixture(
    scope="module", params=["b_frames.mp4", "open_gop.mp4", "open_gop.mkv", "few_keys.mp4", "lying_keys.mp4"]
)
def long_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 s of H.264 with B-frames. `few_keys` has pictures that build up gradually in place of key frames; in
    `lying_keys` the list of key frames is lost, which means that every frame is one."""
    parameters = {
        "b_frames.mp4": "keyint=50:bframes=3:b-pyramid=normal",
        "open_gop.mp4": "open-gop=1:keyint=40:bframes=3:b-adapt=0:scenecut=0",
        "open_gop.mkv": "open-gop=1:keyint=40:bframes=3:b-adapt=0:scenecut=0",
        "few_keys.mp4": "intra-refresh=1:keyint=40:bframes=2",
        "lying_keys.mp4": "keyint=100:bframes=3",
    }[request.param]
    frames = numbered_frames(1500)
    folder = tmp_path_factory.mktemp("long")
    path = write_video(folder / request.param, frames, fps=25, options={"x264-params": parameters})
    if request.param == "lying_keys.mp4":
        content = path.read_bytes()
        assert content.count(b"stss") == 1
        path.write_bytes(content.replace(b"stss", b"free"))
    return path


def test_packet_index_of_a_long_video_reads_what_it_needs(long_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened or gone through: one stretch of the file is read, and decoded from its key frame."""
    video = probe(long_file)
    num_bytes = 0
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        nonlocal num_bytes
        num_bytes += length
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    monkeypatch.setattr(decoding, "opened", None)
    assert [read_number(image) for image in read_frames(video, [1310, 1312])] == [1310, 1312]
    assert num_bytes < 0.15 * long_file.stat().st_size


def test_long_videos_are_exact(long_file: Path) -> None:
    truth = decode_all(long_file)
    rng = random.Random(1)
    around_keys = [[i] for i in range(995, 1045)]
    anywhere = [sorted(rng.sample(range(260, 1500), 4)) for _ in range(10)]
    check(probe(long_file), truth, [*around_keys, *anywhere, [1499], [0, 1499], [250, 251]])
