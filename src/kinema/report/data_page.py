"""The page about a data set: what is in it, before anything is trained on it. Every number of it is in the record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema.data.probing import frame_rates, probe_all
from kinema.progress import SILENT, Reporter
from kinema.report.contact_sheet import choose, middle_frames, sheet_record, sheet_section
from kinema.report.data_classes import classes_section, factor, kind_shown
from kinema.report.data_figures import histogram_chart, keep_value_bars, size_chart, value_bars
from kinema.report.data_statistics import sort_clips, statistics
from kinema.report.document import document, links_to, write_document
from kinema.report.figure_files import FigureFiles
from kinema.report.markup import DASH, Child, Markup, counted, details, element, join, number, percent, table
from kinema.sections import DataSection
from kinema.types import Dataset

_FIGURES = "columns figures"
_Pictures = Mapping[str, bytes | None]


def examine(
    dataset: Dataset, section: DataSection, *, workers: int = 2, reporter: Reporter = SILENT
) -> tuple[dict[str, Any], dict[str, bytes | None]]:
    """Everything that the page shows.

    Args:
        dataset: As `load_dataset` gives it.
        section: What it was loaded from.
        workers: Processes that probe videos, and threads that read frames.
        reporter: Shown how far it is.

    Returns:
        All numbers, as JSON has them, and clip id -> JPEG of its middle frame (None where it does not decode).

    Raises:
        DataError: Clips of one folder of frames say different rates.
    """
    clips = [clip for of_split in dataset.splits.values() for clip in of_split]
    wanted = dict.fromkeys(clip.video for clip in clips if clip.video not in dataset.quarantine)
    probed = probe_all(wanted, fps=frame_rates(clips), workers=workers, root=dataset.root, reporter=reporter)
    found = {split: sort_clips(of_split, probed, dataset.quarantine) for split, of_split in dataset.splits.items()}
    sheets = choose({split: of_split.usable for split, of_split in found.items()}, dataset.classes)
    rows = [row for sheet in sheets.values() for of_class in sheet.chosen.values() for row in of_class]
    pictures = middle_frames(rows, workers=workers, reporter=reporter)
    record = {
        "name": section.name,
        "root": None if section.root is None else str(section.root),
        "settings": _settings(section),
        **statistics(dataset, found),
        "contact_sheet": {task: sheet_record(sheet, dataset.classes[task], pictures) for task, sheet in sheets.items()},
    }
    return record, pictures


def write_data_page(target: Path, record: Mapping[str, Any], pictures: _Pictures) -> None:
    """Write the page, in place of an older one, and its figures into a folder beside it.

    Args:
        target: The page.
        record: From `examine`.
        pictures: From `examine`.

    Raises:
        DataError: It cannot be written.
    """
    files = FigureFiles(f"{target.stem}_figures")
    content = data_page(record, pictures, files)
    write_document(target, content)
    files.write(target)


def data_page(record: Mapping[str, Any], pictures: _Pictures, files: FigureFiles) -> str:
    """The page as HTML.

    Args:
        record: From `examine`.
        pictures: From `examine`.
        files: Takes the figures that the page links to.
    """
    sections = [
        ("clips", "Clips", _clips_section(record)),
        ("classes", "Classes", classes_section(record, files)),
        ("lengths", "Lengths", _lengths_section(record, files)),
        ("videos", "Videos", _videos_section(record, files)),
        ("frames", "Sample frames", _frames_section(record, pictures)),
    ]
    facts = [element("span", fact) for fact in _facts(record)]
    header = element(
        "header",
        element("div", "kinema data", class_="kind"),
        element("h1", record["name"]),
        element("p", facts, class_="facts"),
        links_to(sections),
    )
    footer = ["The same numbers as JSON: ", element("code", "kinema data stats ... --json FILE"), "."]
    return document(title=str(record["name"]), header=header, sections=sections, footer=footer)


def _settings(section: DataSection) -> dict[str, Any]:
    """What was set otherwise than by default."""
    values = section.model_dump(mode="json")
    fields = type(section).model_fields
    defaults = {key: info.get_default(call_default_factory=True) for key, info in fields.items()}
    shown = section.model_dump()
    return {
        key: value for key, value in values.items() if key not in ("name", "root") and shown[key] != defaults.get(key)
    }


def _facts(record: Mapping[str, Any]) -> list[Child]:
    facts: list[Child] = [element("code", record["root"])] if record["root"] else []
    facts += [f"data.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in record["settings"].items()]
    facts += [
        counted(len(names), "class") if len(record["classes"]) == 1 else f"{task}: {counted(len(names), 'class')}"
        for task, names in record["classes"].items()
    ]
    return facts


# Clips


def _clips_section(record: Mapping[str, Any]) -> Markup:
    return join(
        element("ul", [element("li", text) for text in _problems(record)], class_="verdicts"),
        _tiles(record),
        _splits_table(record),
        _unusable(record),
        element("ul", [element("li", note) for note in record["notes"]], class_="log") if record["notes"] else None,
    )


def _problems(record: Mapping[str, Any]) -> Iterable[str]:
    for split, facts in record["splits"].items():
        for key, meaning in (
            ("num_unreadable", "cannot be read"),
            ("num_outside_video", "have times outside their video"),
            ("num_in_quarantine", "are in quarantine"),
        ):
            if facts[key]:
                yield f"{split}: {facts[key]:,} of {counted(facts['num_there'], 'clip')} {meaning}."
    if num := record["videos"]["num_damaged"]:
        yield f"{num:,} of {counted(record['videos']['num_videos'], 'video')} are damaged in places."
    training = {task: of_task["train"] for task, of_task in record["tasks"].items() if "train" in of_task}
    for task, of_task in training.items():
        there = of_task["there"]
        if there["num_clips"] and there["num_classes_without_clips"]:
            of = f"{task}: " if len(record["classes"]) > 1 else ""
            yield (
                f"{of}{there['num_classes_without_clips']:,} of {counted(there['num_classes'], 'class')} have no "
                "training clip."
            )


def _tiles(record: Mapping[str, Any]) -> Markup:
    totals = record["totals"]
    some_absent = totals["num_there"] < totals["num_listed"]
    tiles = [
        _tile(
            f"{totals['num_there']:,}",
            "clips",
            f"of {totals['num_listed']:,} listed" if some_absent else None,
            style="main",
        ),
        _tile(f"{record['videos']['num_videos']:,}", f"{_noun(record)}s", "that can be read"),
        _tile(_hours(totals["hours"]), "of clips"),
    ]
    for task, of_task in record["tasks"].items():
        if not of_task:
            continue
        split, facts = next(iter(of_task.items()))
        values = facts[kind_shown(facts)]
        name = f"{task}, {split}" if len(record["tasks"]) > 1 else split
        tiles.append(_tile(factor(values["imbalance_factor"]), "imbalance", f"{name}: largest / smallest class"))
        tiles.append(
            _tile(percent(values["majority_share"]), "commonest class", f"{name}: {values['commonest'] or DASH}")
        )
    return element("div", tiles, class_="tiles")


def _tile(value: str, name: str, note: str | None = None, *, style: str | None = None) -> Markup:
    return element(
        "div",
        element("div", value, class_="tile-value"),
        element("div", name, class_="tile-name"),
        element("div", note, class_="tile-note") if note else None,
        class_=f"tile {style}" if style else "tile",
    )


def _splits_table(record: Mapping[str, Any]) -> Markup:
    group = record["group_name"] or "group"
    columns: list[tuple[str, str, bool]] = [
        ("listed", "num_listed", True),
        ("there", "num_there", True),
        ("absent", "num_absent", True),
        ("in quarantine", "num_in_quarantine", False),
        ("unreadable", "num_unreadable", False),
        ("outside their video", "num_outside_video", False),
        ("usable", "num_usable", True),
        ("without labels", "num_unlabelled", False),
        (f"{_noun(record)}s there", "num_videos", True),
        (f"{group}s there", "num_groups", False),
        (f"{group}s listed", "num_groups_listed", False),
        (f"of unseen {group}s", "num_of_unseen_groups", False),
    ]
    shown = [
        (title, key)
        for title, key, always in columns
        if always or any(facts[key] for facts in record["splits"].values())
    ]
    rows: list[list[Child]] = [
        [split, *(f"{facts[key]:,}" for _, key in shown)] for split, facts in record["splits"].items()
    ]
    return table(["clips", *(title for title, _ in shown)], rows)


def _noun(record: Mapping[str, Any]) -> str:
    """What the files are."""
    videos = record["videos"]
    return "image" if videos["num_videos"] and videos["num_still_images"] == videos["num_videos"] else "video"


def _unusable(record: Mapping[str, Any]) -> Markup:
    parts = []
    for split, facts in record["splits"].items():
        num = facts["num_there"] - facts["num_usable"]
        items = [element("li", element("code", row["clip_id"]), ": ", row["reason"]) for row in facts["unusable"]]
        if items:
            more = "" if len(items) == num else f", {len(items)} of them"
            parts.append(details(f"{split}: clips that cannot be used{more}", element("ul", items, class_="log")))
    return join(parts)


# Lengths


def _lengths_section(record: Mapping[str, Any], files: FigureFiles) -> Markup:
    clips = record["clips"]
    if clips["num_frames"]["histogram"] is None:
        return element("p", "No clip can be read.", class_="empty")
    if clips["duration_s"]["histogram"] is None:
        return element("p", "Still images: every clip is one frame.", class_="empty")
    rows: list[list[Child]] = []
    for name, key, digits in (("duration, s", "duration_s", 3), ("frames", "num_frames", 4)):
        for split, values in clips[key]["spread"].items():
            if values is not None:
                hours = _hours(clips["hours"][split]) if key == "duration_s" else ""
                rows.append([f"{name}, {split}", *_spread_cells(values, digits), hours])
    durations = _histograms(clips["duration_s"], "duration of clips", "seconds", "clip", files)
    frames = _histograms(clips["num_frames"], "frames per clip", "frames", "clip", files)
    return join(
        table(["per clip", *_SPREAD.values(), "together"], rows, sortable=False),
        element("div", durations, class_=_FIGURES),
        element("h3", "Frames per clip"),
        element("div", frames, class_=_FIGURES),
    )


_SPREAD = {
    "min": "least",
    "q1": "25\N{NO-BREAK SPACE}% below",
    "median": "median",
    "q3": "75\N{NO-BREAK SPACE}% below",
    "p95": "95\N{NO-BREAK SPACE}% below",
    "max": "most",
    "mean": "mean",
}


def _spread_cells(values: Mapping[str, float], digits: int) -> list[Child]:
    return [number(values[key], digits=digits) for key in _SPREAD]


def _histograms(measured: Mapping[str, Any], title: str, unit: str, noun: str, files: FigureFiles) -> list[Markup]:
    bins = measured["histogram"]
    return [
        histogram_chart(
            bins["edges"], counts, bins["above"][split], title=f"{title}, {split}", unit=unit, noun=noun, files=files
        )
        for split, counts in bins["counts"].items()
        if sum(counts) + bins["above"][split]
    ]


# Videos


def _videos_section(record: Mapping[str, Any], files: FigureFiles) -> Markup:
    videos = record["videos"]
    if not videos["num_videos"]:
        return element("p", "No video can be read.", class_="empty")
    rows: list[list[Child]] = [
        [name, *_spread_cells(values, digits)]
        for name, values, digits in (
            ("frames per second", videos["fps"]["spread"], 4),
            ("width, pixels", videos["size_px"]["width"], 4),
            ("height, pixels", videos["size_px"]["height"], 4),
        )
        if values is not None
    ]
    rates = videos["fps"]
    figures = []
    if rates["rows"]:
        title = "frames per second"
        figures = (
            [_value_figure(rates, title, _rate, files)]
            if _is_told_by_rows(rates)
            else _histograms(rates, title, title, "video", files)
        )
    if _is_told_by_rows(videos["size_px"]):
        figures.append(_value_figure(videos["size_px"], "frame size, pixels", _size, files))
    if len(videos["size_px"]["points"]) > 1:
        figures.append(size_chart(videos["size_px"]["points"], title="frame sizes", files=files))
    figures.append(_value_figure(videos["codec"], "codec and container", _codec, files))
    facts = [counted(videos["num_videos"], "video"), f"{_hours(videos['hours'])} together"]
    if videos["num_still_images"]:
        facts.append(f"{counted(videos['num_still_images'], 'still image')} among them")
    if videos["num_rotated"]:
        facts.append(f"{videos['num_rotated']:,} turned by what the file says")
    return join(
        element("p", ", ".join(facts), "."),
        table(["per video", *_SPREAD.values()], rows, sortable=False),
        element("div", figures, class_="columns figures"),
        details("By split", _by_split(record)) if len(record["splits"]) > 1 else None,
    )


def _is_told_by_rows(values: Mapping[str, Any]) -> bool:
    """Not where nearly every file has a value of its own."""
    num_shown: int = sum(row["num_videos"] for row in values["rows"])
    others: int = values["others"]["num_videos"]
    return 3 * others <= num_shown


def _value_figure(values: Mapping[str, Any], title: str, name: Any, files: FigureFiles) -> Markup:
    rows = [(name(row["value"]), row["num_videos"]) for row in values["rows"]]
    if values["others"]["num_videos"]:
        rows.append((_others(values), values["others"]["num_videos"]))
    caption = element("figcaption", element("b", title), "videos", keep_value_bars(rows, title=title, files=files))
    return element("figure", caption, value_bars(rows), class_="panel")


def _by_split(record: Mapping[str, Any]) -> Markup:
    rows: list[list[Child]] = []
    for key, name in (("fps", _rate), ("size_px", _size), ("codec", _codec)):
        values = record["videos"][key]
        named = [(name(row["value"]), row) for row in values["rows"]]
        if values["others"]["num_videos"]:
            named.append((_others(values), values["others"]))
        rows += [[text, f"{row['num_videos']:,}", *(f"{n:,}" for n in row["splits"].values())] for text, row in named]
    return table(["videos", "all", *record["splits"]], rows, sortable=False)


def _others(values: Mapping[str, Any]) -> str:
    return f"{values['others']['num_values']:,} others"


def _rate(value: Sequence[float]) -> str:
    return f"{number(value[0], digits=5)} fps"


def _size(value: Sequence[int]) -> str:
    return f"{value[0]} × {value[1]}"


def _codec(value: Sequence[str]) -> str:
    return f"{value[0]} in {value[1].replace(',', ', ')}"


# Sample frames


def _frames_section(record: Mapping[str, Any], pictures: _Pictures) -> Markup:
    several = len(record["contact_sheet"]) > 1
    return join(
        sheet_section(sheet, pictures, title=task if several else None)
        for task, sheet in record["contact_sheet"].items()
    )


def _hours(hours: float) -> str:
    return f"{number(hours)}\N{NO-BREAK SPACE}h" if hours >= 1 else f"{number(60 * hours)}\N{NO-BREAK SPACE}min"
