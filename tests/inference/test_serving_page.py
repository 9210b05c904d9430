"""The page in a real browser, with a file as its camera."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Browser, chromium
from tests.inference.served import HEADS, QUICK, Brightness, in_thread, levels, make_weights
from tests.videos import write_video

import kinema
from kinema.data.decoding import probe, read_frames
from kinema.inference.live_settings import LiveSection
from kinema.inference.recogniser import Recogniser
from kinema.inference.serving.server import Place
from kinema.inference.serving.service import Limits, Service, opened

LIMITS = Limits(upload_bytes=300_000, num_live=2)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return kinema.load(make_weights(tmp_path_factory.mktemp("weights") / "brightness"), device="cpu")


@pytest.fixture(scope="module")
def service(recogniser: Recogniser) -> Iterator[Service]:
    with opened(recogniser, name="brightness", live=QUICK, limits=LIMITS, follower=Brightness) as service:
        yield service
    assert not service.folder.exists()


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with in_thread(service) as url:
        yield url


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose camera shows 2 s of darkness, 2 s of light, and so on."""
    folder = tmp_path_factory.mktemp("camera")
    camera = write_video(folder / "camera.y4m", levels((20, 2.0), (235, 2.0)), fps=15, codec="wrapped_avframe")
    with chromium(folder / "profile", camera=camera) as browser:
        yield browser


@pytest.fixture
def page(window: Browser, url: str) -> Iterator[Browser]:
    window.look()
    window.open(url)
    wait(lambda: text(window, "#name") == "brightness")
    yield window
    window.open("about:blank")


def text(browser: Browser, selector: str) -> str:
    return str(browser.script("return document.querySelector(arguments[0]).textContent", selector))


def wait(holds: Callable[[], Any], *, timeout_s: float = 30) -> None:
    ends_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_s, holds
        time.sleep(0.05)


def test_a_camera_is_watched(page: Browser, service: Service) -> None:
    assert text(page, "#now") == "not watching"
    assert text(page, "#facts") == "action: 3 classes \u00b7 place: 2 classes"
    page.click(page.one("#start"))
    wait(lambda: text(page, "#now") in ("dark inside", "bright inside"))
    assert page.texts("#bars h3") == ["action", "place"]
    assert len(page.all("#bars .row")) == 5
    wait(lambda: len(page.all("#events li")) >= 2)
    seen = page.texts("#events .what")
    assert set(seen) == {"dark inside", "bright inside"}
    assert all(one != other for one, other in pairwise(seen))
    assert re.fullmatch(r"\d:\d\d\.\d to \d:\d\d\.\d", page.texts("#events .when")[0])
    assert re.fullmatch(r"\d+\.\d\xa0%", page.texts("#events .sure")[0])
    assert len(page.all("#timeline .inner")) >= 2
    assert "bright inside" in str(page.one("#timeline").get_attribute("aria-label"))
    wait(lambda: re.fullmatch(r"\d+\xa0ms", text(page, "#delay")) is not None)
    # A follower that computes next to nothing leaves the way there and back; machines that run tests may be busy.
    assert int(text(page, "#delay").removesuffix("\xa0ms")) < 5000
    wait(lambda: float(text(page, "#rate")) > 0 and float(text(page, "#camera-rate")) > 0)
    assert re.fullmatch(r"[\d,]+", text(page, "#left-out"))
    labels = page.script("return [...document.querySelectorAll('#camera option')].map((each) => each.textContent)")
    assert labels[0].endswith("camera.y4m")  # Chromium's name for it
    assert service.num_live == 1
    page.click(page.one("#pause"))
    wait(lambda: text(page, "#now") == "paused")
    num_paused = len(page.all("#events li"))
    assert text(page, "#start") == "Go on"
    page.click(page.one("#start"))
    wait(lambda: len(page.all("#events li")) > num_paused + 1)
    page.click(page.one("#stop"))
    wait(lambda: service.num_live == 0)
    assert text(page, "#now") == "not watching"
    assert page.one("#placeholder").is_displayed()
    assert page.messages() == []


def test_the_camera_is_chosen(page: Browser) -> None:
    page.click(page.one("#start"))
    wait(lambda: text(page, "#now") in ("dark inside", "bright inside"))
    used = page.script("return document.querySelector('#video').srcObject.getVideoTracks()[0].getSettings().deviceId")
    assert page.script("return document.querySelector('#camera').value") == used
    page.script("document.querySelector('#camera').dispatchEvent(new Event('change'))")
    wait(lambda: page.script("return Boolean(document.querySelector('#video').srcObject)"))
    wait(lambda: text(page, "#now") in ("dark inside", "bright inside"))
    assert page.messages() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NotAllowedError", "The camera was refused. Allow it"),
        ("NotFoundError", "No camera was found"),
        ("NotReadableError", "another program may be using it"),
        ("TypeError", "The camera cannot be used (TypeError: as a test says)"),
    ],
)
def test_a_camera_that_is_not_to_be_had_is_explained(page: Browser, name: str, words: str) -> None:
    page.script(
        """navigator.mediaDevices.getUserMedia = async () => {
            throw arguments[0] === "TypeError" ? new TypeError("as a test says") : new DOMException("", arguments[0]);
        }""".replace("arguments[0]", f'"{name}"')
    )
    page.click(page.one("#start"))
    wait(lambda: words in text(page, "#message"))
    assert page.one("#message").is_displayed()
    assert page.one("#message").get_attribute("role") == "alert"
    assert page.one("#start").is_enabled()
    assert text(page, "#now") == "not watching"


@pytest.fixture(scope="module")
def strict_window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that gives no page its camera, and knows this machine by another name too."""
    rules = "--host-resolver-rules=MAP kinema.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    flags = ("--deny-permission-prompts", "--use-fake-device-for-media-stream", rules)
    with chromium(tmp_path_factory.mktemp("strict") / "profile", flags=flags) as browser:
        yield browser


def test_a_browser_that_refuses(url: str, strict_window: Browser) -> None:
    strict_window.open(url)
    wait(lambda: text(strict_window, "#name") == "brightness")
    strict_window.click(strict_window.one("#start"))
    wait(lambda: "The camera was refused" in text(strict_window, "#message"))


def test_a_page_that_can_have_no_camera_says_why(recogniser: Recogniser, strict_window: Browser) -> None:
    """Reached by a name that is not the machine's own, without https."""
    with (
        opened(recogniser, name="open", live=QUICK, follower=Brightness) as service,
        in_thread(service, place=Place(host="0.0.0.0", port=0)) as url,
    ):
        strict_window.open(url.replace("127.0.0.1", "kinema.example"))
        wait(lambda: "over https" in text(strict_window, "#message"))
        strict_window.click(strict_window.one("#start"))
        assert "--certificate" in text(strict_window, "#message")
        strict_window.open("about:blank")


def test_a_clip_is_played_as_a_camera_and_recognised(page: Browser, tmp_path: Path, service: Service) -> None:
    clip = write_video(tmp_path / "my clip.webm", levels((20, 1.5), (235, 1.5)), fps=15, codec="libvpx")
    page.one("#file").send_keys(str(clip))
    page.click(page.one("#play"))
    wait(lambda: text(page, "#now") == "dark inside")
    wait(lambda: text(page, "#now") == "bright inside")
    wait(lambda: text(page, "#now") == "not watching")  # at its end
    wait(lambda: page.texts("#events .what") == ["bright inside", "dark inside"])
    page.click(page.one("#recognise"))
    wait(lambda: page.one("#clip-result").is_displayed())
    assert text(page, "#clip-label").startswith("my clip.webm: ")
    assert len(page.all("#clip-bars .row")) == 5
    assert not page.one("#progress").is_displayed()
    assert not list(service.folder.iterdir())
    assert page.messages() == []


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("notes.mp4", 100, "notes.mp4: not a video that FFmpeg can read"),
        ("large.mp4", 400_000, "the clip is too large; at most 300 kB are taken"),
    ],
)
def test_what_the_service_says_of_a_bad_clip_is_shown(
    page: Browser, tmp_path: Path, name: str, size: int, words: str
) -> None:
    (tmp_path / name).write_bytes(b"x" * size)
    page.one("#file").send_keys(str(tmp_path / name))
    page.click(page.one("#recognise"))
    wait(lambda: words in text(page, "#clip-message"))
    assert page.one("#recognise").is_enabled()


def test_no_room_for_another_camera(page: Browser, service: Service) -> None:
    service.num_live += 2
    try:
        page.click(page.one("#start"))
        wait(lambda: "no room for another camera" in text(page, "#message"))
        assert text(page, "#now") == "not watching"
    finally:
        service.num_live -= 2
    page.click(page.one("#start"))
    wait(lambda: text(page, "#now") in ("dark inside", "bright inside"))


def test_stop_before_the_service_has_answered(page: Browser, service: Service) -> None:
    page.script(
        """window.numOpened = 0;
        window.WebSocket = class extends WebSocket {
            constructor(address) { super(address); window.numOpened += 1; }
            set onmessage(_take) { /* nothing comes */ }
        };"""
    )
    page.click(page.one("#start"))
    wait(lambda: service.num_live == 1)
    page.click(page.one("#stop"))
    wait(lambda: service.num_live == 0)
    assert page.script("return window.numOpened") == 1


def test_stop_while_the_service_is_away(page: Browser) -> None:
    page.script(
        """window.numOpened = 0;
        window.WebSocket = class extends EventTarget {
            constructor() { super(); window.numOpened += 1; setTimeout(() => this.onclose({ code: 1006 }), 10); }
            close() {}
        };"""
    )
    page.click(page.one("#start"))
    wait(lambda: page.script("return window.numOpened") == 1)
    wait(lambda: text(page, "#now") == "no answer")
    page.click(page.one("#stop"))
    num_opened = page.script("return window.numOpened")
    time.sleep(2.5)  # it would have tried again after 1 s, or 2 s
    assert page.script("return window.numOpened") == num_opened
    assert text(page, "#now") == "not watching"


def test_several_pictures_of_one_answer_are_not_left_out(page: Browser) -> None:
    page.script(
        """window.WebSocket = class extends EventTarget {
            bufferedAmount = 0;
            numSent = 0;
            constructor() {
                super();
                const hello = { type: "hello", picture_px: 32, picture_bytes: 1e6, ahead: 4, tasks: {}, how: "" };
                setTimeout(() => this.onmessage({ data: JSON.stringify(hello) }), 10);
            }
            send(content) {
                if (content === "finish" || ++this.numSent % 4) return;
                const time_ms = new DataView(content.buffer).getFloat64(0, true);
                const seen = { type: "seen", time_ms, began_ms: 0, ended: [], seconds: 0.001, num_seen: 1000 };
                setTimeout(() => this.onmessage({ data: JSON.stringify(seen) }), 1);
            }
            close() {}
        };"""
    )
    page.click(page.one("#start"))
    wait(lambda: float(text(page, "#rate").replace("-", "0")) > 0)
    assert text(page, "#left-out") == "0"
    page.click(page.one("#stop"))


def test_a_service_that_goes_and_comes_back(recogniser: Recogniser, window: Browser) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with opened(recogniser, name="coming and going", live=QUICK, follower=Brightness) as service:
        with in_thread(service, place=Place(port=port)) as url:
            window.look()
            window.open(url)
            window.click(window.one("#start"))
            wait(lambda: text(window, "#now") in ("dark inside", "bright inside"))
        wait(lambda: "cannot be reached; trying again" in text(window, "#message"))
        assert text(window, "#now") == "no answer"
        with in_thread(service, place=Place(port=port)):
            wait(lambda: not window.one("#message").is_displayed())
            wait(lambda: text(window, "#now") in ("dark inside", "bright inside"))
            window.open("about:blank")


def test_a_token_is_shown_by_the_page(recogniser: Recogniser, window: Browser, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", levels((20, 1.0)), fps=15)
    with (
        opened(recogniser, name="secret", live=QUICK, token="a b&c", follower=Brightness) as service,
        in_thread(service) as url,
    ):
        window.look()
        window.open(url)
        wait(lambda: text(window, "#name") == "secret")
        window.click(window.one("#start"))
        wait(lambda: text(window, "#now") in ("dark inside", "bright inside"))
        window.one("#file").send_keys(str(clip))
        window.click(window.one("#recognise"))
        wait(lambda: window.one("#clip-result").is_displayed())
        assert window.messages() == []
        window.open(url.partition("?")[0])
        assert "needs its token" in text(window, "h1")


def test_a_real_clip_as_the_camera_of_a_real_follower(recogniser: Recogniser, data_root: Path, tmp_path: Path) -> None:
    clip = data_root / "ut_interaction" / "hand_shaking" / "set1_seq01_004.avi"
    video = probe(clip)
    frames = [frame[::2, ::2] for frame in read_frames(video, range(min(60, len(video.times_s))))]
    height_px, width_px = (side - side % 2 for side in frames[0].shape[:2])
    even = [frame[:height_px, :width_px].copy() for frame in frames]
    camera = write_video(tmp_path / "camera.y4m", even, fps=round(video.fps), codec="wrapped_avframe")
    # Its weights are random: whatever is most probable is an action.
    live = LiveSection(enter=0, leave=0, min_duration_s=0.1, cool_down_s=0.1, smoothing_s=0)
    with (
        opened(recogniser, name="real", live=live) as service,
        in_thread(service) as url,
        chromium(tmp_path / "profile", camera=camera) as browser,
    ):
        browser.open(url)
        browser.click(browser.one("#start"))
        wait(lambda: browser.one("#now").get_attribute("data-state") == "action", timeout_s=60)
        assert text(browser, "#now").split()[0] in HEADS["action"]
        wait(lambda: browser.all("#timeline .inner"))
        wait(lambda: re.fullmatch(r"\d+\xa0ms", text(browser, "#delay")) is not None)
        browser.click(browser.one("#pause"))
        wait(lambda: browser.all("#events li"))
        assert browser.messages() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(page: Browser, scheme: Any) -> None:
    page.look(width_px=375, height_px=812, scheme=scheme)
    page.click(page.one("#start"))
    wait(lambda: text(page, "#now") in ("dark inside", "bright inside"))
    wait(lambda: page.all("#events li"))
    assert page.script("return document.documentElement.scrollWidth") <= 375
    outside = page.script(
        """return [...document.querySelectorAll("main *")].filter((e) => e.checkVisibility() && !e.closest("svg"))
        .filter((e) => { const b = e.getBoundingClientRect(); return b.width && (b.left < -1 || b.right > 376); })
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    small = page.script(
        """return [...document.querySelectorAll("button, select")].filter((e) => e.checkVisibility())
        .filter((e) => e.getBoundingClientRect().height < 40).map((e) => e.id)"""
    )
    assert small == []
