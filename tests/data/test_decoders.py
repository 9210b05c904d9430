"""Frames of every decoder are held against a full sequential decode by PyAV, or the file is refused by name."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from tests.videos import Image, write_video

from kinema.data.decoders import Decoder, check_decoder, decoder, described
from kinema.data.decoding import probe, read_frames
from kinema.data.video import Video
from kinema.sections import ClipsSection
from kinema.types import ConfigError, DataError

NAMES = ["opencv", "torchcodec"]

B_FRAMES = {"bf": "3", "g": "12"}
X264_OPEN = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"}
X264_REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
X265 = "pools=none:log-level=none:keyint=12:min-keyint=12:bframes=3:scenecut=0"
VP9 = {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good", "cpu-used": "5"}
AV1 = {"g": "12", "preset": "12", "svtav1-params": "lp=1"}
GAPS_S = [float(time_s) for time_s in np.cumsum([0.0] + [random.Random(i).choice([1, 2, 5]) / 30 for i in range(39)])]
LATE_S = [5 + i / 30 for i in range(40)]

# Name of a file -> how it is made of 40 frames at 30 a second, and the decoders that must refuse it.
MADE: dict[str, tuple[dict[str, object], set[str]]] = {
    "h264.mp4": ({"options": {"bf": "0", "g": "12"}}, set()),
    "b_frames.mp4": ({"options": B_FRAMES}, set()),
    "b_frames.mkv": ({"options": B_FRAMES}, set()),
    "one_key_frame.mp4": ({}, set()),
    "open.mp4": ({"options": X264_OPEN}, set()),
    "open.mkv": ({"options": X264_OPEN}, set()),
    "refresh.mp4": ({"options": X264_REFRESH}, set()),
    "refresh.mkv": ({"options": X264_REFRESH}, set()),
    "fragmented.mp4": ({"options": B_FRAMES, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}}, set()),
    "no_edit_list.mp4": ({"options": B_FRAMES, "muxer_options": {"use_editlist": "0"}}, set()),
    "gaps.mp4": ({"options": B_FRAMES, "times_s": GAPS_S}, set()),
    "gaps.mkv": ({"options": B_FRAMES, "times_s": GAPS_S}, set()),
    "late.mp4": ({"options": B_FRAMES, "times_s": LATE_S}, set()),
    "rotated_90.mp4": ({"rotation_deg": 90}, set()),
    "rotated_180.mp4": ({"rotation_deg": 180}, set()),
    "rotated_270.mp4": ({"rotation_deg": 270}, set()),
    "mirrored.mp4": ({"flip_horizontally": True}, {"torchcodec"}),
    "mirrored_90.mp4": ({"flip_horizontally": True, "rotation_deg": 90}, {"torchcodec"}),
    "ten_bits.mp4": ({"options": B_FRAMES, "pix_fmt": "yuv420p10le"}, set()),
    "full_colour.mp4": ({"pix_fmt": "yuv444p", "size": (95, 63)}, set()),
    "gray.mkv": ({"pix_fmt": "gray"}, set()),
    "odd.webm": ({"codec": "libvpx-vp9", "options": VP9, "size": (95, 63)}, set()),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": X265}}, set()),
    "hevc_open.mkv": ({"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=1"}}, set()),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": VP9}, set()),
    "vp9.mp4": ({"codec": "libvpx-vp9", "options": VP9}, set()),
    "av1.mp4": ({"codec": "libsvtav1", "options": AV1}, {"opencv"}),
    "vp8.webm": ({"codec": "libvpx", "options": VP9}, {"torchcodec"}),
    "mpeg4.avi": ({"codec": "mpeg4", "options": {"bf": "0"}}, {"torchcodec"}),
    "mpeg4_b.avi": ({"codec": "mpeg4", "options": {"bf": "2"}}, {"torchcodec"}),
    "mpeg4_gaps.avi": ({"codec": "mpeg4", "times_s": GAPS_S}, {"torchcodec"}),
    "mpeg4_b.mp4": ({"codec": "mpeg4", "options": {"bf": "2"}}, {"torchcodec"}),
    "h264.avi": ({"options": B_FRAMES}, {"torchcodec"}),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, {"torchcodec"}),
    "h264.ts": ({"options": B_FRAMES}, {"torchcodec"}),
    "mpeg2.mpg": ({"codec": "mpeg2video", "options": {"bf": "2"}}, {"torchcodec"}),
}

# What the decoders must refuse among the real files, beside MPEG-4 in AVI.
REFUSED = {
    "opencv": {"av1_video.mkv"},
    "torchcodec": {"sine_stereo_mp2.mpg", "testsrc2_vp8.webm"},
}

SAMPLE = (
    "ut_interaction/*/set1_seq01_001.avi",
    "ut_interaction/*/set2_seq1[89]_0*.avi",
    "ucf101/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ucf101/UCF-101/LongJump/*_g15_c02.avi",
    "hmdb51/*/*/*.avi",
    "edge_cases/*.*",
)


def moving(num_frames: int, size: tuple[int, int] = (96, 64)) -> list[Image]:
    """Frames of which no two are alike, nor parts of two: noise that climbs, and a square that runs over it."""
    width_px, height_px = size
    shape = (height_px // 8 + num_frames, width_px // 8 + 1, 3)
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    images: list[Image] = []
    for i in range(num_frames):
        image = noise[i : i + height_px, :width_px].copy()
        left = i * 3 % (width_px - 16)
        image[4:20, left : left + 16] = i * 5 % 256
        images.append(image)
    return images


Make = Callable[[str], Video]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("decoders")

    @cache
    def made(name: str) -> Video:
        how = {"codec": "libx264", "fps": 30, **MADE[name][0]}
        size = how.pop("size", (96, 64))
        return probe(write_video(folder / name, moving(40, size), **how))  # type: ignore[arg-type]

    return made


def chosen(name: str) -> Decoder:
    """The decoder, where what it needs is there."""
    try:
        return decoder(name)
    except ConfigError as error:
        pytest.skip(str(error))


def check(video: Video, under_test: Decoder, *, num_requests: int = 6) -> None:
    """Every frame that a decoder gives is what it gives in one pass from the start, and the right one of the truth."""
    num_frames = len(video.times_s)
    truth = read_frames(video, range(num_frames))
    generator = random.Random(video.path.name)
    own = under_test.take(video, range(num_frames), lambda image: image)
    for index, image in enumerate(own):
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.shape == truth[index].shape
        if np.array_equal(image, truth[index]):
            continue
        # Libraries differ by some levels in how they convert colours, by far more from frame to frame; frames that
        # are alike are the same frame.
        near = range(max(0, index - 3), min(num_frames, index + 4))
        errors = {i: np.abs(truth[i][::2, ::2].astype(np.int16) - image[::2, ::2]).mean() for i in near}
        assert errors[index] == min(errors.values()), f"{under_test.name}: {video.path}: frame {index}: {errors}"
    for _ in range(num_requests):
        request = [generator.randrange(num_frames) for _ in range(generator.randint(1, 8))]
        images = under_test.take(video, request, lambda image: image)
        assert len(images) == len(request)
        for index, image in zip(request, images, strict=True):
            assert np.array_equal(image, own[index]), f"{under_test.name}: {video.path}: frame {index}"
            assert image is images[request.index(index)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", MADE)
def test_made_file_is_exact_or_refused(make: Make, file: str, name: str) -> None:
    video, under_test = make(file), chosen(name)
    if name not in MADE[file][1]:
        assert under_test.refusal(video) is None
        check_decoder(name, [video])
        check(video, under_test)
        return
    with pytest.raises(DataError, match=rf"{file}: clips.decoder={name} is refused .*; set clips.decoder=pyav$"):
        under_test.take(video, [0], lambda image: image)
    with pytest.raises(DataError, match=rf"{file}: clips.decoder={name} is refused .*; set clips.decoder=pyav$"):
        check_decoder(name, [make("h264.mp4"), video])


def real_videos(root: Path, patterns: tuple[str, ...]) -> list[Video]:
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    assert all(found), f"nothing matches one of {patterns}"
    paths = [path for paths in found for path in paths if path.suffix in (".avi", ".mp4", ".mkv", ".mpg", ".webm")]
    return [probe(path) for path in paths]


def check_real(videos: list[Video], name: str) -> None:
    under_test = chosen(name)
    refused = [video for video in videos if under_test.refusal(video) is not None]
    expected = {
        video.path
        for video in videos
        if video.path.name in REFUSED[name] or (name == "torchcodec" and video.container == "avi")
    }
    assert {video.path for video in refused} == expected
    for video in videos:
        if video.path not in expected:
            check(video, under_test, num_requests=3)


@pytest.mark.parametrize("name", NAMES)
def test_real_sample_is_exact_or_refused(data_root: Path, name: str) -> None:
    check_real(real_videos(data_root, SAMPLE), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_real_files_are_exact_or_refused(data_root: Path, name: str) -> None:
    check_real(real_videos(data_root, ("**/*.avi", "edge_cases/*.*")), name)


def test_torchcodec_would_be_wrong_where_it_is_refused(data_root: Path) -> None:
    chosen("torchcodec")
    from torchcodec.decoders import VideoDecoder

    [path] = (data_root / "ut_interaction").glob("*/set1_seq01_001.avi")
    assert len(VideoDecoder(str(path))) == 120
    assert len(probe(path).times_s) == 118


@pytest.mark.parametrize("name", NAMES)
def test_damaged_file_is_refused(make: Make, name: str) -> None:
    with pytest.raises(DataError, match="the file is damaged"):
        check_decoder(name, [replace(make("h264.mp4"), damaged=True)]) if chosen(name) else None


@pytest.mark.parametrize("name", NAMES)
def test_file_that_has_changed_is_noticed(make: Make, tmp_path: Path, name: str) -> None:
    under_test = chosen(name)
    video = make("gaps.mp4")
    path = Path(shutil.copy(make("h264.mp4").path, tmp_path / "changed.mp4"))
    with pytest.raises(DataError, match=rf"changed.mp4: clips.decoder={name}: frame \d+ of 40 .*has changed"):
        under_test.take(replace(video, path=path), range(40), lambda image: image)
    short = write_video(path, moving(10), fps=30)
    with pytest.raises(DataError, match=rf"changed.mp4: clips.decoder={name}: frame \d+ of 40 .*has changed"):
        under_test.take(replace(make("h264.mp4"), path=short), [30], lambda image: image)
    path.unlink()
    with pytest.raises(DataError, match=r"changed.mp4: .*No such file"):
        under_test.take(replace(video, path=path), [3], lambda image: image)


@pytest.mark.parametrize("name", NAMES)
def test_frames_that_do_not_exist(make: Make, name: str) -> None:
    under_test = chosen(name)
    assert under_test.take(make("h264.mp4"), [], lambda image: image) == []
    for index in (-1, 40):
        with pytest.raises(IndexError, match="there are 40"):
            under_test.take(make("h264.mp4"), [index], lambda image: image)


@pytest.mark.parametrize("name", NAMES)
def test_what_take_raises_comes_through(make: Make, name: str) -> None:
    def broken(_: NDArray[np.uint8]) -> None:
        raise ValueError("mine")

    under_test = chosen(name)
    with pytest.raises(ValueError, match=r"^mine$"):
        under_test.take(make("h264.mp4"), [3], broken)


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_that_pyav_takes(make: Make, tmp_path: Path, name: str) -> None:
    under_test = chosen(name)
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for width_px, height_px in ((96, 64), (192, 128)):  # by itself FFmpeg prefers the larger one
            stream = container.add_stream("libx264", rate=30, options={"threads": "1"})
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
            streams.append(stream)
        for number in range(40):
            for stream, size in zip(streams, ((96, 64), (192, 128)), strict=True):
                frame = VideoFrame.from_ndarray(moving(40, size)[number], format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    video = probe(path)
    assert video.width_px == 96
    check(video, under_test)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["a:b.mp4", "per cent %03d.mp4", "ümlaut.mp4"])
def test_awkward_names(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str) -> None:
    under_test = chosen(name)
    shutil.copy(make("h264.mp4").path, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    check(probe(Path(file)), under_test, num_requests=1)


@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_not_utf8(make: Make, tmp_path: Path, name: str) -> None:
    under_test = chosen(name)
    path = Path(shutil.copy(make("h264.mp4").path, tmp_path / os.fsdecode(b"latin-\xe9.mp4")))
    assert under_test.refusal(probe(path)) == "its name is not UTF-8"


@pytest.mark.parametrize("name", NAMES)
def test_images_and_stores_need_no_decoder(make: Make, name: str) -> None:
    chosen(name)
    video = make("mpeg4.avi")
    check_decoder(name, [replace(video, container=container) for container in ("image", "frames", "store")])


def test_pyav_refuses_nothing_and_others_are_unknown(make: Make) -> None:
    check_decoder("pyav", [make("mpeg4.avi")])
    with pytest.raises(ConfigError, match=r"^clips.decoder=decord: unknown"):
        decoder("decord")


def test_how_many_are_refused_is_said(make: Make) -> None:
    chosen("torchcodec")
    videos = [make(name) for name in ("h264.mp4", "mpeg4.avi", "mpeg4_b.avi", "vp8.webm")]
    with pytest.raises(DataError, match=r"mpeg4.avi: .* of mpeg4 in avi .*\(and so are 2 others of 4\)"):
        check_decoder("torchcodec", videos)


@pytest.mark.parametrize(("name", "module"), [("opencv", "cv2"), ("torchcodec", "torchcodec")])
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'^clips.decoder={name} needs .*pip install "kinema\[{name}\]"'):
        decoder(name)


def test_missing_ffmpeg_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torchcodec = pytest.importorskip("torchcodec")
    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    with pytest.raises(ConfigError, match=r"^clips.decoder=torchcodec: .*FFmpeg.*apt-get install ffmpeg"):
        decoder("torchcodec")


def test_decoding_on_a_gpu_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen("torchcodec")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"^clips.decoder=torchcodec_cuda needs a GPU .*; set clips.decoder="
    ) as caught:
        decoder("torchcodec_cuda")
    assert "\n" not in str(caught.value)


def test_a_gpu_is_asked_to_decode_where_there_is_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen("torchcodec")
    from torchcodec.decoders import VideoDecoder

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices: list[str] = []

    def opened(*arguments: Any, device: str, **settings: Any) -> VideoDecoder:
        devices.append(device)
        return VideoDecoder(*arguments, device="cpu", **settings)

    under_test = decoder("torchcodec_cuda")
    monkeypatch.setattr(under_test, "_open", opened)
    on_cpu = chosen("torchcodec").take(make("b_frames.mp4"), [3, 30], lambda image: image)
    for image, expected in zip(
        under_test.take(make("b_frames.mp4"), [3, 30], lambda image: image), on_cpu, strict=True
    ):
        assert np.array_equal(image, expected)
    assert devices == ["cuda"]
    with pytest.raises(DataError, match=r"mpeg4.avi: clips.decoder=torchcodec_cuda is refused"):
        check_decoder("torchcodec_cuda", [make("mpeg4.avi")])


def test_decoding_on_a_gpu_is_not_for_worker_processes() -> None:
    assert ClipsSection(decoder="torchcodec_cuda", workers=0).decoder == "torchcodec_cuda"
    with pytest.raises(ValueError, match="set workers to 0"):
        ClipsSection(decoder="torchcodec_cuda", workers=2)


def test_every_decoder_says_what_pixels_depend_on() -> None:
    names = get_args(ClipsSection.model_fields["decoder"].annotation)
    assert {"pyav", "torchcodec_cuda"} < set(names)
    assert len({described(name) for name in names}) == len(names)


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, kinema.data.decoders; print({'cv2', 'torchcodec'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
