"""Sample clips: which ones are shown, and each as a small moving picture.

Animated WebP, because every browser plays it like any other picture: no controls, no codec that a browser may lack,
and the first frame in print. At this size it is 10 to 45 kB a clip; GIF is ten times that.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinema.data.decoding import Video, read_frames
from kinema.data.probing import probe_all
from kinema.data.sampling import sample_times_s
from kinema.report.figures import data_uri
from kinema.report.markup import Markup, element, percent
from kinema.types import DataError

log = logging.getLogger(__name__)

_NUM_FRAMES = 16
_SIZE_PX = 160
_QUALITY = 70
_LONGEST_S = 3.0
"""A longer clip is played faster."""
_PAUSE_S = 0.6
"""The last frame stays, so that one sees where a clip begins."""
_MAX_BYTES = 150_000
"""Of one clip; beyond it there is a placeholder, so that a page stays small whatever is in the videos."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A clip and what was said about it.

    Attributes:
        clip_id: The clip.
        video: Its file, or its folder of frames.
        start_s: Its start.
        stop_s: Its end, None for the end of the video.
        fps: Frames per second of a folder of frames.
        answers: Task -> (true class, predicted class, confidence).
    """

    clip_id: str
    video: Path
    start_s: float
    stop_s: float | None
    answers: Mapping[str, tuple[str, str, float]]
    fps: float | None = None

    @property
    def wrong(self) -> list[str]:
        """Tasks whose answer is wrong."""
        return [task for task, (true, predicted, _) in self.answers.items() if true != predicted]


def read_samples(rows: Sequence[Mapping[str, str]], tasks: Sequence[str]) -> list[Sample]:
    """The rows of a `predictions.csv`.

    Raises:
        DataError: A column is missing or holds no number.
    """
    try:
        return [
            Sample(
                clip_id=row["clip_id"],
                video=Path(row["video"]),
                start_s=float(row["start_s"]),
                stop_s=float(row["stop_s"]) if row["stop_s"] else None,
                fps=float(row["fps"]) if row.get("fps") else None,  # a column that earlier versions did not write
                answers={
                    task: (row[f"{task}_label"], row[f"{task}_predicted"], float(row[f"{task}_confidence"]))
                    for task in tasks
                },
            )
            for row in rows
        ]
    except (KeyError, ValueError) as error:
        raise DataError(f"predictions.csv: not what kinema wrote ({error!r}); evaluate again") from None


def most_confident_mistakes(samples: Sequence[Sample], num: int) -> list[Sample]:
    """Clips that are wrong in a task, the most confident wrong answer first."""

    def confidence(sample: Sample) -> float:
        return max(sample.answers[task][2] for task in sample.wrong)

    return sorted((sample for sample in samples if sample.wrong), key=confidence, reverse=True)[:num]


def least_confident_hits(samples: Sequence[Sample], num: int) -> list[Sample]:
    """Clips that are right in every task, the least confident first: what was nearly a mistake."""

    def confidence(sample: Sample) -> float:
        return float(np.prod([values[2] for values in sample.answers.values()]))

    return sorted((sample for sample in samples if not sample.wrong), key=confidence)[:num]


def clip_figures(samples: Sequence[Sample], *, folder: Path, root: Path | None = None) -> Markup:
    """Each clip playing, with what was said and what is true.

    Args:
        samples: Few.
        folder: The run; videos inside it are named from there.
        root: Of the data set, whose index says what the videos are.
    """
    rates = {sample.video: sample.fps for sample in samples if sample.fps is not None}
    probed = probe_all([sample.video for sample in samples], fps=rates, workers=1, root=root)
    figures = []
    for sample in samples:
        video = probed[sample.video]
        figures.append(_figure(sample, moving_picture(sample, video) if isinstance(video, Video) else None, folder))
    return element("div", figures, class_="clips")


def moving_picture(sample: Sample, video: Video) -> tuple[bytes, bytes] | None:
    """A clip as an animated and, of its middle frame, a still WebP; None where the video does not give one."""
    stop_s = min(video.duration_s if sample.stop_s is None else sample.stop_s, video.duration_s)
    start_s = max(sample.start_s, 0.0)
    if start_s >= stop_s:
        return None
    try:
        indices = video.frames_at(sample_times_s(start_s, stop_s, num_frames=_NUM_FRAMES))
        images = [_small(frame) for frame in read_frames(video, indices)]
    except (DataError, OSError) as error:
        log.warning("the report shows no picture of %s: %s", sample.clip_id, error)
        return None
    step_ms = round(1000 * min(stop_s - start_s, _LONGEST_S) / _NUM_FRAMES)
    durations_ms = [max(step_ms, 20)] * (_NUM_FRAMES - 1) + [step_ms + round(1000 * _PAUSE_S)]
    moving = io.BytesIO()
    images[0].save(
        moving,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations_ms,
        loop=0,
        quality=_QUALITY,
        method=4,
    )
    still = io.BytesIO()
    images[_NUM_FRAMES // 2].save(still, "WEBP", quality=_QUALITY, method=4)
    if len(moving.getvalue()) + len(still.getvalue()) > _MAX_BYTES:
        return None
    return moving.getvalue(), still.getvalue()


def _small(frame: NDArray[np.uint8]) -> Image.Image:
    height_px, width_px = frame.shape[:2]
    scale = min(1.0, _SIZE_PX / max(height_px, width_px))
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    return Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)


def _figure(sample: Sample, pictures: tuple[bytes, bytes] | None, folder: Path) -> Markup:
    if pictures is None:
        picture = element("div", "video not available", class_="missing")
    else:
        moving, still = (data_uri("image/webp", content) for content in pictures)
        picture = element(
            "picture",
            element("source", media="(prefers-reduced-motion: reduce)", srcset=still),
            element("img", src=moving, alt=f"Clip {sample.clip_id}"),
        )
    answers = [_answer(task, *values, several=len(sample.answers) > 1) for task, values in sample.answers.items()]
    video = sample.video.absolute()
    inside = video.is_relative_to(folder.absolute())
    path = video.relative_to(folder.absolute()) if inside else sample.video
    name = element("div", sample.clip_id, class_="clip-id", title=str(path))
    return element("figure", picture, element("figcaption", answers, name), class_="clip", data_clip=sample.clip_id)


def _answer(task: str, true: str, predicted: str, confidence: float, *, several: bool) -> Markup:
    prefix = f"{task}: " if several else ""
    style = "right" if true == predicted else "wrong"
    verb = "" if true == predicted else "said "
    said = element("div", prefix, verb, element("b", predicted), " ", percent(confidence), class_=style)
    if true == predicted:
        return said
    return element("div", said, element("div", "is ", element("b", true), class_="truth"))
