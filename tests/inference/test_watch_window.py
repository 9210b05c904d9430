"""The window, on a screen that nobody sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.inference.scripted import HEADS, BrightnessFollower, ScriptedSource, Step, decider
from tests.screen import Screen, virtual_screen

from kinema.inference.live_types import Decision, Segment
from kinema.inference.sources import LostError
from kinema.inference.watch_drawing import (
    NOTHING,
    WAITING,
    annotated,
    confidence_colour,
    fitted,
    lines_of,
    state_line,
)
from kinema.inference.watching import Watcher
from kinema.types import UserError

pytest.importorskip("tkinter", reason="windows are not tested: this Python has no Tk (python3-tk)")

from kinema.inference.watch_window import WatchWindow, why_no_window

SIZE = (320, 240)


@pytest.fixture(scope="module")
def display(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    with virtual_screen(tmp_path_factory.mktemp("screen")) as screen:
        yield screen


@pytest.fixture
def screen(display: Screen, monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("DISPLAY", display.name)
    return display


def shown(source: ScriptedSource, acts: Callable[[Watcher], None], *, retry_s: float = 20.0) -> Watcher:
    """Shows a source, while another thread acts as people do."""
    watcher = Watcher(source, BrightnessFollower(), decider(), retry_s=retry_s)
    source.begins = watcher._counts
    window = WatchWindow("the test", HEADS)
    errors: list[BaseException] = []

    def act() -> None:
        try:
            until(lambda: watcher.figures.answers > 5)
            acts(watcher)
        except BaseException as error:  # noqa: BLE001 - raised again
            errors.append(error)
        finally:
            watcher.stop()

    thread = threading.Thread(target=act)
    try:
        watcher.start()
        thread.start()
        window.run(watcher, lambda: None)
        watcher.join()
    finally:
        watcher.stop()
        thread.join()
        window.close()
    if errors:
        raise errors[0]
    return watcher


def until(condition: Callable[[], bool], *, limit_s: float = 20.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it takes too long"
        time.sleep(0.01)


def camera(num: int = 3000, *, size: tuple[int, int] = SIZE, light: int = 255) -> ScriptedSource:
    return ScriptedSource([step for _ in range(num) for step in (0.02, size)], light=light)


def test_keys_pause_reset_and_quit(screen: Screen) -> None:
    def act(watcher: Watcher) -> None:
        screen.press("space")
        until(lambda: watcher.is_paused)
        screen.press("space")
        until(lambda: not watcher.is_paused)
        until(lambda: watcher.seen is not None and watcher.seen.decision is not None)
        actions = watcher.figures.actions
        screen.press("r")
        until(lambda: watcher.figures.actions > actions)
        assert watcher.is_running
        screen.press("q")
        until(lambda: not watcher.is_running)

    watcher = shown(camera(), act)
    assert watcher.figures.answers > 5


def test_escape_quits(screen: Screen) -> None:
    def act(watcher: Watcher) -> None:
        screen.press("Escape")
        until(lambda: not watcher.is_running)

    shown(camera(), act)


def test_it_ends_with_its_source(screen: Screen) -> None:
    began_s = time.monotonic()
    shown(camera(20), lambda watcher: until(lambda: not watcher.is_running))
    assert time.monotonic() - began_s < 15


def test_what_is_to_be_seen(screen: Screen, tmp_path: Path) -> None:
    """The picture in its shape, and what it shows in a colour that says how sure that is."""
    pictures: dict[str, np.ndarray] = {}

    def act(name: str) -> Callable[[Watcher], None]:
        def see(watcher: Watcher) -> None:
            time.sleep(1.0)
            pictures[name] = screen.picture(tmp_path / f"{name}.png")

        return see

    shown(camera(light=200), act("wide"))
    shown(camera(light=200, size=(240, 480)), act("tall"))
    for name, (width_px, height_px) in {"wide": SIZE, "tall": (240, 480)}.items():
        rows, columns = np.nonzero((pictures[name] == 200).all(axis=2))
        box = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
        assert box[0] / box[1] == pytest.approx(width_px / height_px, rel=0.02), name
        assert box[1] >= 240
    green = confidence_colour(0.98)
    assert (np.abs(pictures["wide"].astype(int) - green).max(axis=2) <= 3).sum() > 1000  # the bar


def test_it_says_what_happened_to_the_source(screen: Screen, tmp_path: Path) -> None:
    steps: list[Step] = [step for _ in range(50) for step in (0.02, SIZE)]
    source = ScriptedSource([*steps, LostError("No such device")])
    notices: list[str | None] = []
    pictures = []

    def act(watcher: Watcher) -> None:
        until(lambda: watcher.notice is not None)
        notices.append(watcher.notice)
        time.sleep(0.5)
        pictures.append(screen.picture(tmp_path / "lost.png"))

    shown(source, act)
    assert notices == ["lost (No such device); trying again for 20 s"]
    orange = np.array([0xFF, 0xB3, 0x47])
    assert (np.abs(pictures[0].astype(int) - orange).max(axis=2) <= 3).sum() > 50  # letters


def test_a_mistake_while_drawing_is_no_silence(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(WatchWindow, "_draw_picture", fail)
    with pytest.raises(ZeroDivisionError):
        shown(camera(), lambda watcher: until(lambda: not watcher.is_running))


def test_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    assert "display" in (why_no_window() or "")
    with pytest.raises(UserError, match=r"^--show: no window can be opened \(.*display.*\); --headless does without$"):
        WatchWindow("the test", HEADS)


# What is said, wherever it is shown


def decision(light: float, *, known: bool = True, goes_on: bool = False) -> Decision:
    return Decision(
        time_s=1.0,
        probabilities={"action": np.array([1 - light, light], dtype=np.float32)},
        score=None,
        known=known,
        current=Segment(start_s=0.0, stop_s=1.0, labels={"action": "light"}, confidence=0.9) if goes_on else None,
    )


def test_a_line_for_each_task() -> None:
    (line,) = lines_of(decision(0.75), HEADS)
    assert (line.task, line.label, line.is_action) == ("", "light", False)
    assert line.confidence == pytest.approx(0.75)
    # Of an action that goes on, its class, also while another is likelier for a moment.
    (line,) = lines_of(decision(0.25, goes_on=True), HEADS)
    assert (line.label, line.is_action) == ("light", True)
    assert line.confidence == pytest.approx(0.25)
    assert [line.label for line in lines_of(None, HEADS)] == [WAITING]
    assert [line.label for line in lines_of(decision(0.75, known=False), HEADS)] == [NOTHING]
    both = {"verb": ("open", "close"), "noun": ("door", "jar")}
    two = Decision(
        time_s=1.0,
        probabilities={
            "verb": np.array([0.2, 0.8], dtype=np.float32),
            "noun": np.array([0.6, 0.4], dtype=np.float32),
        },
        score=None,
        known=True,
        current=None,
    )
    assert [(line.task, line.label) for line in lines_of(two, both)] == [("verb", "close"), ("noun", "door")]


def test_confidence_goes_from_red_to_green() -> None:
    red, _, green = (confidence_colour(share) for share in (0.0, 0.5, 1.0))
    assert red[0] > 2 * red[1]
    assert green[1] > 2 * green[0]
    assert confidence_colour(7.0) == green
    assert len(set(confidence_colour(None))) == 1


def test_the_state_in_words() -> None:
    assert state_line(29.97, 23.6, 0) == "30.0 answers/s, 24 ms behind"
    assert state_line(None, None, 1234) == "1,234 dropped"


@pytest.mark.parametrize("size", [(1, 1), (16, 9), (64, 48), (1920, 1080)])
def test_words_are_drawn_into_pictures_of_any_size(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 128, dtype=np.uint8)
    drawn = annotated(image, lines_of(decision(0.75, goes_on=True), HEADS), "30.0 answers/s")
    assert drawn.shape == image.shape
    assert (drawn != 128).any()
    if size[0] > 1000:
        assert (drawn[-300:] == 128).all()


def test_what_fits_keeps_its_shape() -> None:
    assert fitted((640, 480), (320, 320)) == (320, 240)
    assert fitted((1, 1000), (10, 10)) == (1, 10)
