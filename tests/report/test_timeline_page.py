"""The page of a timeline in a real browser: it plays the video from where an action begins."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from tests.browser import Browser
from tests.videos import numbered_frames, write_video

from kinema.report.timeline_page import timeline_page, write_timeline_page
from kinema.types import Heads

HEADS: Heads = {"action": ("wave", "kick", "<b>jump & run</b>")}


@dataclass(frozen=True)
class Segment:
    start_s: float
    stop_s: float
    labels: dict[str, str]
    confidence: float = 0.9

    @property
    def label(self) -> str:
        return " ".join(self.labels.values())


@dataclass(frozen=True)
class Timeline:
    segments: list[Segment]
    duration_s: float = 60.0
    damaged: bool = False
    curve_times_s: list[float] = field(default_factory=lambda: [i + 0.5 for i in range(60)])
    heads: Heads = field(default_factory=lambda: HEADS)

    @property
    def curves(self) -> dict[str, dict[str, list[float]]]:
        return {
            task: {
                name: [math.nan if i == 7 else 0.5 + 0.4 * math.sin(i / 5 + place) for i in range(60)]
                for place, name in enumerate(names)
            }
            for task, names in self.heads.items()
        }


def segment(start_s: float, stop_s: float, name: str, **others: Any) -> Segment:
    return Segment(start_s, stop_s, {"action": name}, **others)


FOUND = Timeline(
    [
        segment(2.0, 8.5, "wave", confidence=0.97),
        segment(12.25, 20.0, "kick"),
        segment(30.0, 31.0, "wave"),
        segment(45.0, 58.0, "<b>jump & run</b>", confidence=0.51),
    ]
)
TRUE = [segment(2.5, 9.0, "wave"), segment(12.0, 19.0, "kick"), segment(44.0, 58.0, "wave")]
SCORES = {
    "accuracy": 0.8,
    "majority": 0.4,
    "action_accuracy": 0.7,
    "action_majority": 0.5,
    "chance": 0.25,
    "edit": 0.75,
    "f1": {"10": 0.8, "25": 0.8, "50": math.nan},
    "num_segments": {"true": 3, "found": 4},
}
RECORD = {
    "video": {"path": "v.mp4", "num_frames": 600},
    "weights": {"path": "runs/mine", "fingerprint": "0123456789ab"},
    "windows": {"fast_s": 0.5, "slow_s": 1.5},
    "settings": {"fast_s": None, "enter": 0.5},
    "num_answers": 600,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside its video, whose name is an awkward one."""
    folder = tmp_path_factory.mktemp("place")
    video = folder / "a day #1 & more.mp4"
    write_video(video, numbered_frames(600, width_px=320, height_px=240), fps=10, options={"preset": "ultrafast"})
    (folder / "timeline").mkdir()
    record = RECORD | {"scores": {"action": SCORES}}
    return write_timeline_page(folder / "timeline", video=video, found=FOUND, heads=HEADS, record=record, true=TRUE)


def is_ready(browser: Browser) -> None:
    wait(browser, "return document.getElementById('player').readyState >= 1")


def wait(browser: Browser, code: str, *, for_s: float = 10.0) -> None:
    until = time.monotonic() + for_s
    while not browser.script(code):
        assert time.monotonic() < until, code
        time.sleep(0.05)


PLACE = "return document.getElementById('player').currentTime"
STOP = "document.getElementById('player').pause()"


def test_a_click_on_an_action_plays_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    is_ready(browser)
    assert browser.script("return document.getElementById('player').duration") == pytest.approx(60.0)
    browser.click(browser.all("#actions table a")[1])
    assert 12.25 <= browser.script(PLACE) < 14
    assert browser.texts(".trouble") == []
    wait(browser, "return !document.getElementById('player').paused")
    wait(browser, "return document.querySelector('tr.now')?.textContent.includes('kick')")
    browser.script(STOP)
    bars = browser.all(".lane a")
    assert len(bars) == len(FOUND.segments) + len(TRUE)
    browser.click(bars[3])
    assert 45.0 <= browser.script(PLACE) < 47
    browser.script(STOP)
    assert browser.messages() == []


def test_a_click_between_actions_goes_there(browser: Browser, page: Path) -> None:
    browser.open(page)
    is_ready(browser)
    code = """const box = document.querySelector(arguments[0]).getBoundingClientRect();
        document.querySelector(arguments[0]).dispatchEvent(new MouseEvent("click",
        { bubbles: true, clientX: box.left + arguments[1] * box.width, clientY: box.top + 5 }))"""
    for drawing, share in ((".lane", 0.6), (".curves", 0.1)):
        browser.script(code, drawing, share)
        assert browser.script(PLACE) == pytest.approx(60 * share, abs=0.2)
    place = browser.one(".playhead").get_attribute("x1") or ""
    assert float(place.rstrip("%")) == pytest.approx(10, abs=0.2)
    assert browser.script("return document.getElementById('player').paused")


def test_actions_are_reached_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    is_ready(browser)
    lanes = browser.one("#lanes")
    places = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.END, Keys.HOME):
        lanes.send_keys(key)
        places.append(round(browser.script(PLACE), 2))
    assert places == [2.0, 12.25, 30.0, 12.25, 60.0, 0.0]
    lanes.send_keys(Keys.ARROW_RIGHT)
    assert lanes.get_attribute("aria-valuetext") == "0:02 wave"
    lanes.send_keys(Keys.ENTER)
    wait(browser, "return !document.getElementById('player').paused")
    browser.script(STOP)
    link = browser.all("#actions table a")[2]
    link.send_keys(Keys.ENTER)
    assert 30.0 <= browser.script(PLACE) < 32


def test_subtitles_are_shown_and_names_stay_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    is_ready(browser)
    cues = "return [...document.getElementById('player').textTracks[0].cues].map((one) => one.text)"
    assert browser.script(cues) == ["wave", "kick", "wave", "<b>jump & run</b>"]
    assert browser.all("#actions b") == []
    assert any("<b>jump & run</b>" in text for text in browser.texts("#actions th"))


def test_a_video_that_no_browser_plays_is_said(browser: Browser, tmp_path: Path) -> None:
    video = write_video(tmp_path / "old.avi", numbered_frames(20), fps=10, codec="mpeg4")
    folder = tmp_path / "timeline"
    folder.mkdir()
    browser.open(write_timeline_page(folder, video=video, found=FOUND, heads=HEADS, record=RECORD))
    wait(browser, "return document.getElementById('player').hidden")
    (said,) = browser.texts(".trouble")
    assert "does not play this file" in said
    assert "ffmpeg -i old.avi" in said
    assert browser.texts("video") == []
    assert browser.texts("#actions table a")


def test_it_is_whole_without_its_script(page: Path) -> None:
    text = page.read_text()
    assert text.count("#t=12.25") == 2
    assert 'src="../a%20day%20%231%20%26%20more.mp4"' in text
    assert "F1@25" in text


def test_a_video_elsewhere_is_named_by_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    video = tmp_path.parent / "v.mp4"
    page = write_timeline_page(tmp_path / "here", video=video, found=FOUND, heads=HEADS, record=RECORD)
    assert f'src="{video.resolve().as_uri()}"' in page.read_text()


def test_nothing_found_and_many_classes(browser: Browser, tmp_path: Path) -> None:
    many: Heads = {"verb": tuple(f"verb {i}" for i in range(40)), "noun": tuple(f"a long noun {i}" for i in range(60))}
    path = tmp_path / "none.html"
    path.write_text(timeline_page(tmp_path / "v.mp4", "v.mp4", Timeline([], heads=many, damaged=True), many, RECORD))
    browser.look(width_px=390, height_px=844)
    browser.open(path)
    assert "None was found." in browser.texts("#actions p")
    assert any("damaged in places" in text for text in browser.texts("header li"))
    segments = [Segment(i * 6.0, i * 6.0 + 4, {"verb": f"verb {i}", "noun": f"a long noun {i}"}) for i in range(10)]
    path.write_text(timeline_page(tmp_path / "v.mp4", "v.mp4", Timeline(segments, heads=many), many, RECORD))
    browser.open(path)
    assert "others" in browser.texts(".legend span")
    assert too_wide(browser) == []


def too_wide(browser: Browser) -> list[str]:
    code = """return [...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll, pre, .tip, svg"))
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    found: list[str] = browser.script(code)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_on_a_phone_and_in_the_dark(browser: Browser, page: Path, tmp_path: Path, scheme: Any) -> None:
    for width_px in (1280, 390):
        browser.look(width_px=width_px, height_px=900, scheme=scheme)
        browser.open(page)
        is_ready(browser)
        browser.all("#actions table a")[1].send_keys(Keys.ENTER)
        browser.script(STOP)
        assert too_wide(browser) == []
        browser.screenshot(tmp_path / f"{width_px}_{scheme}.png")
        browser.script("document.getElementById('actions').scrollIntoView()")
        browser.driver.save_screenshot(str(tmp_path / f"{width_px}_{scheme}_list.png"))
    browser.look()
    browser.look_at_print()
    assert browser.texts("video") == []
