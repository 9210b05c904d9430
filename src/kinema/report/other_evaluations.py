"""Evaluations that are not a run's headline: of other clips, with several looks at each, or older ones. Each is listed
by what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema.evaluation.asked import clips_words, views_words
from kinema.evaluation.metrics import top_ks
from kinema.report.markup import DASH, Child, Markup, element, join, percent, percent_range, table
from kinema.report.record import Evaluation
from kinema.types import JOINT

WITH_PRIOR = f"{JOINT}, with prior"
"""The joint accuracy where it counts how often classes came together in training."""


def others_section(evaluations: Sequence[Evaluation], verdicts: Sequence[str] = ()) -> Markup | None:
    """A table of them; None where there are none.

    Args:
        evaluations: Of `RunRecord.others`.
        verdicts: What one has to know before believing their numbers.
    """
    if not evaluations:
        return None
    rows: list[list[Child]] = []
    for evaluation in evaluations:
        record = evaluation.record
        how = "; ".join([views_words(record), *_also_asked(record)])
        first: list[Child] = [evaluation.name, _words(clips_words(record)), _words(how)]
        for task, values in evaluation.tasks.items():
            row = [*first, task, f"{record.get('num_clips', 0):,}", element("b", percent(values.get("top1")))]
            row += [percent(values.get("single_view_top1")), percent_range(values.get("interval"))]
            rows.append([*row, *(percent(values.get(key)) for key in ("chance", "majority")), _top_k(values)])
            if task == JOINT and "with_prior" in values:
                prior = values["with_prior"]
                row = [*first[:1], "", "", WITH_PRIOR, row[4], element("b", percent(prior.get("top1")))]
                rows.append([*row, *[DASH] * 4, _top_k(prior)])
            first = [evaluation.name, "", ""]
    head = ["evaluation", "which clips", "each looked at", "task", "clips", "top-1", "single views", "95 % interval"]
    note = (
        "Of several views one answer is made: top-1 is the accuracy of these answers (video accuracy), and that of "
        "single views is of each look by itself (clip accuracy)."
    )
    return join(
        element("h3", "Other evaluations"),
        table([*head, "chance", "majority", "top-k"], rows, text_columns=(0, 1, 2, 3, 10), sortable=False),
        element("p", note, class_="note") if any("views" in one.record for one in evaluations) else None,
        element("ul", [element("li", verdict) for verdict in verdicts], class_="verdicts") if verdicts else None,
    )


def _words(text: str) -> Markup:
    """Text of a cell that may be long."""
    return element("div", text, class_="words")


def _top_k(values: Mapping[str, Any]) -> Markup:
    ks = sorted(int(key[3:]) for key in values if key.startswith("top") and key[3:].isdigit() and key != "top1")
    said = [f"top-{k} {percent(values[f'top{k}'])}" for k in ks]
    return Markup(" ".join(element("span", one, class_="whole") for one in said))


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
