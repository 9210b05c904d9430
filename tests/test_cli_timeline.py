"""`kinema timeline`: from a long video to a table, JSON, subtitles and a page."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands import Kinema
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video

from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Heads, Preprocessing

RGB = Preprocessing(num_frames=4, size_px=32, resize_px=40, fit="crop", mean=MEAN, std=STD)
HEADS: Heads = {"action": ("wave", "kick", "jump")}
TWO: Heads = {"verb": ("open", "close"), "noun": ("door", "jar", "lid")}
ALWAYS = ("fast_s=0.5", "slow_s=1", "enter=0", "leave=0")
"""One class or another is always recognised: what the weights say is a matter of chance."""


def weights(folder: Path, heads: Heads, *, seed: int = 0) -> Path:
    config = WeightsConfig(model="cnn_lstm", arguments={"backbone": "tiny"}, heads=heads, preprocessing={"rgb": RGB})
    torch.manual_seed(seed)
    model = build_model(config.model, config.arguments, heads=heads, inputs=config.inputs)
    save(folder, model.state_dict(), config, TRAINING, card="")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("weights") / "weights", HEADS)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "one day.mp4"
    return write_video(path, numbered_frames(70 * 8), fps=8, options={"preset": "ultrafast"})


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "segments.csv").read_text().splitlines()))


def test_a_video_becomes_a_timeline(kinema: Kinema, trained: Path, video: Path) -> None:
    answer = kinema("timeline", trained, video, *ALWAYS, "--json", "-")
    assert answer.code == 0, answer.err
    folder = Path("one day-timeline")
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "answers.bin",
        "index.html",
        "segments.csv",
        "segments.json",
        "subtitles.vtt",
    }
    found = rows(folder)
    assert found
    assert {row["label"] for row in found} <= set(HEADS["action"])
    assert float(found[-1]["stop_s"]) == 70.0
    assert (folder / found[0]["path"]).resolve() == video.resolve()
    kept = json.loads((folder / "segments.json").read_text())
    assert kept["segments"] == [
        {
            "start_s": float(row["start_s"]),
            "stop_s": float(row["stop_s"]),
            "labels": {"action": row["label"]},
            "confidence": float(row["confidence"]),
        }
        for row in found
    ]
    assert kept["video"]["num_frames"] == 560
    assert kept["video"]["duration_s"] == 70.0
    assert kept["settings"]["slow_s"] == 1.0
    assert kept["num_answers"] == 560  # of a video of 8 frames/s, one for each
    assert answer.json["weights"] == kept["weights"]
    assert (folder / "subtitles.vtt").read_text().count("-->") == len(found)
    assert "every frame once" in answer.err

    # Again, it is all there; of other thresholds come other actions of the same answers.
    before = (folder / "answers.bin").read_bytes()
    again = kinema("timeline", trained, video, *ALWAYS, "--json", "-")
    assert "watched before" in again.err
    assert again.json == answer.json
    none = kinema("timeline", trained, video, "fast_s=0.5", "slow_s=1", "enter=1", "leave=1")
    assert none.code == 0
    assert "0 actions" in none.out
    assert rows(folder) == []
    assert (folder / "answers.bin").read_bytes() == before


def test_it_is_scored_beside_what_is_true(kinema: Kinema, trained: Path, video: Path, tmp_path: Path) -> None:
    assert kinema("timeline", trained, video, *ALWAYS).code == 0
    answer = kinema("timeline", trained, video, *ALWAYS, "--truth", "one day-timeline/segments.csv", "--json", "-")
    scores = answer.json["scores"]["action"]
    assert scores["accuracy"] == pytest.approx(1.0, abs=0.02)
    assert scores["f1"] == {"10": 1.0, "25": 1.0, "50": 1.0}
    assert scores["edit"] == 1.0
    assert scores["chance"] == 0.25
    for word in ("accuracy, all frames", "edit score", "F1@10", "F1@25", "F1@50", "chance", "majority"):
        assert word in answer.err
    page = Path("one day-timeline/index.html").read_text()
    assert "Beside what is true" in page
    truth = tmp_path / "truth.csv"
    truth.write_text("start_s,stop_s,label\n1,2,wave\n3,5,walk\n")
    assert (
        "truth.csv: row 3, column 'label': 'walk' is no class"
        in kinema("timeline", trained, video, "--truth", truth).error()
    )


def test_several_tasks(kinema: Kinema, video: Path, tmp_path: Path) -> None:
    folder = weights(tmp_path / "two", TWO)
    truth = tmp_path / "truth.csv"
    truth.write_text("start_s,stop_s,verb,noun\n10,20,open,jar\n30,35,close,\n")
    answer = kinema("timeline", folder, video, *ALWAYS, "--truth", truth, "--out", "here", "--json", "-")
    assert answer.code == 0, answer.err
    assert answer.json["scores"].keys() == {"verb", "noun", "joint"}
    assert {"verb", "noun"} <= rows(Path("here"))[0].keys()


def test_a_class_that_stands_for_nothing_is_no_action(kinema: Kinema, video: Path, tmp_path: Path) -> None:
    folder = weights(tmp_path / "weights", HEADS)
    facts = json.loads((folder / "training.json").read_text())
    assert kinema("timeline", folder, video, *ALWAYS, "--out", "plain").code == 0
    commonest = max({row["label"] for row in rows(Path("plain"))})
    facts["background"] = {"action": HEADS["action"].index(commonest)}
    (folder / "training.json").write_text(json.dumps(facts))
    assert kinema("timeline", folder, video, *ALWAYS, "--out", "other").code == 0
    assert commonest not in {row["label"] for row in rows(Path("other"))}


@pytest.mark.parametrize(
    "kind", ["missing", "text", "image", "no weights", "state", "setting", "a file", "other things"]
)
def test_what_cannot_be_is_said_in_one_line(kind: str, kinema: Kinema, trained: Path, video: Path) -> None:
    Path("some.txt").write_text("x" * 99)
    Path("some.png").write_bytes(b"x")
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    arguments: dict[str, tuple[list[Any], str]] = {
        "missing": ([trained, "none.mp4"], "none.mp4: no such file"),
        "text": ([trained, "some.txt"], "some.txt: not a video"),
        "image": ([trained, "some.png"], "some.png: a still image"),
        "no weights": ([Path("full"), video], "not a weights folder"),
        "state": ([trained, video, "memory=state"], "memory: a timeline looks at windows"),
        "setting": ([trained, video, "slow=2"], "did you mean 'slow_s'"),
        "a file": ([trained, video, "--out", "some.txt"], "some.txt: a file; name a folder"),
        "other things": ([trained, video, "--out", "full"], "full: holds something else"),
    }
    given, message = arguments[kind]
    assert message in kinema("timeline", *given).error()
    assert sorted(path.name for path in Path().iterdir()) == ["full", "some.png", "some.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(kinema: Kinema, trained: Path, video: Path) -> None:
    Path("shut").mkdir(mode=0o500)
    assert "shut" in kinema("timeline", trained, video, "--out", "shut/place").error()


def test_a_place_that_cannot_be_a_folder(kinema: Kinema, trained: Path, video: Path) -> None:
    Path("file").touch()
    assert "cannot be written" in kinema("timeline", trained, video, "--out", "file/place").error()


def test_a_folder_of_other_weights_or_settings_is_left_alone(
    kinema: Kinema, trained: Path, video: Path, tmp_path: Path
) -> None:
    assert kinema("timeline", trained, video, *ALWAYS, "--out", "here").code == 0
    before = {path.name: path.read_bytes() for path in Path("here").iterdir()}
    other = weights(tmp_path / "other", HEADS, seed=1)
    assert "holds answers of other weights" in kinema("timeline", other, video, *ALWAYS, "--out", "here").error()
    changed = kinema("timeline", trained, video, "slow_s=2", "--out", "here").error()
    assert "holds answers of other settings; name another folder by --out" in changed
    assert {path.name: path.read_bytes() for path in Path("here").iterdir()} == before


def test_damage_is_said(kinema: Kinema, trained: Path, video: Path) -> None:
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = os.urandom(2000)
    Path("hurt.mp4").write_bytes(content)
    answer = kinema("timeline", trained, "hurt.mp4", *ALWAYS, "--json", "-")
    assert answer.code == 0, answer.err
    assert "damaged in places" in answer.err
    assert answer.json["video"]["damaged"]
    assert "damaged in places" in Path("hurt-timeline/index.html").read_text()


SLOW = """
import sys, time
from kinema.inference import timeline
from kinema.cli.main import main
plain = timeline.Follower.see
def see(self, pictures, **others):
    time.sleep(0.02)
    print("saw", len(pictures), file=sys.stderr, flush=True)
    return plain(self, pictures, **others)
timeline.Follower.see = see
main()
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_process_that_was_stopped_goes_on(signum: signal.Signals, trained: Path, video: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        return [sys.executable, "-c", SLOW, "timeline", str(trained), str(video), *ALWAYS, "--out", str(tmp_path / out)]

    whole = subprocess.run(command("whole"), capture_output=True, text=True, timeout=120, check=False)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(command("again"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    answers = tmp_path / "again" / "answers.bin"
    until = time.monotonic() + 60
    while not (answers.is_file() and answers.stat().st_size > 2000):  # the first of three parts
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    said, problems = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[signum]
    if signum != signal.SIGKILL:
        assert "the same command goes on" in said
        assert "Traceback" not in problems
    assert not (tmp_path / "again" / "segments.csv").exists()
    again = subprocess.run(command("again"), capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "goes on at" in again.stdout
    assert again.stderr.count("saw") < whole.stderr.count("saw")
    for name in ("answers.bin", "segments.csv", "subtitles.vtt"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
