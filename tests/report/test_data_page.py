"""The page about a data set: what it shows are the numbers of its record, and nothing breaks it."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.report.made_up import Page
from tests.videos import numbered_frames, read_number, write_video

from kinema.data.decoding import probe
from kinema.data.probing import Probed, probe_all
from kinema.report.contact_sheet import MAX_CLASSES, NUM_FRAMES, choose, middle_frames
from kinema.report.data_figures import histogram_chart, long_tail
from kinema.report.data_page import examine, write_data_page
from kinema.sections import DataSection
from kinema.types import Clip, DataError, Dataset

EVIL = "<script>alert('x')</script> & \"quoted\""
CLASSES = {"verb": (EVIL, "close", "rise", "never"), "noun": ("cup", "door")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three that decode, and one that does not."""
    folder = tmp_path_factory.mktemp("videos")
    found = [
        write_video(folder / "a.mp4", numbered_frames(60, width_px=64, height_px=48), fps=10),
        write_video(folder / "b.mkv", numbered_frames(50, width_px=96, height_px=72, first=100), fps=25),
        write_video(folder / "c.avi", numbered_frames(30, width_px=96, height_px=72, first=200), fps=10, codec="mpeg4"),
    ]
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    return [*found, broken]


@pytest.fixture(scope="module")
def dataset(videos: list[Path]) -> Dataset:
    a, b, c, broken = videos

    def clips(split: str, rows: list[tuple[Path, int, int, float, float | None]]) -> tuple[Clip, ...]:
        return tuple(
            Clip(
                clip_id=f"{split}/{i}",
                video=video,
                start_s=start_s,
                stop_s=stop_s,
                labels={"verb": verb, "noun": noun},
                group=video.stem,
            )
            for i, (video, verb, noun, start_s, stop_s) in enumerate(rows)
        )

    gone = a.with_name("gone.mp4")
    return Dataset(
        classes=CLASSES,
        group_name="participant",
        splits={
            "train": clips(
                "train",
                [(a, 0, 0, 0, 2), (a, 0, 1, 2, 4.5), (a, 1, 0, 4, None), (broken, 2, 0, 0, None), (a, 0, 0, 9, 10)],
            ),
            "validation": clips("validation", [(b, 1, 0, 0, None), (b, 2, 1, 0.5, 1)]),
            "test": (
                Clip(clip_id="test/unlabelled", video=c),
                Clip(clip_id="test/quarantined", video=c.with_name("bad.avi")),
            ),
        },
        absent={"train": clips("absent", [(gone, 2, 1, 0, 1)] * 11)},
        tail={"verb": frozenset({2, 3}), "noun": frozenset()},
        unseen_groups=frozenset({"b"}),
        quarantine={c.with_name("bad.avi"): "is cut short"},
        notes=("a note & more",),
    )


SECTION = DataSection(name="made_up", root=Path("/data/<b>"), validation=0.25)


@pytest.fixture(scope="module")
def written(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Page, Path]:
    """The record as JSON gives it back, the page, and its file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINEMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        record, pictures = examine(dataset, SECTION)
    target = tmp_path_factory.mktemp("page") / "page.html"
    write_data_page(target, record, pictures)
    return json.loads(json.dumps(record)), Page(target), target


Written = tuple[dict[str, Any], Page, Path]


def rows_of(page: Page, first: str) -> list[list[str]]:
    return [[_plain(cell) for cell in row] for row in page.rows if row and _plain(row[0]) == first]


def test_table_of_splits_has_the_numbers_of_the_record(written: Written) -> None:
    record, page, _ = written
    titles = {
        "listed": "num_listed",
        "there": "num_there",
        "absent": "num_absent",
        "in quarantine": "num_in_quarantine",
        "unreadable": "num_unreadable",
        "outside their video": "num_outside_video",
        "usable": "num_usable",
        "without labels": "num_unlabelled",
        "videos there": "num_videos",
        "participants there": "num_groups",
        "participants listed": "num_groups_listed",
        "of unseen participants": "num_of_unseen_groups",
    }
    (head,) = rows_of(page, "clips")
    assert head[1:] == list(titles)
    for split in ("train", "validation", "test"):
        row = next(row for row in rows_of(page, split) if len(row) == len(head))
        assert [int(cell) for cell in row[1:]] == [record["splits"][split][key] for key in titles.values()]
    train = record["splits"]["train"]
    assert (train["num_listed"], train["num_absent"], train["num_unreadable"], train["num_outside_video"]) == (
        16,
        11,
        1,
        1,
    )
    assert record["splits"]["test"]["num_in_quarantine"] == 1


def test_table_of_balance_has_the_numbers_of_the_record(written: Written) -> None:
    record, page, _ = written
    heads = [[_plain(cell) for cell in row] for row in page.rows if row and not row[0] and "train, there" in row]
    assert heads == [["", "train, listed", "train, there", "validation"]] * 2
    places = [("train", "listed"), ("train", "there"), ("validation", "there")]
    kinds = {
        "clips with a label": ("num_clips", _whole),
        "its share": ("majority_share", _percent),
        "majority baseline": ("majority_baseline", _percent),
        "imbalance factor": ("imbalance_factor", _three_digits),
        "evenness": ("evenness", _percent),
        "head share": ("head_share", _percent),
        "tail share": ("tail_share", _percent),
        "classes that hold 80 % of the clips": ("num_classes_for_80_percent", _of_classes),
        "classes with fewer than 10 clips": ("num_classes_below_10", _of_classes),
        "classes without clips": ("num_classes_without_clips", _of_classes),
        "commonest class": ("commonest", lambda value, _: value),
        "tail classes that the data set names": ("num_rare_classes", _of_classes),
        "their clips": ("num_clips_of_rare_classes", _whole),
        "their share": ("rare_share", _percent),
    }
    for title, (key, shown) in kinds.items():
        for task, row in zip(("verb", "noun"), rows_of(page, title), strict=True):
            values = [record["tasks"][task][split][which] for split, which in places]
            assert row[1:] == [shown(value[key], len(CLASSES[task])) for value in values], (title, task)


def test_bars_have_the_counts_of_the_record(written: Written) -> None:
    record, page, _ = written
    for task, names in CLASSES.items():
        train = record["tasks"][task]["train"]
        for name, there, listed in zip(names, train["there"]["counts"], train["listed"]["counts"], strict=True):
            assert f"{name} {there} of {listed}" in page.text
        counts = record["tasks"][task]["validation"]["there"]["counts"]
        assert all(f"{name} {count}" in page.text for name, count in zip(names, counts, strict=True))
    videos = record["videos"]
    assert [len(videos[key]["rows"]) for key in ("fps", "size_px", "codec")] == [2, 2, 3]
    for row in videos["fps"]["rows"]:
        assert f"{row['value'][0]:g} fps {row['num_videos']}" in page.text
    for row in videos["size_px"]["rows"]:
        assert f"{row['value'][0]} × {row['value'][1]} {row['num_videos']}" in page.text
    for row in videos["codec"]["rows"]:
        assert f"{row['value'][0]} in {row['value'][1].replace(',', ', ')} {row['num_videos']}" in page.text
    by_split = {row[0]: [int(cell) for cell in row[1:]] for row in page.rows if row[0].endswith(" fps")}
    assert by_split == {
        f"{row['value'][0]:g} fps": [row["num_videos"], *row["splits"].values()] for row in videos["fps"]["rows"]
    }


def test_tables_of_spread_have_the_numbers_of_the_record(written: Written) -> None:
    record, page, _ = written
    keys = ("min", "q1", "median", "q3", "p95", "max", "mean")
    for split in ("train", "validation", "test"):
        for name, key, digits in (("duration, s", "duration_s", 3), ("frames", "num_frames", 4)):
            (row,) = rows_of(page, f"{name}, {split}")
            values = record["clips"][key]["spread"][split]
            assert row[1:8] == [f"{values[k]:.{digits}g}" for k in keys]
        (row,) = rows_of(page, f"duration, s, {split}")
        assert row[8] == f"{60 * record['clips']['hours'][split]:.3g} min"
    for name, values in (
        ("frames per second", record["videos"]["fps"]["spread"]),
        ("width, pixels", record["videos"]["size_px"]["width"]),
        ("height, pixels", record["videos"]["size_px"]["height"]),
    ):
        (row,) = rows_of(page, name)
        assert row[1:] == [f"{values[k]:.4g}" for k in keys]


def test_histograms_have_the_counts_of_the_record(written: Written) -> None:
    record, page, target = written
    titles = re.findall(r"<title>([^<]*)</title>", target.read_text(encoding="utf-8"))
    for key, unit in (("duration_s", "seconds"), ("num_frames", "frames")):
        bins = record["clips"][key]["histogram"]
        expected = [
            f"{low:.4g} to {high:.4g} {unit}: {count}\xa0clip{'s' if count > 1 else ''}"
            for counts in bins["counts"].values()
            for low, high, count in zip(bins["edges"], bins["edges"][1:], counts, strict=False)
            if count
        ]
        assert [title for title in titles if f" {unit}: " in title] == expected
    points = {tuple(point) for point in record["videos"]["size_px"]["points"]}
    shown = {tuple(map(int, found)) for t in titles for found in re.findall(r"(\d+) × (\d+): (\d+)\xa0video", t)}
    assert shown == points == {(64, 48, 1), (96, 72, 2)}
    assert len(page.of_class("bubble")) == 2


def test_every_number_on_the_page_is_in_the_record(written: Written) -> None:
    record, page, _ = written
    known = {text for value in _numbers(record) for text in _ways_to_write(value)}
    cells = [_plain(cell) for row in page.rows for cell in row[1:]]
    assert len(cells) > 100
    for cell in cells:
        for text in re.findall(r"\d[\d,.]*(?: %)?", cell):
            if cell not in ("25 % below", "75 % below", "95 % below"):
                assert text in known, cell


def test_what_users_wrote_is_text(written: Written) -> None:
    _, page, _ = written
    assert len(page.attributes("script")) == 1
    assert page.text.count(EVIL) >= 4  # table, bars, tiles, sheet
    assert "/data/<b>" in page.text
    assert "a note & more" in page.text
    assert "data.validation=0.25" in page.text


def test_what_cannot_be_used_is_said(written: Written) -> None:
    record, page, _ = written
    assert "train: 1 of 5 clips cannot be read." in page.text
    assert "train: 1 of 5 clips have times outside their video." in page.text
    assert "test: 1 of 2 clips are in quarantine." in page.text
    assert "verb: 2 of 4 classes have no training clip." not in page.text  # one clip is there, though not readable
    assert "verb: 1 of 4 classes have no training clip." in page.text
    assert "test/quarantined : is cut short" in page.text
    reasons = {row["clip_id"]: row["reason"] for row in record["splits"]["train"]["unusable"]}
    assert set(reasons) == {"train/3", "train/4"}
    assert all(" ".join(reason.split()) in page.text for reason in reasons.values())


def test_videos_in_quarantine_are_not_opened(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def noted(paths: Iterable[Path], **options: Any) -> dict[Path, Probed]:
        opened.extend(paths)
        return probe_all(opened, **options)

    monkeypatch.setattr("kinema.report.data_page.probe_all", noted)
    examine(dataset, SECTION)
    there = {clip.video for clips in dataset.splits.values() for clip in clips}
    assert sorted(opened) == sorted(there - set(dataset.quarantine))


def test_page_needs_nothing_from_outside(written: Written) -> None:
    _, page, target = written
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    assert page.attributes("script") == [{}]
    addresses = [a[name] for _, a in page.tags for name in ("src", "srcset", "href", "data") if name in a]
    ids = {a["id"] for _, a in page.tags if "id" in a}
    figures = {path.relative_to(target.parent).as_posix() for path in target.parent.glob("*_figures/*")}
    assert figures
    assert {address for address in addresses if not address.startswith("data:image/jpeg;base64,")} == {
        f"#{name}" for name in ids if name != "page-data"
    } | figures
    source = target.read_text(encoding="utf-8")
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


# Sample frames


def test_sample_frames_are_the_middle_of_their_clips(dataset: Dataset, videos: list[Path]) -> None:
    rows = []
    for clip in (*dataset.splits["train"][:3], *dataset.splits["validation"]):
        video = probe(clip.video)
        rows.append((clip, video, clip.start_s, video.duration_s if clip.stop_s is None else clip.stop_s))
    pictures = middle_frames(rows)
    first = {videos[0]: (0, 10), videos[1]: (100, 25)}
    for clip, _, start_s, stop_s in rows:
        content = pictures[clip.clip_id]
        assert content is not None
        number, fps = first[clip.video]
        assert read_number(np.asarray(Image.open(io.BytesIO(content)))) == number + int((start_s + stop_s) / 2 * fps)


def test_a_frame_that_does_not_decode_does_not_hide_the_others(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(30), fps=10)
    longer = probe(write_video(tmp_path / "longer.mp4", numbered_frames(60), fps=10))
    video = replace(longer, path=path)  # as if the file had changed
    clips = [Clip(clip_id=str(start_s), video=path, start_s=start_s) for start_s in (0.0, 5.0)]
    pictures = middle_frames([(clip, video, clip.start_s, clip.start_s + 1) for clip in clips])
    assert pictures["0.0"] is not None
    assert pictures["5.0"] is None


def test_pictures_are_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "a.mp4", [rng.integers(0, 255, (720, 1280, 3), dtype=np.uint8)] * 2, fps=2)
    video = probe(path)
    content = middle_frames([(Clip(clip_id="a", video=path), video, 0.0, video.duration_s)])["a"]
    assert content is not None
    assert Image.open(io.BytesIO(content)).size == (160, 90)
    # Noise is the worst case; 240 of these, as text, are far below 10 MB.
    assert len(content) * 4 / 3 * MAX_CLASSES * NUM_FRAMES < 8e6


@given(
    labels=st.lists(st.integers(0, 149), max_size=300),
    others=st.lists(st.integers(0, 149), max_size=30),
    several=st.booleans(),
)
def test_sheets_have_room_for_so_many_classes(labels: list[int], others: list[int], several: bool) -> None:
    names = tuple(f"class {i}" for i in range(150))
    classes = {"action": names, "other": ("only",)} if several else {"action": names}
    found = {
        split: [
            (Clip(clip_id=f"{split}{i}", video=Path("a"), labels={"action": label, "other": 0}), None, 0.0, 1.0)
            for i, label in enumerate(of_split)
        ]
        for split, of_split in (("train", labels), ("test", others))
    }
    sheets = choose(found, classes)  # type: ignore[arg-type]
    room = MAX_CLASSES // len(classes)
    sheet = sheets["action"]
    there = set(labels) | set(others)
    assert len(sheet.chosen) == min(len(there), room)
    assert sheet.num_left_out == len(there) - len(sheet.chosen)
    assert sheet.num_empty == 150 - len(there)
    for label, rows in sheet.chosen.items():
        assert {clip.labels["action"] for clip, *_ in rows} == {label}
        ids = [clip.clip_id for clip, *_ in rows]
        assert len(set(ids)) == len(ids) == min(NUM_FRAMES, labels.count(label) or others.count(label))
        assert all(name.startswith("train") for name in ids) == (label in labels)
    if labels and len(there) > room:
        assert max(set(labels), key=lambda label: (labels.count(label), -label)) in sheet.chosen


def test_sheet_says_what_it_does_not_show(written: Written, dataset: Dataset, tmp_path: Path) -> None:
    record, page, _ = written
    assert record["contact_sheet"]["verb"]["num_classes_empty"] == 1
    assert record["contact_sheet"]["verb"]["clips"][EVIL] == ["train/0", "train/1"]
    assert record["contact_sheet"]["verb"]["clips"]["rise"] == ["validation/1"]  # its training clip does not decode
    num_frames = sum(sheet["num_frames"] for sheet in record["contact_sheet"].values())
    assert num_frames == len(page.attributes("img"))
    assert "3 classes shown; 1 class without a usable clip." in page.text.replace("\xa0", " ")
    many = tuple(
        Clip(clip_id=str(i), video=dataset.splits["train"][0].video, start_s=i / 100, stop_s=2, labels={"action": i})
        for i in range(90)
    )
    wide = Dataset(classes={"action": tuple(f"class {i}" for i in range(700))}, splits={"train": many})
    record, page = _page(wide, tmp_path)
    assert len(page.attributes("img")) == record["contact_sheet"]["action"]["num_frames"] == 60
    text = page.text.replace("\xa0", " ")
    assert "60 classes shown; 30 more are not" in text
    assert "610 classes without a usable clip" in text
    assert page.num_bytes < 10e6


# Figures


@pytest.mark.parametrize("smallest", [1, 20])
def test_the_long_tail_is_as_high_as_the_counts(smallest: int) -> None:
    counts = [25, smallest, 400, 0, 60]
    drawing = long_tail(counts, counts, title="clips", num_for_80=1)
    is_steep = smallest == 1
    assert ("(logarithmic)" in drawing) == is_steep
    (ground, columns) = re.findall(r'class="value" d="M\S+? ([\d.]+)V(.*?)V[\d.]+Z"', drawing)[0]
    heights = [float(ground) - float(column.partition("H")[0]) for column in columns.split("V")]
    falling = sorted(counts, reverse=True)
    assert heights[-1] == falling[-1] == 0
    units = [math.log10(count / 0.5) if is_steep else count for count in falling[:-1]]
    assert [height / heights[0] for height in heights[:-1]] == pytest.approx([x / units[0] for x in units], abs=2e-3)
    assert "1\xa0class holds 80 %" in drawing


def test_what_is_far_longer_has_a_bar_of_its_own() -> None:
    drawing = histogram_chart([0.0, 1.0, 2.0], [7, 0], 3, title="duration", unit="seconds", noun="clip")
    assert re.findall(r"<title>(.*?)</title>", drawing) == [
        "0 to 1 seconds: 7\xa0clips",
        "2 seconds and more: 3\xa0clips",
    ]
    assert ">more</text>" in drawing


# Odd data sets


def test_many_classes_are_a_long_tail_and_a_table(dataset: Dataset, tmp_path: Path) -> None:
    video = dataset.splits["train"][0].video
    names = tuple(f"class {i}" for i in range(101))
    counts = [max(60 - i, 0) for i in range(101)]
    labels = [i for i, count in enumerate(counts) for _ in range(count)]
    clips = tuple(Clip(clip_id=str(i), video=video, labels={"action": label}) for i, label in enumerate(labels))
    record, page = _page(Dataset(classes={"action": names}, splits={"train": clips}), tmp_path)
    values = record["tasks"]["action"]["train"]["there"]
    assert values["counts"] == counts
    table = {row[0]: int(row[1].replace(",", "")) for row in page.rows if row[0].startswith("class ")}
    assert table == dict(zip(names, counts, strict=True))
    assert list(table)[:2] == ["class 0", "class 1"]
    assert f"{values['num_classes_for_80_percent']} classes hold 80 %" in page.text.replace("\xa0", " ")


def test_lists_without_any_video(dataset: Dataset, tmp_path: Path) -> None:
    record, page = _page(replace(dataset, splits={}, quarantine={}), tmp_path)
    assert record["totals"] == {"num_listed": 11, "num_there": 0, "hours": 0}
    assert "No clip can be read." in page.text
    assert "No video can be read." in page.text
    assert rows_of(page, "clips with a label") == [["clips with a label", "11"]] * 2


def test_a_data_set_without_labels(dataset: Dataset, tmp_path: Path) -> None:
    _, page = _page(replace(dataset, splits={"test": dataset.splits["test"]}, absent={}), tmp_path)
    assert page.text.count("No clip has a label.") == 2
    assert page.text.count("No clip with a label can be read.") == 2


def test_still_images(tmp_path: Path) -> None:
    clips = []
    for i, frame in enumerate(numbered_frames(3, width_px=120, height_px=80)):
        path = tmp_path / f"{i}.jpg"
        Image.fromarray(frame).save(path, quality=95)
        clips.append(Clip(clip_id=str(i), video=path, labels={"action": i % 2}))
    record, page = _page(Dataset(classes={"action": ("a", "b")}, splits={"train": tuple(clips)}), tmp_path)
    assert record["videos"]["num_still_images"] == 3
    assert "Still images: every clip is one frame." in page.text
    assert len(page.attributes("img")) == 3
    assert "fps" not in page.text


def test_folders_of_frames(tmp_path: Path) -> None:
    folder = tmp_path / "P01_01"
    folder.mkdir()
    for i, frame in enumerate(numbered_frames(20), start=1):
        Image.fromarray(frame).save(folder / f"frame_{i:010d}.jpg", quality=95)
    clip = Clip(clip_id="a", video=folder, start_s=0.2, stop_s=0.6, labels={"action": 0}, fps=20.0)
    record, page = _page(Dataset(classes={"action": ("a",)}, splits={"train": (clip,)}), tmp_path)
    assert record["clips"]["num_frames"]["spread"]["train"]["max"] == 8
    assert "20 fps" in page.text
    assert len(page.attributes("img")) == 1


def test_a_page_that_cannot_be_written(written: Written, tmp_path: Path) -> None:
    record, _, _ = written
    with pytest.raises(DataError, match=r"nowhere/page\.html: cannot be written"):
        write_data_page(tmp_path / "nowhere" / "page.html", {**record, "contact_sheet": {}}, {})


def _page(dataset: Dataset, folder: Path) -> tuple[dict[str, Any], Page]:
    record, pictures = examine(dataset, DataSection(name="made_up"))
    write_data_page(folder / "page.html", record, pictures)
    return json.loads(json.dumps(record)), Page(folder / "page.html")


def _plain(text: str) -> str:
    return " ".join(text.replace("\xa0", " ").split())


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _ways_to_write(value: float) -> Iterator[str]:
    yield f"{value:,}"
    yield f"{100 * value:.1f} %"
    yield from (f"{value:,.{digits}g}" for digits in (3, 4, 5))
    yield f"{60 * value:.3g}"  # hours as minutes


def _whole(value: int | None, _: int) -> str:
    return "–" if value is None else str(value)


def _percent(value: float | None, _: int) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _three_digits(value: float, _: int) -> str:
    return f"{value:.3g}"


def _of_classes(value: int, num_classes: int) -> str:
    return f"{value} of {num_classes}"
