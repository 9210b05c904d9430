"""The numbers about a data set against slow and plain ones."""

from __future__ import annotations

import csv
import math
import statistics as plain
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinema.data.datasets.ucf101 import ucf101
from kinema.data.probing import Probed
from kinema.data.video import FRAMES, IMAGE, Video
from kinema.evaluation.baselines import class_counts, commonest
from kinema.report.class_balance import balance
from kinema.report.data_statistics import histogram, sort_clips, spread, statistics
from kinema.types import SPLITS, Clip, DataError, Dataset, Split

VERBS = ("open", "close", "rise")
NOUNS = ("cup", "door")


def video(
    path: str = "a.mp4",
    *,
    num_frames: int = 50,
    fps: float = 25.0,
    size_px: tuple[int, int] = (64, 48),
    codec: str = "h264",
    container: str = "mov,mp4",
    rotation_deg: int = 0,
    damaged: bool = False,
) -> Video:
    return Video(
        path=Path(path),
        times_s=np.arange(num_frames) / fps,
        duration_s=num_frames / fps,
        fps=fps,
        width_px=size_px[0],
        height_px=size_px[1],
        rotation_deg=rotation_deg,
        codec=codec,
        container=container,
        damaged=damaged,
    )


def numbers(dataset: Dataset, probed: dict[Path, Probed]) -> dict[str, Any]:
    found = {split: sort_clips(clips, probed, dataset.quarantine) for split, clips in dataset.splits.items()}
    return statistics(dataset, found)


# Class balance


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_balance_is_what_counting_by_hand_gives(counts: list[int]) -> None:
    names = [f"class {i}" for i in range(len(counts))]
    found = balance(counts, names)
    labels = [i for i, count in enumerate(counts) for _ in range(count)]
    ordered = [label for label, _ in Counter(labels).most_common()]
    assert found["num_clips"] == len(labels)
    assert found["num_classes"] == len(counts)
    assert found["num_classes_without_clips"] == len(counts) - len(set(labels))
    assert found["num_classes_below_10"] == sum(labels.count(i) < 10 for i in range(len(counts)))
    assert found["num_head_classes"] == math.ceil(len(counts) / 5)
    if not labels:
        shares = ("commonest", "majority_share", "imbalance_factor", "evenness", "head_share", "tail_share")
        assert [found[key] for key in (*shares, "num_classes_for_80_percent")] == [None] * 7
        return
    most = max(labels.count(i) for i in set(labels))
    assert labels.count(names.index(found["commonest"])) == most
    assert found["majority_share"] == most / len(labels)
    assert found["imbalance_factor"] == most / min(labels.count(i) for i in set(labels))
    head = sum(label in ordered[: found["num_head_classes"]] for label in labels)
    assert found["head_share"] == head / len(labels)
    assert found["tail_share"] == (len(labels) - head) / len(labels)
    needed = next(num for num in range(1, 41) if sum(x in ordered[:num] for x in labels) * 100 >= 80 * len(labels))
    assert found["num_classes_for_80_percent"] == needed
    if len(counts) > 1:
        bits = -sum(labels.count(i) / len(labels) * math.log2(labels.count(i) / len(labels)) for i in set(labels))
        assert found["evenness"] == pytest.approx(bits / math.log2(len(counts)), abs=1e-12)
    else:
        assert found["evenness"] is None


def test_evenness_has_its_ends() -> None:
    assert balance([7, 7, 7, 7], "abcd")["evenness"] == pytest.approx(1)
    assert repr(balance([7, 0, 0, 0], "abcd")["evenness"]) == "0.0"


def test_exactly_80_percent_are_enough() -> None:
    assert balance([40, 40, 10, 10], "abcd")["num_classes_for_80_percent"] == 2
    assert balance([40, 39, 11, 10], "abcd")["num_classes_for_80_percent"] == 3


@pytest.mark.parametrize(("column", "num_classes", "share"), [("verb_class", 97, 0.200), ("noun_class", 300, 0.0445)])
def test_commonest_class_of_the_epic_validation_list(
    data_root: Path, column: str, num_classes: int, share: float
) -> None:
    with (data_root / "epic_kitchens_100" / "EPIC_100_validation.csv").open(newline="") as file:
        counts = Counter(int(row[column]) for row in csv.DictReader(file))
    found = balance([counts[i] for i in range(num_classes)], [str(i) for i in range(num_classes)])
    assert found["num_clips"] == 9668
    assert found["majority_share"] == pytest.approx(share, abs=0.0005)


# Spread and histogram


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=50))
def test_spread_is_what_the_standard_library_gives(values: list[float]) -> None:
    found = spread(np.array(values))
    assert found is not None
    q1, median, q3 = plain.quantiles(values, n=4, method="inclusive")
    expected = (min(values), q1, median, q3, plain.quantiles(values, n=20, method="inclusive")[-1], max(values))
    assert tuple(found[key] for key in ("min", "q1", "median", "q3", "p95", "max")) == pytest.approx(expected)
    assert found["mean"] == pytest.approx(plain.fmean(values))
    assert spread(np.array([])) is None


_VALUES = st.one_of(st.lists(st.floats(0.001, 1e5), max_size=60), st.lists(st.floats(9.9, 10.1), max_size=60))


@given(train=_VALUES, test=_VALUES, whole=st.booleans())
def test_every_value_is_in_its_bin_of_the_histogram(train: list[float], test: list[float], whole: bool) -> None:
    kind: type = np.int64 if whole else np.float64
    values: dict[Split, np.ndarray] = {
        "train": np.ceil(train).astype(kind),
        "test": np.ceil(test).astype(kind) if whole else np.array(test),
    }
    if not whole:
        values["train"] = np.array(train)
    found = histogram(values)
    if not train and not test:
        assert found is None
        return
    assert found is not None
    edges = found["edges"]
    assert 1 <= len(edges) - 1 <= 27
    widths = np.diff(edges)
    assert widths == pytest.approx(widths[0], rel=1e-4)
    for split, of_split in values.items():
        counts = [0] * (len(edges) - 1)
        above = 0
        for value in of_split.tolist():
            at = [i for i in range(len(counts)) if edges[i] <= value < edges[i + 1]]
            if at:
                counts[at[0]] += 1
            elif value >= edges[-1]:
                above += 1
            else:
                assert value == pytest.approx(edges[0])
                counts[0] += 1
        assert found["counts"][split] == counts
        assert found["above"][split] == above
    everything = np.concatenate(list(values.values()))
    assert sum(found["above"].values()) <= math.ceil(0.01 * len(everything))
    if whole:
        assert all(edge == int(edge) for edge in edges)


def test_one_very_long_clip_does_not_flatten_the_histogram() -> None:
    found = histogram({"train": np.array([*np.linspace(1, 9.9, 200), 5000.0])})
    assert found is not None
    assert found["edges"][-1] < 11
    assert found["above"] == {"train": 1}


def test_the_largest_value_is_in_its_place_where_that_is_near() -> None:
    found = histogram({"train": np.array([*np.linspace(1, 10, 200), 12.0])})
    assert found is not None
    assert found["above"] == {"train": 0}


# Data sets

_CLIPS = st.lists(
    st.tuples(
        st.sampled_from(SPLITS),
        st.booleans(),  # is there
        st.integers(0, 8),  # which video
        st.integers(0, len(VERBS) - 1),
        st.integers(0, len(NOUNS) - 1),
        st.booleans(),  # has labels, where it may have none
        st.sampled_from((None, "a", "b")),
        st.integers(0, 3),  # start
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(_CLIPS)
def test_numbers_are_what_counting_by_hand_gives(rows: list[tuple[Any, ...]]) -> None:
    clips: list[tuple[Split, bool, Clip]] = [
        (
            split,
            is_there,
            Clip(
                clip_id=str(i),
                video=Path(f"{number}.mp4" if is_there else f"absent{number}.mp4"),
                start_s=float(start_s),
                labels={"verb": verb, "noun": noun} if labelled or split != "test" else {},
                group=group,
            ),
        )
        for i, (split, is_there, number, verb, noun, labelled, group, start_s) in enumerate(rows)
    ]
    # Video 0 does not decode, 1 is in quarantine, 2 lasts a second, 3 on last four.
    probed: dict[Path, Probed] = {Path("0.mp4"): DataError("0.mp4: no frame of it decodes")}
    probed |= {
        Path(f"{i}.mp4"): video(f"{i}.mp4", num_frames=25 if i == 2 else 100, codec="h264" if i % 2 else "vp9")
        for i in range(2, 9)
    }
    dataset = Dataset(
        classes={"verb": VERBS, "noun": NOUNS},
        splits=_by_split(clips, is_there=True),
        absent=_by_split(clips, is_there=False),
        unseen_groups=frozenset("b"),
        tail={"noun": frozenset({1})},
        quarantine={Path("1.mp4"): "damaged"},
    )
    record = numbers(dataset, probed)
    assert set(record["splits"]) == {split for split, _, _ in clips}
    all_files: set[Path] = set()
    for split, facts in record["splits"].items():
        there = [clip for of, is_there, clip in clips if of == split and is_there]
        listed = [clip for of, _, clip in clips if of == split]
        too_late = [clip for clip in there if clip.video.stem == "2" and clip.start_s >= 1]
        usable = [clip for clip in there if clip.video.stem not in "01" and clip not in too_late]
        assert facts["num_listed"] == len(listed)
        assert facts["num_there"] == len(there)
        assert facts["num_absent"] == len(listed) - len(there)
        assert facts["num_unreadable"] == sum(clip.video.stem == "0" for clip in there)
        assert facts["num_in_quarantine"] == sum(clip.video.stem == "1" for clip in there)
        assert facts["num_outside_video"] == len(too_late)
        assert facts["num_usable"] == len(usable)
        assert facts["num_unlabelled"] == sum(clip.labels == {} for clip in listed)
        assert facts["num_videos"] == len({clip.video for clip in there})
        assert facts["num_groups"] == len({clip.group for clip in there if clip.group})
        assert facts["num_of_unseen_groups"] == sum(clip.group == "b" for clip in there)
        assert {row["clip_id"] for row in facts["unusable"]} == {c.clip_id for c in there if c not in usable}
        for task, names in dataset.classes.items():
            for key, of in (("there", there), ("listed", listed)):
                values = record["tasks"][task][split][key]
                counts = [sum(clip.labels.get(task) == i for clip in of) for i in range(len(names))]
                assert values["counts"] == counts
                assert {name: values[name] for name in balance(counts, names)} == balance(counts, names)
        rare = record["tasks"]["noun"][split]["there"]
        assert rare["num_rare_classes"] == 1
        assert rare["num_clips_of_rare_classes"] == sum(clip.labels.get("noun") == 1 for clip in there)
        assert record["tasks"]["verb"][split]["there"]["rare_share"] is None
        seconds = [(1 if clip.video.stem == "2" else 4) - clip.start_s for clip in usable]
        assert record["clips"]["hours"][split] * 3600 == pytest.approx(sum(seconds))
        spread_s = record["clips"]["duration_s"]["spread"][split]
        assert (spread_s is None) == (not usable)
        if usable:
            assert (spread_s["min"], spread_s["max"]) == (min(seconds), max(seconds))
            assert record["clips"]["num_frames"]["spread"][split]["max"] == 25 * max(seconds)
        files = {clip.video for clip in usable}
        all_files |= files
        for row in record["videos"]["codec"]["rows"]:
            codec = row["value"][0]
            assert row["splits"][split] == sum((codec == "h264") == bool(int(file.stem) % 2) for file in files)
    assert record["videos"]["num_videos"] == len(all_files)
    assert sum(row["num_videos"] for row in record["videos"]["codec"]["rows"]) == len(all_files)
    assert record["totals"]["num_listed"] == len(clips)
    assert record["totals"]["num_there"] == sum(is_there for _, is_there, _ in clips)


def _by_split(clips: list[tuple[Split, bool, Clip]], *, is_there: bool) -> dict[Split, tuple[Clip, ...]]:
    found: dict[Split, tuple[Clip, ...]] = {}
    for split, there, clip in clips:
        if there == is_there:
            found[split] = (*found.get(split, ()), clip)
    return found


@given(
    train=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=20),
    test=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=20),
)
def test_majority_baseline_is_that_of_evaluations(train: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    classes = {"verb": VERBS, "noun": NOUNS}
    clips = [
        tuple(
            Clip(clip_id=f"{i} of {len(labels)}", video=Path("a.mp4"), labels={"verb": verb, "noun": noun})
            for i, (verb, noun) in enumerate(labels)
        )
        for labels in (train, test)
    ]
    splits: dict[Split, tuple[Clip, ...]] = {"train": clips[0], "test": clips[1]}
    record = numbers(Dataset(classes=classes, splits=splits), {Path("a.mp4"): video()})
    answers = commonest(splits["train"], classes)
    counts = class_counts(splits["test"], classes)
    for task in classes:
        expected = counts[task][answers[task]] / len(test)
        assert record["tasks"][task]["test"]["there"]["majority_baseline"] == expected


def test_majority_baseline_leaves_out_what_an_evaluation_leaves_out() -> None:
    """Both in the training clips, where it would be another class, and in those that are counted."""
    paths = {"good": Path("good.mp4"), "bad": Path("bad.mp4"), "broken": Path("broken.mp4")}

    def clips(kinds: str, verb: int, number: int) -> list[Clip]:
        return [
            Clip(clip_id=f"{kinds} {verb} {i}", video=paths[kinds], labels={"verb": verb, "noun": 0})
            for i in range(number)
        ]

    splits: dict[Split, tuple[Clip, ...]] = {
        "train": (*clips("good", 0, 2), *clips("good", 1, 1), *clips("bad", 1, 3)),
        "test": (*clips("good", 0, 3), *clips("good", 1, 1), *clips("bad", 0, 5), *clips("broken", 1, 6)),
    }
    classes = {"verb": VERBS, "noun": NOUNS}
    dataset = Dataset(classes=classes, splits=splits, quarantine={paths["bad"]: "damaged"})
    probed: dict[Path, Probed] = {paths["good"]: video("good.mp4"), paths["broken"]: DataError("broken.mp4: no video")}
    found = numbers(dataset, probed)["tasks"]["verb"]
    assert found["test"]["there"]["majority_baseline"] == 3 / 4
    assert found["train"]["there"]["majority_baseline"] == 2 / 3
    assert found["test"]["listed"]["majority_baseline"] == 7 / 15


def test_without_training_labels_there_is_no_majority_baseline() -> None:
    clip = Clip(clip_id="a", video=Path("a.mp4"), labels={"verb": 0})
    record = numbers(Dataset(classes={"verb": VERBS}, splits={"validation": (clip,)}), {Path("a.mp4"): video()})
    assert record["tasks"]["verb"]["validation"]["there"]["majority_baseline"] is None


@given(
    num_frames=st.integers(1, 40),
    fps=st.sampled_from((10.0, 25.0, 30000 / 1001)),
    times=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_frames_of_a_clip_are_those_on_display_during_it(
    num_frames: int, fps: float, times: tuple[float, float]
) -> None:
    found = video(num_frames=num_frames, fps=fps)
    start_s, stop_s = (share * found.duration_s for share in sorted(times))
    if not start_s < stop_s:
        return
    clip = Clip(clip_id="a", video=found.path, start_s=start_s, stop_s=stop_s, labels={"verb": 0})
    record = numbers(Dataset(classes={"verb": VERBS}, splits={"train": (clip,)}), {found.path: found})
    ends = [*found.times_s[1:].tolist(), found.duration_s]
    on_display = sum(begin < stop_s and end > start_s for begin, end in zip(found.times_s.tolist(), ends, strict=True))
    assert record["clips"]["num_frames"]["spread"]["train"]["max"] == on_display


def test_a_video_of_two_splits_is_one_video() -> None:
    found = video(fps=29.97, size_px=(320, 240))
    train, test = (Clip(clip_id=name, video=found.path, stop_s=1.0, labels={"verb": 0}) for name in ("a", "b"))
    dataset = Dataset(classes={"verb": VERBS}, splits={"train": (train,), "test": (test,)})
    videos = numbers(dataset, {found.path: found})["videos"]
    assert videos["num_videos"] == 1
    for key, value in (("fps", [29.97]), ("size_px", [320, 240]), ("codec", ["h264", "mov,mp4"])):
        assert videos[key]["rows"] == [{"value": value, "num_videos": 1, "splits": {"train": 1, "test": 1}}]
        assert videos[key]["others"]["num_videos"] == 0
    assert videos["hours"] * 3600 == pytest.approx(found.duration_s)


def test_rare_values_are_counted_together() -> None:
    found = [video(f"{i}.mp4", fps=10 + i, size_px=(64 + 2 * i, 48)) for i in range(40)]
    found += [video(f"{i}.mp4", fps=25.0, rotation_deg=90, damaged=True) for i in range(40, 43)]
    clips = tuple(Clip(clip_id=str(v.path), video=v.path, labels={"verb": 0}) for v in found)
    record = numbers(Dataset(classes={"verb": VERBS}, splits={"train": clips}), {v.path: v for v in found})
    rates = record["videos"]["fps"]
    assert rates["rows"][0] == {"value": [25.0], "num_videos": 4, "splits": {"train": 4}}
    assert len(rates["rows"]) == 12
    assert rates["num_values"] == 40
    assert rates["others"] == {"num_values": 28, "num_videos": 28, "splits": {"train": 28}}
    assert record["videos"]["num_rotated"] == record["videos"]["num_damaged"] == 3
    assert sum(num for _, _, num in record["videos"]["size_px"]["points"]) == 43


def test_still_images_have_no_duration_and_no_rate() -> None:
    image = video("a.jpg", num_frames=1, fps=1.0, codec="jpeg", container=IMAGE)
    frames = video("folder", num_frames=50, fps=50.0, codec="jpeg", container=FRAMES)
    clips = tuple(
        Clip(clip_id=found.path.name, video=found.path, labels={"verb": 0}, fps=fps)
        for found, fps in ((image, None), (frames, 50.0))
    )
    dataset = Dataset(classes={"verb": VERBS}, splits={"train": clips})
    record = numbers(dataset, {image.path: image, frames.path: frames})
    assert record["videos"]["num_videos"] == 2
    assert record["videos"]["num_still_images"] == 1
    assert [row["value"] for row in record["videos"]["fps"]["rows"]] == [[50.0]]
    assert record["totals"]["hours"] * 3600 == pytest.approx(1.0)
    assert record["clips"]["num_frames"]["spread"]["train"]["min"] == 1
    only_images = numbers(Dataset(classes={"verb": VERBS}, splits={"train": clips[:1]}), {image.path: image})
    assert only_images["clips"]["duration_s"] == {"spread": {"train": None}, "histogram": None}


def test_of_lists_without_videos_there_are_numbers_too() -> None:
    absent = tuple(Clip(clip_id=str(i), video=Path(f"{i}.mp4"), labels={"verb": i % 2}) for i in range(30))
    record = numbers(Dataset(classes={"verb": VERBS}, splits={}, absent={"train": absent}), {})
    assert record["tasks"]["verb"]["train"]["listed"]["counts"] == [15, 15, 0]
    assert record["tasks"]["verb"]["train"]["there"]["num_clips"] == 0
    assert record["videos"]["num_videos"] == 0
    assert record["clips"]["duration_s"]["histogram"] is None


def test_the_official_lists_of_ucf101(data_root: Path) -> None:
    dataset = ucf101(data_root / "ucf101")
    probed = {clip.video: video(str(clip.video)) for clips in dataset.splits.values() for clip in clips}
    record = numbers(dataset, dict(probed))
    listed = {split: facts["num_listed"] for split, facts in record["splits"].items()}
    assert listed == {"train": 9537, "test": 3783}
    train = record["tasks"]["action"]["train"]["listed"]
    assert train["num_classes"] == 101
    assert (max(train["counts"]), min(train["counts"])) == (121, 72)
    assert train["imbalance_factor"] == 121 / 72
    assert train["commonest"] == dataset.classes["action"][train["counts"].index(121)]
