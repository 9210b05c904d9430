"""What all benchmarks share: rounds in turn, rows, what the machine is, the table and the JSON file.

Contenders take turns inside every round (A B C, then B C A, ...), so that whatever else the machine does falls on all
alike. A row's figures are medians over the rounds; its ratio is the median of the ratios *inside* each round.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parent.parent
MADE = REPOSITORY / "build" / "bench"
"""Where results and the videos that benchmarks make are kept."""

LIMIT_S = 60.0
"""How long contenders take turns: no round is begun that would probably end later."""

AS_KINEMA = {"OMP_WAIT_POLICY": "passive"}
"""What the `kinema` command sets before torch is loaded."""

_PACKAGES = ("kinema", "torch", "torchvision", "av", "numpy", "decord", "torchcodec", "h5py", "pillow", "lightning")
_OPENCV = ("opencv-python-headless", "opencv-contrib-python-headless", "opencv-python", "opencv-contrib-python")

Run = Callable[[], Sequence[float]]
"""Does the work once and says how many seconds each of its parts (a file, an epoch) took."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says."""

    data: Path
    json: Path | None
    rounds: int
    quick: bool


def options(description: str | None, *, rounds: int, arguments: Sequence[str] | None = None) -> Options:
    """Read the command line that all benchmarks have.

    Args:
        description: The benchmark's docstring.
        rounds: How often each contender works, unless `--rounds` says otherwise.
        arguments: By default those of the process.
    """
    default = os.environ.get("KINEMA_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the real clips (%(default)s)")
    parser.add_argument("--rounds", type=int, help=f"turns of each contender ({rounds})")
    parser.add_argument("--quick", action="store_true", help="a few files, one round: shows that it works, not speed")
    given = parser.parse_args(arguments)
    chosen = given.rounds or (1 if given.quick else rounds)
    return Options(data=given.data.resolve(), json=given.json, rounds=chosen, quick=given.quick)


def in_turn(contenders: Mapping[str, Run], rounds: int, *, limit_s: float = LIMIT_S) -> dict[str, NDArray[np.float64]]:
    """Let contenders work in turn; the first round, which fills caches and starts processes, is not counted.

    Args:
        contenders: Name -> work.
        rounds: How often each works, if there is time; at least once.
        limit_s: How long this may take.

    Returns:
        Contender -> seconds (rounds, parts).
    """
    found: dict[str, list[Sequence[float]]] = {name: [] for name in contenders}
    names = list(contenders)
    began_s = time.perf_counter()
    longest_s = 0.0
    for number in range(-1, rounds):
        round_s = time.perf_counter()
        if number > 0 and round_s - began_s + longest_s > limit_s:
            say(f"  {number} of {rounds} rounds; there is no time for more")
            break
        shift = max(number, 0) % len(names)
        for name in [*names[shift:], *names[:shift]]:
            gc.collect()
            seconds = contenders[name]()
            if number >= 0:
                found[name].append(seconds)
        longest_s = time.perf_counter() - round_s
        say(f"  round {number + 1} of {rounds}: {longest_s:.1f} s" + (" (not counted)" if number < 0 else ""))
    return {name: np.array(seconds, dtype=np.float64) for name, seconds in found.items()}


class Elsewhere:
    """A contender in a process of its own, which stays: what it sets for its process (allocator, threads) is its alone.

    Args:
        make: Of a module, for another process to find; called there, gives what is to be timed.
        arguments: Of `make`; they are pickled.
        environment: Variables that are set before it imports anything.
    """

    def __init__(self, make: Callable[..., Run], *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        # Forked from a process that has only imported what all of them need: importing torch takes seconds.
        forked = "forkserver" in multiprocessing.get_all_start_methods() and environment is None
        method = "forkserver" if forked else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["pipeline"])
        # That process finds modules by this alone (Python 3.11).
        places = [str(Path(__file__).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def __call__(self) -> Sequence[float]:
        self._ours.send("go")
        answer = self._ours.recv()  # EOFError: it died, and has said why
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return list(answer)

    def close(self) -> None:
        self._ours.close()
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Run], arguments: tuple[Any, ...]) -> None:
    try:
        run = make(*arguments)
        while pipe.recv():
            pipe.send(run())
    except EOFError:
        return
    except Exception:  # noqa: BLE001 - raised again in the other process
        pipe.send(traceback.format_exc())


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def row(
    job: str,
    kinema: NDArray[np.float64],
    peer: NDArray[np.float64] | None,
    peer_name: str,
    *,
    amount: float,
    unit: str = "clips/s",
    target: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One line of the result.

    Args:
        job: What was done.
        kinema: Seconds (rounds, parts) of ours.
        peer: Seconds of the same parts of the peer, in the same rounds.
        peer_name: Who that is and how it was used.
        amount: What was done in a round, in the unit: clips, for clips/s.
        unit: Of both rates.
        target: Least ratio that is asked for.
        more: Further facts.
    """
    ours = amount / kinema.sum(axis=1)
    facts: dict[str, Any] = {"job": job, "kinema": statistics.median(ours), "peer": None, "peer_name": peer_name}
    facts["ratio"] = None
    if peer is not None:
        theirs = amount / peer.sum(axis=1)
        ratios = ours / theirs
        facts["peer"], facts["ratio"] = statistics.median(theirs), statistics.median(ratios)
        facts["ratio_range"] = [float(ratios.min()), float(ratios.max())]
        facts["peer_range"] = [float(theirs.min()), float(theirs.max())]
    facts |= {"kinema_range": [float(ours.min()), float(ours.max())], "unit": unit, "target": target}
    return facts | {"rounds": len(kinema)} | more


@dataclass(kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        rows: From `row`.
        notes: What a reader has to know: peers that are missing or wrong, sizes.
        facts: Anything else that is worth keeping: limits, series of figures.
    """

    name: str
    options: Options
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    load_before: tuple[float, ...] = field(default_factory=lambda: os.getloadavg())

    @property
    def missed(self) -> list[str]:
        """Jobs of which what is wanted was not met."""
        return [row["job"] for row in self.rows if is_met(row) is False]

    def finish(self) -> None:
        """Print the table, and write the file if one was asked for."""
        print(table(self.rows))
        for note in self.notes:
            print(f"note: {note}")
        if self.options.json is None:
            return
        self.options.json.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "benchmark": self.name,
            "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
            "quick": self.options.quick,
            # There may not have been time for all.
            "rounds": min((row["rounds"] for row in self.rows if "rounds" in row), default=self.options.rounds),
            "machine": machine() | {"load_before": [round(value, 2) for value in self.load_before]},
            "versions": versions(),
            "rows": self.rows,
            "notes": self.notes,
            "facts": self.facts,
        }
        self.options.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def is_met(facts: Mapping[str, Any]) -> bool | None:
    """Whether a row's ratio is what is wanted: its target at least, or at most; None where nothing is."""
    if facts.get("target") is None or facts["ratio"] is None:
        return None
    return bool(facts["ratio"] <= facts["target"] if facts.get("at_most") else facts["ratio"] >= facts["target"])


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as text, in columns."""
    lines = [("job", "kinema", "peer", "", "ratio", "wanted", "against")]
    for facts in rows:
        target, met = facts.get("target"), is_met(facts)
        wanted = "" if target is None else f"{'at most ' if facts.get('at_most') else ''}{number(target)}"
        lines.append(
            (
                facts["job"],
                number(facts["kinema"]),
                number(facts["peer"]),
                facts["unit"],
                number(facts["ratio"]),
                wanted if met is None else f"{wanted}: {'met' if met else 'missed'}",
                facts["peer_name"],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def number(value: float | None) -> str:
    """Three digits, with separators where there are more."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def machine() -> dict[str, Any]:
    """What the figures were measured on, without its name."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "memory_gb": round(memory / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def versions() -> dict[str, str]:
    """Versions of what takes part, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *_OPENCV):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)
