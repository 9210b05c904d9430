"""The page about a run: one file that needs nothing else, no network and no script, and opens from a disk."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

from kinema.report.clips import clip_figures, hits, most_confident_mistakes, read_samples
from kinema.report.confusion import confusion_section
from kinema.report.document import document, links_to, write_document
from kinema.report.markup import Child, Markup, counted, duration, element, join
from kinema.report.record import Evaluation, RunRecord, read_run
from kinema.report.reliability import calibration_section
from kinema.report.results import curves_section, results_section
from kinema.report.settings import settings_section
from kinema.training.run_folder import Run

_NUM_CLIPS = 6
"""So many mistakes, and so many hits."""


def write_page(run: Path) -> Path:
    """Write `report.html` of a run from what its folder holds, in place of an older one.

    Args:
        run: The run's folder.

    Returns:
        The page.

    Raises:
        DataError: The folder holds no run, a file in it is broken, or the page cannot be written.
    """
    target = Run(run).report
    write_document(target, page(read_run(run)))
    return target


def page(run: RunRecord) -> str:
    """The page as HTML."""
    latest = run.latest
    sections = [("results", "Results", results_section(run)), ("curves", "Training", curves_section(run))]
    if latest is not None:
        sections.append(("confusion", f"Confusion matrix, {latest.name}", confusion_section(latest)))
        if (calibration := calibration_section(latest)) is not None:
            sections.append(("calibration", f"Calibration, {latest.name}", calibration))
        sections.append(("clips", f"Clips, {latest.name}", clips_section(run, latest)))
    sections.append(("settings", "How it was made", settings_section(run)))
    return document(
        title=run.title,
        header=_header(run, sections),
        sections=sections,
        footer="Everything above is in the files beside this page.",
    )


def clips_section(run: RunRecord, evaluation: Evaluation) -> Markup:
    """Some mistakes and some hits, playing."""
    samples = read_samples(evaluation.predictions(), list(evaluation.record["tasks"]))
    if not samples:
        return element("p", "No predictions were kept with this evaluation.")
    mistakes, right = most_confident_mistakes(samples, _NUM_CLIPS), hits(samples, _NUM_CLIPS)
    root = (evaluation.record.get("data") or {}).get("root")
    root = None if root is None else Path(root)
    num_wrong = sum(bool(sample.wrong) for sample in samples)
    groups = [
        (f"Mistakes: the most confident of {num_wrong:,}", mistakes, "There are none."),
        (f"Hits: of {len(samples) - num_wrong:,}, the most confident of some classes", right, "There are none."),
    ]
    parts = [
        join(element("h3", title), clip_figures(chosen, folder=run.folder, root=root) if chosen else element("p", none))
        for title, chosen, none in groups
    ]
    path = f"evaluations/{evaluation.name}/predictions.csv"
    note = "Each shows 16 frames of its whole clip; one longer than 3 s is played faster. All predictions: "
    return join(parts, element("p", note, element("a", path, href=path), class_="note"))


def _header(run: RunRecord, sections: Sequence[tuple[str, str, Markup]]) -> Markup:
    finished = run.training is not None
    state = element(
        "span", "finished" if finished else "not finished", class_=f"state {'done' if finished else 'open'}"
    )
    facts = [element("span", fact) for fact in _facts(run)]
    return element(
        "header",
        element("div", "kinema run", class_="kind"),
        element("h1", run.title, " ", state),
        element("p", facts, class_="facts"),
        links_to(sections),
    )


def _facts(run: RunRecord) -> list[Child]:
    planned = (run.config.get("trainer") or {}).get("epochs")
    seconds = [row["seconds"] for row in run.history if math.isfinite(row.get("seconds", math.nan))]
    epochs = f"{len(run.history)} of {planned} epochs" if planned else counted(len(run.history), "epoch")
    facts: list[Child] = [f"{epochs} in {duration(sum(seconds))}" if seconds else epochs]
    if run.training is not None:
        facts.append(f"epoch {run.training['epoch']} kept for {run.training['selected_by']}")
        facts.append(counted(run.training["num_clips"], "training clip"))
    facts += [
        f"{len(names):,} classes" if len(run.heads) == 1 else f"{task}: {len(names):,} classes"
        for task, names in run.heads.items()
    ]
    started = run.environment.get("started")
    if isinstance(started, str):
        facts.append(_date(started))
    return facts


def _date(text: str) -> str:
    try:
        return f"started {datetime.datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}"
    except ValueError:
        return f"started {text}"
