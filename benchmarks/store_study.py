"""Disk, memory and load time of decoded clips against their number, in every way in which the projects kept them.

    python benchmarks/store_study.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

20 frames at 224 of real videos, uint8 and float32; `store_formats.py` says how each is written and read. "Load" is
reading every clip once, in a process of its own, with files in the page cache. "Memory" is what that process then holds
more than before, without pages that are only mapped from files and that the system may take back: arrays that are
loaded whole stay, batches come and go. The figures go to docs/figures.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import media
import memory_use
import pipeline
import store_formats as formats
from harness import MADE, REPOSITORY, Elsewhere, Options, Report, Run, options, say, timed
from pipeline import Task

NUM_CLASSES = 6
WAYS: dict[str, tuple[Callable[..., None], Callable[[Path], Iterator[Any]], str]] = {
    "npy float32": (formats.write_npy, formats.read_npy, "float32"),
    "npy uint8": (formats.write_npy, formats.read_npy, "uint8"),
    "npz compressed float32": (formats.write_npz, formats.read_npz, "float32"),
    "npz compressed uint8": (formats.write_npz, formats.read_npz, "uint8"),
    "HDF5 per class float32": (formats.write_hdf5, formats.read_hdf5, "float32"),
    "HDF5 per class uint8": (formats.write_hdf5, formats.read_hdf5, "uint8"),
    "JPEG uint8": (formats.write_jpeg, formats.read_jpeg, "uint8"),
}


def main() -> None:
    given = options(__doc__, rounds=2)
    # What a quick run measures is not to be shown.
    figures = MADE / "quick_figures" if given.quick else REPOSITORY / "docs" / "figures"
    report = Report(name="store_study", options=given)
    series = study([2, 4] if given.quick else [8, 16, 32, 64], given, report)
    report.facts["series"] = series
    largest = max(facts["clips"] for facts in series)
    ours = next((facts for facts in series if facts["way"] == "kinema" and facts["clips"] == largest), None)
    for facts in series:
        if facts["clips"] == largest and facts["way"] != "kinema":
            report.rows.append(_row(facts, ours))
    draw(series, figures)
    report.finish()


def study(numbers: list[int], given: Options, report: Report) -> list[dict[str, Any]]:
    """Write and read back every number of clips in every way.

    Returns:
        Of each way and number: `way`, `clips`, `disk_mb`, `memory_mb`, `load_s`, `write_s`.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pipeline.own_cache(folder)
        collections = media.avi_files(given.data, num=max(numbers) // 2)
        paths = [path for found in collections.values() for path in found]
        wanted = pipeline.preprocessing(num_frames=20, size_px=32 if given.quick else 224)
        videos, _ = pipeline.index(paths, folder / "index")
        task = pipeline.uniform(paths[-max(numbers) :], videos, wanted)
        clips = functools.lru_cache(maxsize=None)(task.reader("rgb"))  # 3 MB each; writing is not to wait for decoding
        classes = np.arange(max(numbers)) % NUM_CLASSES
        series = []
        for num in numbers:
            for way in [*_installed(report), "kinema"]:
                say(f"{num} clips, {way}")
                target = folder / "store"
                target.mkdir()
                if way == "kinema":
                    write_s = timed(functools.partial(pipeline.write_frames, target, task, num))
                else:
                    write, _, dtype = WAYS[way]
                    write_s = timed(functools.partial(write, target, clips, classes[:num], dtype))
                disk = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
                load_s, memory_mb = _load(way, target, task, num, given.rounds)
                series.append(
                    {
                        "way": way,
                        "clips": num,
                        "disk_mb": disk / 1e6,
                        "memory_mb": memory_mb,
                        "load_s": load_s,
                        "write_s": write_s,
                    }
                )
                shutil.rmtree(target)
        return series


def _installed(report: Report) -> list[str]:
    if importlib.util.find_spec("h5py") is None:
        report.notes.append("h5py is not installed; HDF5 is left out")
        return [way for way in WAYS if not way.startswith("HDF5")]
    return list(WAYS)


def _load(way: str, folder: Path, task: Task, num: int, rounds: int) -> tuple[float, float]:
    """Median seconds to read every clip, and megabytes held by then."""
    found = []
    for _ in range(rounds):
        process = Elsewhere(loading, way, folder, task, num)
        found.append(process())
        process.close()
    seconds, megabytes = np.median(np.array(found), axis=0)
    return float(seconds), float(megabytes)


def loading(way: str, folder: Path, task: Task, num: int) -> Run:
    """What the other process does: read once, and measure itself."""
    ours = functools.partial(pipeline.stored_batches, task=task, num=num, batch_size=formats.BATCH_SIZE)
    read = ours if way == "kinema" else WAYS[way][1]
    whole = not (way == "kinema" or way.startswith("JPEG"))

    def run() -> list[float]:
        _warm(folder)
        before_mb = memory_use.anonymous_megabytes()
        held: deque[NDArray[Any]] = deque(maxlen=None if whole else 1)
        seconds = timed(lambda: held.extend(read(folder)))
        return [seconds, memory_use.anonymous_megabytes() - before_mb]

    return run


def _warm(folder: Path) -> None:
    """Bring files into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 22):
                    pass


def _row(facts: dict[str, Any], ours: dict[str, Any] | None) -> dict[str, Any]:
    rates = {name: f["clips"] / f["load_s"] for name, f in (("peer", facts), ("kinema", ours)) if f is not None}
    return {
        "job": f"reading {facts['clips']} stored clips once",
        "kinema": rates.get("kinema"),
        "peer": rates["peer"],
        "peer_name": facts["way"],
        "ratio": rates["kinema"] / rates["peer"] if ours is not None else None,
        "unit": "clips/s",
        "target": None,
        "disk_ratio": None if ours is None else facts["disk_mb"] / ours["disk_mb"],
    }


def draw(series: list[dict[str, Any]], folder: Path) -> None:
    """Three figures, SVG: what the way costs against the number of clips."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    mpl.rcParams["svg.hashsalt"] = "kinema"  # the same figures give the same file
    folder.mkdir(parents=True, exist_ok=True)
    for key, title in (
        ("disk_mb", "on disk, MB"),
        ("memory_mb", "memory held after loading, MB"),
        ("load_s", "time to read every clip once, s"),
    ):
        figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for way in dict.fromkeys(facts["way"] for facts in series):
            points = [(facts["clips"], max(facts[key], 1e-3)) for facts in series if facts["way"] == way]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=way, **_style(way))
        axes.set(xscale="log", yscale="log", xlabel="clips of 20 frames at 224 x 224", title=title)
        ticks = sorted({facts["clips"] for facts in series})
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / f"stores_{key.partition('_')[0]}.svg", metadata={"Date": None})
        plt.close(figure)


def _style(way: str) -> dict[str, Any]:
    """A colour for each format, broken lines for uint8; ours is black and thick."""
    if way == "kinema":
        return {"linewidth": 2.5, "color": "black", "zorder": 3}
    form, _, dtype = way.rpartition(" ")
    colour = {"npy": "C0", "npz compressed": "C1", "HDF5 per class": "C2", "JPEG": "C3"}[form]
    broad = {"linewidth": 5, "alpha": 0.4} if form == "npy" else {"linewidth": 1.4}  # HDF5 often lies upon it
    return {"color": colour, "linestyle": "--" if dtype == "uint8" else "-", **broad}


if __name__ == "__main__":
    main()
