"""`kinema timeline` on videos joined from clips of UT-Interaction that the recogniser was not trained on.

    python benchmarks/timeline_ut.py [--data FOLDER] [--work FOLDER] [--json FILE] [--variants NAME...]

Three videos are joined, each of all clips of some sequences of set 1, once, in random order, with one of the 98 clips
in which nobody interacts (`no_interaction.csv`), of the same sequences, between any two of them; all scaled to one
size, 30 frames/s. For each, `ut_interaction/best_rgb` (frozen MobileNetV2) is trained on all other sequences of both
sets:

    plain       the six classes
    background  a class for nothing beside them, made of the training clips themselves (`data.background`)
    nothing     a class for nothing beside them: clips of `no_interaction.csv`, of the other sequences
    motion      as `background`, by `ut_interaction/best`, which sees optical flow beside frames

How long the windows are and how answers become actions is chosen on the first video, by the mean of the three F1
scores, for each of these. The other two videos confirm it. As the frozen backbone is the same for all, each frame, and
each field of flow, passes it once: features are kept, and looked at again by other classifiers in other windows.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from harness import REPOSITORY, say
from kinema.data.decoding import probe, read_frames
from kinema.evaluation.segment_list import read_segments
from kinema.evaluation.segments import timeline_scores
from kinema.inference import sights
from kinema.inference.kept_answers import KeptAnswers
from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Picture
from kinema.inference.long_video import LongVideo
from kinema.inference.recogniser import Recogniser, load
from kinema.inference.sights import FeatureSight
from kinema.inference.taking import Taken
from kinema.inference.timeline import found, offline, watch
from kinema.models.weights import WeightsConfig, read_config, read_training

VIDEOS = {"first": (1, 2, 3), "second": (4, 5, 6), "third": (7, 8, 9, 10)}
CHOSEN_ON = "first"
FPS, WIDTH_PX, HEIGHT_PX = 30, 384, 256
NOTHING = "nothing"
RGB, MOTION = "ut_interaction/best_rgb", "ut_interaction/best"
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (RGB,),
    "background": (RGB, f"data.background={NOTHING}"),
    "nothing": (RGB,),
    "motion": (MOTION, f"data.background={NOTHING}"),
}
"""Recipe and settings."""
WINDOWS_S = ((2.0, 2.0), (3.0, 3.0), (1.5, 3.0))
SMOOTHING_S = (0.2, 0.5)
ENTERS = (0.25, 0.3, 0.4, 0.5)
LEAVES = (0.5, 0.7)
"""Of `enter`."""


@dataclass(frozen=True)
class Candidate:
    """What is chosen."""

    variant: str
    windows_s: tuple[float, float]
    smoothing_s: float
    enter: float
    leave_share: float

    @property
    def settings(self) -> LiveSection:
        fast_s, slow_s = self.windows_s
        return offline(
            LiveSection(
                fast_s=fast_s,
                slow_s=slow_s,
                smoothing_s=self.smoothing_s,
                enter=self.enter,
                leave=round(self.leave_share * self.enter, 3),
            )
        )


class Work:
    """The folder of all that is made; what is there is not made again.

    Args:
        folder: It.
        data: Folder of the real clips.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data / "ut_interaction"
        self.backbone = data / "weights" / "mobilenet_v2_imagenet_dequant.pt"
        folder.mkdir(parents=True, exist_ok=True)
        self.clips, self.pauses = (_rows(self.data, name) for name in ("clips.csv", "no_interaction.csv"))

    def video(self, name: str) -> Path:
        """A joined video, and beside it what is true."""
        path = self.folder / f"{name}.mp4"
        if not path.exists():
            join(path, *(_of(rows, VIDEOS[name]) for rows in (self.clips, self.pauses)), seed=0)
        return path

    def weights(self, name: str, variant: str) -> Path:
        """Of a recogniser that saw no clip of the sequences of a video."""
        run = self.folder / f"{name}-{variant}"
        if (run / "weights" / "training.json").is_file():
            return run / "weights"
        held_out = VIDEOS[name]
        rows = [row for row in self.clips if not (row["set"] == "1" and int(row["sequence"]) in held_out)]
        if variant == "nothing":
            rows += [{**row, "label": NOTHING} for row in self.pauses if int(row["sequence"]) not in held_out]
        table = self.folder / f"{name}-{variant}.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "label", "set", "sequence"])
            writer.writeheader()
            writer.writerows(rows)
        recipe, *more = VARIANTS[variant]
        settings = [
            *(
                recipe,
                f"data.root={self.folder}",
                f"data.csv={table.name}",
                "data.holdout={}",
                f"init.weights={self.backbone}",
            ),
            *("init.mean=[0.5,0.5,0.5]", "init.std=[0.5,0.5,0.5]", f"output={run}", *more),
        ]
        command = [sys.executable, "-m", "kinema.cli.main", "train", *settings]
        say(f"  trained on {len(rows)} clips: kinema {' '.join(command[3:])}")
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        return run / "weights"

    def answers(self, name: str, candidate: Candidate) -> tuple[KeptAnswers, Path]:
        """Answers about a video, by a recogniser that saw none of its sequences."""
        weights = self.weights(name, candidate.variant)
        fast_s, slow_s = candidate.windows_s
        path = self.folder / f"{name}-{candidate.variant}-{fast_s:g}-{slow_s:g}.answers"
        kept = KeptAnswers(path, {})
        if not kept.is_finished:
            of = Path(VARIANTS[candidate.variant][0]).name
            with remembered(self.folder / f"{name}-{of}.features.npz") as features:
                num_frames = max(map(len, features.values()), default=0)
                video = Replayed(self.video(name), num_frames) if features else LongVideo(self.video(name))
                watch(_loaded(weights), candidate.settings, video, kept)
            say(f"  {path.name}")
        return kept, weights

    def scores(self, name: str, candidate: Candidate, *, shift: float | None = None) -> dict[str, Any]:
        kept, weights = self.answers(name, candidate)
        config, background = read_config(weights), _background(weights)
        result = found(kept, config, candidate.settings, background=background, shift=shift)
        names = {task: config.heads[task][index] for task, index in background.items()}
        true = read_segments(self.video(name).with_suffix(".csv"), config.heads, background=names)
        heads = {task: tuple(n for n in of if n != names.get(task)) for task, of in config.heads.items()}
        scores = timeline_scores(true, result.segments, heads, num_frames=result.num_frames, fps=result.fps)
        return scores["action"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "timeline_ut")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--variants", nargs="+", default=["background", "nothing"], choices=list(VARIANTS))
    given = parser.parse_args()
    work = Work(given.work.resolve(), given.data.resolve())
    tried = choose(work, given.variants)
    best = {variant: max((one for one in tried if one[1].variant == variant), key=_worth) for variant in given.variants}
    rows = []
    for variant, (_, candidate) in best.items():
        settings = candidate.settings.model_dump(include={"fast_s", "slow_s", "smoothing_s", "enter", "leave"})
        say(f"\n{variant}: " + " ".join(f"{key}={value:g}" for key, value in settings.items()))
        say(f"{'video':8}{'sequences':>12}{HEAD}")
        for name, sequences in VIDEOS.items():
            scores = work.scores(name, candidate)
            rows.append({"variant": variant, "video": name, "settings": settings, **scores})
            say(
                f"{name:8}{','.join(map(str, sequences)):>12}{line(scores)}"
                + (" (chosen on)" if name == CHOSEN_ON else "")
            )
    say("\nanswers set back by (s), with the settings above")
    shifts = []
    for variant, (_, candidate) in best.items():
        fast_s, slow_s = candidate.windows_s
        for shift in sorted({0.0, fast_s / 2, slow_s / 2, (fast_s + slow_s) / 4, slow_s}):
            for name in VIDEOS:
                scores = work.scores(name, candidate, shift=shift)
                shifts.append({"variant": variant, "video": name, "shift_s": shift, **scores})
                say(f"{variant:12}{name:8}{shift:5.2f}{line(scores)}")
    if given.json is not None:
        facts = {"tried": [{"f1": scores["f1"], **candidate.__dict__} for scores, candidate in tried]}
        given.json.write_text(json.dumps({"rows": rows, "shifts": shifts, **facts}, indent=1))


def choose(work: Work, variants: Sequence[str]) -> list[tuple[dict[str, Any], Candidate]]:
    """All candidates, with their scores on the video that they are chosen on."""
    grid = itertools.product(variants, WINDOWS_S, SMOOTHING_S, ENTERS, LEAVES)
    tried = [(work.scores(CHOSEN_ON, candidate), candidate) for candidate in (Candidate(*values) for values in grid)]
    say(f"{len(tried)} candidates on the {CHOSEN_ON} video")
    for variant in variants:
        for windows_s in WINDOWS_S:
            of = [one for one in tried if (one[1].variant, one[1].windows_s) == (variant, windows_s)]
            scores, candidate = max(of, key=_worth)
            say(f"{variant:12}{windows_s!s:12}{line(scores)}  {candidate.smoothing_s} {candidate.enter}")
    return tried


HEAD = "".join(
    f"{name:>9}"
    for name in ("frames", "major.", "actions", "chance", "edit", "F1@10", "F1@25", "F1@50", "found", "true")
)


def line(scores: dict[str, Any]) -> str:
    values = [scores[name] for name in ("accuracy", "majority", "action_accuracy", "chance", "edit")]
    values += scores["f1"].values()
    counts = scores["num_segments"]
    return "".join(f"{100 * value:9.1f}" for value in values) + f"{counts['found']:9}{counts['true']:9}"


def join(path: Path, clips: Sequence[dict[str, str]], pauses: Sequence[dict[str, str]], *, seed: int) -> None:
    """Clips with pauses before, between and behind them, as one video, and what is true as a CSV file beside it."""
    draw = random.Random(seed)
    clips, pauses = list(clips), list(pauses)
    draw.shuffle(clips)
    draw.shuffle(pauses)
    assert len(pauses) > len(clips)
    order = [pauses[0]]
    for clip, pause in zip(clips, pauses[1:], strict=False):
        order += [clip, pause]
    temporary = path.with_suffix(".part.mp4")
    num_frames, true = 0, []
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryfast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for row in order:
            first = num_frames
            for image in _at_rate(Path(row["path"])):
                frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(WIDTH_PX, HEIGHT_PX, "yuv420p")
                frame.pts = num_frames
                container.mux(stream.encode(frame))
                num_frames += 1
            if row in clips:
                true.append((first / FPS, num_frames / FPS, row["label"]))
        container.mux(stream.encode())
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("start_s", "stop_s", "label"), *true])
    temporary.rename(path)
    action_s = sum(stop_s - start_s for start_s, stop_s, _ in true)
    say(f"{path.name}: {num_frames / FPS:.0f} s, {len(true)} actions of {action_s:.0f} s in all")


def _at_rate(path: Path) -> list[np.ndarray]:
    video = probe(path)
    times_s = (np.arange(round(video.duration_s * FPS)) + 0.5) / FPS
    return read_frames(video, video.frames_at(times_s).tolist())


def _rows(root: Path, name: str) -> list[dict[str, str]]:
    with (root / name).open(newline="") as file:
        return [{**row, "path": str(root / row["path"])} for row in csv.DictReader(file)]


def _of(rows: Sequence[dict[str, str]], sequences: Sequence[int]) -> list[dict[str, str]]:
    return [row for row in rows if row["set"] == "1" and int(row["sequence"]) in sequences]


def _worth(one: tuple[dict[str, Any], Candidate]) -> tuple[float, float]:
    scores, _ = one
    return sum(scores["f1"].values()), scores["accuracy"]


def _background(weights: Path) -> dict[str, int]:
    """The class for nothing: one that kinema made, or the one of clips of nothing."""
    config: WeightsConfig = read_config(weights)
    named = {task: names.index(NOTHING) for task, names in config.heads.items() if NOTHING in names}
    return {**read_training(weights).background, **named}


class Replayed(LongVideo):
    """A video whose features are remembered: its pictures are there for their times alone.

    Args:
        path: The file.
        num_frames: In it.
    """

    def __init__(self, path: Path, num_frames: int) -> None:
        super().__init__(path)
        self._num_frames = num_frames

    def pictures(self, start_s: float = 0.0, *, seek: bool = False) -> Generator[Picture]:
        image = VideoFrame.from_ndarray(np.zeros((16, 16, 3), dtype=np.uint8), format="rgb24")
        for number in range(self._num_frames):
            yield Picture(image=image, time_s=number / FPS, duration_s=1 / FPS)


@contextmanager
def remembered(path: Path) -> Iterator[dict[str, dict[int, Tensor]]]:
    """While this lasts, features of frames are computed once and taken from a file later: part of the model -> number
    of the frame -> its feature."""
    store: dict[str, dict[int, Tensor]] = {}
    if path.exists():
        with np.load(path) as found:
            store = {name[1:]: dict(enumerate(torch.from_numpy(rows).unbind())) for name, rows in found.items()}

    def keep(self: FeatureSight, taken: Mapping[str, Sequence[Taken]]) -> None:
        for stream, new in taken.items():
            for name, part in self._parts.items():
                if part.stream != stream:
                    continue
                known = store.setdefault(name, {})
                missing = [one for one in new if round(one.time_s * FPS) not in known]
                if missing:
                    frames = sights._input(stream, missing, self._preprocessing[stream], self._device)
                    features = part.features(frames)[0].clone().unbind()
                    numbers = (round(one.time_s * FPS) for one in missing)
                    known.update(zip(numbers, features, strict=True))
                for one in new:
                    self._kept[name].add(one.time_s, known[round(one.time_s * FPS)])

    plain = FeatureSight.keep
    FeatureSight.keep = keep  # type: ignore[method-assign]
    try:
        yield store
    finally:
        FeatureSight.keep = plain  # type: ignore[method-assign]
    if not path.exists():
        rows: dict[str, Any] = {}  # of any type: NumPy declares one more argument among their names
        for name, of in store.items():
            rows[f"_{name}"] = np.stack([of[number].numpy() for number in range(len(of))])
        np.savez(path, **rows)


_LOADED: dict[Path, Recogniser] = {}


def _loaded(weights: Path) -> Recogniser:
    if weights not in _LOADED:
        _LOADED[weights] = load(weights, device="cpu")
    return _LOADED[weights]


if __name__ == "__main__":
    main()
