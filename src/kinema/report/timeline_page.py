"""The page of a timeline: the video, its actions on a bar and in a list that play it, and probabilities over time."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from kinema.report.document import document, write_document
from kinema.report.markup import DASH, NBSP, Child, Markup, element, join, percent, table, valued
from kinema.types import Heads
from kinema.wording import clock, duration

PAGE_NAME = "index.html"

_MOST_CURVES = 6
_WIDTH, _HEIGHT, _LANE = 1000, 150, 26
_STYLES = 8
"""Colours of classes: those of the settings of a study."""


class Action(Protocol):
    """What the page needs of an action."""

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def label(self) -> str: ...

    @property
    def confidence(self) -> float: ...


class Shown(Protocol):
    """What the page needs of a timeline."""

    @property
    def segments(self) -> Sequence[Action]: ...

    @property
    def duration_s(self) -> float: ...

    @property
    def damaged(self) -> bool: ...

    @property
    def curve_times_s(self) -> Sequence[float]: ...

    @property
    def curves(self) -> Mapping[str, Mapping[str, Sequence[float]]]: ...


class Span(Protocol):
    """What the page needs of what is true."""

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


def write_timeline_page(
    folder: Path,
    *,
    video: Path,
    found: Shown,
    heads: Heads,
    record: Mapping[str, Any],
    true: Sequence[Span] | None = None,
) -> Path:
    """Write the page.

    Args:
        folder: The timeline's.
        video: The file; named from the folder where it lies near, else by its whole path.
        found: What was found.
        heads: Task -> classes that are actions.
        record: Facts, as the JSON has them.
        true: What is true, where that is known.

    Raises:
        DataError: It cannot be written.
    """
    target = folder / PAGE_NAME
    write_document(target, timeline_page(video, _address(video, folder), found, heads, record, true))
    return target


def timeline_page(
    video: Path,
    address: str,
    found: Shown,
    heads: Heads,
    record: Mapping[str, Any],
    true: Sequence[Span] | None = None,
) -> str:
    """The page as HTML; `address` is where it finds the video."""
    styles = _styles(found, heads)
    sections = [("video", "What happens when", join(_player(address, video), _bars(found, styles, address, true)))]
    if "scores" in record:
        sections.append(("scores", "Beside what is true", _scores(record["scores"])))
    sections.append(("actions", "Actions", _list(found, styles, address)))
    sections.append(("curves", "Probabilities", _curves(found, heads, styles)))
    sections.append(("settings", "How it was made", _settings(record)))
    return document(
        title=video.name,
        header=_header(video, found, record),
        sections=sections,
        footer="The table, JSON and subtitles lie beside this page.",
        data={"timeline": {"cues": [_cue(one) for one in found.segments], "duration_s": found.duration_s}},
        media=True,
    )


def _address(video: Path, folder: Path) -> str:
    """Relative where the video lies in the same folder as the timeline, or below: both can then be moved together."""
    whole, place = video.resolve(), folder.resolve()
    if whole.is_relative_to(place.parent):
        return quote(os.path.relpath(whole, place).replace(os.sep, "/"))
    return whole.as_uri()


def _styles(found: Shown, heads: Heads) -> dict[str, str]:
    """Label -> class of the style sheet: labels of most of the time first, as colours are few."""
    time_s: dict[str, float] = {}
    for one in found.segments:
        time_s[one.label] = time_s.get(one.label, 0.0) + one.stop_s - one.start_s
    order = sorted(time_s, key=lambda label: -time_s[label])
    if len(heads) == 1:
        (names,) = heads.values()
        order += [name for name in names if name not in time_s]
    return {label: f"s{min(place, _STYLES - 1)}" for place, label in enumerate(order)}


def _player(address: str, video: Path) -> Markup:
    copying = ["ffmpeg", "-i", video.name, "-c:v", "libx264", "-pix_fmt", "yuv420p", f"{video.stem}-h264.mp4"]
    trouble = element(
        "p",
        "This browser does not play this file. The times below hold all the same; a copy that it plays is made by ",
        element("code", shlex.join(copying)),
        ".",
        class_="empty trouble",
        hidden=True,
    )
    player = element(
        "video", src=address, controls=True, preload="metadata", playsinline=True, aria_label=video.name, id="player"
    )
    return element("div", player, trouble, class_="player")


def _bars(found: Shown, styles: Mapping[str, str], address: str, true: Sequence[Span] | None) -> Markup:
    lanes: list[tuple[str, list[tuple[float, float, str, float | None]]]] = [
        ("found", [(one.start_s, one.stop_s, one.label, one.confidence) for one in found.segments])
    ]
    if true is not None:
        lanes.append(("true", [(one.start_s, one.stop_s, " ".join(one.labels.values()), None) for one in true]))
    rows = [
        join(element("span", name, class_="lane-name"), _lane(segments, styles, found.duration_s, address))
        for name, segments in lanes
    ]
    scale = [element("span", clock(found.duration_s * part / 4)) for part in range(5)]
    axis = join(element("span"), element("div", scale, class_="bar-scale"))
    used = [label for label in styles if any(one.label == label for one in found.segments)]
    keys = [element("span", _swatch(styles[label]), label) for label in used[: _STYLES - 1]]
    if len(used) >= _STYLES:
        keys.append(element("span", _swatch(f"s{_STYLES - 1}"), "others"))
    return element(
        "figure",
        element("figcaption", element("span", keys, class_="legend")),
        element("div", rows, axis, class_="lanes", id="lanes"),
        class_="panel",
    )


def _lane(
    segments: Sequence[tuple[float, float, str, float | None]],
    styles: Mapping[str, str],
    duration_s: float,
    address: str,
) -> Markup:
    parts: list[Markup] = [element("rect", class_="track", x="0%", y=0, width="100%", height=_LANE)]
    for start_s, stop_s, label, confidence in segments:
        words = f"{clock(start_s)}{DASH}{clock(stop_s)} {label}"
        words += "" if confidence is None else f", {percent(confidence)}"
        width = max(100 * (stop_s - start_s) / duration_s, 0.08)
        shape = element(
            "rect",
            element("title", words),
            class_=f"action {styles.get(label, f's{_STYLES - 1}')}",
            x=f"{100 * start_s / duration_s:.4f}%",
            y=0,
            width=f"{width:.4f}%",
            height=_LANE,
        )
        # Without the script the browser opens the video there.
        parts.append(element("a", shape, href=_at(address, start_s), data_start=f"{start_s:.3f}", tabindex="-1"))
    head = element("line", class_="playhead", x1="0%", x2="0%", y1=-3, y2=_LANE + 3, visibility="hidden")
    return element("svg", parts, head, class_="lane", height=_LANE, role="img", aria_label="actions over time")


def _list(found: Shown, styles: Mapping[str, str], address: str) -> Markup:
    if not found.segments:
        return element("p", "None was found.", class_="empty")
    rows = []
    for one in found.segments:
        link = element(
            "a", clock(one.start_s, tenths=True), href=_at(address, one.start_s), data_start=f"{one.start_s:.3f}"
        )
        rows.append(
            [
                join(_swatch(styles[one.label]), " ", one.label),
                valued(link, one.start_s),
                valued(clock(one.stop_s, tenths=True), one.stop_s),
                f"{one.stop_s - one.start_s:.1f}{NBSP}s",
                percent(one.confidence),
            ]
        )
    hint = element("p", "A time plays the video from there.", class_="note hint")
    return join(hint, table(["action", "from", "to", "for", "confidence"], rows))


def _curves(found: Shown, heads: Heads, styles: Mapping[str, str]) -> Markup:
    return join(*(_curve_panel(found, task, names, styles, alone=len(heads) == 1) for task, names in heads.items()))


def _curve_panel(found: Shown, task: str, names: Sequence[str], styles: Mapping[str, str], *, alone: bool) -> Markup:
    values = {name: found.curves[task][name] for name in names}
    highest = {name: sum(v for v in of if not math.isnan(v)) for name, of in values.items()}
    chosen = sorted(values, key=lambda name: -highest[name])[:_MOST_CURVES]
    colour = {name: styles[name] if alone else f"s{place}" for place, name in enumerate(chosen)}
    top, bottom = 6, _HEIGHT - 6

    def y_at(share: float) -> float:
        return bottom - share * (bottom - top)

    grid = [element("line", class_="grid", x1=0, x2=_WIDTH, y1=y_at(y), y2=y_at(y)) for y in (0, 0.25, 0.5, 0.75, 1)]
    paths = [
        element(
            "path",
            class_=f"line {colour[name]}",
            d=_path(found, values[name], y_at),
            vector_effect="non-scaling-stroke",
        )
        for name in reversed(chosen)
    ]
    head = element("line", class_="playhead", x1="0%", x2="0%", y1=0, y2=_HEIGHT, visibility="hidden")
    drawing = element(
        "svg",
        grid,
        paths,
        head,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        class_="curves",
        role="img",
        aria_label=f"{task}: probabilities of {', '.join(chosen)} over time",
    )
    keys = [element("span", _swatch(colour[name]), name) for name in chosen]
    left = len(values) - len(chosen)
    more = [element("span", f"{left} more in the answers")] if left else []
    scale = [element("span", clock(found.duration_s * part / 4)) for part in range(5)]
    return element(
        "figure",
        element("figcaption", element("b", task), element("span", keys, more, class_="legend")),
        drawing,
        element("div", scale, class_="bar-scale"),
        class_="panel",
    )


def _path(found: Shown, values: Sequence[float], y_at: Any) -> str:
    pieces: list[str] = []
    broken = True
    for time_s, value in zip(found.curve_times_s, values, strict=True):
        if not math.isnan(value):
            pieces.append(f"{'M' if broken else 'L'}{_WIDTH * time_s / found.duration_s:.1f} {y_at(value):.1f}")
            broken = False
        # Of a short video there are fewer answers than points; a line goes on to the next.
    return "".join(pieces)


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> Markup:
    rows: list[list[Child]] = []
    for task, of in scores.items():
        rows.append(
            [
                task,
                percent(of["accuracy"]),
                percent(of["majority"]),
                percent(of["action_accuracy"]),
                percent(of["action_majority"]),
                percent(of["chance"]),
                percent(of["edit"]),
                *(percent(value) for value in of["f1"].values()),
                f"{of['num_segments']['found']} / {of['num_segments']['true']}",
            ]
        )
    overlaps = [f"F1@{overlap}" for overlap in next(iter(scores.values()))["f1"]]
    head = [
        "",
        "frames",
        "majority",
        "frames of actions",
        "majority",
        "chance",
        "edit score",
        *overlaps,
        "found / true",
    ]
    note = (
        "Accuracy over all frames, in which nothing is an answer like any other, and over those in which something "
        "happens; majority is always giving the answer that is right most often. Segments are actions alone."
    )
    return join(table(head, rows, sortable=False), element("p", note, class_="note"))


def _settings(record: Mapping[str, Any]) -> Markup:
    windows = record["windows"]
    facts = {
        "video": record["video"]["path"],
        "frames": f"{record['video']['num_frames']:,}",
        "weights": f"{record['weights']['path']} ({record['weights']['fingerprint']})",
        "windows": f"{windows['fast_s']:.3g} s and {windows['slow_s']:.3g} s",
        "answers": f"{record['num_answers']:,}",
        **{name: "null" if value is None else str(value) for name, value in record["settings"].items()},
    }
    return element("dl", [join(element("dt", name), element("dd", value)) for name, value in facts.items()])


def _header(video: Path, found: Shown, record: Mapping[str, Any]) -> Markup:
    num = len(found.segments)
    facts: list[Child] = [duration(found.duration_s), f"{num:,} action{'' if num == 1 else 's'}"]
    files = [element("a", name, href=name) for name in ("segments.csv", "segments.json", "subtitles.vtt")]
    damage = None
    if found.damaged:
        words = "The video is damaged in places, or ends early. What decodes of it was watched."
        damage = element("ul", element("li", words), class_="verdicts")
    return element(
        "header",
        element("div", "kinema timeline", class_="kind"),
        element("h1", video.name),
        element("p", [element("span", fact) for fact in (*facts, *files)], class_="facts"),
        damage,
    )


def _cue(one: Action) -> list[Any]:
    return [round(one.start_s, 3), round(one.stop_s, 3), one.label]


def _swatch(style: str) -> Markup:
    shape = element("rect", class_=f"action {style}", width=12, height=12, rx=2)
    return element("svg", shape, class_="key", width=12, height=12, aria_hidden="true")


def _at(address: str, time_s: float) -> str:
    """Where a video plays from: https://www.w3.org/TR/media-frags/"""
    return f"{address}#t={time_s:.2f}"
