"""Somebody else's table, and beside it what was measured here of the same kind."""

from __future__ import annotations

from kinema.studies.outcomes import Outcomes, Row
from kinema.types import JOINT
from kinema.wording import percent

_NONE = "-"


def beside_source(outcomes: Outcomes) -> tuple[list[str], list[list[str]]]:
    """Titles of columns, and rows. The source's columns come first, as they are there; then ours: parameters,
    accuracies of each task, losses and the gap."""
    source = outcomes.study.file.source
    assert source is not None
    tasks = list(dict.fromkeys(task for row in outcomes.rows for task in row.tasks))
    on = outcomes.measured_on
    head = ["setting", *(f"{name}, there" for name in source.columns)]
    head += ["parameters", "trained", "training", on, "gap"]
    head += [f"{task}: top-1 / 3 / 5" if len(tasks) > 1 else "top-1 / 3 / 5" for task in tasks]
    head += ["training loss", f"{on} loss"]
    rows = []
    for row in outcomes.rows:
        there = source.rows.get(row.name, (None,) * len(source.columns))
        rows.append([row.name, *(_NONE if value is None else str(value) for value in there), *_ours(row, tasks)])
    return head, rows


def _ours(row: Row, tasks: list[str]) -> list[str]:
    counts = [row.cost("parameters"), row.cost("trainable")]
    shares = [None if spread is None else spread.mean for spread in (row.train, row.score)]
    cells = [_NONE if count is None else f"{count:,.0f}" for count in counts]
    cells += [percent(share) for share in (*shares, row.gap)]
    for task in tasks:
        values = row.tasks.get(task, {})
        cells.append(" / ".join(_share(values.get(key)) for key in ("top1", "top3", "top5")))
    return cells + [_NONE if loss is None else f"{loss:.4g}" for loss in (row.train_loss, row.loss)]


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}"


NOTE = (
    "The last columns are ours. Top-1 / 3 / 5 in %. The training loss is that of the kept epoch as it was trained, "
    "with augmentation and label smoothing; the other is of what settings are compared on, without; of several tasks "
    "their sum."
)


def below_majority(row: Row) -> list[tuple[str, float, float]]:
    """Tasks that are not better than always answering the commonest training class, their accuracy, and its."""
    found = []
    for task, values in row.tasks.items():
        top1, majority = values.get("top1"), values.get("majority")
        is_one_of_several = task != JOINT and len(row.tasks) > 1
        if is_one_of_several and top1 is not None and majority is not None and top1 <= majority:
            found.append((task, top1, majority))
    return found
