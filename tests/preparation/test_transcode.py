"""Transcoded videos show the same frames at the same times, near key frames."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from tests.videos import numbered_frames, read_number, write_video

from kinema.data.decoders import check_decoder, decoder
from kinema.data.decoding import Video, probe, read_frames
from kinema.data.frame_store import Files
from kinema.data.shards import Store
from kinema.data.sources import clip_reader, videos_read
from kinema.data.transcoded import damaged, videos
from kinema.preparation import transcode
from kinema.preparation.transcode import TranscodeSettings, transcode_videos
from kinema.sections import ClipsSection
from kinema.types import Clip, ConfigError, DataError, Preprocessing

FORM = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=(0, 0, 0), std=(1, 1, 1))
UNEVEN_S = [0.0, 0.1, 0.15, 0.4, 1.2, 1.25, 2.0]


def make(root: Path) -> dict[Path, Video]:
    root.mkdir()
    paths = [
        write_video(root / "a.avi", numbered_frames(40), fps=10, codec="mpeg4", options={"bf": "2", "g": "250"}),
        write_video(root / "b.mp4", numbered_frames(30), fps=29.97, options={"g": "250"}),
        write_video(root / "uneven.mp4", numbered_frames(7), fps=20, times_s=UNEVEN_S),
        write_video(root / "turned.mp4", numbered_frames(6, width_px=80), fps=25, rotation_deg=90),
        write_video(root / "odd.mkv", numbered_frames(5, width_px=65, height_px=49), fps=25, pix_fmt="yuv444p"),
    ]
    return {path: probe(path) for path in paths}


def keys(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert not container.streams.audio
    return [position for position, packet in enumerate(packets) if packet.is_keyframe]


def test_the_same_frames_at_the_same_times(tmp_path: Path) -> None:
    found = make(tmp_path / "data")
    done = transcode_videos(found, TranscodeSettings(key_every=8), tmp_path / "s", root=tmp_path / "data")
    assert (done.num_new, done.failures) == (5, {})
    store = Store.open(tmp_path / "s", kind="transcode")
    made, _ = videos(store, found, Files(tmp_path / "data"))
    for path, before in found.items():
        after = made[path]
        assert after.path.parent == tmp_path / "s" / "videos"
        assert np.array_equal(after.times_s, before.times_s)
        assert (after.duration_s, after.fps, after.rotation_deg) == (before.duration_s, before.fps, 0)
        assert abs(after.width_px - before.width_px) <= 1
        images = [read_frames(video, range(len(video.times_s))) for video in (before, after)]
        assert [read_number(image) for image in images[0]] == [read_number(image) for image in images[1]]
        rows, columns = after.height_px - 1, after.width_px - 1
        difference = [a[:rows, :columns].astype(float) - b[:rows, :columns] for a, b in zip(*images, strict=True)]
        if path.stem != "odd":  # which is scaled to even sides
            assert np.mean(np.square(difference)) < 255**2 / 10**3  # 30 dB
        distances = np.diff([*keys(after.path), len(after.times_s)])
        assert distances.max() <= 8
    assert damaged(store) == []
    assert len(keys(tmp_path / "data" / "b.mp4")) == 1


@pytest.mark.parametrize("colourspace", [1, 5])
def test_colours_stay(tmp_path: Path, colourspace: int) -> None:
    """BT.709, as large videos have it, and BT.601."""
    path = tmp_path / "colours.mp4"
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]], dtype=np.uint8)
    image = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, axis=0), 32, axis=1)
    options = {"colorspace": str(colourspace), "color_range": "1", "crf": "5"}
    write_video(path, [image] * 3, fps=25, options=options)
    found = {path: probe(path)}
    transcode_videos(found, TranscodeSettings(crf=5), tmp_path / "s", root=tmp_path)
    after = videos(Store.open(tmp_path / "s"), found, Files(tmp_path))[0][path]
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == colourspace
    (shown,), (stored,) = read_frames(found[path], [1]), read_frames(after, [1])
    for row, column in ((16, 16), (16, 48), (48, 16), (48, 48)):
        assert np.abs(shown[row, column].astype(int) - stored[row, column]).max() <= 6


def test_smaller_and_in_parts_and_again(tmp_path: Path) -> None:
    found = make(tmp_path / "data")
    settings = TranscodeSettings(short_side_px=32)
    num_new = [
        transcode_videos(found, settings, tmp_path / "s", root=tmp_path / "data", shard=(number, 2)).num_new
        for number in (1, 2, 1)
    ]
    assert num_new == [2, 3, 0]
    made, _ = videos(Store.open(tmp_path / "s"), found, Files(tmp_path / "data"))
    assert {(video.width_px, video.height_px) for video in made.values()} == {(42, 32), (32, 54)}
    assert not list((tmp_path / "s" / "videos").glob(".*"))
    with pytest.raises(DataError, match="was made with short_side_px = 32, not 40"):
        transcode_videos(found, TranscodeSettings(short_side_px=40), tmp_path / "s", root=tmp_path / "data")


def test_half_a_file_is_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make(tmp_path / "data")
    write = transcode._write

    def interrupted(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transcode, "_estimate", lambda *_: 0)
        patch.setattr(transcode, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=tmp_path / "data")
    assert not list((tmp_path / "s" / "videos").glob("[!.]*"))
    assert transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=tmp_path / "data").num_new == 5
    assert len(list((tmp_path / "s" / "videos").iterdir())) == 5


def test_a_video_that_does_not_decode_is_named(tmp_path: Path) -> None:
    found = make(tmp_path / "data")
    path = tmp_path / "data" / "b.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    done = transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=tmp_path / "data")
    assert done.num_new == 4
    assert list(done.failures) == [str(path)]


def test_clips_are_read_from_transcoded_videos(tmp_path: Path) -> None:
    found = make(tmp_path / "data")
    transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=tmp_path / "data")
    clips = [Clip(clip_id=path.stem, video=path) for path in found]
    section = ClipsSection(num_frames=4, size_px=32, store=tmp_path / "s")
    source = clip_reader(section, clips, found, {"rgb": FORM}, root=tmp_path / "data")
    assert source.clips == clips
    assert source.store is None
    assert all(source.videos[path].codec == "h264" for path in found)


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    found = make(tmp_path / "data")
    transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=tmp_path / "data")
    store = Store.open(tmp_path / "s")
    one, two = sorted((tmp_path / "s" / "videos").iterdir())[:2]
    one.write_bytes(one.read_bytes()[:-1] + b"?")
    two.unlink()
    assert {key.hex() for key in damaged(store)} == {one.stem, two.stem}


def broken_encoder(name: str) -> Callable[..., None]:
    """A hardware encoder that seems to work, and then does not."""

    def write(*arguments: object) -> None:
        if arguments[3] == "h264_nvenc":
            if name == "raises":
                raise av.FFmpegError(1, "no more sessions")
            if name == "crashes" and multiprocessing.parent_process() is not None:
                os._exit(1)
            raise AssertionError("encoded on hardware in the process that forks")
        WRITE(*arguments)  # type: ignore[arg-type]

    return write


WRITE = transcode._write


@pytest.mark.parametrize("how", ["raises", "crashes"])
def test_what_fails_on_hardware_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    found = make(tmp_path / "data")
    monkeypatch.setattr(transcode, "encoder", lambda: "h264_nvenc")
    monkeypatch.setattr(transcode, "_write", broken_encoder(how))
    done = transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=tmp_path / "data")
    assert (done.num_new, done.failures) == (5, {})
    store = Store.open(tmp_path / "s")
    assert {store.meta(key)["encoder"] for key in store} == {"libx264"}
    said = [message for message in caplog.messages if "h264_nvenc fails" in message]
    assert said == ["h264_nvenc fails; what it fails on is encoded by libx264"]


@pytest.mark.parametrize("how", ["does not", "crashes", "works"])
def test_a_hardware_encoder_is_tried_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def tried(_name: str) -> bool:
        assert multiprocessing.parent_process() is not None
        if how == "crashes":
            os._exit(1)
        return how == "works"

    monkeypatch.setattr(transcode, "_HARDWARE", ("libx265",))  # that one is there everywhere
    monkeypatch.setattr(transcode, "_encodes", tried)
    assert transcode.encoder() == ("libx265" if how == "works" else "libx264")


def test_a_decoder_has_to_be_right_on_what_is_read(tmp_path: Path) -> None:
    """Not on the originals: torchcodec is refused for AVI, and reads what was made of it."""
    try:
        decoder("torchcodec")
    except ConfigError as error:
        pytest.skip(str(error))
    root = tmp_path / "data"
    found = {path: video for path, video in make(root).items() if path.suffix == ".avi"}
    transcode_videos(found, TranscodeSettings(key_every=8), tmp_path / "s", root=root)
    clips = [Clip(clip_id="a", video=path, labels={"action": 0}) for path in found]
    for store in ("none", "auto", tmp_path / "s"):
        section = ClipsSection(decoder="torchcodec", store=store)
        files = videos_read(section, clips, found, root=root)
        if isinstance(store, Path):
            assert [file.path.suffix for file in files] == [".mp4"]
            check_decoder("torchcodec", files)
        else:
            with pytest.raises(DataError, match=r"a\.avi: clips\.decoder=torchcodec is refused"):
                check_decoder("torchcodec", files)


def test_a_disk_that_failed_once_is_no_fact_about_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    root.mkdir()
    path = write_video(root / "a.mp4", numbered_frames(6), fps=25)
    found = {path: probe(path)}

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(transcode, "_write", fail)
        first = transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=root, workers=0)
    assert (first.num_new, list(first.failures)) == (0, [str(path)])
    again = transcode_videos(found, TranscodeSettings(), tmp_path / "s", root=root, workers=0)
    assert (again.num_before, again.num_new, again.failures) == (0, 1, {})
