"""Every frame and every time is held against a full sequential decode by PyAV."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.videos import Image, numbered_frame, numbered_frames, read_number, write_video

from kinema.data import decoding, frame_table
from kinema.data.decoding import Video, probe, read_frames, take_frames
from kinema.data.pictures import Picture
from kinema.types import DataError

B_FRAMES = {"bf": "3", "g": "12"}
VFR_S = [0.0, 0.04, 0.1, 0.3, 0.31, 0.5, 1.0, 1.04, 1.05, 2.0, 2.1, 2.2, 2.5, 2.55, 2.6]
VP9 = {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}

# Name of a file -> how it is made; `write_video` takes 30 numbered frames at 25 fps where nothing else is said.
MADE: dict[str, dict[str, object]] = {
    "b_frames.mp4": {"options": B_FRAMES},
    "fragmented.mp4": {"options": B_FRAMES, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0:scenecut=0"}},
    "variable_rate.mp4": {"times_s": VFR_S, "options": B_FRAMES},
    "variable_rate.mkv": {"times_s": [1 + time_s for time_s in VFR_S], "options": B_FRAMES},
    "late_start.mp4": {"times_s": [5 + i / 25 for i in range(30)], "options": B_FRAMES},
    "odd.mp4": {"size": (61, 47), "fps": Fraction(30000, 1001), "pix_fmt": "yuv444p"},
    "rotated.mp4": {"rotation_deg": 90},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le"},
    "gray.mkv": {"pix_fmt": "gray"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4_gaps.avi": {"codec": "mpeg4", "times_s": [0.0, 0.04, 0.2, 0.24, 1.0]},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {"options": B_FRAMES},
    "h264.ts": {"options": B_FRAMES},
    "vp8.webm": {"codec": "libvpx", "options": {**VP9, "deadline": "good"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "hevc.mkv": {"codec": "libx265", "options": {"x265-params": "keyint=10:log-level=none:pools=none"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}

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


@dataclass(frozen=True)
class Truth:
    """A full sequential decode: RGB as stored (not upright) and timestamps."""

    images: list[NDArray[np.uint8]]
    pts_s: list[Fraction | None]
    rate: Fraction | None
    rotation_deg: int


def decode_all(path: Path) -> Truth:
    images: list[NDArray[np.uint8]] = []
    pts_s: list[Fraction | None] = []
    rotation_deg = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            images.append(np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8))
            pts_s.append(None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base)
            rotation_deg = frame.rotation
        return Truth(images, pts_s, stream.average_rate, rotation_deg)


def check(video: Video, truth: Truth, requests: list[list[int]]) -> None:
    """Number of frames, times and the frames asked for are those of the truth."""
    num_frames = len(truth.images)
    assert len(video.times_s) == num_frames
    known_s = [time_s for time_s in truth.pts_s if time_s is not None]
    ascending = len(known_s) == num_frames and all(a < b for a, b in pairwise(known_s))
    if ascending and (video.container, video.codec) != ("avi", "mpeg4"):
        expected_s = [float(time_s - known_s[0]) for time_s in known_s]
    else:
        assert truth.rate is not None
        expected_s = [float(i / truth.rate) for i in range(num_frames)]
    assert video.times_s.dtype == np.float64
    assert video.times_s.tolist() == expected_s
    assert video.times_s[0] == 0
    assert video.duration_s > video.times_s[-1]
    assert video.fps == pytest.approx(num_frames / video.duration_s)
    assert video.rotation_deg == truth.rotation_deg % 360
    for request in requests:
        images = read_frames(video, request)
        assert len(images) == len(request)
        for index, image in zip(request, images, strict=True):
            assert image.shape == (video.height_px, video.width_px, 3)
            assert image.dtype == np.uint8
            upright = np.rot90(truth.images[index], video.rotation_deg // 90)
            assert np.array_equal(image, upright), f"{video.path}: frame {index}"


def real_files(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    assert all(found), f"nothing matches one of {patterns}"
    return [path for paths in found for path in paths if not path.name.startswith("LICENSE")]


def has_frames(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.video)


Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Gives the file of that name in `MADE`, made once."""
    folder = tmp_path_factory.mktemp("made")

    @cache
    def made(name: str) -> Path:
        settings_ = {"fps": 25, **MADE[name]}
        width_px, height_px = cast("tuple[int, int]", settings_.pop("size", (64, 48)))
        times_s = settings_.get("times_s")
        num_frames = len(times_s) if isinstance(times_s, list) else 30
        frames = numbered_frames(num_frames, width_px=width_px, height_px=height_px)
        return write_video(folder / name, frames, **settings_)  # type: ignore[arg-type]

    return made


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


OPEN_GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0:scenecut=0"}),
    "hevc": (
        "libx265",
        {"x265-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0:log-level=none:pools=none"},
    ),
}


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


def test_good_packet_timestamps_need_no_decode(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded in full")

    path = make("b_frames.mp4")
    monkeypatch.setattr(frame_table, "_table_from_frames", refuse)
    assert len(probe(path).times_s) == 30


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


def test_long_videos_are_exact(long_file: Path) -> None:
    truth = decode_all(long_file)
    rng = random.Random(1)
    around_keys = [[i] for i in range(995, 1045)]
    anywhere = [sorted(rng.sample(range(260, 1500), 4)) for _ in range(10)]
    check(probe(long_file), truth, [*around_keys, *anywhere, [1499], [0, 1499], [250, 251]])


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


def test_refused_with_one_line(tmp_path: Path, make: Make) -> None:
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("This is not a video.\n" * 500)
    (tmp_path / "noise.mp4").write_bytes(random.Random(0).randbytes(5000))
    (tmp_path / "folder.avi").mkdir()
    whole = make("b_frames.mp4").read_bytes()  # its table of frames is at its end
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "unknown_codec.mp4").write_bytes(whole.replace(b"avc1", b"zzzz"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    for name, reason in {
        "empty.avi": "empty",
        "text.avi": "not a video",
        "noise.mp4": "not a video",
        "folder.avi": "a folder",
        "cut.mp4": "cut short",
        "unknown_codec.mp4": "video stream",
        "sound.mp4": "no video stream",
        "missing.avi": "no such file",
    }.items():
        with pytest.raises(DataError) as caught:
            probe(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ")
        assert reason in message
        assert "\n" not in message


@pytest.mark.parametrize("name", ["mpeg4.avi", "h264.ts"])
def test_cut_file_of_unknown_length_gives_what_is_there(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (60, 48, 64, 3), dtype=np.uint8)
    frames = [image - 20 + grain for image, grain in zip(numbered_frames(60), noise, strict=True)]
    options = {**cast("dict[str, str]", MADE[name]["options"]), "b": "2000k"}
    path = write_video(tmp_path / name, frames, **{"fps": 25, **MADE[name], "options": options})  # type: ignore[arg-type]
    whole = path.read_bytes()
    for share in (0.4, 0.6, 0.8, 0.95):
        cut = whole[: int(len(whole) * share)]
        if name.endswith(".avi"):  # like a recorder that was switched off
            cut = cut[:4] + bytes(4) + cut[8:]
        path.write_bytes(cut)
        video = probe(path)
        images = read_frames(video, range(len(video.times_s)))
        assert 10 < len(images) <= 60
        assert len(images) < 60 or share > 0.9  # of AVI, the end is an index
        assert video.damaged or share > 0.9 or name.endswith(".avi")
        good = images[:-4]  # of the last, parts or references may be gone
        assert [read_number(image) for image in good] == list(range(len(good)))


def test_damaged_files_never_give_more_than_an_error(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(5)
    num_read = 0
    refused: list[bool] = []
    for name in ("b_frames.mp4", "mpeg4.avi", "hevc.mkv", "vp9.webm", "vp8.webm", "h264.ts"):
        whole = make(name).read_bytes()
        for _ in range(8):
            noisy = bytearray(whole)
            for _ in range(15):
                noisy[rng.randrange(len(noisy))] = rng.randrange(256)
            path = tmp_path / name
            path.write_bytes(noisy)
            try:
                video = probe(path)
                read_frames(video, range(len(video.times_s)))
                num_read += 1
            except DataError as error:
                refused.append(str(error).startswith(f"{path}: "))
    assert all(refused)
    assert len(refused) > 0
    assert num_read > 0
    assert capfd.readouterr().err == ""  # FFmpeg has much to say about such files


def test_frame_that_does_not_decode(make: Make, tmp_path: Path) -> None:
    short, long = make("variable_rate.mp4"), make("b_frames.mp4")
    path = Path(shutil.copy(long, tmp_path / "a.mp4"))
    video = probe(path)
    shutil.copy(short, path)
    with pytest.raises(DataError, match=r"a\.mp4: frame 29 of 30 \(at 1\.160 s\) does not decode"):
        read_frames(video, [0, 29])
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_frames(video, [0])


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
