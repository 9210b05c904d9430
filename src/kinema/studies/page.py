"""The page about a study: one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from kinema.files import to_yaml
from kinema.report.document import document, links_to, write_document
from kinema.report.figure_files import FigureFiles
from kinema.report.figures import Reading, Series, bars, line_chart, mark_key
from kinema.report.markup import (
    DASH,
    NBSP,
    Child,
    Markup,
    counted,
    details,
    duration,
    element,
    join,
    number,
    percent,
    signed_percent,
    table,
    valued,
)
from kinema.report.record import read_run
from kinema.report.study_figures import NUM_STYLES, Point, scatter
from kinema.studies.beside_source import NOTE, below_majority, beside_source
from kinema.studies.outcomes import Outcomes, Row, Spread
from kinema.wording import byte_size

ALPHA = 0.05

_MOST_CURVES = 12
"""Settings whose curves can be told apart."""

_OF_FOLDS = (
    "; the accuracy of one seed is that of all held-out clips together, and how far folds lie apart (each the mean "
    "over seeds) stands beside it; of training clips it is the deviation between all runs"
)

_COSTS = (
    ("gflops", "GFLOPs of a clip", True),
    ("parameters", "parameters", True),
    ("clips_per_s", "training clips a second, more is better", True),
    ("memory_bytes", "peak memory, GB", False),
)


def write_study_page(outcomes: Outcomes) -> Path:
    """Write `report.html` of a study, in place of an older one.

    Raises:
        DataError: A run is broken, or the page cannot be written.
    """
    target = outcomes.study.folder / "report.html"
    files = FigureFiles()
    content = study_page(outcomes, files)
    write_document(target, content)
    files.write(target)
    return target


def study_page(outcomes: Outcomes, files: FigureFiles) -> str:
    """The page as HTML.

    Args:
        outcomes: What it is about.
        files: Takes the figures that the page links to.
    """
    sections = [("results", "Results", _results(outcomes, files))]
    if outcomes.comparisons:
        sections.append(("beside", "Beside the best", _beside(outcomes)))
    if outcomes.study.file.source is not None:
        sections.append(("source", "The source's table, beside ours", _source(outcomes)))
    if any(row.groups for row in outcomes.rows):
        sections.append(("frequency", "Common and rare classes", _frequency(outcomes)))
    if any(row.outcomes for row in outcomes.rows):
        sections.append(("curves", "Training", _curves(outcomes, files)))
    if sum(row.score is not None for row in outcomes.rows) > 1:
        sections.append(("cost", "Accuracy against cost", _cost(outcomes, files)))
    if any(row.folds for row in outcomes.rows):
        sections.append(("folds", "Folds", _folds(outcomes)))
    sections.append(("made", "How it was made", _made(outcomes)))
    file = outcomes.study.file
    done, planned = (
        sum(values) for values in zip(*((len(r.outcomes), r.num_runs) for r in outcomes.rows), strict=True)
    )
    state = element(
        "span",
        "finished" if done == planned else "not finished",
        class_=f"state {'done' if done == planned else 'open'}",
    )
    facts = [f"{done:,} of {planned:,} runs", counted(len(outcomes.rows), "setting"), f"measured on {_on(outcomes)}"]
    header = element(
        "header",
        element("div", "kinema study", class_="kind"),
        element("h1", file.name, " ", state),
        element("p", [element("span", fact) for fact in facts], class_="facts"),
        element("p", file.about) if file.about else None,
        links_to(sections),
    )
    footer = "Everything above is in the files beside this page."
    return document(title=file.name, header=header, sections=sections, footer=footer)


def _results(outcomes: Outcomes, files: FigureFiles) -> Markup:
    readings = [
        Reading(
            name=[element("b", row.name), element("span", _spread_words(row), class_="note")],
            value=row.score.mean,
            marks=(
                ("training clips", "train", None if row.train is None else row.train.mean),
                ("chance", "chance", row.chance),
                ("majority", "majority", row.majority),
            ),
        )
        for row in outcomes.rows
        if row.score is not None
    ]
    keys = (
        ("value", _score_name(outcomes)),
        ("train", "training clips"),
        ("chance", "chance"),
        ("majority", "majority"),
    )
    legend = element("span", [element("span", mark_key(style), name) for style, name in keys], class_="legend")
    verdicts = element("ul", [element("li", words) for words in _verdicts(outcomes)], class_="verdicts")
    note = (
        "Mean \N{PLUS-MINUS SIGN} standard deviation between random seeds"
        + (_OF_FOLDS if _has_folds(outcomes) else "")
        + ". Training clips are measured with the final weights and without augmentation; the gap is their accuracy "
        "less the other. Clips a second are those of training, as they were read (stored features, or frames), with "
        "the validation after each epoch, and depend on what else the machine did. Memory is the peak of the process "
        "that trained, without those that read clips."
    )
    return join(
        verdicts,
        bars(readings, legend=legend, files=files) if readings else None,
        _numbers(outcomes),
        element("p", note, class_="note"),
    )


def _verdicts(outcomes: Outcomes) -> list[str]:
    found = []
    failed = [run for row in outcomes.rows for run in row.failures]
    if failed:
        found.append(f"{counted(len(failed), 'run')} failed; why is said under the last heading.")
    missing = sum(row.num_runs - len(row.outcomes) - len(row.failures) for row in outcomes.rows)
    if missing:
        found.append(f"{counted(missing, 'run')} are not done yet; only complete settings are compared.")
    found += [
        f"{row.name}: {percent(row.score.mean)} is not better than always answering the commonest training class "
        f"({percent(row.majority)})."
        for row in outcomes.rows
        if row.score is not None and row.majority is not None and row.score.mean <= row.majority
    ]
    found += [
        f"{row.name}, {task} alone: {percent(top1)} is not better than always answering the commonest training class "
        f"({percent(majority)})."
        for row in outcomes.rows
        for task, top1, majority in below_majority(row)
    ]
    if outcomes.measured_on == "test":
        found.append("Measured on the test split: whoever chooses a setting by this page has no test split any more.")
    alike = [c.name for c in outcomes.comparisons.values() if c.p_holm > ALPHA]
    if outcomes.best is not None and alike:
        names = ", ".join(alike[:6]) + (f" and {len(alike) - 6} more" if len(alike) > 6 else "")
        found.append(f"{outcomes.best.name} is the best, but these clips do not tell it apart from: {names}.")
    return found


def _numbers(outcomes: Outcomes) -> Markup:
    head: list[Child] = ["setting", "runs", "parameters", "trained", "GFLOPs", "clips/s", "memory", "time of a run"]
    has_folds = _has_folds(outcomes)
    head += ["training clips", _score_name(outcomes), *(["between folds"] if has_folds else [])]
    head += ["gap", "chance", "majority"]
    rows = []
    for row in outcomes.rows:
        memory, seconds = row.cost("memory_bytes"), row.cost("seconds")
        cells: list[Child] = [
            [row.name, Markup(" <b>best</b>") if row is outcomes.best else None],
            f"{len(row.outcomes)}/{row.num_runs}",
            *(_whole(row.cost(key)) for key in ("parameters", "trainable")),
            *(number(row.cost(key)) for key in ("gflops", "clips_per_s")),
            valued(byte_size(memory).replace(" ", NBSP), memory) if memory else DASH,
            valued(duration(seconds), seconds) if seconds else DASH,
            _spread(row.train),
            element("b", _spread(row.score)),
            *([_deviation(row.between_folds)] if has_folds else []),
            signed_percent(row.gap),
            percent(row.chance),
            percent(row.majority),
        ]
        rows.append(cells)
    return table(head, rows)


def _beside(outcomes: Outcomes) -> Markup:
    assert outcomes.best is not None
    rows = []
    for row in outcomes.rows:
        found = outcomes.comparisons.get(row.name)
        if found is not None:
            told = "yes" if found.p_holm <= ALPHA else "no"
            numbers = [signed_percent(-found.difference), _p(found.p), _p(found.p_holm)]
            rows.append([row.name, *numbers, told, f"{found.num_clips:,}", found.test])
    head = ["setting", f"less {outcomes.best.name}", "p", "p, corrected", "told apart", "clips", "test"]
    note = (
        "Paired over clips, two-sided. One seed: exact McNemar test on the clips that one of the two got right. "
        "Several seeds: each clip counts with the share of seeds that got it right, and signs of the differences are "
        "drawn at random 20,000 times. Corrected for the number of comparisons by Holm's method; told apart: below "
        "0.05. Clips of one group are alike, and the best was chosen by these same clips: both make differences look "
        "surer than they are."
    )
    return join(table(head, rows, text_columns=(0, 4, 6)), element("p", note, class_="note"))


def _frequency(outcomes: Outcomes) -> Markup:
    groups = list(dict.fromkeys(group for row in outcomes.rows for group in row.groups))
    rows = [[row.name, *(_spread(row.groups.get(group)) for group in groups)] for row in outcomes.rows if row.groups]
    note = (
        "Mean class accuracy on the third of the classes with the most training clips (head), on the third with the "
        "fewest (tail), and on those between, over all runs."
    )
    return join(table(["setting", *groups], rows), element("p", note, class_="note"))


def _source(outcomes: Outcomes) -> Markup:
    source = outcomes.study.file.source
    assert source is not None
    head, rows = beside_source(outcomes)
    lines = [element("p", line, class_="note") for line in (source.title, *source.notes, NOTE)]
    return join(table(head, rows), lines)


def _curves(outcomes: Outcomes, files: FigureFiles) -> Markup:
    rows = [row for row in outcomes.rows if row.outcomes][:_MOST_CURVES]
    history = {row.name: _mean_history(row) for row in rows}
    columns = dict.fromkeys(column for of_row in history.values() for column in of_row)
    wanted = [c for c in columns if c.startswith("validation/") and (c.endswith("_top1") or c == "validation/loss")]
    wanted += [column for column in columns if column.startswith("train/")]
    charts = []
    for column in wanted:
        series = [
            Series(name=row.name, style=_style(place), points=history[row.name][column])
            for place, row in enumerate(rows)
            if column in history[row.name]
        ]
        part, _, name = column.partition("/")
        title = f"{'training' if part == 'train' else part}, {name.removesuffix('_top1')}"
        charts.append(line_chart(series, title=title, shares=name != "loss", files=files))
    left = len([row for row in outcomes.rows if row.outcomes]) - len(rows)
    note = "Means over seeds and folds, of the epochs that all of them reached."
    note += f" {counted(left, 'setting')} more are not drawn." if left > 0 else ""
    return join(element("div", charts, class_="columns"), element("p", note, class_="note"))


def _mean_history(row: Row) -> Mapping[str, list[tuple[float, float]]]:
    """Column -> (epoch, mean over the setting's runs)."""
    runs = [read_run(outcome.job.folder).history for outcome in row.outcomes]
    num = min(len(history) for history in runs)
    found: dict[str, list[tuple[float, float]]] = {}
    for epoch in range(num):
        for column in runs[0][epoch]:
            values = [history[epoch].get(column, math.nan) for history in runs]
            if "/" in column and all(math.isfinite(value) for value in values):
                found.setdefault(column, []).append((runs[0][epoch]["epoch"], sum(values) / len(values)))
    return found


def _cost(outcomes: Outcomes, files: FigureFiles) -> Markup:
    charts = []
    for key, title, log in _COSTS:
        points = []
        for place, row in enumerate(outcomes.rows):
            cost = row.cost(key)
            if cost and row.score is not None:
                x = cost / 1e9 if key == "memory_bytes" else cost
                spread = row.score.std
                label = str(place + 1)
                points.append(
                    Point(name=row.name, label=label, style=_style(place), x=x, y=row.score.mean, spread=spread)
                )
        if points:
            charts.append(scatter(points, title=title.partition(",")[0], x_name=title, log=log, files=files))
    keys = [
        element("span", element("b", str(place + 1)), " ", row.name)
        for place, row in enumerate(outcomes.rows)
        if row.score is not None
    ]
    return join(element("p", element("span", keys, class_="legend")), element("div", charts, class_="columns"))


def _folds(outcomes: Outcomes) -> Markup:
    names = list(dict.fromkeys(fold for row in outcomes.rows for fold in row.folds))
    rows = [[fold, *(percent(row.folds.get(fold)) for row in outcomes.rows)] for fold in names]
    note = "Accuracy on the clips that each fold held out, the mean over seeds. Nothing was selected on them."
    return join(table(["held out", *(row.name for row in outcomes.rows)], rows), element("p", note, class_="note"))


def _made(outcomes: Outcomes) -> Markup:
    file = outcomes.study.file
    failures = [
        element("li", element("b", run), ": ", why) for row in outcomes.rows for run, why in row.failures.items()
    ]
    links = [
        element("li", element("a", outcome.job.name, href=f"runs/{outcome.job.folder.name}/report.html"))
        for row in outcomes.rows
        for outcome in row.outcomes
        if outcome.job.fold is None and (outcome.job.folder / "report.html").is_file()
    ]
    changes = [
        [row.name, element("code", " ".join(row.changes)) if row.changes else "the base"] for row in outcomes.rows
    ]
    written = file.model_dump(mode="json", exclude_defaults=True)
    return join(
        join(element("h3", "Failed"), element("ul", failures)) if failures else None,
        element("h3", "Settings"),
        table(["setting", "changes"], changes, text_columns=(0, 1)),
        details("The study's file", element("pre", to_yaml(written), tabindex="0")),
        details(f"Pages of {counted(len(links), 'run')}", element("ul", links)) if links else None,
    )


def _style(place: int) -> str:
    return f"s{place % NUM_STYLES}" + (" again" if place >= NUM_STYLES else "")


def _has_folds(outcomes: Outcomes) -> bool:
    return any(row.folds for row in outcomes.rows)


def _on(outcomes: Outcomes) -> str:
    return "what each fold holds out" if outcomes.measured_on == "held-out" else f"the {outcomes.measured_on} split"


def _score_name(outcomes: Outcomes) -> str:
    return {"held-out": "held-out top-1"}.get(outcomes.measured_on, f"{outcomes.measured_on} top-1")


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return DASH
    return percent(spread.mean) + ("" if spread.std is None else f" \N{PLUS-MINUS SIGN}{NBSP}{100 * spread.std:.1f}")


def _deviation(spread: Spread | None) -> str:
    return DASH if spread is None or spread.std is None else f"\N{PLUS-MINUS SIGN}{NBSP}{100 * spread.std:.1f}"


def _spread_words(row: Row) -> str:
    spreads = ((row.score, "seeds"), (row.between_folds, "folds"))
    known = [(spread, of) for spread, of in spreads if spread is not None and spread.std is not None]
    return "; ".join(f" {_deviation(spread)} between {len(spread.values)} {of}" for spread, of in known)


def _whole(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
