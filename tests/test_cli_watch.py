"""`kinema watch` as a user has it: files, streams, what is saved, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands import Kinema
from tests.inference.streams import live, transport_stream
from tests.loopback import Site, dead_address, serving
from tests.models.facts import MEAN, STD, TRAINING
from tests.screen import Screen, virtual_screen
from tests.videos import numbered_frames, write_video

from kinema.cli.watch import _clock
from kinema.data.decoding import probe
from kinema.inference import cameras
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Preprocessing

KINEMA = Path(sys.executable).with_name("kinema")
KEYS = {"answers_per_s", "latency_p50_ms", "latency_p95_ms", "dropped", "frames"}
EASY = ("enter=0.1", "leave=0.05")
"""So that something of what nobody trained counts as an action."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that nobody trained."""
    rgb = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
    config = WeightsConfig(
        model="cnn_lstm",
        arguments={"backbone": "tiny"},
        heads={"action": ("close", "open")},
        preprocessing={"rgb": rgb},
    )
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    folder = tmp_path_factory.mktemp("trained") / "weights"
    save(folder, model.state_dict(), config, TRAINING, card="")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", numbered_frames(60), fps=30)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)


# Files


def test_a_file_as_if_it_were_live(kinema: Kinema, weights: Path, video: Path) -> None:
    done = kinema("watch", weights, "--source", video, "--realtime", "--headless", "--json", "-")
    assert done.code == 0
    facts = done.json
    assert facts.keys() >= KEYS
    assert facts["frames"] == 60
    assert facts["answers"] == facts["looked_at"] == 60 - facts["dropped"]
    assert facts["latency_p50_ms"] <= facts["latency_p95_ms"]
    assert facts["seconds"] > 1.9
    assert "every frame once" in done.err
    assert "60 frames" in done.err


def test_a_file_as_fast_as_it_can_be_looked_at(kinema: Kinema, weights: Path, video: Path, tmp_path: Path) -> None:
    """What was said, into a file of lines and into a video; no frame is left out of either."""
    saved, events = tmp_path / "a.mp4", tmp_path / "a.jsonl"
    done = kinema(
        "watch", weights, *EASY, "--source", video, "--headless", "--json", "-", "--save", saved, "--events", events
    )
    assert done.code == 0, done.err
    assert (done.json["frames"], done.json["answers"], done.json["dropped"]) == (60, 60, 0)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert len(lines) == done.json["actions"] > 0
    for line in lines:
        assert line.keys() == {"start_s", "stop_s", "label", "labels", "confidence"}
        assert line["labels"] == {"action": line["label"]}
        assert 0 <= line["start_s"] < line["stop_s"] <= 2.0
        assert f"{_clock(line['start_s'])} to {_clock(line['stop_s'])}  {line['label']}" in done.err
    assert probe(saved).times_s == pytest.approx([number / 30 for number in range(60)], abs=1e-3)
    assert f"saved {saved}\n" in done.err
    assert not list(tmp_path.glob(".*"))


def test_settings_come_from_a_file_and_the_command_line(
    kinema: Kinema, weights: Path, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "live.yaml").write_text("every_s: 0.5\nfast_s: 0.2\n")
    arguments = ("watch", weights, "--source", video, "--headless", "--json", "-")
    assert kinema(*arguments, "--settings", tmp_path / "live.yaml").json["answers"] in (4, 5)
    found = kinema(*arguments, "every_s=0.25", "--settings", tmp_path / "live.yaml").json
    assert found["answers"] in (8, 9)
    assert kinema("watch", weights, "enterr=1", "--source", video).error() == (
        "live settings: enterr: unknown key; did you mean 'enter'? (known: fast_s, slow_s, every_s, slow_every_s, "
        "memory, smoothing_s, enter, leave, min_duration_s, cool_down_s, threshold)"
    )


def test_it_ends_after_so_many_seconds(kinema: Kinema, weights: Path, tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.mp4", numbered_frames(4), fps=1, times_s=[0.0, 0.1, 0.2, 100.0])
    done = kinema("watch", weights, "--source", long, "--realtime", "--headless", "--seconds", "1", "--json", "-")
    assert done.code == 0
    assert done.json["frames"] == 3
    assert 0.9 < done.json["seconds"] < 20


# What the user can mend


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "nowhere.mp4"), r"nowhere\.mp4: no such file"),
        (("--source", "96"), r"camera 96: there is no /dev/video96; kinema watch --list shows what cameras there are"),
        (("--source", "ftp://a/b"), r"ftp://a/b: ftp is no kind of address that is known; known: rtsp, .*"),
        (("--show",), r"--show: no window can be opened here \(.*display.*\); --headless does without"),
        (("--save", "a.avi"), r"--save: a\.avi: give a name that ends in \.mp4"),
        (("--save", "no/a.mp4"), r"--save: no/a\.mp4 cannot be written: No such file or directory"),
        (("--events", "no/a.jsonl"), r"--events: no/a\.jsonl cannot be written: No such file or directory"),
        (("--json", "no/a.json"), r"--json: no/a\.json cannot be written: there is no folder no"),
        (("--settings", "no.yaml"), r"no\.yaml: cannot be read: No such file or directory"),
        (("enter=0.2", "leave=0.4"), r".*leave: 0\.4 is above enter, 0\.2; an action would end as it begins"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str, kinema: Kinema, weights: Path, video: Path) -> None:
    source = () if "--source" in arguments else ("--source", video)
    done = kinema("watch", weights, *source, *arguments)
    assert re.fullmatch(words, done.error()), done.err
    assert not list(Path.cwd().glob(".*"))


@pytest.mark.parametrize(
    "arguments", [("nowhere",), ("WEIGHTS", "enterr=1"), ("WEIGHTS", "--source", "nowhere.mp4"), ("WEIGHTS", "--show")]
)
def test_a_mistake_does_not_cost_the_actions_of_before(
    arguments: tuple[str, ...], kinema: Kinema, weights: Path, video: Path, tmp_path: Path
) -> None:
    events = tmp_path / "a.jsonl"
    events.write_text("of before\n")
    source = () if "--source" in arguments else ("--source", video)
    given = [weights if each == "WEIGHTS" else each for each in arguments]
    assert kinema("watch", *given, *source, "--events", events).error()
    assert events.read_text() == "of before\n"


def test_what_was_written_before_goes_when_the_watch_begins(
    kinema: Kinema, weights: Path, video: Path, tmp_path: Path
) -> None:
    events = tmp_path / "a.jsonl"
    events.write_text("of before\n")
    assert kinema("watch", weights, *EASY, "--source", video, "--headless", "--events", events).code == 0
    assert [json.loads(line).keys() >= {"label"} for line in events.read_text().splitlines()]
    assert "of before" not in events.read_text()


@pytest.mark.parametrize("option", ["--save", "--events"])
def test_the_source_is_not_written_over(option: str, kinema: Kinema, weights: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", numbered_frames(4), fps=30)
    before = source.read_bytes()
    other = tmp_path / "b.mp4"
    other.symlink_to(source)
    for path in (source, other):
        done = kinema("watch", weights, "--source", source, "--headless", option, path)
        assert done.error() == f"{option}: {path} is what --source reads; give another file"
        assert source.read_bytes() == before


def test_an_address_where_nobody_answers(kinema: Kinema, weights: Path) -> None:
    done = kinema("watch", weights, "--source", f"{dead_address()}/a", "--headless")
    assert done.error().endswith("cannot be opened (Connection refused); is the address right, and the camera on?")


def test_without_weights(kinema: Kinema, tmp_path: Path, video: Path) -> None:
    assert "WEIGHTS" in kinema("watch").error()
    assert "not a weights folder" in kinema("watch", tmp_path, "--source", video).error()


def test_without_a_display_it_does_without_a_window(kinema: Kinema, weights: Path, video: Path) -> None:
    done = kinema("watch", weights, "--source", video)
    assert done.code == 0
    assert done.out.startswith("without a window (")


# Cameras


def test_cameras_are_listed(kinema: Kinema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "cameras", lambda: [cameras.Camera(index=2, name="USB Camera", place="/dev/video2")])
    done = kinema("watch", "--list", "--json", "-")
    assert done.json == [{"index": 2, "name": "USB Camera", "device": "/dev/video2", "problem": None}]
    assert "USB Camera" in done.err
    monkeypatch.setattr(cameras, "cameras", list)
    done = kinema("watch", "--list")
    assert done.out == "no cameras found; a stream or a file is watched by --source ADDRESS or --source FILE\n"


# Streams, in a process of their own


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [KINEMA, "watch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for(path: Path, process: subprocess.Popen[str], *, limit_s: float = 120.0) -> None:
    end_s = time.monotonic() + limit_s
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "it takes too long"
        time.sleep(0.05)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_interrupted_ends_well(
    signum: signal.Signals, code: int, weights: Path, site: Site, tmp_path: Path
) -> None:
    site.pages["/live.ts"] = live(transport_stream(3000, key_every=30))
    files = {name: tmp_path / f"a.{name}" for name in ("mp4", "jsonl", "json")}
    settings = ("enter=0.1", "leave=0", "cool_down_s=0", "threshold=null")
    process = start(
        *(weights, *settings, "--source", f"{site.url}/live.ts", "--headless"),
        *("--save", files["mp4"], "--events", files["jsonl"], "--json", files["json"]),
    )
    temporary = next(iter_until(tmp_path, ".a.mp4.*.tmp", process))
    wait_for(temporary, process)
    time.sleep(2.0)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err == "stopped\n"
    facts = json.loads(files["json"].read_text())
    assert facts["frames"] > 10
    assert "Traceback" not in out
    video = probe(files["mp4"])
    assert not video.damaged
    assert len(video.times_s) > 10
    assert len(files["jsonl"].read_text().splitlines()) == facts["actions"]
    assert not list(tmp_path.glob(".*"))


def iter_until(folder: Path, pattern: str, process: subprocess.Popen[str], *, limit_s: float = 120.0) -> Iterator[Path]:
    end_s = time.monotonic() + limit_s
    while not (found := list(folder.glob(pattern))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "it takes too long"
        time.sleep(0.05)
    yield from found


def test_a_stream_that_goes_away_is_waited_for(kinema: Kinema, weights: Path, site: Site) -> None:
    pages = [live(transport_stream(60)), live(transport_stream(60))]

    def in_turn(request: Any, number: int) -> None:
        if number == 1 or number > 2:
            request.send_error(503)
        else:
            pages[number // 2](request, number)

    site.pages["/live.ts"] = in_turn
    done = kinema("watch", weights, "--source", f"{site.url}/live.ts", "--headless", "--retry-s", "2", "--json", "-")
    assert done.error().startswith(f"{site.url}/live.ts: lost, and not back within 2 s (")
    facts = done.json  # all the same
    assert facts["reconnections"] == 1
    assert facts["frames"] > 40
    assert "lost (" in done.err
    assert "back after" in done.err


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    with virtual_screen(tmp_path_factory.mktemp("screen")) as made:
        yield made


def test_with_a_display_there_is_a_window(screen: Screen, weights: Path, site: Site, tmp_path: Path) -> None:
    site.pages["/live.ts"] = live(transport_stream(3000, key_every=30))
    process = start(weights, "--source", f"{site.url}/live.ts", "--json", tmp_path / "a.json", DISPLAY=screen.name)
    try:
        screen.press("q", title=f"kinema watch: {site.url}")
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert err == ""
    assert json.loads((tmp_path / "a.json").read_text()).keys() >= KEYS


def test_times_read_well() -> None:
    assert [_clock(seconds) for seconds in (0.04, 7.46, 62.0, 3723.96)] == ["0:00.0", "0:07.5", "1:02.0", "1:02:04.0"]
