"""Timestamps are believed as far as they say what comes out of a decoder, wherever in a file they err."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from tests.exactness import check, decode_all, moving_frames, requests

from kinema.data import h264
from kinema.data.bits import Bits
from kinema.data.decoding import probe
from kinema.data.nal_units import listed, unescaped

NUM_FRAMES = 70
X265 = "log-level=none:pools=none:frame-threads=1"

# How a video is encoded: with pictures out of order, and without.
ENCODED: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"bf": "3", "g": "24"}),
    "h264_open": ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}),
    "h264_in_order": ("libx264", {"bf": "0"}),
    "hevc": ("libx265", {"x265-params": f"keyint=24:bframes=4:b-adapt=0:{X265}"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "g": "20"}),
    "av1": ("libsvtav1", {"preset": "12", "g": "20"}),
}

# Frames by which display lags behind decoding: so that no time is before that of decoding, whatever is made of it.
LAG = 100


def swapped(times: list[int]) -> list[int]:
    """Two frames far behind the first ones have each other's times."""
    times[50], times[51] = times[51], times[50]
    return times


def far_apart(times: list[int]) -> list[int]:
    times[30], times[61] = times[61], times[30]
    return times


def reversed_end(times: list[int]) -> list[int]:
    return times[:60] + times[60:][::-1]


def as_decoded(times: list[int]) -> list[int]:
    """What a program writes that believes that frames are displayed as they are decoded, from a place on."""
    return times[:45] + sorted(times[45:])


def doubled(times: list[int]) -> list[int]:
    times[55] = times[54]
    return times


ERRORS = [swapped, far_apart, reversed_end, as_decoded, doubled]


def write(path: Path, name: str, change: Callable[[list[int]], list[int]]) -> Path:
    """Encode a video; `change` is given the times of its packets, in decode order."""
    codec, options = ENCODED[name]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"threads": "1", **options})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        packets: list[Packet[VideoStream]] = []
        for i, image in enumerate(moving_frames(NUM_FRAMES, 96, 64)):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet, pts in zip(packets, change([packet.pts or 0 for packet in packets]), strict=True):
            packet.pts = pts + LAG
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", ENCODED)
def test_frames_come_in_the_order_in_which_they_decode(
    tmp_path: Path,
    name: str,
    error: Callable[[list[int]], list[int]],
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = write(tmp_path / f"a.{suffix}", name, error)
    truth = decode_all(path)
    assert len(truth) == NUM_FRAMES
    with caplog.at_level("DEBUG", logger="kinema"):
        video = probe(path)
    check(video, truth, requests(len(truth), random.Random(name), 8))
    times = [frame.pts or 0 for frame in truth]
    if all(a < b for a, b in pairwise(times)):  # as decoded, of what decodes in order
        assert error is as_decoded
        assert caplog.text == ""
        return
    assert video.times_s.tolist() == [i / 25 for i in range(NUM_FRAMES)]
    assert "decoded in full, as its packets leave a doubt: timestamps" in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("name", ENCODED)
def test_good_timestamps_leave_no_doubt(
    tmp_path: Path, name: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / f"a.{suffix}", name, lambda times: times)
    with caplog.at_level("DEBUG", logger="kinema"):
        video = probe(path)
    assert caplog.text == ""
    assert video.packets is not None
    check(video, decode_all(path), requests(NUM_FRAMES, random.Random(name), 6))


def test_a_decoder_that_does_not_expect_pictures_out_of_order_drops_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """H.264 that does not say how far pictures are out of order, and where they are so only from far behind on."""
    path = tmp_path / "late.mkv"
    options = {"threads": "1", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:keyint=1000:scenecut=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i, image in enumerate(moving_frames(150, 96, 64)):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            if i < 100:
                frame.pict_type = PictureType.P
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata or b""
    [sequence], _ = listed(extradata, 6, 1)
    content = path.read_bytes()
    assert content.count(sequence) == 1
    path.write_bytes(content.replace(sequence, without_usability(sequence)))
    truth = decode_all(path)
    assert len(truth) == 149
    with caplog.at_level("DEBUG", logger="kinema"):
        video = probe(path)
    assert "doubt: pictures further out of order than a decoder expects" in caplog.text
    check(video, truth, requests(len(truth), random.Random(0), 12))


def without_usability(unit: bytes) -> bytes:
    """A sequence parameter set without what stands at its end: usability information (ITU-T H.264, annex E)."""
    content = unescaped(unit[1:])
    bits = Bits(content)
    assert h264._sequence(bits).frames_only
    bits.read(1)
    if bits.read(1):
        for _ in range(4):
            bits.ue()
    written = "".join(f"{byte:08b}" for byte in content)[: bits.position] + "01"
    written += "0" * (-len(written) % 8)
    shorter = int(written, 2).to_bytes(len(written) // 8, "big")
    assert b"\x00\x00" not in shorter
    return (unit[:1] + shorter).ljust(len(unit), b"\x00")


def test_times_that_a_video_lost_are_made_up_from_its_rate(tmp_path: Path) -> None:
    video = probe(write(tmp_path / "a.mkv", "h264", swapped))
    assert video.first_pts is None
    assert np.allclose(np.diff(video.times_s), 0.04)
    assert replace(video, packets=None).frames_at([0.0, 1.0, 2.0]).tolist() == [0, 25, 50]
