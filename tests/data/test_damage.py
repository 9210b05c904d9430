"""Damaged files give the frames of a full sequential decode, or an error: property tests over random damage."""

from __future__ import annotations

import random
from pathlib import Path

import av
import pytest
from tests.exactness import Pixels, moving_frames, pixels_of
from tests.videos import write_video

from kinema.data.checking import check_videos
from kinema.data.containers import Reading, opened
from kinema.data.decoding import probe, take_frames
from kinema.data.probing import probe_all
from kinema.data.video import Video
from kinema.types import DataError

X265 = "log-level=none:pools=none:frame-threads=1"
MADE: dict[str, dict[str, object]] = {
    "h264.mp4": {"options": {"bf": "3", "g": "24"}},
    "open.mkv": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}},
    "cavlc.mp4": {"options": {"x264-params": "cabac=0:keyint=24:bframes=2"}},
    "hevc.mkv": {"codec": "libx265", "options": {"x265-params": f"keyint=24:bframes=4:b-adapt=0:{X265}"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "g": "20"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "g": "20"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
NUM_FRAMES = 70


@pytest.fixture(scope="module", params=MADE)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / request.param
    frames = moving_frames(NUM_FRAMES, 96, 64)
    return write_video(path, frames, fps=25, **MADE[request.param])  # type: ignore[arg-type]


def packets(path: Path) -> list[tuple[int, int]]:
    """Where each lies in the file, and how long it is."""
    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


def damaged(path: Path, places: list[tuple[int, int]], target: Path, rng: random.Random) -> Path:
    """A copy with bits that are flipped, or with noise or zeros in some packets, or in place of some."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "noise", "zeros", "lost"])
    for _ in range(rng.choice([1, 1, 2, 4])):
        position, size = rng.choice(places)
        start = position if kind == "lost" else position + rng.randrange(size)
        num = {"flip": 1, "noise": rng.choice([2, 8, 64]), "zeros": rng.choice([2, 16, 64, 512]), "lost": size}[kind]
        num = min(num, len(content) - start)
        if kind == "flip":
            content[start] ^= 1 << rng.randrange(8)
        else:
            content[start : start + num] = rng.randbytes(num) if kind == "noise" else bytes(num)
    target.write_bytes(content)
    return target


def sequential(path: Path) -> list[Pixels]:
    """Not the frames themselves: where a damaged picture is not painted, there is what its memory held before."""
    with opened(path) as (container, stream):
        return [pixels_of(frame) for frame in Reading(container, stream).frames()]


def requests(video: Video, rng: random.Random) -> list[list[int]]:
    num = len(video.times_s)
    return [sorted(rng.sample(range(num), min(num, rng.choice([1, 1, 3, 8])))) for _ in range(8)]


@pytest.mark.parametrize("seed", range(3))
def test_after_a_deep_check_frames_are_those_of_a_sequential_decode(whole: Path, tmp_path: Path, seed: int) -> None:
    places = packets(whole)
    copies = [
        damaged(whole, places, tmp_path / f"{number}{whole.suffix}", random.Random(f"{whole.name}{seed}{number}"))
        for number in range(8)
    ]
    check_videos(copies, deep=True, workers=0, index=tmp_path / "index")
    num_read = 0
    for path, video in probe_all(copies, workers=0, index=tmp_path / "index").items():
        if isinstance(video, DataError):
            continue
        truth = sequential(path)
        assert len(video.times_s) == len(truth), path
        for asked in requests(video, random.Random(path.name)):
            for index, found in zip(asked, take_frames(video, asked, pixels_of), strict=True):
                assert found.planes == truth[index].planes, f"{path}: frame {index} of {asked}"
        num_read += 1
    assert num_read > 0


def test_damage_is_kept_in_the_index(tmp_path: Path) -> None:
    """Noise in a picture that no other needs: its headers are as they should be."""
    options = {"x264-params": "cabac=0:bframes=2"}  # whose codes are not all taken, unlike those of arithmetic coding
    path = write_video(tmp_path / "a.mp4", moving_frames(40, 192, 128), fps=25, options=options)
    video = probe(path)
    assert video.packets is not None
    index = video.packets.load()
    assert index is not None
    # Behind the frames that are decoded in any case.
    packet = 20 + int(index.droppable[20:].argmax())
    whole, num = path.read_bytes(), int(index.sizes[packet]) // 2
    start = int(index.positions[packet]) + num
    for seed in range(20):  # not all noise is against the rules of the codes
        noise = random.Random(seed).randbytes(num)
        path.write_bytes(whole[:start] + noise + whole[start + num :])
        [before] = probe_all([path], workers=0, index=tmp_path).values()
        assert isinstance(before, Video)
        assert (before.damaged, before.packets is None) == (False, False)
        [checked] = check_videos([path], deep=True, workers=0, index=tmp_path).values()
        if checked.damaged:
            break
    assert checked.damaged
    [after] = probe_all([path], workers=0, index=tmp_path).values()
    assert checked.video is not None
    assert isinstance(after, Video)
    for found in (checked.video, after):
        assert (found.damaged, found.packets, found.first_pts) == (True, None, None)


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mkv"])
@pytest.mark.parametrize("num", [3, 40])
def test_a_hole_in_a_picture_is_noticed_without_decoding(
    tmp_path: Path, name: str, num: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a download that reserved its room."""
    path = write_video(tmp_path / name, moving_frames(40, 192, 128), fps=25, **MADE[name])  # type: ignore[arg-type]
    position, size = max(packets(path)[10:], key=lambda packet: packet[1])
    assert num < size // 3
    content = bytearray(path.read_bytes())
    start = position + size - size // 3
    content[start : start + num] = bytes(num)
    path.write_bytes(content)
    with caplog.at_level("DEBUG", logger="kinema"):
        probe(path)
    assert "doubt: a picture with a hole in it" in caplog.text
