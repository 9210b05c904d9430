"""The official times of EPIC-KITCHENS-100 on videos of its frame rates: the frames that come out, to the frame."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.videos import numbered_frame, numbered_frames, read_number, write_video

from kinema.data.datasets.epic_kitchens_100 import epic_kitchens_100
from kinema.data.decoding import read_frames
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.probing import frame_rates, probe_all
from kinema.data.reading import clip_interval_s
from kinema.data.video import FRAMES, Video
from kinema.types import Clip, Dataset, Preprocessing

# All frame rates of the data set. Videos of 50 frames per second are in the test list only. Each begins with segments
# in its first seconds.
RATES = {
    "P11_108": Fraction(50),
    "P20_05": Fraction(60_000, 1001),
    "P32_04": Fraction(60_000, 1001),
    "P09_07": Fraction(30_000, 1001),
    "P17_02": Fraction(48_000, 1001),
    "P18_09": Fraction(90),
}
LENGTH_S = 6.5
TWENTY = Preprocessing(num_frames=20, size_px=48, resize_px=48, fit="crop", mean=(0.5,) * 3, std=(0.5,) * 3)


def num_frames(rate: Fraction) -> int:
    return math.ceil(Fraction(LENGTH_S) * rate)


def seconds(timestamp: str) -> Fraction:
    hours, minutes, rest = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + Fraction(rest)


def first_and_last(start: Fraction, stop: Fraction, rate: Fraction) -> tuple[int, int]:
    """Frames on display in [start, stop): the one that start falls into, and the last that comes before stop."""
    return math.floor(start * rate), math.ceil(stop * rate) - 1


@pytest.fixture(scope="module")
def rows(data_root: Path) -> dict[str, dict[str, str]]:
    """Rows of the official validation and test lists, by narration_id."""
    found = {}
    for name in ("EPIC_100_validation.csv", "EPIC_100_test_timestamps.csv"):
        with (data_root / "epic_kitchens_100" / name).open(newline="") as file:
            found.update({row["narration_id"]: row for row in csv.DictReader(file)})
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos whose frames are painted with 0, 1, ...; frames extracted at their rate, and resampled as published."""
    root = tmp_path_factory.mktemp("epic")
    for name, rate in RATES.items():
        for kind in ("videos", "native", "published"):
            (root / kind / name[:3] / ("videos" if kind == "videos" else "rgb_frames")).mkdir(parents=True)
        images = numbered_frames(num_frames(rate))
        options = {"preset": "ultrafast", "crf": "18"}
        write_video(root / "videos" / name[:3] / "videos" / f"{name}.MP4", images, fps=rate, options=options)
        published = Fraction(50 if len(name) == len("P01_101") else 60)
        for kind, frame_rate in {"native": rate, "published": published}.items():
            folder = root / kind / name[:3] / "rgb_frames" / name
            folder.mkdir()
            for i in range(math.ceil(Fraction(LENGTH_S) * frame_rate)):
                shown = math.floor(i / frame_rate * rate)
                Image.fromarray(numbered_frame(shown)).save(folder / f"frame_{i + 1:010d}.jpg")
    return root


@dataclass(frozen=True)
class Read:
    clips: list[Clip]
    videos: dict[Path, Video]


def read(found: Dataset) -> Read:
    """The segments that lie in what was painted of their videos."""
    listed = [*found.splits["validation"], *found.splits["test"]]
    clips = [clip for clip in listed if clip.stop_s is not None and clip.stop_s <= LENGTH_S]
    probed = probe_all([clip.video for clip in clips], fps=frame_rates(clips), workers=1)
    videos = {path: video for path, video in probed.items() if isinstance(video, Video)}
    assert {clip.attributes["video_id"] for clip in clips} == set(RATES)
    assert len(clips) >= 14
    return Read(clips, videos)


def check(found: Dataset, rows: dict[str, dict[str, str]], number_at: Callable[[str, Fraction], int]) -> Counter[str]:
    """The numbers on the frames at the first, the middle and the last moment of each segment, and on the twenty that a
    model is given, are those of the frames on display then. Counts segments by container."""
    reader = read(found)
    twenty_of_each = ClipReader(reader.clips, reader.videos, {"rgb": TWENTY}, augmentation=None, seed=0)
    counts: Counter[str] = Counter()
    order = EpochOrder(len(reader.clips), batch_size=1, seed=None)
    for clip, batch in zip(reader.clips, clip_loader(twenty_of_each, order, workers=0), strict=True):
        row = rows[clip.clip_id]
        start, stop = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
        name, video = row["video_id"], reader.videos[clip.video]
        just_before_stop = stop - Fraction(1, 10**6)
        start_s, stop_s = clip_interval_s(clip, video)
        indices = video.frames_at([start_s, (start_s + stop_s) / 2, np.nextafter(stop_s, 0)])
        numbers = [read_number(frame) for frame in read_frames(video, indices)]
        assert numbers == [number_at(name, time) for time in (start, (start + stop) / 2, just_before_stop)], clip
        if video.container != FRAMES or video.fps == pytest.approx(float(RATES[name])):
            assert (numbers[0], numbers[-1]) == first_and_last(start, stop, RATES[name])
        assert not batch.failures, batch.failures
        twenty = [read_number(frame.permute(1, 2, 0).numpy()) for frame in batch.streams["rgb"][0]]
        assert twenty == [number_at(name, start + (stop - start) * (2 * k + 1) / 40) for k in range(20)], clip
        counts[video.container.split(",")[0]] += 1
    return counts


def test_frames_of_videos_are_those_between_start_and_stop(
    tree: Path, rows: dict[str, dict[str, str]], data_root: Path
) -> None:
    found = epic_kitchens_100(tree / "videos", annotations=str(data_root / "epic_kitchens_100"))
    counts = check(found, rows, lambda name, time: math.floor(time * RATES[name]))
    assert list(counts) == ["mov"]


def test_frames_extracted_at_the_rate_of_the_video_are_the_same(
    tree: Path, rows: dict[str, dict[str, str]], data_root: Path
) -> None:
    found = epic_kitchens_100(tree / "native", frame_rate="native", annotations=str(data_root / "epic_kitchens_100"))
    counts = check(found, rows, lambda name, time: math.floor(time * RATES[name]))
    assert list(counts) == [FRAMES]


def test_frames_of_the_published_archives_show_the_same_moments(
    tree: Path, rows: dict[str, dict[str, str]], data_root: Path
) -> None:
    def number_at(name: str, time: Fraction) -> int:
        rate = Fraction(50 if len(name) == len("P01_101") else 60)
        return math.floor(math.floor(time * rate) / rate * RATES[name])

    found = epic_kitchens_100(tree / "published", annotations=str(data_root / "epic_kitchens_100"))
    counts = check(found, rows, number_at)
    assert list(counts) == [FRAMES]


@pytest.fixture(scope="module")
def listed(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """All clips of the validation and test lists."""
    root = tmp_path_factory.mktemp("listed")
    (root / "P01_11.MP4").touch()
    found = epic_kitchens_100(root, annotations=str(data_root / "epic_kitchens_100"))
    return [clip for clips in (*found.splits.values(), *found.absent.values()) for clip in clips]


def test_all_official_times_fall_on_the_right_frames(
    listed: list[Clip], rows: dict[str, dict[str, str]], data_root: Path
) -> None:
    """Of all 22,760 segments, at the rate of each video, by exact arithmetic on what the lists say."""
    with (data_root / "epic_kitchens_100" / "EPIC_100_video_info.csv").open(newline="") as file:
        told = {row["video_id"]: Fraction(row["fps"]).limit_denominator(1001) for row in csv.DictReader(file)}
    assert set(RATES.values()) == set(told.values())
    videos = {}
    for rate in set(told.values()):
        times_s = np.arange(math.ceil(5000 * rate), dtype=np.int64) * rate.denominator / rate.numerator
        videos[rate] = Video(
            path=Path("made_up.mp4"),
            times_s=times_s,
            duration_s=5000.0,
            fps=float(rate),
            width_px=64,
            height_px=48,
            rotation_deg=0,
            codec="h264",
            container="mp4",
        )
    assert len(listed) == 22_760
    num_shortened = 0
    for clip in listed:
        row, rate = rows[clip.clip_id], told[clip.attributes["video_id"]]
        start, stop = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
        assert clip.stop_s is not None
        if clip.stop_s != float(stop):
            num_shortened += 1  # at the end of its video
            stop = Fraction(clip.stop_s)
        found = videos[rate].frames_at([clip.start_s, np.nextafter(clip.stop_s, 0)])
        assert tuple(found) == first_and_last(start, stop, rate), row
    assert num_shortened == 1


def test_official_frame_numbers_are_at_60_and_at_50(rows: dict[str, dict[str, str]]) -> None:
    """`start_frame` and `stop_frame` are floor(60 t) in videos of 2018 and floor(50 t) in later ones, or next to it,
    as times are rounded: the published frames are not at the rates of the videos."""
    off: Counter[tuple[int, int]] = Counter()
    for row in rows.values():
        rate = 60 if len(row["video_id"]) == len("P01_01") else 50
        for kind in ("start", "stop"):
            off[rate, int(row[f"{kind}_frame"]) - math.floor(seconds(row[f"{kind}_timestamp"]) * rate)] += 1
    assert off == {(60, 0): 19_250, (60, -1): 76, (60, 1): 10, (50, 0): 25_444, (50, -1): 736, (50, 1): 4}
