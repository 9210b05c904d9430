"""The page about a run: one file that needs nothing else, no network and no script, and opens from a disk."""

from __future__ import annotations

import datetime
import math
from importlib.resources import files
from pathlib import Path

from kinema.files import write_atomically
from kinema.report.clips import clip_figures, hits, most_confident_mistakes, read_samples
from kinema.report.confusion import confusion_section
from kinema.report.markup import Child, Markup, counted, duration, element, join
from kinema.report.record import Evaluation, RunRecord, read_run
from kinema.report.results import curves_section, results_section
from kinema.report.settings import settings_section
from kinema.training.run_folder import Run
from kinema.types import DataError
from kinema.version import __version__

_NUM_CLIPS = 6
"""So many mistakes, and so many hits."""

# Even if markup slipped through, nothing could be loaded or run.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


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
    content = page(read_run(run))
    try:
        write_atomically(target, content.encode("utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def page(run: RunRecord) -> str:
    """The page as HTML."""
    latest = run.latest
    sections = [("results", "Results", results_section(run)), ("curves", "Training", curves_section(run))]
    if latest is not None:
        sections.append(("confusion", f"Confusion matrix, {latest.name}", confusion_section(latest)))
        sections.append(("clips", f"Clips, {latest.name}", clips_section(run, latest)))
    sections.append(("settings", "How it was made", settings_section(run)))
    style = files("kinema.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        *("\n", element("meta", charset="utf-8")),
        *("\n", element("meta", http_equiv="Content-Security-Policy", content=_POLICY)),
        *("\n", element("meta", name="viewport", content="width=device-width, initial-scale=1")),
        *("\n", element("meta", name="generator", content=f"kinema {__version__}")),
        *("\n", element("title", f"{run.title} \N{MIDDLE DOT} kinema")),
        *("\n", element("style", Markup("\n" + style))),
        "\n",
    )
    body = element(
        "body",
        "\n",
        _header(run, [(key, title.partition(",")[0]) for key, title, _ in sections]),
        "\n",
        element("main", [_section(*section) for section in sections]),
        element("footer", f"kinema {__version__}. Everything above is in the files beside this page."),
        "\n",
    )
    return "<!DOCTYPE html>\n" + element("html", "\n", head, "\n", body, "\n", lang="en") + "\n"


def clips_section(run: RunRecord, evaluation: Evaluation) -> Markup:
    """Some mistakes and some hits, playing."""
    samples = read_samples(evaluation.predictions(), list(evaluation.record["tasks"]))
    if not samples:
        return element("p", "No predictions were kept with this evaluation.")
    mistakes, right = most_confident_mistakes(samples, _NUM_CLIPS), hits(samples, _NUM_CLIPS)
    num_wrong = sum(bool(sample.wrong) for sample in samples)
    groups = [
        (f"Mistakes: the most confident of {num_wrong:,}", mistakes, "There are none."),
        (f"Hits: of {len(samples) - num_wrong:,}, the most confident of some classes", right, "There are none."),
    ]
    parts = [
        join(element("h3", title), clip_figures(chosen, folder=run.folder) if chosen else element("p", none))
        for title, chosen, none in groups
    ]
    path = f"evaluations/{evaluation.name}/predictions.csv"
    note = "Each shows 16 frames of its whole clip; one longer than 3 s is played faster. All predictions: "
    return join(parts, element("p", note, element("a", path, href=path), class_="note"))


def _header(run: RunRecord, sections: list[tuple[str, str]]) -> Markup:
    finished = run.training is not None
    state = element(
        "span", "finished" if finished else "not finished", class_=f"state {'done' if finished else 'open'}"
    )
    links = [element("a", title, href=f"#{key}") for key, title in sections]
    facts = [element("span", fact) for fact in _facts(run)]
    return element(
        "header",
        element("div", "kinema run", class_="kind"),
        element("h1", run.title, " ", state),
        element("p", facts, class_="facts"),
        element("nav", links),
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


def _section(key: str, title: str, content: Markup) -> Markup:
    return join("\n", element("section", element("h2", title), "\n", content, id=key), "\n")
