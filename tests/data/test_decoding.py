"""Every frame and every time is held against a full sequential decode by PyAV."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.decoded import MADE, VFR_S, Make, check, decode_all, made_in
from tests.videos import Image, numbered_frame, numbered_frames, read_number, write_video

from kinema.data import frame_table
from kinema.data.decoding import probe, read_frames, take_frames
from kinema.data.pictures import Picture
from kinema.types import DataError

OPEN_GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0:scenecut=0"}),
    "hevc": (
        "libx265",
        {"x265-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0:log-level=none:pools=none"},
    ),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return made_in(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", MADE)
def test_made_file_equals_full_decode(make: Make, name: str) -> None:
    path = make(name)
    truth = decode_all(path)
    video = probe(path)

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, len(truth.images) - 1), min_size=1, max_size=8))
    def property_(request: list[int]) -> None:
        check(video, truth, [request])

    check(video, truth, [list(range(len(truth.images)))])
    property_()
    if "rotation_deg" not in MADE[name]:
        numbers = [read_number(image) for image in read_frames(video, range(len(video.times_s)))]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("codec", OPEN_GROUPS)
def test_packets_that_never_decode_are_not_frames(tmp_path: Path, codec: str, suffix: str) -> None:
    """A file cut, without encoding it again, at a key frame that earlier-displayed frames follow."""
    encoder, options = OPEN_GROUPS[codec]
    whole = write_video(tmp_path / "whole.mkv", numbered_frames(40), fps=25, codec=encoder, options=options)
    path = tmp_path / f"cut{suffix}"
    num_packets = num_keys = 0
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            num_keys += packet.is_keyframe
            if packet.size and num_keys >= 2:
                num_packets += 1
                packet.stream = stream
                target.mux(packet)
    truth = decode_all(path)
    assert len(truth.images) < num_packets
    check(probe(path), truth, [list(range(len(truth.images)))])


@pytest.mark.parametrize("name", ["variable_rate.mp4", "variable_rate.mkv"])
def test_times_are_those_written(make: Make, name: str) -> None:
    video = probe(make(name))
    assert video.times_s == pytest.approx(VFR_S, abs=1e-9)
    assert video.frames_at(VFR_S).tolist() == list(range(len(VFR_S)))


def test_facts(make: Make) -> None:
    odd, rotated, avi = probe(make("odd.mp4")), probe(make("rotated.mp4")), probe(make("mpeg4.avi"))
    assert (odd.width_px, odd.height_px, odd.codec, odd.rotation_deg) == (61, 47, "h264", 0)
    assert odd.fps == pytest.approx(30000 / 1001)
    assert odd.duration_s == pytest.approx(30 * 1001 / 30000)
    assert (rotated.width_px, rotated.height_px, rotated.rotation_deg) == (48, 64, 90)
    assert (avi.codec, avi.container, avi.fps, avi.duration_s) == ("mpeg4", "avi", 25.0, 1.2)


def test_frames_at(make: Make) -> None:
    video = probe(make("variable_rate.mp4"))
    times_s = [-1.0, 0.0, 0.039, 0.04, 0.2999, 0.3, 0.305, 0.9, 2.6, 99.0]
    assert video.frames_at(times_s).tolist() == [0, 0, 0, 1, 2, 3, 3, 5, 14, 14]
    assert video.frames_at([]).tolist() == []


@pytest.mark.parametrize(
    ("rotation_deg", "mirrored", "upright"),
    [
        (0, False, lambda image: image),
        (90, False, lambda image: np.rot90(image)),
        (180, False, lambda image: np.rot90(image, 2)),
        (270, False, lambda image: np.rot90(image, 3)),
        (0, True, lambda image: image[:, ::-1]),
        (180, True, lambda image: image[::-1]),
    ],
)
def test_display_matrix(tmp_path: Path, rotation_deg: int, mirrored: bool, upright: Callable[[Image], Image]) -> None:
    stored = [numbered_frame(0b010010011001), numbered_frame(0b110000000001)]
    path = write_video(tmp_path / "a.mp4", stored, fps=25, rotation_deg=rotation_deg, flip_horizontally=mirrored)
    video = probe(path)
    assert video.rotation_deg == rotation_deg
    for image, original in zip(read_frames(video, [0, 1]), stored, strict=True):
        expected = upright(original)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected.astype(int)).mean() < 10


def test_wanted_frames_only_are_taken_and_each_once(make: Make) -> None:
    for video in (probe(make("b_frames.mp4")), replace(probe(make("b_frames.mp4")), packets=None)):
        taken: list[int] = []

        def take(picture: Picture, taken: list[int] = taken) -> int:
            assert isinstance(picture, av.VideoFrame)
            taken.append(read_number(np.asarray(picture.to_ndarray(format="rgb24"), dtype=np.uint8)))
            return taken[-1]

        assert take_frames(video, [7, 3, 7, 20], take) == [7, 3, 7, 20]
        assert sorted(taken) == [3, 7, 20]


def test_index_that_is_not_of_the_file_is_not_used(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copy(make("b_frames.mp4"), tmp_path / "a.mp4"))
    video = probe(path)
    with path.open("ab") as file:
        file.write(bytes(100))
    with caplog.at_level("DEBUG", logger="kinema"):
        assert [read_number(image) for image in read_frames(video, [3, 9])] == [3, 9]
    assert "not found by the packet index" in caplog.text
    other = probe(make("variable_rate.mp4")).packets
    assert [read_number(image) for image in read_frames(replace(video, packets=other), [3, 9])] == [3, 9]


def test_good_packet_timestamps_need_no_decode(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded in full")

    path = make("b_frames.mp4")
    monkeypatch.setattr(frame_table, "_table_from_frames", refuse)
    assert len(probe(path).times_s) == 30


def test_no_such_frame(make: Make) -> None:
    video = probe(make("b_frames.mp4"))
    assert read_frames(video, []) == []
    for index in (-1, 30):
        with pytest.raises(IndexError, match="there are 30"):
            read_frames(video, [index])


def test_size_that_changes_on_the_way(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / "small.h264", numbered_frames(5), fps=25),
        write_video(tmp_path / "large.h264", numbered_frames(5, width_px=96, height_px=80, first=5), fps=25),
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    video = probe(path)
    images = read_frames(video, range(10))
    assert {image.shape for image in images} == {(48, 64, 3)}
    assert [read_number(image) for image in images] == list(range(10))


@pytest.mark.parametrize("name", ["a:b.avi", "per cent %03d.avi", "ümlaut.avi", os.fsdecode(b"latin-\xe9.avi")])
def test_awkward_names(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shutil.copy(make("mpeg4.avi"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    video = probe(Path(name))
    assert video.path == Path(name)
    assert read_number(read_frames(video, [9])[0]) == 9


def test_files_are_closed(make: Make) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    video = probe(make("b_frames.mp4"))
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        probe(video.path)
        read_frames(video, [3])
        with pytest.raises(DataError):
            read_frames(replace(video, packets=None, times_s=video.times_s + 7.0), [3])
    assert len(list(descriptors.iterdir())) == before
