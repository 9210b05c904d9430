"""The page about a run: one file that needs no network and opens from a disk. Its figures also lie beside it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

from kinema.report.behaviour import rejection_section, time_section
from kinema.report.clips import Sample, clip_figures, least_confident_hits, most_confident_mistakes, read_samples
from kinema.report.confusion import confusion_section
from kinema.report.data_used import data_section
from kinema.report.document import document, links_to, write_document
from kinema.report.figure_files import FigureFiles
from kinema.report.markup import Child, Markup, counted, duration, element, join
from kinema.report.matrix_data import matrix_data
from kinema.report.record import Evaluation, RunRecord, read_run
from kinema.report.reliability import calibration_section
from kinema.report.results import curves_section, results_section
from kinema.report.settings import settings_section
from kinema.training.model_card import update_model_card
from kinema.training.run_folder import Run

_NUM_MISTAKES, _NUM_HITS = 12, 6
"""So many play on the page."""


def write_page(run: Path) -> Path:
    """Write `report.html` of a run from what its folder holds, in place of an older one, its figures as files, and the
    numbers of the evaluations into the card of its weights.

    Args:
        run: The run's folder.

    Returns:
        The page.

    Raises:
        DataError: The folder holds no run, a file in it is broken, or the page cannot be written.
    """
    target = Run(run).report
    figures, record = FigureFiles(), read_run(run)
    content = page(record, figures)
    write_document(target, content)
    figures.write(target)
    if record.training is not None:
        plain, others = ([one.record for one in some] for some in (record.plain, record.others))
        update_model_card(Run(run).weights, plain, others)
    return target


def page(run: RunRecord, figures: FigureFiles) -> str:
    """The page as HTML.

    Args:
        run: What it is about.
        figures: Takes the figures that the page links to.
    """
    shown = run.headline
    data = None
    sections = [
        ("results", "Results", results_section(run, figures)),
        ("curves", "Training", curves_section(run, figures)),
    ]
    if shown is not None:
        samples, confusions = read_samples(shown.predictions(), list(shown.record["tasks"])), shown.confusions()
        data = matrix_data(shown, confusions, samples) if confusions else None
        sections.append(("confusion", f"Confusion matrix, {shown.name}", confusion_section(shown, confusions, figures)))
        if (calibration := calibration_section(shown, figures)) is not None:
            sections.append(("calibration", f"Calibration, {shown.name}", calibration))
    if (timed := run.newest_with("time")) is not None and (time := time_section(timed, figures)) is not None:
        sections.append(("time", f"Does it use time? {timed.name}", time))
    rejecting = run.newest_with("rejection")
    if rejecting is not None and (rejection := rejection_section(rejecting, figures)) is not None:
        sections.append(("rejection", f"Clips of nothing, {rejecting.name}", rejection))
    if shown is not None:
        sections.append(("clips", f"Clips, {shown.name}", clips_section(run, shown, samples)))
    if (used := data_section(run, figures)) is not None:
        sections.append(("data", "Data", used))
    sections.append(("settings", "How it was made", settings_section(run)))
    return document(
        title=run.title,
        header=_header(run, sections),
        sections=sections,
        footer="Everything above is in the files beside this page.",
        data=data,
    )


def clips_section(run: RunRecord, evaluation: Evaluation, samples: Sequence[Sample]) -> Markup:
    """Some mistakes and some hits, playing."""
    if not samples:
        return element("p", "No predictions were kept with this evaluation.")
    mistakes = most_confident_mistakes(samples, _NUM_MISTAKES)
    right = least_confident_hits(samples, _NUM_HITS)
    root = (evaluation.record.get("data") or {}).get("root")
    root = None if root is None else Path(root)
    num_wrong = sum(bool(sample.wrong) for sample in samples)
    groups = [
        (f"Mistakes: the most confident of {num_wrong:,}", mistakes),
        (f"Hits: the least confident of {len(samples) - num_wrong:,}", right),
    ]
    parts = [
        join(
            element("h3", title),
            clip_figures(chosen, folder=run.folder, root=root) if chosen else element("p", "There are none."),
        )
        for title, chosen in groups
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
