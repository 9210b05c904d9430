"""Watching a camera: the delay of answers, against seeing whole windows again for each; and an hour of it.

    python benchmarks/watch.py [--seconds 60] [--minutes 60] [--only live|hour] [--json FILE] [--data FOLDER] [--quick]

Live: clips of UT-Interaction one behind the other, as one file of 640 x 480 at 30 frames per second, H.264, is played
as `kinema watch --realtime` plays it, with MobileNetV2 at 224 and a temporal module that sees a window of 20 frames:
for every picture an answer is due. What is dropped and how old the answers' pictures are is counted as the command
counts it. Then, in turns in one process, milliseconds per answer of the same thing without a clock, and of the naive
way: the last 20 frames, decoded, cut and scaled already, pass the whole model again for every answer, by the same
runtime (batch norm folded, channels last, the same threads).

Hour: a camera of 30 frames per second that exists in memory only, as fast as it is looked at: 108,000 pictures, one at
a time. So that it takes minutes, pictures are 160 x 120 and the network is small. From time to time pictures are
broken, change in size, stop for a while, and the camera disappears. The memory that this process holds is looked at
sixty times from the end of the first twentieth on, and so are the delays of each sixtieth. Then a sixth of it comes
half as fast again as the network is, and waits for nobody: the newest picture wins, the others are dropped, and neither
the delay nor the memory may grow.

What is wanted of each is in the table; where something of it is missed, the exit code is 1 (not of a quick run).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.frame import VideoFrame

import computing
import media
import memory_use
from harness import AS_KINEMA, MADE, Options, Report, options, row, say
from kinema.inference.deciding import Decider
from kinema.inference.following import Follower
from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Picture
from kinema.inference.recogniser import Recogniser
from kinema.inference.sources import BrokenPictureError, Feed, FileSource, LostError
from kinema.inference.taking import FrameTaker
from kinema.inference.watch_figures import Delays
from kinema.inference.watching import Watcher, share_cores
from kinema.models.build import build_model, initialise
from kinema.models.runtime import keep_memory
from kinema.models.weights import WeightsConfig
from kinema.sections import InitSection
from kinema.types import Preprocessing

FPS = 30
WINDOW = 20
HEADS = {"action": ("0", "1", "2", "3", "4", "5")}
MOST_DROPPED, MOST_DELAY_MS, LEAST_RATIO, MOST_GROWTH = 0.01, 100.0, 10.0, 0.02
MOST_SLOWER = 1.25
"""Delays of the last third against the first: more than what else the machine does makes of them."""
FASTER = 1.5
"""How much faster than the network a camera is that does not wait for it."""

EVERY_FRAME = LiveSection(fast_s=WINDOW / FPS, slow_s=WINDOW / FPS)
"""One window of 20 frames, and an answer for each picture."""
CONTENDERS: dict[str, tuple[str, LiveSection]] = {
    "cnn_conv1d, 20 frames": ("cnn_conv1d", EVERY_FRAME),
    "cnn_lstm, 20 frames": ("cnn_lstm", EVERY_FRAME),
    "cnn_conv1d, 8 frames, and 24 three times a second": ("cnn_conv1d", LiveSection()),
    "cnn_lstm, from its state": ("cnn_lstm", EVERY_FRAME.model_copy(update={"memory": "state"})),
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--only", choices=("live", "hour"))
    own, rest = parser.parse_known_args()
    if os.environ.get("OMP_WAIT_POLICY") is None:  # it is read when torch is loaded
        os.environ.update(AS_KINEMA)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - this program again
    given = options(__doc__, rounds=5, arguments=rest)
    report = Report(name="watch", options=given)
    keep_memory()
    report.facts["threads before"] = torch.get_num_threads()
    logging.getLogger("kinema").setLevel(logging.ERROR)
    if own.only != "hour":
        live(given, report, seconds=own.seconds or (4 if given.quick else 60))
    if own.only != "live":
        hour(report, minutes=own.minutes or (0.2 if given.quick else 60))
    report.finish()
    if not given.quick and report.missed:  # a quick run says nothing of speed
        sys.exit("missed: " + "; ".join(report.missed))


# Live


def live(given: Options, report: Report, *, seconds: float) -> None:
    source = camera_file(given, seconds=seconds)
    weights = given.data / computing.WEIGHTS
    if not weights.is_file():
        report.notes.append(f"{weights} is not there; the network has random weights, which takes as long")
    names = list(CONTENDERS)[:1] if given.quick else list(CONTENDERS)
    for name in names:
        model, settings = CONTENDERS[name]
        recogniser = mobilenet(model, weights if weights.is_file() else None)
        facts = played(source, recogniser, settings)
        say(f"{name}: {facts}")
        report.facts[name] = facts
        if facts["latency_p95_ms"] is None:
            report.notes.append(f"{name}: nothing was answered")
            continue
        report.rows += [
            delay_row(f"{name}: 95 % of delays", facts["latency_p95_ms"]),
            kept_row(f"{name}: frames that were not dropped", facts),
            {"job": f"{name}: answers", "kinema": facts["answers_per_s"], "peer_name": "", "peer": None, "ratio": None}
            | {"unit": "/s", "target": None, "rounds": 1},
        ]
    model, settings = CONTENDERS[names[0]]
    against_naive(given, report, source, mobilenet(model, weights if weights.is_file() else None), settings)


def delay_row(job: str, delay_ms: float) -> dict[str, Any]:
    told = {"kinema": delay_ms, "peer": MOST_DELAY_MS, "unit": "ms", "peer_name": "as asked for", "rounds": 1}
    return {"job": job, "ratio": delay_ms / MOST_DELAY_MS, "target": 1.0, "at_most": True, "limit": True, **told}


def kept_row(job: str, facts: dict[str, Any]) -> dict[str, Any]:
    kept, least = 1 - facts["dropped"] / max(1, facts["frames"]), 1 - MOST_DROPPED
    told = {"kinema": 100 * kept, "peer": 100 * least, "unit": "%", "peer_name": "as asked for", "rounds": 1}
    return {"job": job, "ratio": kept / least, "target": 1.0, "limit": True, **told}


def camera_file(given: Options, *, seconds: float) -> Path:
    """Clips one behind the other."""
    target = MADE / "media" / f"camera_{seconds:g}s.mp4"
    if not target.is_file():
        paths = media.avi_files(given.data, num=40)["UT-Interaction"]
        pictures = (
            frame for path in itertools.cycle(paths) for frame in media.frames(path, width_px=640, height_px=480)
        )
        chosen = itertools.islice(pictures, round(seconds * FPS))
        media.encode(target, chosen, rate=Fraction(FPS), options={"preset": "veryfast", "tune": "zerolatency"})
    return target


def mobilenet(model: str, weights: Path | None) -> Recogniser:
    plain = computing.PLAIN
    rgb = Preprocessing(
        num_frames=WINDOW, size_px=224, resize_px=224, fit="squash", pixels="i420", mean=plain, std=plain
    )
    config = WeightsConfig(model=model, arguments={"backbone": "mobilenet_v2"}, heads=HEADS, preprocessing={"rgb": rgb})
    torch.manual_seed(0)
    made = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    if weights is not None:
        initialise(made, InitSection(weights=str(weights), mean=plain, std=plain))
    return Recogniser(made, config)


def played(source: Path, recogniser: Recogniser, settings: LiveSection) -> dict[str, Any]:
    """What `kinema watch --realtime --headless --json` says."""
    follower = Follower(recogniser, settings)
    share_cores(follower)
    watcher = Watcher(FileSource(source, realtime=True), follower, Decider(HEADS, settings))
    gc.collect()
    gc.freeze()
    watcher.start()
    watcher.join()
    gc.unfreeze()
    return watcher.figures.record()


def against_naive(given: Options, report: Report, source: Path, recogniser: Recogniser, settings: LiveSection) -> None:
    """Milliseconds per answer, in turns."""
    pictures = list(itertools.islice(pictures_of(source), 90 if given.quick else 240))
    follower = Follower(recogniser, settings)
    for picture in pictures[:WINDOW]:
        follower.see([picture])
    naive = Naive(recogniser, pictures[:WINDOW])
    follow_s: list[list[float]] = []
    naive_s: list[list[float]] = []
    each, few = (10, 3) if given.quick else (40, 10)
    place = itertools.count(WINDOW)
    for _ in range(given.rounds):
        chosen = [pictures[next(place)] for _ in range(each)]
        follow_s.append([_seconds(lambda picture=picture: follower.see([picture])) for picture in chosen])
        naive_s.append([_seconds(lambda picture=picture: naive.see(picture)) for picture in chosen[:few]])
    ours = np.array([[sum(times) / len(times)] for times in follow_s])
    theirs = np.array([[sum(times) / len(times)] for times in naive_s])
    found = row(
        "an answer for each picture: MobileNetV2 and cnn_conv1d, 20 frames",
        ours,
        theirs,
        "the whole window again for each answer, same runtime",
        amount=1.0,
        unit="answers/s",
        target=LEAST_RATIO,
    )
    report.rows.append(found)
    report.facts["threads"] = torch.get_num_threads()
    report.facts["ms_per_answer"] = {"kinema": 1e3 * float(np.median(ours)), "naive": 1e3 * float(np.median(theirs))}
    say(f"ms per answer: {report.facts['ms_per_answer']}")


def pictures_of(source: Path) -> Iterator[Picture]:
    feed = FileSource(source).open(threading.Event())
    while (picture := feed.read()) is not None:
        yield picture
    feed.close()


class Naive:
    """Sees the last frames again for each answer. What was cut and scaled once is kept, which favours it."""

    def __init__(self, recogniser: Recogniser, pictures: Sequence[Picture]) -> None:
        self._recogniser = recogniser
        (preprocessing,) = recogniser.config.preprocessing.values()
        self._taker = FrameTaker(preprocessing)
        self._frames: deque[np.ndarray] = deque((self._taker.values(p) for p in pictures), maxlen=WINDOW)
        self.see(pictures[-1])

    def see(self, picture: Picture) -> None:
        self._frames.append(self._taker.values(picture))
        self._recogniser.predict_frames(torch.from_numpy(np.stack(self._frames))[None])


def _seconds(work: Any) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


# Hour


class MemoryCamera:
    """A camera that never was. Of each picture it is said when in the hour it would have been taken.

    Args:
        num: Pictures.
        every_s: One comes so often, as of a camera; None: as fast as they are looked at, and none is dropped.
    """

    name = "camera in memory"
    is_live = True
    fps: float | None = FPS
    size_px = (160, 120)
    skipped = 0

    def __init__(self, num: int, *, every_s: float | None = None) -> None:
        self.num, self._next, self._lost = num, 0, 0
        self._every_s, self._due_s = every_s, 0.0
        self.waits = every_s is None
        self.begins = threading.Event()
        """Before it is set there is no picture: what comes while the network is warmed up would count for nothing."""
        self._stop = threading.Event()
        rng = np.random.default_rng(0)
        self._images = {
            size: [rng.integers(0, 256, (size[1] * 3 // 2, size[0]), dtype=np.uint8) for _ in range(8)]
            for size in ((160, 120), (120, 90))
        }

    def open(self, stop: threading.Event) -> Feed:
        if self._lost % 3:  # not at once
            self._lost -= 1
            raise LostError("No such device")
        self._stop = stop
        return self

    def read(self) -> Picture | None:
        while not self.begins.wait(0.01):
            if self._stop.is_set():
                return None
        if self._next >= self.num:
            return None
        if self._every_s is not None:
            now_s = time.monotonic()
            self._due_s = max(self._due_s + self._every_s, now_s - self._every_s)
            self._stop.wait(max(0.0, self._due_s - now_s))
        number, self._next = self._next, self._next + 1
        minute, rest = divmod(number, FPS * 60)
        if rest == 900 and minute % 10 == 5:
            self._lost = 2
            raise LostError("No such device")
        if rest == 300 and minute % 10 == 7:
            time.sleep(0.5)
        if number % 997 == 0:
            raise BrokenPictureError("bits are missing")
        size = (120, 90) if minute % 4 == 3 else (160, 120)
        image = self._images[size][number % 8]
        frame = VideoFrame.from_ndarray(image, format="yuv420p")
        return Picture(image=frame, time_s=number / FPS, duration_s=1 / FPS, captured_s=time.monotonic())

    def close(self) -> None:
        pass


def hour(report: Report, *, minutes: float) -> None:
    num = round(minutes * 60 * FPS)
    follower = small_follower()
    waiting = watched(MemoryCamera(num), follower)
    report_course(report, "hour", f"{num:,} pictures of a camera", waiting)
    num = max(num // 6, min(num, 600))
    every_s = 1 / (FASTER * waiting.figures["answers_per_s"])
    live = watched(MemoryCamera(num, every_s=every_s), follower)
    job = f"{num:,} pictures that wait for nobody"
    report_course(report, "hour, live", job, live)
    share = live.figures["looked_at"] / live.figures["frames"]
    report.rows += [
        delay_row(f"{job}: 95 % of delays, in the worst part", max(late for _, late in live.delays_ms)),
        # Else the way of what is dropped was not gone.
        {"job": f"{job}: looked at", "kinema": 100 * share, "peer": 100.0, "unit": "%", "peer_name": "all"}
        | {"ratio": share, "target": 0.99, "at_most": True, "limit": True, "rounds": 1},
    ]


def small_follower() -> Follower:
    rgb = Preprocessing(
        num_frames=WINDOW, size_px=64, resize_px=64, fit="squash", pixels="i420", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    config = WeightsConfig(model="cnn_lstm", arguments={"backbone": "tiny"}, heads=HEADS, preprocessing={"rgb": rgb})
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=HEADS, inputs=config.inputs)
    follower = Follower(Recogniser(model, config), EVERY_FRAME)
    share_cores(follower)
    return follower


@dataclass(kw_only=True)
class Course:
    """What was seen of a watch on its way, part by part.

    Attributes:
        used_mb: Memory of this process.
        delays_ms: Half of the delays are below the one, 95 % below the other.
        work_ms: Time on the processor, per picture.
        figures: As `kinema watch --json` gives them.
    """

    used_mb: list[float] = field(default_factory=list)
    delays_ms: list[tuple[float, float]] = field(default_factory=list)
    work_ms: list[float] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0


def watched(camera: MemoryCamera, follower: Follower) -> Course:
    follower.reset()
    watcher = Watcher(camera, follower, Decider(HEADS, EVERY_FRAME), at_once=1, stall_s=0.3)
    course = Course()
    gc.collect()
    gc.freeze()  # as the command does
    began_s = time.monotonic()
    watcher.start()
    slices = min(60, max(3, camera.num // 60))
    before_s, before = time.process_time(), 0
    while not course.used_mb or watcher.is_running:
        time.sleep(0.02)
        if watcher.figures.began_s is not None:
            camera.begins.set()
        watcher.ended()
        done = 1.0 if not watcher.is_running else watcher.figures.frames / camera.num
        if done >= 0.05 + 0.95 * len(course.used_mb) / slices:
            gc.collect()
            of_slice, watcher.figures.delays = watcher.figures.delays, Delays()
            spent_s, seen = time.process_time(), watcher.figures.looked_at
            course.work_ms.append(1e3 * (spent_s - before_s) / max(1, seen - before))
            before_s, before = spent_s, seen
            course.used_mb.append(memory_use.megabytes([memory_use.family()[0]]))
            half_ms, most_ms = of_slice.percentile(0.5), of_slice.percentile(0.95)
            if half_ms is not None and most_ms is not None:
                course.delays_ms.append((half_ms, most_ms))
    watcher.join()
    gc.unfreeze()
    course.took_s = time.monotonic() - began_s
    course.figures = watcher.figures.record()
    return course


def report_course(report: Report, name: str, job: str, course: Course) -> None:
    """What must not grow."""
    used_mb, delays_ms = course.used_mb, course.delays_ms
    first, tail = used_mb[0], used_mb[-max(1, len(used_mb) // 10) :]
    last = sum(tail) / len(tail)
    report.facts[name] = course.figures | {
        "took_s": round(course.took_s, 1),
        "memory_mb": [round(value, 1) for value in used_mb],
        "work_ms": [round(value, 3) for value in course.work_ms],
        "delays_ms": [[round(value, 2) for value in pair] for pair in delays_ms],
    }
    say(
        f"{job} in {course.took_s:.0f} s: {first:.1f} MB, then {last:.1f} MB ({min(used_mb):.1f} to "
        f"{max(used_mb):.1f}); delays {delays_ms[min(1, len(delays_ms) - 1)]} then {delays_ms[-1]} ms; {course.figures}"
    )
    shared = {"limit": True, "at_most": True, "rounds": 1}
    report.rows.append(
        {"job": f"{job}: memory at the end", "kinema": last, "unit": "MB", "peer": first, "ratio": last / first}
        | {"target": 1 + MOST_GROWTH, "peer_name": "after the first twentieth", "most": max(used_mb), **shared}
    )
    late_ms = [late for _, late in delays_ms]
    # What other programs leave of the processor changes delays, and time on the processor less.
    for what, values, target in (
        ("95 % of delays", late_ms, MOST_SLOWER),
        ("processor time per picture", course.work_ms, None),
    ):
        third = max(1, len(values) // 3)
        early, late = (float(np.median(part)) for part in (values[1 : 1 + third] or values, values[-third:]))
        report.rows.append(
            {"job": f"{job}: {what}, in the last third of it", "kinema": late, "unit": "ms", "peer": early}
            | {"ratio": late / early, "target": target, "peer_name": "in the first third", **shared}
        )


if __name__ == "__main__":
    main()
