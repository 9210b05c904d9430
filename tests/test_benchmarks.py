"""Every benchmark runs and writes rows of the right shape. How fast anything is, is not for a test to say."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
ROW = {"job", "kinema", "peer", "peer_name", "ratio", "unit"}
NEEDS = {"store_study": "matplotlib"}


def run(name: str, tmp_path: Path, data: Path | None) -> dict[str, Any]:
    result = tmp_path / f"{name}.json"
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", "--json", str(result)]
    command += [] if data is None else ["--data", str(data)]
    # Warnings of the peers' are theirs.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "KINEMA_INDEX": str(tmp_path / "index")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    assert found["quick"]
    for row in found["rows"]:
        assert row.keys() >= ROW
        figures = [row[key] for key in ("kinema", "peer", "ratio") if row[key] is not None]
        assert figures
        assert all(math.isfinite(value) and value > 0 for value in figures), row
        if row["kinema"] is not None and row["peer"] is not None and not row.get("limit"):
            assert row["ratio"] is not None
        assert row["job"] in done.stdout
    assert all(note in done.stdout for note in found["notes"])
    return found


def check(name: str, tmp_path: Path, data_root: Path) -> dict[str, Any]:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    found = run(name, tmp_path, data_root)
    assert found["rows"], found["notes"]
    assert not any("WRONG FRAMES" in note for note in found["notes"])
    return found


# Each is a process or three that import torch: the first two of them say that the common parts work.
@pytest.mark.parametrize("name", ["stores"])
def test_benchmark_runs(name: str, tmp_path: Path, data_root: Path) -> None:
    check(name, tmp_path, data_root)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "decoding",
        "loading",
        "store_study",
        "features",
        "training_step",
        "sequence_length",
        "memory",
        "limits",
        "augmentation",
        "optical_flow",
        "flow_preparation",
        "watch",
        "timeline_memory",
    ],
)
def test_benchmark_runs_too(name: str, tmp_path: Path, data_root: Path) -> None:
    found = check(name, tmp_path, data_root)
    if name == "training_step" and found["machine"]["gpu"] is None:
        assert found["facts"]["gpu"] == "not measured: no GPU at hand"
    if name == "sequence_length":
        parameters = {facts["module"]: facts["parameters"] for facts in found["facts"]["series"] if facts["size"] == 50}
        assert parameters["LSTM"] == 266_200 + 4 * 50  # as the report counts; PyTorch has a second bias
        assert parameters["ConvLSTM"] == 4_256_200
    if name == "optical_flow":
        errors = {(facts["method"], facts["motion"]): facts["px"] for facts in found["facts"]["errors"]}
        assert errors["no flow at all", "4 px"] == pytest.approx(4)
        assert errors["dis", "4 px"] < 1


def test_what_is_wanted_is_judged() -> None:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        harness: Any = importlib.import_module("harness")
    finally:
        sys.path.pop(0)
    base = {"kinema": 1.0, "peer": 1.0, "peer_name": "", "unit": "MB"}
    rows = [
        {**base, "job": "quick enough", "ratio": 10.5, "target": 10.0},
        {**base, "job": "too slow", "ratio": 9.5, "target": 10.0},
        {**base, "job": "grows little", "ratio": 1.01, "target": 1.02, "at_most": True},
        {**base, "job": "grows", "ratio": 1.03, "target": 1.02, "at_most": True},
        {**base, "job": "told only", "ratio": 3.0, "target": None},
    ]
    assert [harness.is_met(row) for row in rows] == [True, False, True, False, None]
    options = harness.Options(data=REPOSITORY, json=None, rounds=1, quick=False)
    assert harness.Report(name="any", options=options, rows=rows).missed == ["too slow", "grows"]
    told = harness.table(rows).splitlines()
    assert "10.0: met" in told[1]
    assert "10.0: missed" in told[2]
    assert "at most 1.02: missed" in told[4]


@pytest.mark.slow
def test_streams_are_told_verb_by_verb(tmp_path: Path) -> None:
    result = tmp_path / "streams.json"
    command = [sys.executable, "benchmarks/motion_streams.py", "--quick", "--json", str(result)]
    environment = {**os.environ, "KINEMA_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "study")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == ["RGB", "flow, no motion"]
    for row in rows:
        assert len(row["verbs"]) == 10
        assert row["all"] == pytest.approx(sum(row["verbs"].values()) / 10)
        assert f"| {row['name']} |" in done.stdout
    assert rows[1]["within_pairs"] == 0.5  # one picture throughout is the same forwards and backwards


def test_figures_get_into_the_page_and_missing_ones_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    row = {"job": "reading", "kinema": 123.4, "peer": 40.0, "peer_name": "others", "ratio": 3.09, "unit": "clips/s"}
    machine = {"cpu": "A", "cpu_capability": "B", "cores": 2, "memory_gb": 8.0, "gpu": None, "system": "C"}
    result = {
        "measured": "2026-01-01",
        "quick": False,
        "rounds": 5,
        "machine": {**machine, "load_before": [0.1, 0.1, 0.1]},
        "versions": {"torch": "2"},
        "rows": [{**row, "target": 3.0}, {**row, "target": 4.0}],
        "notes": ["a note"],
        "facts": {},
    }
    (folder / "decoding.json").write_text(json.dumps(result))
    errors = [{"method": name, "motion": "4 px", "px": px} for name, px in (("dis", 0.0126), ("tvl1", 0.5))]
    flow = {**result, "rows": [], "notes": [], "facts": {"errors": errors}}
    (folder / "optical_flow.json").write_text(json.dumps(flow))
    page = tmp_path / "page.md"
    marked = "".join(
        f"<!-- bench: {name} -->\nold\n<!-- end -->\nkept\n"
        for name in ("machine", "decoding", "loading", "flow_errors")
    )
    page.write_text(marked)
    command = [sys.executable, "benchmarks/write_performance.py", str(folder), "--page", str(page)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    text = page.read_text()
    assert "old" not in text
    assert text.count("kept") == 4
    assert "| | 4 px |\n|---|---|\n| dis | 0.013 px |\n| tvl1 | 0.500 px |" in text
    assert "| reading | 123 clips/s | others | 40.0 clips/s | 3.09 x |  | 3.00 x: met |" in text
    assert "4.00 x: **missed**" in text
    assert "- a note" in text
    assert "A (B), 2 cores" in text
    assert text.count("Not measured.") == 1
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    assert page.read_text() == text
    # A new run of one benchmark on another machine; of the others there is nothing left but the page.
    (folder / "decoding.json").unlink()
    slower = {**flow, "machine": {**machine, "cpu": "D", "load_before": [3.0]}}
    (folder / "optical_flow.json").write_text(json.dumps(slower).replace("0.0126", "0.2"))
    subprocess.run([*command, "--keep"], cwd=REPOSITORY, check=True, timeout=300)
    kept = page.read_text()
    assert "| dis | 0.200 px |" in kept
    assert "- D (B), 2 cores" in kept
    assert "Measured there: optical_flow (2026-01-01, 5 rounds, load before: 3.0)." in kept
    assert "Measured there: decoding (2026-01-01, 5 rounds, load before: 0.1)." in kept
    assert kept.count("optical_flow") == 1
    assert "| reading | 123 clips/s | others | 40.0 clips/s | 3.09 x |  | 3.00 x: met |" in kept
    assert kept.count("Not measured.") == 1
