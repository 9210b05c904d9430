"""The time test and the rejection of unknown clips, on the page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_up import Page, make_run

from kinema.report.page import write_page
from kinema.training.run_folder import Run


def with_record(folder: Path, **more: Any) -> Page:
    """A page of a run whose latest evaluation says more."""
    run = make_run(folder, evaluated=("test",))
    path = Run(run.folder).evaluations / "test" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return Page(write_page(run.folder))


def plain(page: Page) -> list[list[str]]:
    """Rows of its tables, with spaces that may break."""
    return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in page.rows]


def of_order(drop: float, interval: list[float] | None) -> dict[str, Any]:
    classes = [
        {"name": "open", "num_clips": 8, "recall": 0.25, "drop": 0.625},
        {"name": "close", "num_clips": 8, "recall": 1.0, "drop": 0.0},
    ]
    return {"action": {"top1": 0.9 - drop, "drop": drop, "interval": interval, "same": 0.75, "classes": classes}}


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.1, 0.5], "The order of the frames matters to it"),
        ([-0.1, 0.5], "it does not use time on these clips"),
        (None, "The clips are of too few groups to say"),
    ],
)
def test_what_other_orders_cost_is_shown(tmp_path: Path, interval: list[float] | None, said: str) -> None:
    orders = {"reversed": of_order(0.3, interval)}
    if interval is not None:
        orders["still"] = of_order(0.0, [-0.1, 0.1])
    page = with_record(tmp_path / "run", time=orders)
    assert said in page.text
    assert ["reversed", "the last frame first", "60.0 %", "30.0 %"] in [row[:4] for row in plain(page)]
    assert ["open", "8", "62.5 %"] in [row[:3] for row in plain(page)]


def test_how_unknown_clips_are_told_apart_is_shown(tmp_path: Path) -> None:
    rejection = {
        "num_unknown": 40,
        "methods": {"energy": {"auroc": 0.87, "fpr95": 0.31}},
        "roc": {"energy": {"threshold": [1.5, 1.25, 0.5], "unknown": [0.0, 0.2, 1.0], "known": [0.5, 0.95, 1.0]}},
        "scores": {"method": "energy", "edges": [0.0, 1.0, 2.0], "known": [4, 20], "unknown": [30, 10]},
        "method": "energy",
        "threshold": 1.25,
        "known_accepted": 0.95,
        "top1_accepted": 0.9,
        "unknown_accepted": 0.2,
    }
    page = with_record(tmp_path / "run", rejection=rejection, unknown="others.csv")
    assert "95.0 % of the clips of the classes are answered, and 90.0 % of these rightly" in page.text
    assert "of the clips of none of them 20.0 % are answered" in page.text
    assert ["energy of the logits", "87.0 %", "31.0 %"] in plain(page)
    with (tmp_path / "run" / "figures" / "scores-of-known-and-unknown-clips.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["from", "to", "known", "unknown"], ["0.0", "1.0", "4", "30"], ["1.0", "2.0", "20", "10"]]
    with (tmp_path / "run" / "figures" / "roc-of-known-and-unknown-clips.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["score", "threshold", "unknown let through", "known let through"]
    assert rows[2] == ["energy of the logits", "1.25", "0.2", "0.95"]
    assert len(rows) == 4
    assert "energy of the logits, AUROC 87.0 %" in page.text.replace("\xa0", " ")
    (chosen,) = [one for one in page.attributes("circle") if "chosen" in one["class"]]
    (curve,) = [one["d"] for one in page.attributes("path") if one["class"] == "line s0" and one["d"].count("L") == 3]
    assert f"L{float(chosen['cx']):g} {float(chosen['cy']):g}" in curve  # it lies on its curve
    svg = (tmp_path / "run" / "figures" / "roc-of-known-and-unknown-clips.svg").read_text()
    assert "the threshold of the weights" in svg
    assert "var(" not in svg


def test_without_them_nothing_is_said(tmp_path: Path) -> None:
    page = with_record(tmp_path / "run")
    assert "use time" not in page.text
    assert "Clips of nothing" not in page.text


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    findings = [
        {"fault": "leakage", "message": "2 of 24 clips are of a video that was trained on"},
        {"fault": "training", "message": "while it was trained: no gradient"},
        {"fault": "selected", "message": "epoch 3 was kept"},
    ]
    run = make_run(tmp_path / "run")
    for split in ("validation", "test"):
        path = Run(run.folder).evaluations / split / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "findings": findings}))
    text = Page(write_page(run.folder)).text
    assert text.count("While it was trained: no gradient.") == 1
    assert text.count("2 of 24 clips are of a video that was trained on.") == 2
    assert "epoch 3 was kept." not in text
