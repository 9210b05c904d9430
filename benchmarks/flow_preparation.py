"""Optical flow of many short clips, stored: `kinema data prepare --flow`, killed half-way and gone on with.

    python benchmarks/flow_preparation.py [--clips N] [--json FILE] [--quick]

The clips are generated: a texture that moves, 16 frames of 160 x 120 in H.264. Of each 4 fields of DIS at 112 x 112
are stored. `kinema data prepare` is killed (SIGKILL, all of its processes) when half of the clips are stored, and run
again; its time is that of both, with starting twice. The other way (`plain_flow.py`) is OpenCV alone: it decodes, cuts,
scales and computes the same DIS, and writes u and v as JPEG, 8 bits with the same bound. Both have as many processes as
there are cores. Then every clip is read again, in an order drawn by chance, by one process, and what is read is
compared with the flow before it was rounded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

import media
import plain_flow
from harness import Report, options, row, say, timed
from kinema.data.decoding import probe
from kinema.data.optical_flow import dequantise, flow_of
from kinema.data.probing import probe_all
from kinema.data.processes import available_cores
from kinema.data.reading import plan_clip, read_plan
from kinema.data.sources import clip_reader
from kinema.preprocessing import make_preprocessing
from kinema.sections import ClipsSection
from kinema.types import Clip, Preprocessing

NUM_CLIPS = 1000
QUICK_CLIPS = 12
HEIGHT_PX, WIDTH_PX, NUM_FRAMES, FPS = 120, 160, 16, 30
SIZE_PX, NUM_FIELDS, BOUND_PX = 112, 4, 20.0
MOST_PX = 3.0
"""That the texture moves from a frame to the next."""
COMPARED = 50
"""Clips whose flow is computed again."""


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--clips", type=int)
    own, rest = parser.parse_known_args()
    given = options(__doc__, rounds=1, arguments=rest)
    num = own.clips or (QUICK_CLIPS if given.quick else NUM_CLIPS)
    report = Report(name="flow_preparation", options=given)
    with tempfile.TemporaryDirectory(prefix="kinema-flow-") as place:
        folder = Path(place)
        os.environ |= {"KINEMA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        say(f"making {num:,} clips")
        paths = make_clips(folder / "clips", num)
        killed_s, stored_before, continued_s = prepare_twice(folder / "clips", folder / "store", num)
        say(f"kinema: {killed_s:.1f} s until killed with {stored_before:,} clips stored, {continued_s:.1f} s more")
        plain_s = prepare_plainly(folder / "clips", folder / "plain")
        say(f"plainly: {plain_s:.1f} s")
        kinema_s, jpeg_s, held = read_again(paths, folder)
        errors = compare(paths, folder)
        report.rows += rows(num, folder, killed_s + continued_s, plain_s, kinema_s, jpeg_s)
    assert held == num, (held, num)
    bound = BOUND_PX / 254
    assert errors["store"] <= bound * (1 + 1e-5), errors
    report.facts["seconds"] = {
        "until it was killed": round(killed_s, 1),
        "after that": round(continued_s, 1),
        "other way": round(plain_s, 1),
    }
    report.notes += [
        f"{num:,} clips; killed when {stored_before:,} were stored; then the others were made, and all are there",
        f"largest error over {min(num, COMPARED)} clips, of flow before it was rounded: {errors['store']:.4f} px in "
        f"the store, {errors['JPEG']:.2f} px in JPEG; half a step of 8 bits is {bound:.4f} px",
        f"{available_cores()} processes each way; reading has one, of files that are in memory",
    ]
    report.finish()


def make_clips(folder: Path, num: int) -> list[Path]:
    """Two classes: to the left and to the right."""
    paths = [folder / ("left", "right")[number % 2] / f"{number:05d}.mp4" for number in range(num)]
    for path in paths[:2]:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(available_cores(), mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(make_clip, paths, chunksize=8))
    return paths


def make_clip(path: Path) -> None:
    """A texture that moves by a number of pixels of its own, and up or down by less."""
    rng = np.random.default_rng(int(path.stem))
    room = round(MOST_PX * NUM_FRAMES)
    y, x = np.mgrid[: HEIGHT_PX + 2 * room, : WIDTH_PX + 2 * room].astype(np.float32)
    waves = [(*rng.normal(0, 0.35, 2).astype(np.float32), np.float32(rng.uniform(0, 2 * np.pi))) for _ in range(8)]
    grey = 128 + 26 * np.sum([np.sin(a * x + b * y + phase) for a, b, phase in waves], axis=0)
    wide = np.clip(grey[..., None] * rng.uniform(0.6, 1.0, 3), 0, 255).astype(np.uint8)
    right = rng.uniform(0.5, MOST_PX) * (-1 if path.parent.name == "left" else 1)
    down = rng.uniform(-1, 1)

    def frame(number: int) -> av.VideoFrame:
        left, top = room - round(right * number), room - round(down * number)
        pixels = np.ascontiguousarray(wide[top : top + HEIGHT_PX, left : left + WIDTH_PX])
        return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", threads=1)

    media.encode(path, map(frame, range(NUM_FRAMES)), rate=Fraction(FPS), options={"preset": "veryfast"})


def prepare_twice(root: Path, store: Path, num: int) -> tuple[float, int, float]:
    """Seconds until it was killed, clips that were stored by then, seconds of going on."""
    command = [sys.executable, "-m", "kinema.cli.main", "data", "prepare", "folder", str(root), "--out", str(store)]
    command += ["--flow", "dis", "--bound", str(BOUND_PX), "--size", str(SIZE_PX), "--num-frames", str(NUM_FIELDS)]
    began_s = time.perf_counter()
    process = subprocess.Popen([*command], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while num_stored(store) < num // 2:
            if process.poll() is not None:
                raise SystemExit(f"kinema data prepare ended by itself, with {process.returncode}")
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    killed_s = time.perf_counter() - began_s
    before = num_stored(store)
    began_s = time.perf_counter()
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert record["before"] == before, (record["before"], before)
    assert record["before"] + record["new"] == num, record
    return killed_s, before, time.perf_counter() - began_s


def num_stored(store: Path) -> int:
    """By the length of its index, which has 64 bytes for each entry."""
    return sum(path.stat().st_size // 64 for path in store.glob("*.idx"))


def prepare_plainly(root: Path, folder: Path) -> float:
    command = [sys.executable, str(Path(plain_flow.__file__)), str(root), str(folder)]
    command += [str(NUM_FIELDS), str(SIZE_PX), str(BOUND_PX), str(available_cores())]
    return timed(partial(subprocess.run, command, check=True))


def read_again(paths: Sequence[Path], folder: Path) -> tuple[float, float, int]:
    """Seconds for all clips of the store and of the JPEG files, and how many clips the store had."""
    import cv2

    imread: Any = cv2.imread
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    section, wanted = settings(folder)
    clips = [Clip(clip_id=path.stem, video=path) for path in paths]
    videos = {path: video for path, video in probe_all(paths, workers=0).items() if not isinstance(video, Exception)}
    reader = clip_reader(section, clips, videos, {"flow": wanted}, root=folder / "clips")
    assert reader.store is not None
    out = np.empty((NUM_FIELDS, 2, SIZE_PX, SIZE_PX), dtype=np.uint8)
    kinema_s = jpeg_s = float("inf")
    held = 0
    for _ in range(2):  # what is read first brings the other's files out of the cache, maybe
        began_s = time.perf_counter()
        held = sum(reader.store.read(index, 0, out) is not None for index in order)
        kinema_s = min(kinema_s, time.perf_counter() - began_s)
        began_s = time.perf_counter()
        for index in order:
            place = folder / "plain" / paths[index].stem
            for number in range(NUM_FIELDS):
                for plane, name in enumerate("uv"):
                    file = str(place / f"{name}_{number:05d}.jpg")
                    out[number, plane] = imread(file, cv2.IMREAD_GRAYSCALE)
        jpeg_s = min(jpeg_s, time.perf_counter() - began_s)
    return kinema_s, jpeg_s, held


def settings(folder: Path) -> tuple[ClipsSection, Preprocessing]:
    given: dict[str, Any] = {"num_frames": NUM_FIELDS, "size_px": SIZE_PX, "motion": {"bound_px": BOUND_PX}}
    section = ClipsSection.model_validate({**given, "store": folder / "store"})
    return section, make_preprocessing(section, "flow", mean=(0.5,) * 3, std=(0.5,) * 3)


def compare(paths: Sequence[Path], folder: Path) -> dict[str, float]:
    """The largest difference, in pixels, between what is read and the flow that it was made of, within the bound."""
    import cv2

    section, wanted = settings(folder)
    pictures = make_preprocessing(
        ClipsSection(num_frames=NUM_FIELDS, size_px=SIZE_PX, pixels="i420"), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    estimate, imread = flow_of("dis"), cast(Any, cv2.imread)
    worst = {"store": 0.0, "JPEG": 0.0}
    stored = np.empty((NUM_FIELDS, 2, SIZE_PX, SIZE_PX), dtype=np.uint8)
    for path in paths[:: max(1, len(paths) // COMPARED)]:
        clip, video = Clip(clip_id=path.stem, video=path), probe(path)
        plan = plan_clip(clip, video, wanted)
        reader = clip_reader(section, [clip], {path: video}, {"flow": wanted}, root=folder / "clips")
        assert reader.store is not None
        assert reader.store.read(0, 0, stored) is not None
        assert plan.stacks is not None
        for number, stack in enumerate(plan.stacks):
            pair = read_plan(video, plan_of(plan, stack), pictures)
            planes = [picture[: SIZE_PX * SIZE_PX].reshape(SIZE_PX, SIZE_PX) for picture in pair]
            flow = np.clip(estimate(planes[0], planes[1]), -BOUND_PX, BOUND_PX).transpose(2, 0, 1)
            worst["store"] = max(worst["store"], float(np.abs(dequantise(stored[number], BOUND_PX) - flow).max()))
        for number, found in enumerate(plain_flow.flow_of_clip(path, num_fields=NUM_FIELDS, size_px=SIZE_PX)):
            for plane, name in enumerate("uv"):
                file = str(folder / "plain" / path.stem / f"{name}_{number:05d}.jpg")
                values = imread(file, cv2.IMREAD_GRAYSCALE).astype(np.float64)
                flow = np.clip(found[..., plane], -BOUND_PX, BOUND_PX)
                error = np.abs(values * (2 * BOUND_PX / 255) - BOUND_PX - flow).max()
                worst["JPEG"] = max(worst["JPEG"], float(error))
    return worst


def plan_of(plan: Any, stack: Sequence[int]) -> Any:
    """Of the pictures that a field is of."""
    return type(plan)(indices=tuple(stack), box=plan.box)


def rows(num: int, folder: Path, ours_s: float, plain_s: float, kinema_s: float, jpeg_s: float) -> list[dict[str, Any]]:
    made = f"DIS of {num:,} clips, {NUM_FIELDS} fields at {SIZE_PX}, killed half-way and gone on with"
    plain = "OpenCV and JPEG files, not killed"
    found = [
        row(made, np.array([[ours_s]]), np.array([[plain_s]]), plain, amount=num),
        row("the same, read again", np.array([[kinema_s]]), np.array([[jpeg_s]]), "JPEG files", amount=num),
    ]
    ours_kb, plain_kb, blocks_kb = (
        size / num / 1000 for size in (*sizes(folder / "store")[:1], *sizes(folder / "plain"))
    )
    disk = {"job": "disk", "kinema": ours_kb, "peer": plain_kb, "peer_name": "JPEG files", "ratio": ours_kb / plain_kb}
    disk |= {"unit": "kB a clip", "target": None, "rounds": 1}
    of_blocks = {**disk, "peer": blocks_kb, "peer_name": "JPEG files, whole blocks", "ratio": ours_kb / blocks_kb}
    return [*found, disk, of_blocks]


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of the files in a folder, and of the blocks that they lie in."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(file.st_size for file in files), sum(file.st_blocks * 512 for file in files)


if __name__ == "__main__":
    main()
