"""Evaluations that are not a run's headline: of other clips, with several looks at each, or older ones. Each is listed
by what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema.evaluation.asked import clips_words, views_words
from kinema.evaluation.metrics import main_task, top_ks
from kinema.report.markup import DASH, Child, Markup, element, join, percent, percent_range, table
from kinema.report.record import Evaluation
from kinema.types import JOINT

WITH_PRIOR = f"{JOINT}, with prior"
"""The joint accuracy where it counts how often classes came together in training."""


def others_section(evaluations: Sequence[Evaluation]) -> Markup | None:
    """A table of them; None where there are none.

    Args:
        evaluations: Of `RunRecord.others`.
    """
    if not evaluations:
        return None
    ks = all_ks(evaluations)
    rows: list[list[Child]] = []
    for evaluation in evaluations:
        record = evaluation.record
        for task, values in evaluation.tasks.items():
            how = views_words(record)
            if task == main_task(record["tasks"]):
                how = "; ".join([how, *_also_asked(record)])
            row: list[Child] = [evaluation.name, clips_words(record), how, task, f"{record.get('num_clips', 0):,}"]
            row += [element("b", percent(values.get("top1"))), percent_range(values.get("interval"))]
            row += [percent(values.get(key)) for key in ("single_view_top1", *(f"top{k}" for k in ks))]
            rows.append([*row, percent(values.get("chance")), percent(values.get("majority"))])
            if task == JOINT and "with_prior" in values:
                prior = values["with_prior"]
                row = [*row[:3], WITH_PRIOR, row[4], element("b", percent(prior.get("top1"))), DASH, DASH]
                rows.append([*row, *(percent(prior.get(f"top{k}")) for k in ks), DASH, DASH])
    head = ["evaluation", "which clips", "how each was looked at", "task", "clips", "top-1", "95 % interval"]
    head += ["single views", *(f"top-{k}" for k in ks), "chance", "majority"]
    note = (
        "Of several views one answer is made: top-1 is the accuracy of these answers (video accuracy), and that of "
        "single views is of each look by itself (clip accuracy)."
    )
    return join(
        element("h3", "Other evaluations"),
        table(head, rows, text_columns=(0, 1, 2, 3)),
        element("p", note, class_="note") if any("views" in one.record for one in evaluations) else None,
    )


def all_ks(evaluations: Sequence[Evaluation]) -> list[int]:
    """The k above 1 of all of their top-k accuracies."""
    return sorted({k for evaluation in evaluations for k in top_ks(evaluation.record) if k > 1})


def _also_asked(record: Mapping[str, Any]) -> list[str]:
    """Other orders of the frames, and clips of none of the classes."""
    found = []
    if "time" in record:
        found.append("also with other orders of the frames")
    if "unknown" in record:
        found.append(f"also unknown clips: {Path(record['unknown']).name}")
    return found
