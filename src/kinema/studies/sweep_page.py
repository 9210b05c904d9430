"""The page about a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kinema.files import parse_yaml, to_yaml
from kinema.report.document import document, links_to, write_document
from kinema.report.figure_files import FigureFiles
from kinema.report.markup import DASH, Child, Markup, counted, details, element, join, percent, table
from kinema.report.study_figures import Point, scatter, share_bars
from kinema.studies.study import Range, Study
from kinema.studies.sweep import Trial, best_of

_STATES = {"complete": "s0", "pruned": "s7", "failed": "s1", "running": "s3"}


def write_sweep_page(study: Study, trials: Sequence[Trial], importances: Mapping[str, float]) -> Path:
    """Write `report.html` of a sweep, in place of an older one.

    Raises:
        DataError: It cannot be written.
    """
    target = study.folder / "report.html"
    files = FigureFiles()
    content = sweep_page(study, trials, importances, files)
    write_document(target, content)
    files.write(target)
    return target


def sweep_page(study: Study, trials: Sequence[Trial], importances: Mapping[str, float], files: FigureFiles) -> str:
    """The page as HTML.

    Args:
        study: That was searched.
        trials: All that was tried.
        importances: Parameter -> share; empty where they are not known yet.
        files: Takes the figures that the page links to.
    """
    sections = [("results", "Results", _results(study, trials))]
    if importances:
        sections.append(("importances", "Importances", _importances(importances, files)))
    sections.append(("trials", "Trials", _charts(study, trials, files)))
    sections.append(("all", "All of them", _table(trials)))
    counts = [counted(sum(t.state == state for t in trials), "trial") + f" {state}" for state in _STATES]
    written = study.file.model_dump(mode="json", exclude_defaults=True)
    sections.append(
        ("made", "How it was made", details("The sweep's file", element("pre", to_yaml(written)), is_open=True))
    )
    header = element(
        "header",
        element("div", "kinema sweep", class_="kind"),
        element("h1", study.file.name),
        element("p", [element("span", fact) for fact in counts if not fact.startswith("0")], class_="facts"),
        element("p", study.file.about) if study.file.about else None,
        links_to(sections),
    )
    return document(
        title=study.file.name, header=header, sections=sections, footer="Trials are in the files beside this page."
    )


def _results(study: Study, trials: Sequence[Trial]) -> Markup:
    best = best_of(trials)
    if best is None:
        return element("p", "No trial is complete yet.", class_="empty")
    num = sum(trial.state in ("complete", "pruned") for trial in trials)
    note = (
        f"The highest of {num} on the same validation clips: new clips will give less. Before it is believed, train it "
        "with other seeds, beside the settings it was to replace (kinema study), and evaluate on the test split once."
    )
    tile = element(
        "div",
        element("div", percent(best.value), class_="tile-value"),
        element("div", f"validation, trial {best.number}", class_="tile-name"),
        class_="tile main",
    )
    words = element("pre", " ".join(best.overrides), tabindex="0")
    return join(element("div", tile, class_="tiles"), words, element("p", note, class_="note"))


def _importances(importances: Mapping[str, float], files: FigureFiles) -> Markup:
    note = (
        "How much of the differences between complete trials each setting explains, as Optuna estimates it from few "
        "points. It says nothing about settings that were not searched, nor about values outside the space."
    )
    return join(
        share_bars(list(importances.items()), title="importance", files=files), element("p", note, class_="note")
    )


def _charts(study: Study, trials: Sequence[Trial], files: FigureFiles) -> Markup:
    shown = [trial for trial in trials if trial.value is not None]
    if not shown:
        return element("p", "None has been measured yet.", class_="empty")
    charts = [
        scatter(
            [_point(t, float(t.number)) for t in shown], title="in their order", x_name="trial", log=False, files=files
        )
    ]
    for key, space in study.file.space.items():
        if isinstance(space, Range):
            points = [_point(t, float(parse_yaml(t.params[key], source=key))) for t in shown if key in t.params]
            charts.append(scatter(points, title=key, x_name=key, log=space.log, files=files))
        else:
            charts.append(_choices(key, shown))
    note = "Validation accuracy; grey: given up, as it was then."
    return join(element("div", charts, class_="columns"), element("p", note, class_="note"))


def _choices(key: str, trials: Sequence[Trial]) -> Markup:
    values = dict.fromkeys(trial.params[key] for trial in trials if key in trial.params)
    rows: list[list[Child]] = []
    for value in values:
        of_value = [
            t.value for t in trials if t.params.get(key) == value and t.state == "complete" and t.value is not None
        ]
        mean = sum(of_value) / len(of_value) if of_value else None
        rows.append([value, f"{len(of_value)}", percent(mean), percent(max(of_value, default=None))])
    return element(
        "figure",
        element("figcaption", element("b", key)),
        table(["value", "complete", "mean", "best"], rows),
        class_="panel",
    )


def _point(trial: Trial, x: float) -> Point:
    words = f"trial {trial.number}, {trial.state}"
    return Point(name=words, label=str(trial.number), style=_STATES.get(trial.state, "s7"), x=x, y=trial.value or 0.0)


def _table(trials: Sequence[Trial]) -> Markup:
    rows = [
        [
            str(trial.number),
            trial.state,
            percent(trial.value) if trial.value is not None else DASH,
            str(trial.epochs),
            element("code", " ".join(trial.overrides)),
            trial.error or "",
        ]
        for trial in sorted(trials, key=lambda trial: (trial.state != "complete", -(trial.value or 0.0)))
    ]
    return table(["trial", "state", "validation", "epochs", "settings", "why"], rows, text_columns=(0, 1, 4, 5))
