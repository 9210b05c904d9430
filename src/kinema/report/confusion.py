"""Confusion matrices: what is taken for what."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinema.report.figure_files import FigureFiles
from kinema.report.figures import data_uri, share_bar
from kinema.report.markup import (
    DASH,
    Markup,
    counted,
    details,
    element,
    join,
    percent,
    percent_range,
    scrollable,
    shortened,
    table,
)
from kinema.report.record import Confusion, Evaluation

MAX_LABELLED = 40
"""More classes than this have no room for labels."""

_MAX_LABEL = 24
_MAX_IMAGE_PX = 200
_NUM_PAIRS = 20
_COLUMNS = ("precision", "f1", "average_precision", "auroc")
_TITLES = ("95 % interval", "precision", "F1", "AP", "AUROC")
_MAX_ROWS = 1000
"""Of the tables of classes of all tasks; the CSVs beside the page have all."""


def confusion_section(evaluation: Evaluation, confusions: Sequence[Confusion], files: FigureFiles) -> Markup:
    """The matrix and the table of classes of each task. What the script makes of it: `kinema.report.matrix_data`.

    Args:
        evaluation: Whose they are.
        confusions: Of its tasks, in the order of the script's data.
        files: Where figures are kept.
    """
    if not confusions:
        return element("p", f"No confusion matrix was kept with the evaluation {evaluation.name}.")
    return join(*(_task(place, confusions, evaluation, files) for place in range(len(confusions))))


def _task(place: int, confusions: Sequence[Confusion], evaluation: Evaluation, files: FigureFiles) -> Markup:
    confusion = confusions[place]
    names, counts = confusion.names, confusion.counts
    rows = evaluation.record["tasks"][confusion.task].get("classes", ())
    heading = element("h3", confusion.task) if len(confusions) > 1 else None
    table_of_classes = class_table(confusion, rows, most=_MAX_ROWS // len(confusions))
    full = f"evaluations/{evaluation.name}/confusion_{confusion.task}.csv"
    if len(names) <= MAX_LABELLED:
        note = "Row: the true class. Column: the answer. Clips; blue right, orange wrong."
        drawing = confusion_matrix(names, counts)
        panel = _panel(confusion, evaluation, scrollable(drawing), drawing, note, files, place)
        return join(heading, panel, details("Every class", table_of_classes, is_open=True))
    note = (
        f"{len(names):,} classes, row the true class, column the answer: blue right, orange wrong, "
        "the stronger the larger the share of the class's clips."
    )
    picture, drawing = compact_matrix(counts)
    panel = _panel(confusion, evaluation, scrollable(picture), drawing, note, files, place)
    pairs = element("div", element("h4", "Most confused"), pair_table(confusion))
    link = element("a", "the full matrix", href=full)
    classes = details("Every class, the worst first", table_of_classes, element("p", "As a file: ", link))
    return join(heading, panel, pairs, classes)


def _panel(
    confusion: Confusion,
    evaluation: Evaluation,
    shown: Markup,
    drawing: Markup,
    note: str,
    files: FigureFiles,
    place: int,
) -> Markup:
    names, counts = confusion.names, confusion.counts
    cells = ((names[t], names[a], int(counts[t, a])) for t, a in np.argwhere(counts).tolist())
    name = f"confusion {confusion.task}, {evaluation.name}"
    links = files.keep(name, drawing, ("true class", "answer", "clips"), cells)
    caption = element("figcaption", element("span", note), links)
    return element("figure", shown, caption, class_="panel", data_matrix=place)


def class_table(confusion: Confusion, statistics: Sequence[Mapping[str, Any]], *, most: int = _MAX_ROWS) -> Markup:
    """Clips, right ones, accuracy and most frequent wrong answer of each class that has clips. Up to
    `MAX_LABELLED` classes in their own order, more from the worst to the best.

    Args:
        confusion: Counts of clips.
        statistics: `classes` of the evaluation's record.
        most: So many classes at most.
    """
    names, counts = confusion.names, confusion.counts
    known = {values["name"]: values for values in statistics}
    totals, right = counts.sum(axis=1), counts.diagonal()
    order = np.flatnonzero(totals)
    if len(names) > MAX_LABELLED:
        order = order[np.argsort(right[order] / totals[order], kind="stable")]
    rows = []
    for i in order[:most].tolist():
        others = counts[i].copy()
        others[i] = 0
        wrong = int(others.argmax())
        answer = f"{names[wrong]} ({others[wrong]:,})" if others[wrong] else DASH
        share = float(right[i] / totals[i])
        accuracy = element("span", share_bar(share), element("span", percent(share)), class_="with-bar")
        values = known.get(names[i], {})
        others = [percent_range(values.get("interval")), *(percent(values.get(key)) for key in _COLUMNS)]
        rows.append([names[i], f"{totals[i]:,}", f"{right[i]:,}", accuracy, *others, answer])
    head = ["class", "clips", "right", "accuracy", *_TITLES, "most often taken for"]
    absent = len(names) - len(order)
    left_out = len(order) - len(rows)
    return join(
        table(head, rows, text_columns=(0, len(head) - 1)),
        element("p", f"{counted(absent, 'class')} without clips in this evaluation.", class_="note")
        if absent
        else None,
        element("p", f"{counted(left_out, 'class')} more are not listed here.", class_="note") if left_out else None,
    )


def pair_table(confusion: Confusion) -> Markup:
    """The pairs of classes that are confused most often, by number of clips."""
    wrong = confusion.counts.copy()
    np.fill_diagonal(wrong, 0)
    totals = confusion.counts.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_PAIRS]
    pairs = [divmod(int(place), len(wrong)) for place in order if wrong.flat[place] > 0]
    if not pairs:
        return element("p", "Nothing was confused.")
    rows = [
        [
            confusion.names[true],
            confusion.names[answer],
            f"{wrong[true, answer]:,}",
            percent(wrong[true, answer] / totals[true]),
        ]
        for true, answer in pairs
    ]
    return table(["class", "taken for", "clips", "of its clips"], rows, text_columns=(0, 1))


def confusion_matrix(names: Sequence[str], counts: NDArray[np.int64]) -> Markup:
    """A confusion matrix with readable labels.

    Args:
        names: Of the classes.
        counts: (K, K), row the true class, column the predicted class.
    """
    cell = 34 if len(names) <= 12 else 26 if len(names) <= 22 else 19
    size = cell * len(names)
    labels = [shortened(name, _MAX_LABEL) for name in names]
    left = 12 + round(6.7 * max(len(label) for label in labels))
    top = 12 + round(0.72 * 6.7 * max(len(label) for label in labels))
    overhang = top  # column labels lean to the right
    parts: list[Markup] = []
    totals = counts.sum(axis=1)
    for i, label in enumerate(labels):
        y, x = top + cell * i, left + cell * i
        parts.append(_label(label, names[i], x=left - 8, y=y + cell / 2 + 4, text_anchor="end"))
        place = f"translate({x + cell / 2 + 4:.6g} {top - 7}) rotate(-45)"
        parts.append(_label(label, names[i], transform=place))
        parts += [
            _cell(names, i, j, int(counts[i, j]), int(totals[i]), x=left + cell * j, y=y, size=cell)
            for j in np.flatnonzero(counts[i]).tolist()
        ]
    parts.insert(0, element("rect", class_="track", x=left, y=top, width=size, height=size))
    lines = [f"M{left} {top + cell * i}h{size}M{left + cell * i} {top}v{size}" for i in range(len(names) + 1)]
    parts.append(element("path", class_="rules", d="".join(lines)))
    width, height = left + size + overhang, top + size + 4
    right = int(np.trace(counts))
    return element(
        "svg",
        *parts,
        class_="matrix",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"Confusion matrix: {right} of {counted(int(counts.sum()), 'clip')} on the diagonal",
    )


def compact_matrix(counts: NDArray[np.int64]) -> tuple[Markup, Markup]:
    """A confusion matrix of many classes: one pixel per pair, or per block of pairs where there are very many.

    Args:
        counts: (K, K), row the true class, column the predicted class.

    Returns:
        For the page, and as a drawing.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    diagonal = np.eye(len(counts), dtype=bool)
    block = -(-len(counts) // _MAX_IMAGE_PX)
    right, wrong = _highest_in_blocks(shares * diagonal, block), _highest_in_blocks(shares * ~diagonal, block)
    # Faint values would be invisible as single pixels, so the scale starts above nothing and is a square root.
    strength = np.where(np.maximum(right, wrong) > 0, 0.2 + 0.8 * np.sqrt(np.maximum(right, wrong)), 0)
    image = np.zeros((*right.shape, 4), dtype=np.uint8)
    image[..., :3] = np.where((right >= wrong)[..., None], (0x2B, 0x8C, 0xC4), (0xD5, 0x5E, 0x00))
    image[..., 3] = np.round(255 * strength)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    source, size = data_uri("image/png", file.getvalue()), max(2, 480 // len(right)) * len(right)
    words = f"Confusion matrix of {len(counts)} classes; row the true class, column the predicted class"
    inside = element("image", href=source, width=size, height=size, style="image-rendering: pixelated")
    drawing = element("svg", inside, viewBox=f"0 0 {size} {size}", aria_label=words)
    return element("img", class_="compact", src=source, width=size, alt=words), drawing


def _cell(
    names: Sequence[str], true: int, predicted: int, count: int, total: int, *, x: float, y: float, size: int
) -> Markup:
    share = count / total
    strength = 0.05 + 0.95 * share**0.5  # the root tells small shares apart
    style = "right" if true == predicted else "wrong"
    tooltip = element("title", f"{names[true]} called {names[predicted]}: {count} of {total} ({percent(share)})")
    square = element("rect", tooltip, class_=style, x=x, y=y, width=size, height=size, fill_opacity=round(strength, 3))
    if size < 24:
        return square
    strong = "on" if strength > 0.7 else "off"
    return join(square, element("text", count, class_=strong, x=x + size / 2, y=y + size / 2 + 4, text_anchor="middle"))


def _highest_in_blocks(values: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    size = -(-len(values) // block) * block
    padded = np.zeros((size, size))
    padded[: len(values), : len(values)] = values
    return padded.reshape(size // block, block, size // block, block).max(axis=(1, 3))


def _label(text: str, full: str, **attributes: str | float) -> Markup:
    return element("text", text, element("title", full) if full != text else None, **attributes)
