"""Which streams carry which verbs: the study `motion_streams`, verb by verb.

    python benchmarks/motion_streams.py [--out FOLDER] [--jobs N] [--json FILE] [--quick]

A small network is trained for each stream, on generated clips as they are, without texture, and without motion; it sees
each frame or field by itself and averages what it says of them. Runs that are done are not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import MADE, machine, say, versions
from kinema.data.motion_scenes import VERBS
from kinema.studies.jobs import Place, jobs_of
from kinema.studies.study import read_study
from kinema.training.run_folder import Run

STUDY = "motion_streams"
QUICK_RUNS = ("RGB", "flow, no motion")
QUICK = ("data.num_train_backgrounds=2", "data.num_test_backgrounds=1", "trainer.epochs=1", "optim.warmup_epochs=0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MADE / STUDY, help="folder of the study (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (%(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--quick", action="store_true", help="few clips, one epoch: shows that it works")
    given = parser.parse_args()
    overrides = [*QUICK] if given.quick else []
    only = [argument for run in QUICK_RUNS for argument in ("--only", run)] if given.quick else []
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "kinema.cli.main", "study", "run", STUDY, "--jobs", str(given.jobs)]
    subprocess.run([*command, *only, "--out", str(given.out), *overrides], check=True)
    seconds = time.perf_counter() - began_s
    rows = results(given.out, overrides, QUICK_RUNS if given.quick else None)
    print(table(rows))
    say(f"{len(rows)} runs, {seconds:.0f} s")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"benchmark": STUDY, "quick": given.quick, "machine": machine(), "versions": versions()}
        given.json.write_text(json.dumps({**found, "seconds": seconds, "rows": rows}, indent=1) + "\n", "utf-8")


def results(folder: Path, overrides: Sequence[str], runs: Sequence[str] | None) -> list[dict[str, Any]]:
    """A row for each run, or for some: name, accuracy of all, within pairs and on training clips, and recall of each
    verb."""
    place = Place(folder)
    rows = []
    for job in jobs_of(read_study(STUDY, overrides, output=folder)):
        if runs is not None and job.setting not in runs:
            continue
        record = place.result(job)
        if record is None:
            raise SystemExit(f"{job.name}: {place.failure(job) or 'is not done'}")
        evaluated = Run(job.folder).evaluations / job.split
        with (evaluated / "classes_action.csv").open(newline="", encoding="utf-8") as file:
            recalls = {row["class"]: float(row["recall"]) for row in csv.DictReader(file)}
        measured = record["measured"][job.split]
        rows.append(
            {
                "name": job.setting,
                "all": measured["top1"],
                "within_pairs": json.loads((evaluated / "metrics.json").read_text("utf-8"))["pairs"],
                "train": record["train_top1"],
                "num_clips": measured["num_clips"],
                "verbs": {verb: recalls[verb] for verb in VERBS},
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown, percent."""
    head = ["", *(verb.replace("_", " ") for verb in VERBS), "all", "within pairs", "training clips"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        shares = [*row["verbs"].values(), row["all"], row["within_pairs"], row["train"]]
        lines.append([row["name"], *("-" if share is None else f"{100 * share:.0f}" for share in shares)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
