"""Clips out of the frame store in random order, files in the page cache, against JPEG files and a memory map.

    python benchmarks/stores.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

The same real clips, 20 frames at 224, once as kinema's frame store (planes 4:2:0, which become RGB on the device), once
as JPEG files of quality 90, once as one memory-mapped array of RGB. By one thread: clips one after the other into one
array. By loaders: batches of 16, kinema's against torch's DataLoader with 2 workers, which stay from epoch to epoch.
`store_study.py` says what every way costs.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import media
import peers
import pipeline
import store_formats as formats
from harness import Options, Report, Run, in_turn, options, row, say, timed
from loading import BATCH_SIZE, WORKERS
from peers import Frames
from pipeline import Task


def main() -> None:
    given = options(__doc__, rounds=7)
    report = Report(name="stores", options=given)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pipeline.own_cache(folder)
        found = media.avi_files(given.data, num=2 if given.quick else 120)
        paths = [path for of_collection in found.values() for path in of_collection]
        wanted = pipeline.preprocessing(num_frames=20, size_px=32 if given.quick else 224)
        videos, _ = pipeline.index(paths, folder / "index")
        task = pipeline.uniform(paths, videos, wanted)
        say(f"storing {len(paths)} clips")
        rgb = write(task, folder)
        report.notes.append(f"{len(paths)} clips")
        one_thread(task, folder, rgb, given, report)
        loaders(task, folder, rgb, given, report)
    report.finish()


def write(task: Task, folder: Path) -> NDArray[np.uint8]:
    """The clips in every form; the memory-mapped array."""
    read, num = task.reader("rgb"), len(task.clips)
    (folder / "jpeg").mkdir()
    formats.write_npy(folder, read, np.zeros(num, dtype=np.int64), np.uint8)
    rgb: NDArray[np.uint8] = np.load(folder / "clips.npy", mmap_mode="r")
    formats.write_jpeg(folder / "jpeg", rgb.__getitem__, np.zeros(num, dtype=np.int64))
    pipeline.write_frames(folder / "store", task, num)
    return rgb


def one_thread(task: Task, folder: Path, rgb: NDArray[np.uint8], given: Options, report: Report) -> None:
    """One clip after the other in this process."""
    say("one thread")
    rng = np.random.default_rng(0)
    num = len(task.clips)
    few = rng.permutation(num)[: max(2, num // 8)]  # JPEG takes a hundred times as long
    store = pipeline.opened(folder / "store", task)
    planes = np.empty((task.preprocessing.num_frames, *task.preprocessing.frame_shape), dtype=np.uint8)
    pixels = np.empty(rgb.shape[1:], dtype=np.uint8)

    def ours() -> list[float]:
        order = rng.permutation(num)

        def read() -> None:
            for i in order:
                pipeline.read_stored(store, int(i), planes)

        return [timed(read) / num]

    def jpeg() -> list[float]:
        places = [folder / "jpeg" / f"{number:06d}" for number in few]
        return [timed(lambda: [formats.read_jpeg_clip(place) for place in places]) / len(places)]

    def mapped() -> list[float]:
        order = rng.permutation(num)

        def read() -> None:
            for i in order:
                np.copyto(pixels, rgb[i])

        return [timed(read) / num]

    # Written to: pages that never were are all one page of zeros.
    held = np.ones((min(num, 64), *planes.shape), dtype=np.uint8)

    def copied() -> list[float]:
        def read() -> None:
            for clip in held:
                np.copyto(planes, clip)

        return [timed(read) / len(held)]

    seconds = in_turn({"kinema": ours, "jpeg": jpeg, "mapped": mapped, "copied": copied}, given.rounds)
    job = "stored clips in random order, one thread"
    for name, title, target in (
        ("jpeg", "JPEG frames by PIL", 40.0),
        ("mapped", "memory map of RGB, copied", None),
        ("copied", "limit: copying as many bytes in memory", None),
    ):
        limit = name == "copied"
        report.rows.append(row(job, seconds["kinema"], seconds[name], title, amount=1, target=target, limit=limit))


def loaders(task: Task, folder: Path, rgb: NDArray[np.uint8], given: Options, report: Report) -> None:
    """Epochs by loaders."""
    say("loaders")
    num = len(task.clips)
    batch_size = min(BATCH_SIZE, num)
    ours = pipeline.Loader(task, pixels="i420", batch_size=batch_size, workers=WORKERS, store=folder / "store")
    places = [folder / "jpeg" / f"{number:06d}" for number in range(num)]
    contenders: dict[str, Run] = {
        "kinema": lambda: [sum(ours.epoch()[0] for _ in range(4)) / 4],  # an epoch takes hundredths of a second
        "mapped": epoch(functools.partial(_copy, rgb), list(range(num)), batch_size),
        "jpeg": epoch(formats.read_jpeg_clip, places, batch_size),
    }
    try:
        seconds = in_turn(contenders, given.rounds)
    finally:
        ours.close()
    job = f"loader over stored clips in random order, batches of {batch_size}"
    for name, title, target in (
        ("mapped", "memory map of RGB in a DataLoader, 2 workers", 10.0),
        ("jpeg", "JPEG frames by PIL in a DataLoader, 2 workers", None),
    ):
        report.rows.append(row(job, seconds["kinema"], seconds[name], title, amount=num, target=target))


def epoch(read: Any, items: list[Any], batch_size: int) -> Run:
    """Seconds of a pass over a DataLoader in random order."""
    loader = peers.data_loader(read, items, batch_size=batch_size, workers=WORKERS, shuffle=True)

    def once() -> None:
        num = sum(len(indices) for _, indices in loader)
        assert num == len(items), (num, len(items))

    return lambda: [timed(once)]


def _copy(rgb: NDArray[np.uint8], number: int) -> Frames:
    return np.array(rgb[number])


if __name__ == "__main__":
    main()
