"""Scores of segments, against counting as the papers' authors count."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.evaluation.segment_list import TrueSegment, read_segments
from kinema.evaluation.segments import (
    NOTHING,
    Counts,
    edit_score,
    frame_labels,
    overlap_counts,
    segment_scores,
    stretches,
    timeline_scores,
)
from kinema.types import DataError, Heads

HEADS: Heads = {"action": ("wave", "kick", "nothing")}
TWO: Heads = {"verb": ("open", "close"), "noun": ("door", "jar")}


def labels(text: str) -> np.ndarray:
    """`..aabb` -> nothing, nothing, 0, 0, 1, 1."""
    return np.array([NOTHING if letter == "." else ord(letter) - ord("a") for letter in text], dtype=np.int64)


# The plain way: frame by frame, the whole table of distances, arrays of every pair.


def plain_segments(frames: list[int]) -> tuple[list[int], list[int], list[int]]:
    names, starts, ends = [], [], []
    for i, label in enumerate(frames):
        is_new = i == 0 or frames[i - 1] != label
        if is_new and i > 0 and frames[i - 1] != NOTHING:
            ends.append(i)
        if is_new and label != NOTHING:
            names.append(label)
            starts.append(i)
    if frames and frames[-1] != NOTHING:
        ends.append(len(frames))
    return names, starts, ends


def plain_edit(true: list[int], found: list[int]) -> float:
    one, other = plain_segments(true)[0], plain_segments(found)[0]
    table = np.zeros((len(one) + 1, len(other) + 1))
    table[:, 0], table[0, :] = np.arange(len(one) + 1), np.arange(len(other) + 1)
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            change = 0 if one[i - 1] == other[j - 1] else 1
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + change)
    return float(1 - table[-1, -1] / max(len(one), len(other)))


def plain_counts(true: list[int], found: list[int], overlap: float) -> tuple[int, int, int]:
    y_label, y_start, y_end = (np.array(values) for values in plain_segments(true))
    hits = np.zeros(len(y_label))
    tp = fp = 0
    for label, start, end in zip(*plain_segments(found), strict=True):
        if not len(y_label):
            fp += 1
            continue
        intersection = np.minimum(end, y_end) - np.maximum(start, y_start)
        union = np.maximum(end, y_end) - np.minimum(start, y_start)
        iou = (1.0 * intersection / union) * (y_label == label)
        best = iou.argmax()
        if iou[best] >= overlap and not hits[best]:
            tp += 1
            hits[best] = 1
        else:
            fp += 1
    return tp, fp, int(len(y_label) - hits.sum())


FRAMES = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(NOTHING, 2), min_size=n, max_size=n) for _ in range(2)))
)


@given(FRAMES, st.sampled_from([0.1, 0.25, 0.5]))
def test_scores_are_those_of_counting_plainly(pair: tuple[list[int], list[int]], overlap: float) -> None:
    true, found = pair
    a, b = np.array(true, dtype=np.int64), np.array(found, dtype=np.int64)
    assert [list(part) for part in zip(*stretches(a), strict=True)] == [part for part in plain_segments(true) if part]
    assert tuple(overlap_counts(a, b, overlap)) == plain_counts(true, found, overlap)
    if len(stretches(a)) + len(stretches(b)):
        assert edit_score(a, b) == pytest.approx(plain_edit(true, found))


def test_a_perfect_answer() -> None:
    true = labels("..aaaa..bbbb....cc..aaa")
    scores = segment_scores(true, true, num_classes=3)
    assert scores["accuracy"] == scores["action_accuracy"] == scores["edit"] == 1
    assert scores["f1"] == {"10": 1, "25": 1, "50": 1}
    assert scores["num_segments"] == {"true": 4, "found": 4}
    assert scores["chance"] == 0.25
    assert scores["majority"] == pytest.approx(10 / 23)  # nothing
    assert scores["action_majority"] == pytest.approx(7 / 13)


def test_always_nothing_has_the_accuracy_of_the_pauses_and_finds_no_segment() -> None:
    scores = segment_scores(labels("aa........"), labels(".........."), num_classes=1)
    assert scores["accuracy"] == scores["majority"] == 0.8
    assert scores["action_accuracy"] == scores["edit"] == scores["f1"]["10"] == 0


def test_over_segmentation_costs_no_accuracy_but_edit_and_f1() -> None:
    true, found = labels("aaaaaaaaaabbbbbbbbbb"), labels("aaaabaaaaabbbbbabbbb")
    scores = segment_scores(true, found, num_classes=2)
    assert scores["accuracy"] == 0.9
    assert scores["edit"] == pytest.approx(1 - 4 / 6)
    assert overlap_counts(true, found, 0.1) == Counts(right=2, wrong=4, missed=0)
    assert scores["f1"]["10"] == pytest.approx(0.5)


def test_a_shift_costs_f1_from_some_overlap_on_and_no_edit() -> None:
    true, found = labels("aaaaaaaa........"), labels("....aaaaaaaa....")  # 4 of 12 frames overlap
    assert edit_score(true, found) == 1
    assert overlap_counts(true, found, 1 / 3) == Counts(right=1, wrong=0, missed=0)
    assert overlap_counts(true, found, 0.34) == Counts(right=0, wrong=1, missed=1)


def test_nothing_in_truth_and_nothing_found_is_no_number() -> None:
    scores = segment_scores(labels("...."), labels("...."), num_classes=2)
    assert scores["accuracy"] == 1
    assert math.isnan(scores["edit"])
    assert math.isnan(scores["f1"]["50"])
    assert math.isnan(scores["action_accuracy"])


def test_frames_have_the_label_of_their_middle() -> None:
    found = frame_labels([(0, 0.0, 0.2), (1, 0.36, 9.0)], num_frames=5, fps=10)
    assert found.tolist() == [0, 0, NOTHING, NOTHING, 1]


def test_several_tasks_are_scored_each_and_together() -> None:
    def segment(start_s: float, stop_s: float, **of: str) -> TrueSegment:
        return TrueSegment(start_s=start_s, stop_s=stop_s, labels=of)

    true = [segment(0, 4, verb="open", noun="jar"), segment(4, 8, verb="close", noun="jar"), segment(8, 9, verb="open")]
    found = [segment(0, 4, verb="open", noun="jar"), segment(4, 8, verb="open", noun="jar")]
    scores = timeline_scores(true, found, TWO, num_frames=100, fps=10)
    assert {name: values["accuracy"] for name, values in scores.items()} == pytest.approx(
        {"verb": 0.5, "noun": 1.0, "joint": 0.5}
    )
    assert scores["noun"]["num_segments"] == {"true": 1, "found": 1}  # of one jar
    assert scores["joint"]["num_segments"] == {"true": 3, "found": 1}
    assert scores["joint"]["chance"] == 0.2
    assert scores["verb"]["edit"] == pytest.approx(1 / 3)


# The file


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "truth.csv"
    path.write_text(text)
    return path


def test_a_list_of_segments_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "start_s,stop_s,label,who\n5,6.5,kick,a\n1,2,wave,b\n3,4,,c\n6.5,7,nothing,\n")
    found = read_segments(path, HEADS, background={"action": "nothing"})
    assert [(one.start_s, one.stop_s, dict(one.labels)) for one in found] == [
        (1, 2, {"action": "wave"}),
        (5, 6.5, {"action": "kick"}),
    ]


def test_several_tasks_have_a_column_each(tmp_path: Path) -> None:
    path = written(tmp_path, "start_s;stop_s;verb;noun\n0;1;open;jar\n1;2;close;\n")
    found = read_segments(path, TWO)
    assert [dict(one.labels) for one in found] == [{"verb": "open", "noun": "jar"}, {"verb": "close"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start_s,stop_s\n1,2\n", "no column 'action' or 'label'"),
        ("start,stop_s,label\n1,2,kick\n", "no column 'start_s'"),
        ("start_s,stop_s,label\n1,soon,kick\n", "row 2, column 'stop_s': 'soon' is not a number of seconds"),
        ("start_s,stop_s,label\n-1,2,kick\n", "'-1' is not a number of seconds from 0"),
        ("start_s,stop_s,label\n2,2,kick\n", "stops at 2 s but starts at 2 s"),
        ("start_s,stop_s,label\n1,2,kik\n", "did you mean 'kick'"),
        ("start_s,stop_s,label\n1,3,kick\n2,4,wave\n", "row 3, column 'start_s': begins at 2 s, before that of row 2"),
        ("", "is empty"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=r"truth\.csv") as caught:
        read_segments(written(tmp_path, text), HEADS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_has_to_be_a_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_segments(tmp_path / "none.csv", HEADS)
