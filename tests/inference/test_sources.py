"""What gives pictures: files as probing knows them, streams from a server of this machine, and cameras that are not
there."""

from __future__ import annotations

import os
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.decoded import MADE, Make, made_in
from tests.inference.streams import MJPEG, RATE, live, motion_jpeg, transport_stream
from tests.loopback import Site, dead_address, serving, status, whole
from tests.packed_avi import write_packed_avi
from tests.videos import numbered_frames, read_number, write_video

from kinema.data.decoding import probe, read_frames
from kinema.inference import cameras, live_sources
from kinema.inference.live_sources import Arrivals, CameraSource, LiveFeed, StreamSource, source_of, without_password
from kinema.inference.live_types import Picture
from kinema.inference.sources import BrokenPictureError, Feed, FileSource, LostError, Pace, Source
from kinema.inference.watch_drawing import Rgb
from kinema.types import DataError


@contextmanager
def opened(source: Source, stop: threading.Event | None = None) -> Iterator[Feed]:
    feed = source.open(stop or threading.Event())
    try:
        yield feed
    finally:
        feed.close()


def pictures(source: Source, *, most: int = 10_000) -> list[Picture]:
    found: list[Picture] = []
    with opened(source) as feed:
        while len(found) < most and (picture := feed.read()) is not None:
            found.append(picture)
    return found


def to_end(feed: Feed, found: list[Picture] | None = None) -> tuple[list[Picture], str]:
    """Pictures up to where it is lost, behind those that were found, and why it is."""
    found = [] if found is None else found
    while True:
        try:
            picture = feed.read()
        except LostError as error:
            return found, str(error)
        assert picture is not None, "it has no end"
        found.append(picture)


def numbers(found: list[Picture]) -> list[int]:
    rgb = Rgb()
    return [read_number(rgb(picture)) for picture in found]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return made_in(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        yield made


# What a command line names


def test_numbers_addresses_and_files(tmp_path: Path) -> None:
    camera = source_of("0")
    assert isinstance(camera, CameraSource)
    assert (camera.index, camera.name) == (0, "camera 0")
    assert source_of("/dev/video2").name == "camera 2"
    file = source_of(str(tmp_path / "0"))
    assert isinstance(file, FileSource)
    assert file.waits
    assert not file.is_live
    assert not source_of("clip.mp4", realtime=True).waits
    for address in ("rtsp://10.0.0.7/stream", "http://10.0.0.7:8080/video", "udp://239.0.0.1:1234"):
        stream = source_of(address)
        assert isinstance(stream, StreamSource)
        assert (stream.name, stream.is_live, stream.waits) == (address, True, False)


def test_addresses_of_other_kinds_are_refused() -> None:
    with pytest.raises(DataError, match=r"^ftp://a/b: ftp is no kind of address that is known; known: rtsp, rtsps, "):
        source_of("ftp://a/b")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:pass@host:554/a?b=c", "rtsp://user:***@host:554/a?b=c"),
        ("rtsp://user@host/a", "rtsp://user@host/a"),
        ("http://host/a@b:c", "http://host/a@b:c"),
        ("rtsp://user:p@ss@host/a", "rtsp://user:***@host/a"),
        ("http://[host/a", "http://[host/a"),
        ("http://[fe80::1]:80/a@b", "http://[fe80::1]:80/a@b"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("rstp://user:secret@h/x", "rstp://user:***@h/x"),
        ("rtsp://user:se[cret@h", "rtsp://user:***@h"),
        ("rtsp://user:se#cret@h/x", "rtsp://user:***@h/x"),
        ("rtsp://user:se/cret@h/x", "rtsp://user:***@h/x"),
        ("rtsp://user:se?cr:et@h:554/x", "rtsp://user:***@h:554/x"),
        ("rtsp://a@b.c:se/cret@h/x", "rtsp://a@b.c:***@h/x"),
        ("rtsp://:secret@h/x", "rtsp://:***@h/x"),
        ("http://h/x?user=a&pwd=secret&b=c", "http://h/x?user=a&pwd=***&b=c"),
        ("http://h/x?Password=se#cret", "http://h/x?Password=***"),
        ("http://h/x?passwd=a@b&access_token=c", "http://h/x?passwd=***&access_token=***"),
        ("rtsp://h:554/user=a&password=secret&channel=1", "rtsp://h:554/user=a&password=***&channel=1"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_mistyped_addresses_are_refused_without_their_passwords() -> None:
    for address in ("rstp://user:sesame@h/x", "rstp://h/x?user=a&pwd=sesame"):
        with pytest.raises(DataError, match=r"^rstp://.*\*\*\*.*: rstp is no kind of address") as caught:
            source_of(address)
        assert "sesame" not in str(caught.value)
    for address in ("rtsp://user:sesame[@h\x00", "rtsp://user:ses#sesame@127.0.0.1:1/x"):
        with pytest.raises(DataError, match="cannot be opened") as caught:
            source_of(address).open(threading.Event())
        assert "sesame" not in str(caught.value)


# Files


@pytest.mark.parametrize("name", MADE)
def test_times_and_pictures_are_those_of_probing(name: str, make: Make) -> None:
    path = make(name)
    found = pictures(FileSource(path))
    video = probe(path)
    assert [picture.time_s for picture in found] == video.times_s.tolist()
    assert found[-1].stop_s == pytest.approx(video.duration_s, abs=0.05)
    rgb = Rgb()
    for picture, image in zip(found, read_frames(video, range(len(found))), strict=True):
        assert np.array_equal(rgb(picture), image)


def test_packed_frames_of_an_avi_are_counted_as_they_decode(tmp_path: Path) -> None:
    path = tmp_path / "packed.avi"
    write_packed_avi(path, numbered_frames(20), num_b=2, group=6)
    found = pictures(FileSource(path))
    assert [picture.time_s for picture in found] == probe(path).times_s.tolist()
    assert numbers(found) == list(range(len(found)))


def test_real_files(data_root: Path) -> None:
    """All that are of odd kinds, and one of each collection."""
    paths = [path for path in sorted((data_root / "edge_cases").iterdir()) if path.suffix in (".mp4", ".avi", ".webm")]
    paths += [min((data_root / name).rglob("*.avi")) for name in ("ut_interaction", "hmdb51", "ucf101")]
    assert len(paths) > 8
    for path in paths:
        video = probe(path)
        with opened(FileSource(path)) as feed:
            assert feed.size_px == (video.width_px, video.height_px), path
            times_s = []
            while (picture := feed.read()) is not None:
                times_s.append(picture.time_s)
                assert picture.orientation == video.orientation
        assert times_s == video.times_s.tolist(), path


def test_a_file_is_played_as_fast_as_it_was_made(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(12), fps=20)
    began_s = time.monotonic()
    found = pictures(FileSource(path, realtime=True))
    assert time.monotonic() - began_s > 0.53
    assert numbers(found) == list(range(12))
    # When they were due, not when there was time for them.
    steps_s = np.diff([picture.captured_s for picture in found])
    assert steps_s == pytest.approx([0.05] * 11, abs=0.01)


def test_a_recording_that_is_late_by_much_is_set_back() -> None:
    """Else its delay would grow for ever where decoding is slower than playing."""
    pace = Pace(threading.Event())
    first_s = pace.wait(0.0)
    time.sleep(0.3)
    assert pace.wait(0.1) == first_s + 0.1  # late, and its delay is to be seen
    time.sleep(0.6)
    assert pace.wait(0.2) == pytest.approx(time.monotonic(), abs=0.4)
    assert pace.wait(0.25) == pytest.approx(time.monotonic(), abs=0.4)


def test_what_is_not_due_is_not_waited_for_when_it_is_to_stop(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(2), fps=1, times_s=[0.0, 60.0])
    stop = threading.Event()
    with opened(FileSource(path, realtime=True), stop) as feed:
        assert feed.read() is not None
        threading.Timer(0.1, stop.set).start()
        began_s = time.monotonic()
        assert feed.read() is None
        assert time.monotonic() - began_s < 5


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("text")
    (tmp_path / "still.png").write_bytes(b"x")
    for name, words in {
        "nowhere.mp4": "no such file",
        "empty.mp4": r"empty \(0 bytes\)",
        "text.mp4": "not a video that FFmpeg can read",
        "still.png": "a still image, which there is nothing to watch in; use kinema predict",
        ".": "a folder; give a video file, an address or the number of a camera",
    }.items():
        with pytest.raises(DataError, match=words):
            FileSource(tmp_path / name).open(threading.Event())


# Streams


def test_a_stream_is_read_as_it_comes(site: Site) -> None:
    site.pages["/live.ts"] = live(transport_stream(90))
    source = source_of(f"{site.url}/live.ts")
    with opened(source) as feed:
        found, why = to_end(feed)
    assert why in ("the stream has ended", "the connection broke off")
    shown = numbers(found)
    assert shown == list(range(shown[0], shown[0] + len(shown)))
    assert len(shown) > 30
    times_s = [picture.time_s for picture in found]
    assert times_s[0] == 0
    assert np.all(np.diff(times_s) > 0)
    # Its timestamps say when pictures were made, evenly, however they were held up on their way.
    assert np.median(np.abs(np.diff(times_s[len(times_s) // 2 :]) - 1 / RATE)) < 1e-3
    now_s = time.monotonic()
    assert all(picture.captured_s <= now_s for picture in found)


def test_motion_jpeg_has_no_times_but_those_of_its_arrival(site: Site) -> None:
    site.pages["/mjpeg"] = live(motion_jpeg(40), fps=10, kind=MJPEG)
    with opened(source_of(f"{site.url}/mjpeg")) as feed:
        found, _ = to_end(feed)
    shown = numbers(found)
    assert shown == list(range(shown[0], 40))
    steps_s = np.diff([picture.time_s for picture in found])[-20:]
    assert np.median(steps_s) == pytest.approx(0.1, abs=0.02)  # its demuxer would say 0.04
    assert found[-1].duration_s == pytest.approx(0.1, abs=0.03)


def test_one_late_picture_does_not_make_those_behind_it_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mkv", numbered_frames(40), fps=30, options={"tune": "zerolatency"})
    feed = LiveFeed(Hesitant(path), CameraSource(0), threading.Event(), timed=False)  # type: ignore[arg-type]
    came_s = [number / 30 + (1.0 if number >= 30 else 0.0) for number in range(40)]
    clock_s = iter(came_s)
    decode = feed._decode
    monkeypatch.setattr(feed, "_decode", lambda packet, _now_s: decode(packet, next(clock_s)))
    found = [feed.read() or pytest.fail("it has no end") for _ in range(40)]
    feed.close()
    assert [picture.duration_s for picture in found] == pytest.approx([1 / 30] * 40, abs=1e-3)


def test_a_file_on_a_server_has_an_end_and_is_played(site: Site, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(20), fps=20, muxer_options={"movflags": "faststart"})
    site.pages["/a.mp4"] = whole(path.read_bytes())
    began_s = time.monotonic()
    found = pictures(source_of(f"{site.url}/a.mp4"))
    assert time.monotonic() - began_s > 0.9
    assert numbers(found) == list(range(20))


def test_a_stream_that_falls_silent_is_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_sources, "SILENT_S", 0.5)
    over = threading.Event()
    site.pages["/live.ts"] = live(transport_stream(60), until=over.is_set)
    with opened(source_of(f"{site.url}/live.ts")) as feed:
        found, why = to_end(feed)
        over.set()
    assert why == "nothing came for 0.5 s"
    assert len(found) > 10


def test_a_stream_that_comes_back_goes_on_in_time(site: Site) -> None:
    site.pages["/live.ts"] = live(transport_stream(45))
    source = source_of(f"{site.url}/live.ts")
    times_s: list[float] = []
    for _ in range(2):
        with opened(source) as feed:
            times_s += [picture.time_s for picture in to_end(feed)[0]]
    assert np.all(np.diff(times_s) > 0)
    assert times_s[-1] > 1.5


def broken(pieces: list[bytes], first: int, last: int, *, from_byte: int, every: int) -> list[bytes]:
    """The same with noise in some of them."""
    rng = np.random.default_rng(0)
    found = list(pieces)
    for number in range(first, last):
        noisy = bytearray(found[number])
        for place in range(len(noisy) - 2):
            if place % every >= from_byte:
                noisy[place] = rng.integers(256)
        found[number] = bytes(noisy)
    return found


def test_noise_in_a_stream_does_not_end_it(site: Site) -> None:
    site.pages["/live.ts"] = live(broken(transport_stream(90), 50, 56, from_byte=40, every=188))
    found: list[Picture] = []
    with opened(source_of(f"{site.url}/live.ts")) as feed:
        while True:
            try:
                to_end(feed, found)
                break
            except BrokenPictureError:  # it may be concealed, too
                continue
    assert numbers(found[-1:]) == [89]


def test_broken_pictures_are_told_of_and_the_stream_goes_on(site: Site) -> None:
    site.pages["/mjpeg"] = live(broken(motion_jpeg(60), 30, 35, from_byte=100, every=10**6), kind=MJPEG)
    found: list[Picture] = []
    num_broken = 0
    with opened(source_of(f"{site.url}/mjpeg")) as feed:
        while True:
            try:
                to_end(feed, found)
                break
            except BrokenPictureError:
                num_broken += 1
    assert num_broken > 0  # of others something decodes
    assert numbers(found[-20:]) == list(range(40, 60))


def test_addresses_that_give_nothing(site: Site, tmp_path: Path) -> None:
    site.pages["/closed"] = status(401, then=whole(b""))
    site.pages["/page"] = whole(b"<html>a page</html>" * 100)
    for address, words in {
        f"{dead_address()}/a": r"cannot be opened \(Connection refused\); is the address right, and the camera on\?",
        f"{site.url}/nowhere": r"cannot be opened \(.*404.*\)",
        f"{site.url}/closed": r"it asks for a user and a password; give them as in rtsp://USER:PASSWORD@HOST/",
        f"{site.url}/page": "cannot be opened",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            source_of(address).open(threading.Event())
        assert str(caught.value).startswith(address)


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setattr(live_sources, "OPEN_S", 0.5)
    over = threading.Event()
    site.pages["/live.ts"] = live([], until=over.is_set)
    with pytest.raises(DataError, match=r"nothing came within 0\.5 s; is the address right, and the camera on\?"):
        source_of(f"{site.url}/live.ts").open(threading.Event())
    over.set()


def test_what_has_no_video_is_refused(site: Site, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    site.pages["/a.wav"] = whole((tmp_path / "a.wav").read_bytes())
    with pytest.raises(DataError, match="there is no video in it that FFmpeg can decode"):
        source_of(f"{site.url}/a.wav").open(threading.Event())


# Delays on the way


def test_delays_on_the_way_are_seen() -> None:
    arrivals = Arrivals()
    now_s = 100.0
    assert arrivals.take(0.0, now_s) == 0
    assert arrivals.take(1.0, now_s + 1.5) == pytest.approx(0.5, abs=1e-3)
    assert arrivals.captured_s(1.0) == pytest.approx(now_s + 1.0, abs=1e-3)
    # What was held up at the beginning: the quickest way is known later.
    assert arrivals.take(2.0, now_s + 1.8) == 0
    assert arrivals.captured_s(2.0) == pytest.approx(now_s + 1.8)


def test_clocks_that_drift_are_no_delay_and_a_queue_that_grows_is() -> None:
    slow, queue = Arrivals(), Arrivals()
    for number in range(108_000):
        pts_s = number / 30
        assert slow.take(pts_s, 1.0001 * pts_s) < 0.02
        late_s = queue.take(pts_s, 1.001 * pts_s)
    assert late_s > 2


def test_timestamps_that_begin_anew_are_no_delay() -> None:
    arrivals = Arrivals()
    for number in range(100):
        arrivals.take(1000 + number / 30, number / 30)
    assert arrivals.take(0.0, 100 / 30) == 0
    assert arrivals.take(1 / 30, 101 / 30) == pytest.approx(0, abs=1e-6)


def test_a_reader_that_is_late_leaves_out_pictures_up_to_a_key_frame(site: Site) -> None:
    """It sleeps, as one would whose decoder is too slow; the stream goes on without it."""
    site.pages["/live.ts"] = live(transport_stream(180))
    found: list[Picture] = []
    delays_s: list[float] = []
    with opened(source_of(f"{site.url}/live.ts")) as feed:
        feed.read()
        time.sleep(2.0)
        with pytest.raises(LostError):  # noqa: PT012
            while True:
                picture = feed.read()
                assert picture is not None
                found.append(picture)
                delays_s.append(time.monotonic() - picture.captured_s)
        assert feed.skipped > 20
    assert max(delays_s) > 1
    assert max(delays_s[-20:]) < 0.5
    assert np.all(np.diff(numbers(found)) > 0)  # and none is broken by what is missing


# Cameras


def test_a_camera_that_is_not_there() -> None:
    if os.path.exists("/dev/video97"):  # noqa: PTH110
        pytest.skip("this machine has many cameras")
    with pytest.raises(
        DataError, match=r"^camera 97: there is no /dev/video97; kinema watch --list shows what cameras there are$"
    ):
        CameraSource(97).open(threading.Event())


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev, in which files are devices that give no pictures."""
    monkeypatch.setattr(cameras, "_DEV", tmp_path)
    (tmp_path / "video0").write_bytes(b"no camera")
    return tmp_path


def test_a_device_that_is_no_camera(devices: Path) -> None:
    with pytest.raises(DataError, match=r"^camera 0: it gives no pictures \(.+\); kinema watch --list shows"):
        CameraSource(0).open(threading.Event())


def test_a_camera_without_permission(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # who runs tests may be root
    with pytest.raises(DataError, match=r"^camera 0: no permission to use .*video0; join the group that may"):
        CameraSource(0).open(threading.Event())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (av.error.PermissionError(13, "Permission denied"), "no permission to use it; "),
        (av.error.OSError(16, "Device or resource busy"), "another program uses it; end that program first"),
        (av.error.ExitError(1, "Immediate exit requested"), "it gave no picture within 10 s; is it plugged in well"),
    ],
)
def test_cameras_that_cannot_be_used(
    error: Exception, words: str, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(DataError, match=rf"^camera 0: {words}"):
        CameraSource(0).open(threading.Event())


class Hesitant:
    """A container that has nothing again and again, as a camera that is asked more often than it has pictures."""

    def __init__(self, path: Path, *, for_ever_from: int | None = None) -> None:
        self._container = av.open(str(path))
        self._packets: Any = self._container.demux(video=0)
        self._for_ever_from = for_ever_from
        self._asked = 0
        self.num_given = 0
        self.format, self.streams, self.duration = self._container.format, self._container.streams, None

    def demux(self, _stream: object) -> Iterator[Any]:
        while True:
            self._asked += 1
            silent = self._for_ever_from is not None and self.num_given >= self._for_ever_from
            if silent or self._asked % 3:
                raise av.error.BlockingIOError(11, "Resource temporarily unavailable")
            self.num_given += 1
            yield next(self._packets)

    def close(self) -> None:
        self._container.close()


def test_a_camera_that_has_nothing_yet_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mkv", numbered_frames(20), fps=30, options={"tune": "zerolatency"})
    monkeypatch.setattr(live_sources, "SILENT_S", 0.3)
    feed = LiveFeed(Hesitant(path), CameraSource(0), threading.Event(), timed=True)  # type: ignore[arg-type]
    found = [feed.read() or pytest.fail("it has no end") for _ in range(20)]
    assert numbers(found) == list(range(20))
    feed.close()
    silent = LiveFeed(
        Hesitant(path, for_ever_from=5),  # type: ignore[arg-type]
        CameraSource(0),
        threading.Event(),
        timed=True,
    )
    found, why = to_end(silent)
    assert (len(found), why) == (5, "no picture for 0.3 s")
    silent.close()


def test_cameras_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, devices = tmp_path / "sys", tmp_path / "dev"
    devices.mkdir()
    for number, name in ((0, "Integrated Camera"), (1, "Integrated Camera"), (2, "USB Camera"), (10, "Gone")):
        (kernel / f"video{number}").mkdir(parents=True)
        (kernel / f"video{number}" / "name").write_text(f"{name}\n")
        if number != 10:
            (devices / f"video{number}").touch()
    captures = {"video0": 0x1, "video1": 0x00A00000, "video2": 0x1000}
    found = cameras.linux_cameras(kernel, devices, lambda place: captures[place.name])
    assert [(camera.index, camera.name) for camera in found] == [
        (0, "Integrated Camera"),
        (2, "USB Camera"),
        (10, "Gone"),
    ]
    assert found[1].place == str(devices / "video2")
    assert [camera.problem is None for camera in found] == [True, True, False]
    assert cameras.linux_cameras(tmp_path / "nothing", devices) == []


def test_devices_that_do_not_answer_are_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "video0").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video0").touch()
    (camera,) = cameras.linux_cameras(tmp_path, tmp_path / "dev")
    assert camera.problem == "Inappropriate ioctl for device"
    assert camera.name == "video0"
