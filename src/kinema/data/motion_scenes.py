"""Plans, records and writes the scenes of the generated data set `motion`.

A scene is one shape that does one thing in front of one background. It is recorded twice: forwards, and with
exactly the same frames in reverse order. The two recordings carry the two verbs of a pair. Every frame is
compressed on its own at a constant quantiser, so that the frames that come out of the decoder are the same to the
last bit in both recordings: whatever a model answers better than 50 % within pairs, it has from the order of the
frames.

A scene has an odd number N of frames. Then (k + 1/2) N / K is never a whole number, so that the frames on display
at the middles of K equal shares of the recording are, for every K, the mirror image of those of the reverse.
"""

from __future__ import annotations

import csv
import errno
import io
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np

from kinema.data.motion_drawing import (
    SHAPES,
    TEXTURES,
    Floats,
    Look,
    Pixels,
    Track,
    draw,
    draw_background,
    hsv_to_rgb,
)
from kinema.types import SPLITS, DataError, Split, fingerprint

_LOG = logging.getLogger(__name__)

PAIRS: tuple[tuple[str, str], ...] = (
    ("approach", "retreat"),
    ("open", "close"),
    ("turn_left", "turn_right"),
    ("rise", "fall"),
    ("move_left", "move_right"),
)
"""Verbs that show the same frames in opposite order."""

VERBS: tuple[str, ...] = tuple(verb for pair in PAIRS for verb in pair)
NOUNS: tuple[str, ...] = tuple(SHAPES)

CLIPS_FILE = "clips.csv"
COLUMNS = ("path", "start_s", "stop_s", "verb", "noun", "split", "background", "num_frames", "fps")

_VERSION = 1  # to be raised whenever the same arguments give other pixels
_FRAME_RATES = (24, 25, 30)
_NUM_FRAMES = (25, 39)  # both odd; only odd numbers between them are used
_QUANTISER = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What determines every pixel of the data set.

    Attributes:
        num_backgrounds: Split -> number of its backgrounds. In front of each, every verb is shown once.
        size_px: Height and width of the videos.
        seed: Of everything random.
        texture: Shapes and backgrounds have one; else they are of one colour each, without noise or flicker.
        moving: Scenes move; else the middle frame is shown throughout.
    """

    num_backgrounds: dict[Split, int]
    size_px: int
    seed: int
    texture: bool = True
    moving: bool = True

    @property
    def folder_name(self) -> str:
        settings = asdict(self)
        for switch in ("texture", "moving"):  # which came later: what was written before keeps its name
            if settings[switch]:
                del settings[switch]
        return f"motion-{fingerprint({**settings, 'version': _VERSION})}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One shape doing one thing in front of one background.

    Attributes:
        split: Its split.
        number: Of the background within the split.
        pair: The verbs of the recording forwards and of the recording in reverse.
        noun: The shape.
    """

    split: Split
    number: int
    pair: tuple[str, str]
    noun: str

    @property
    def background(self) -> str:
        return f"{self.split}-{self.number:04d}"


def scenes(plan: Plan) -> Iterator[Scene]:
    """All scenes. In a split whose number of backgrounds is a multiple of the number of nouns, every noun does
    every verb equally often; in any other, as nearly as possible."""
    for split in SPLITS:
        for number in range(plan.num_backgrounds[split]):
            for index, pair in enumerate(PAIRS):
                yield Scene(split=split, number=number, pair=pair, noun=NOUNS[(number + index) % len(NOUNS)])


def film(plan: Plan, scene: Scene) -> tuple[Pixels, int]:
    """Draw a scene. It depends on the seed and on the scene alone, not on how many others there are. Without texture
    or motion it is the same scene otherwise.

    Returns:
        The frames (T, H, W, 3) in RGB, in the order of `scene.pair[0]`, and the frames per second.
    """
    place = (plan.seed, SPLITS.index(scene.split), scene.number)
    backdrop = np.random.default_rng((*place, 0))
    background = draw_background(plan.size_px, backdrop)
    hue = float(backdrop.uniform(0, 1))

    generator = np.random.default_rng((*place, 1 + PAIRS.index(scene.pair)))
    fps = int(generator.choice(_FRAME_RATES))
    num_frames = int(generator.choice(np.arange(_NUM_FRAMES[0], _NUM_FRAMES[1] + 1, 2)))
    track = _track(scene.pair, _progress(num_frames, generator), generator)
    look = _look(num_frames, hue, generator)
    if not plan.texture:
        look, background = look.plain(), np.broadcast_to(background.mean(axis=(0, 1)), background.shape)
    frames = draw(scene.noun, track, look, background, generator)
    # There is an odd number of them, so that the reverse shows the same.
    return frames if plan.moving else np.repeat(frames[[num_frames // 2]], num_frames, axis=0), fps


def _progress(num_frames: int, generator: np.random.Generator) -> Floats:
    """How far the change has come in each frame, 0 to 1, (T,): a pause, an eased rise, a pause."""
    begin, end = generator.uniform(0, 0.2), 1 - generator.uniform(0, 0.2)
    time = np.clip(((np.arange(num_frames) + 0.5) / num_frames - begin) / (end - begin), 0, 1)
    time = time ** np.exp(generator.uniform(-0.25, 0.25))
    power = generator.uniform(1, 1.8)
    eased = time**power / (time**power + (1 - time) ** power)
    return np.asarray(eased, np.float32)


def _track(pair: tuple[str, str], progress: Floats, generator: np.random.Generator) -> Track:
    """The motion of a scene. What is not its verb stays nearly as it is, at a random value."""
    draw_one = generator.uniform
    change = progress - np.float32(0.5)
    radius, tilt = draw_one(0.2, 0.27), np.radians(draw_one(-18, 18)) + _wobble(progress, 6, generator)
    size = np.ones_like(progress)
    x_change, y_change, gape = np.zeros_like(progress), np.zeros_like(progress), None
    if pair[0] == "approach":
        radius = draw_one(0.27, 0.36)
        size = np.exp(np.log(draw_one(1.9, 2.8)) * (progress - 1))
    elif pair[0] == "open":
        gape = np.radians(draw_one(4, 12) + draw_one(65, 95) * progress)
    elif pair[0] == "turn_left":
        radius = draw_one(0.22, 0.32)
        tilt = tilt + np.radians(draw_one(65, 100)) * change
    elif pair[0] == "rise":
        radius = draw_one(0.14, 0.21)
        y_change = -draw_one(0.36, 0.5) * change
    else:
        radius = draw_one(0.14, 0.21)
        x_change = -draw_one(0.36, 0.5) * change

    # The shape, with its halves apart, stays inside the middle 90 % of the frame, where a centre crop sees it.
    room = max(0.45 - (1.1 if gape is None else 1.5) * radius, 0.02)
    x_room = max(room - float(np.abs(x_change).max()), 0.02)
    y_room = max(room - float(np.abs(y_change).max()), 0.02)
    return Track(
        x=(0.5 + draw_one(-x_room, x_room) + x_change + _wobble(progress, 1, generator)).astype(np.float32),
        y=(0.5 + draw_one(-y_room, y_room) + y_change + _wobble(progress, 1, generator)).astype(np.float32),
        radius=(radius * size * (1 + _wobble(progress, 3, generator))).astype(np.float32),
        tilt=tilt.astype(np.float32),
        gape=None if gape is None else gape.astype(np.float32),
    )


def _wobble(progress: Floats, percent: float, generator: np.random.Generator) -> Floats:
    """A slow swing of random phase, (T,): no clip is without a little of every motion."""
    time = np.linspace(0, 2 * np.pi * generator.uniform(0.5, 1.5), len(progress)) + generator.uniform(0, 2 * np.pi)
    return (percent / 100 * np.sin(time)).astype(np.float32)


def _look(num_frames: int, hue: float, generator: np.random.Generator) -> Look:
    """An appearance whose colours stand out from a muted background."""
    hue = hue + generator.uniform(0, 1)
    swing = np.linspace(0, np.pi, num_frames, dtype=np.float32) + generator.uniform(0, 2 * np.pi)
    body = hsv_to_rgb(hue, generator.uniform(0.7, 0.95), generator.uniform(0.6, 0.85))
    luminance = float(body @ np.array([0.3, 0.59, 0.11], np.float32))
    return Look(
        body=body * min(1.0, 0.45 / luminance),  # yellow would hardly differ from the cap
        cap=hsv_to_rgb(hue + generator.uniform(-0.1, 0.1), generator.uniform(0.05, 0.3), 1.0),
        texture=str(generator.choice(list(TEXTURES))),
        texture_scale=float(generator.uniform(1, 2)),
        texture_strength=float(generator.uniform(0.15, 0.4)),
        light=(1 + generator.uniform(0, 0.04) * np.sin(swing)).astype(np.float32),
        contrast=float(generator.uniform(0.75, 1.05)),
        noise=float(generator.uniform(0.0, 0.02)),
    )


def encode(frames: Pixels, fps: int) -> bytes:
    """Compress frames to an H.264 video in MP4, each frame on its own and all equally strongly.

    Args:
        frames: (T, H, W, 3), RGB, H and W even.
        fps: Frames per second.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # g=1: every frame is a key frame. No looking ahead and no adapting of the quantiser, which would let a
        # frame depend on its neighbours.
        x264 = f"qp={_QUANTISER}:ipratio=1:aq-mode=0:mbtree=0:scenecut=0:rc-lookahead=0"
        stream.options = {"g": "1", "bf": "0", "preset": "veryfast", "x264-params": x264}
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())
    return buffer.getvalue()


def write(plan: Plan, root: Path, *, workers: int = 2) -> Path:
    """Write the videos and `clips.csv`, unless they are there.

    The folder appears under its name only when it is complete, whatever happens meanwhile. Processes that write
    the same one at the same time wait for each other.

    Args:
        plan: What to write.
        root: Folder in which the data set's own folder is made.
        workers: Threads that draw and compress.

    Returns:
        The data set's folder.

    Raises:
        DataError: The folder cannot be written.
    """
    folder = root / plan.folder_name
    try:
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with _alone_in(root) as is_alone:
            if is_alone:
                _remove_left_behind(folder)
            if not folder.is_dir():
                _write_all(plan, folder, workers)
    except OSError as error:
        raise DataError(
            f"{root}: the motion videos cannot be written: {error.strerror or error}; "
            "make room there or give another data.root"
        ) from None
    return folder


def _remove_left_behind(folder: Path) -> None:
    """Remove what processes that were killed have written."""
    for unfinished in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_all(plan: Plan, folder: Path, workers: int) -> None:
    unfinished = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    todo = list(scenes(plan))
    _LOG.info("writing %d videos to %s", 2 * len(todo), folder)
    try:
        for split in SPLITS:
            (unfinished / split).mkdir(parents=True)
        pool = ThreadPoolExecutor(workers)
        try:
            rows = [row for pair in pool.map(lambda scene: _record(plan, scene, unfinished), todo) for row in pair]
        finally:
            pool.shutdown(cancel_futures=True)
        with (unfinished / CLIPS_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        _rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rename(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError as error:
        # Where there are no locks, another process may have been first; what it wrote is the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _record(plan: Plan, scene: Scene, folder: Path) -> list[dict[str, object]]:
    """Write both recordings of a scene, and return their rows."""
    frames, fps = film(plan, scene)
    rows: list[dict[str, object]] = []
    for verb, order in zip(scene.pair, (frames, frames[::-1]), strict=True):
        path = f"{scene.split}/{scene.number:04d}_{verb}_{scene.noun}.mp4"
        (folder / path).write_bytes(encode(order, fps))
        stop_s = len(frames) * 1_000_000 // fps / 1_000_000  # rounded down: never outside the video
        values = (path, 0.0, stop_s, verb, scene.noun, scene.split, scene.background, len(frames), fps)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


@contextmanager
def _alone_in(root: Path) -> Iterator[bool]:
    """Hold the folder's lock, and say whether there is one: not every system has locks, nor every file system. The
    lock of a process that is killed is let go."""
    try:
        import fcntl
    except ImportError:
        yield False
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_locked = True
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(handle)
