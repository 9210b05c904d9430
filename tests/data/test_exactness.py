"""Frames read by the packet index against a plain sequential decode by PyAV: planes and RGB, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from tests.exactness import check, decode_all, moving_frames, requests
from tests.packed_avi import write_packed_avi
from tests.videos import write_video

from kinema.data import decoding
from kinema.data.decoding import probe
from kinema.data.packet_index import PacketIndex
from kinema.data.video import Video

NUM_FRAMES = 70
X265 = "log-level=none:pools=none:frame-threads=1"
VFR_S = np.cumsum(np.random.default_rng(3).choice([0.02, 0.04, 0.1, 0.5], NUM_FRAMES)).round(2).tolist()

# Name of a file -> how `write_video` makes it, and whether there is a packet index.
MADE: dict[str, tuple[dict[str, object], bool]] = {
    "default.mp4": ({}, True),
    "ultrafast.mp4": ({"options": {"preset": "ultrafast"}}, True),
    "no_b.mp4": ({"options": {"bf": "0", "g": "20"}}, True),
    "two_b.mp4": ({"options": {"bf": "2", "g": "24", "b-pyramid": "none"}}, True),
    "three_b.mkv": ({"options": {"bf": "3", "g": "24"}}, True),
    "pyramid.mp4": ({"options": {"x264-params": "bframes=7:b-adapt=0:b-pyramid=normal:keyint=40:ref=4"}}, True),
    "temporal_direct.mp4": ({"options": {"x264-params": "bframes=3:direct=temporal:weightb=1:keyint=30"}}, True),
    "interlaced.mp4": ({"options": {"x264-params": "bframes=2:interlaced=1:keyint=30"}, "size": (96, 64)}, True),
    "open_gop.mp4": ({"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}}, True),
    "open_gop.mkv": ({"options": {"x264-params": "open-gop=1:keyint=12:bframes=5:b-adapt=0:scenecut=0"}}, True),
    "intra_refresh.mp4": ({"options": {"x264-params": "intra-refresh=1:keyint=16:bframes=2"}}, True),
    "headers_in_packets.mp4": ({"options": {"x264-params": "repeat-headers=1:keyint=16:bframes=2"}}, True),
    "fragmented.mp4": ({"muxer_options": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "16"}}, True),
    "h264.mov": ({"options": {"g": "16"}}, True),
    "h264.avi": ({"options": {"g": "16", "bf": "2"}}, True),
    "h264.ts": ({"options": {"g": "16"}}, False),
    "ten_bits.mp4": ({"pix_fmt": "yuv420p10le", "options": {"g": "16"}}, True),
    "odd.mp4": ({"size": (61, 47), "pix_fmt": "yuv444p", "fps": Fraction(30000, 1001)}, True),
    "gray.mkv": ({"pix_fmt": "gray"}, True),
    "rotated.mp4": ({"rotation_deg": 90, "options": {"g": "16"}}, True),
    "mirrored.mov": ({"rotation_deg": 180, "flip_horizontally": True}, True),
    "variable_rate.mp4": ({"times_s": VFR_S, "options": {"g": "16"}}, True),
    "variable_rate.mkv": ({"times_s": VFR_S, "options": {"g": "16"}}, True),
    "late_start.mp4": ({"times_s": [5 + i / 25 for i in range(NUM_FRAMES)], "options": {"g": "16"}}, True),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": f"keyint=20:{X265}"}}, True),
    "hevc_open_gop.mkv": (
        {"codec": "libx265", "options": {"x265-params": f"open-gop=1:keyint=16:bframes=4:b-adapt=0:{X265}"}},
        True,
    ),
    "hevc_closed_gop.mkv": (
        {"codec": "libx265", "options": {"x265-params": f"open-gop=0:radl=2:keyint=16:bframes=4:b-adapt=0:{X265}"}},
        True,
    ),
    "hevc_layers.mp4": (
        {"codec": "libx265", "options": {"x265-params": f"temporal-layers=3:keyint=32:bframes=7:b-adapt=0:{X265}"}},
        True,
    ),
    "hevc_ten_bits.mkv": (
        {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": f"keyint=16:{X265}"}},
        True,
    ),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"deadline": "realtime", "g": "20"}}, True),
    "vp9_hidden.webm": (
        {"codec": "libvpx-vp9", "options": {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "20", "g": "30"}},
        True,
    ),
    "vp9.mp4": ({"codec": "libvpx-vp9", "options": {"deadline": "realtime", "g": "20"}}, True),
    "vp8.webm": ({"codec": "libvpx", "options": {"deadline": "realtime", "g": "20"}}, True),
    "vp8_hidden.webm": (
        {"codec": "libvpx", "options": {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "30"}},
        True,
    ),
    "av1.mkv": ({"codec": "libsvtav1", "options": {"preset": "10", "g": "20"}}, True),
    "av1.mp4": ({"codec": "libsvtav1", "options": {"preset": "10", "g": "25"}}, True),
    "mpeg4.avi": ({"codec": "mpeg4", "options": {"bf": "2", "g": "12"}}, True),
    "mpeg4_quarter.avi": ({"codec": "mpeg4", "options": {"bf": "1", "flags": "+qpel+mv4", "g": "300"}}, True),
    "mpeg4_gaps.avi": ({"codec": "mpeg4", "times_s": [i // 3 / 5 + i % 3 / 25 for i in range(NUM_FRAMES)]}, True),
    "mpeg4.mp4": ({"codec": "mpeg4", "options": {"bf": "2", "g": "12"}}, True),
    "mpeg4.mkv": ({"codec": "mpeg4", "options": {"bf": "2", "g": "12"}}, True),
    "mpeg2.avi": ({"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}, True),
    "mpeg2.mkv": ({"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}, True),
    "mpeg2.ts": ({"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}, False),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, True),
    "mjpeg.mov": ({"codec": "mjpeg", "pix_fmt": "yuvj422p"}, True),
    "wmv.avi": ({"codec": "wmv1"}, False),
}

REAL_SAMPLE = (
    "ut_interaction/*/set1_seq01_00[12].avi",
    "ut_interaction/*/set2_seq1[89]_0*.avi",
    "ucf101/UCF-101/*/*_g01_c01.avi",
    "hmdb51/*/*/*.avi",
    "edge_cases/*.[amw]*",
)
REAL_ALL = ("ut_interaction/*/*.avi", "ucf101/UCF-101/*/*.avi", "hmdb51/*/*/*.avi", "edge_cases/*.[ampw]*")


@pytest.fixture(autouse=True)
def _by_index_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the index does not find is not looked for in another way."""
    by_container = decoding._take_by_container

    def only_without_index(video: Video, wanted: set[int], take: object) -> dict[int, object]:
        assert video.packets is None, f"{video.path}: {wanted} not all found by the index"
        return by_container(video, wanted, take)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "_take_by_container", only_without_index)


def make(folder: Path, name: str) -> Path:
    settings = dict(MADE[name][0])
    width_px, height_px = cast("tuple[int, int]", settings.pop("size", (96, 64)))
    frames = moving_frames(NUM_FRAMES, width_px, height_px)
    return write_video(folder / name, frames, **{"fps": 25, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MADE)
def test_made_file(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = make(tmp_path, name)
    truth = decode_all(path)
    with caplog.at_level("DEBUG", logger="kinema"):
        video = probe(path)
    assert "doubt" not in caplog.text
    assert (video.packets is not None) == MADE[name][1]
    check(video, truth, requests(len(truth), random.Random(name), 24))


@pytest.mark.parametrize("name", ["two_b.mp4", "open_gop.mp4", "mpeg4.mp4", "hevc.mp4"])
@pytest.mark.parametrize("num_cut", [1, 5, 20])
def test_edit_list(tmp_path: Path, name: str, num_cut: int) -> None:
    """Display starts in the middle of a group, as in a file cut without encoding it again."""
    path = make(tmp_path, name)
    content = bytearray(path.read_bytes())
    at = content.index(b"elst")  # version and flags, number, duration, media time (ISO/IEC 14496-12, 8.6.6)
    assert content[at + 4] == 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        ticks = round(num_cut / 25 / stream.time_base)
    media_time = int.from_bytes(content[at + 16 : at + 20], "big") + ticks
    content[at + 16 : at + 20] = media_time.to_bytes(4, "big")
    path.write_bytes(content)
    truth = decode_all(path)
    assert len(truth) < NUM_FRAMES
    check(probe(path), truth, requests(len(truth), random.Random(name), 24))


@pytest.mark.parametrize("num_b", [1, 2])
def test_packed_b_frames(tmp_path: Path, num_b: int) -> None:
    frames = moving_frames(NUM_FRAMES, 96, 64)
    path = write_packed_avi(tmp_path / "a.avi", frames, num_b=num_b, group=20)
    truth = decode_all(path)
    assert len(truth) >= NUM_FRAMES - 1
    video = probe(path)
    assert isinstance(video.packets, PacketIndex)
    assert video.packets.patches
    check(video, truth, requests(len(truth), random.Random(num_b), 24))


def real_files(root: Path, patterns: Sequence[str]) -> list[Path]:
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    assert all(found)
    return [path for paths in found for path in paths if av_has_video(path)]


def av_has_video(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.video)


def test_real_sample(data_root: Path) -> None:
    for path in real_files(data_root, REAL_SAMPLE):
        truth = decode_all(path)
        video = probe(path)
        assert video.packets is not None or video.codec == "mpeg1video", path
        check(video, truth, requests(len(truth), random.Random(path.name), 2))


@pytest.mark.slow
def test_all_real_files(data_root: Path) -> None:
    files = real_files(data_root, REAL_ALL)
    assert len(files) >= 218 + 42 + 1 + 10
    for path in files:
        truth = decode_all(path)
        video = probe(path)
        assert video.packets is not None or video.codec == "mpeg1video", path
        check(video, truth, requests(len(truth), random.Random(path.name), 12))
