"""Long videos: read in order, answered once, and made into actions."""

from __future__ import annotations

import csv
import json
import math
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from tests.models.facts import MEAN, STD
from tests.videos import numbered_frames, read_number, write_video

from kinema.data.decoding import probe
from kinema.inference import timeline
from kinema.inference.following import Follower
from kinema.inference.kept_answers import KeptAnswers, Part
from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Picture, Segment
from kinema.inference.long_video import LongVideo, mark_of
from kinema.inference.recogniser import Recogniser
from kinema.inference.timeline import BATCH, found, offline, shift_s, smoothed, watch
from kinema.inference.timeline_files import as_csv, as_subtitles, write_files
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig
from kinema.types import ConfigError, DataError, Heads, Preprocessing

RGB = Preprocessing(num_frames=4, size_px=32, resize_px=40, fit="crop", mean=MEAN, std=STD)
HEADS: Heads = {"action": ("wave", "kick", "jump")}
CONFIG = WeightsConfig(model="cnn_lstm", arguments={"backbone": "tiny"}, heads=HEADS, preprocessing={"rgb": RGB})
OF = {"weights": "w", "video": "v", "settings": {}}
SETTINGS = offline(LiveSection(fast_s=1.0, slow_s=2.0))

FPS, SECONDS = 8, 70


def number_of(picture: Picture) -> int:
    assert isinstance(picture.image, VideoFrame)
    return read_number(np.asarray(picture.image.to_ndarray(format="rgb24"), dtype=np.uint8))


class Remembers(Follower):
    """Answers every `every_s` after the answer before, from all that it saw of the long window, and from nothing else:
    of too short a lead, or of other batches, other answers would come."""

    def __init__(self, recogniser: Recogniser, settings: LiveSection | None = None) -> None:
        self.settings = settings or LiveSection()
        self.recogniser = recogniser
        self.seen: list[tuple[float, int]] = []
        self.due_s = -math.inf

    @property
    def is_dear(self) -> bool:
        return False

    @property
    def how(self) -> str:
        return "remembers"

    def see(self, pictures: Sequence[Picture], *, only_newest: bool = False) -> list[Answer]:
        answers = []
        for picture in pictures:
            number = number_of(picture)
            self.seen = [one for one in self.seen if one[0] > picture.stop_s - 2.0] + [(picture.time_s, number)]
            if picture.stop_s >= self.due_s:
                self.due_s = picture.stop_s + self.settings.every_s - 1e-9
                answers.append(self.answer(picture.stop_s))
        return answers

    def answer(self, time_s: float) -> Answer:
        numbers = [number for _, number in self.seen]
        values = np.array([np.mean(numbers) / 4096, len(numbers) / 100, 0.5], dtype=np.float32)
        return Answer(time_s=time_s, probabilities={"action": values}, is_whole=len(numbers) >= 8)

    def reset(self) -> None:
        self.seen, self.due_s = [], -math.inf


class Stops(Exception):  # noqa: N818 - as if by hand
    pass


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    model = build_model(CONFIG.model, CONFIG.arguments, heads=HEADS, inputs=CONFIG.inputs)
    return Recogniser(model, CONFIG)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So long that it has several parts; a key frame every six seconds, and B-frames."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    options = {"g": "48", "bf": "2", "preset": "ultrafast", "x264-params": "open-gop=1:scenecut=0"}
    return write_video(path, numbered_frames(FPS * SECONDS), fps=FPS, options=options)


@pytest.fixture
def remembers(monkeypatch: pytest.MonkeyPatch) -> type[Remembers]:
    monkeypatch.setattr(timeline, "Follower", Remembers)
    return Remembers


# Reading


@pytest.mark.parametrize(
    "name",
    [
        "h264_10bits.mp4",
        "nasa_13013_rotated.mp4",
        "test_non_zero_start.mp4",
        "discard_first_keyframe.mp4",
        "testsrc2_mpeg4.avi",
        "testsrc2_vp8.webm",
        "testsrc2_odd_width_vp9.mp4",
        "sine_stereo_mp2.mpg",
    ],
)
def test_pictures_have_the_times_and_orientation_that_probing_finds(name: str, data_root: Path) -> None:
    path = data_root / "edge_cases" / name
    video, pictures = probe(path), list(LongVideo(path).pictures())
    assert [picture.time_s for picture in pictures] == video.times_s.tolist()
    assert {picture.orientation for picture in pictures} == {video.orientation}
    assert pictures[-1].stop_s == pytest.approx(video.duration_s, abs=1e-3)


def test_clips_of_ut_interaction_too(data_root: Path) -> None:
    for path in sorted((data_root / "ut_interaction" / "pushing").glob("*.avi"))[:3]:  # packed B-frames
        assert [one.time_s for one in LongVideo(path).pictures()] == probe(path).times_s.tolist()


def test_frames_without_a_rate_of_their_own_come_when_they_come(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 0.5, 0.55, 4.0]
    path = write_video(tmp_path / "v.mkv", numbered_frames(5), fps=10, times_s=times_s)
    assert [one.time_s for one in LongVideo(path).pictures()] == probe(path).times_s.tolist()


def numbers(pictures: Iterator[Picture]) -> list[int]:
    return [number_of(one) for one in pictures]


@pytest.mark.parametrize("start_s", [0.05, 47.3])
def test_reading_begins_where_it_is_asked_to(long: Path, start_s: float) -> None:
    video = LongVideo(long)
    assert video.can_seek
    first = next(video.pictures())
    marks = {first.time_s: mark_of(first)}
    wanted = list(range(math.ceil(start_s * FPS), FPS * SECONDS))
    assert numbers(video.pictures(start_s, seek=True)) == numbers(video.pictures(start_s)) == wanted
    assert video.is_found_again(marks, 0.0)
    assert not video.is_found_again({first.time_s: 1}, 0.0)
    assert not video.is_found_again({first.time_s + 0.01: mark_of(first)}, 0.0)
    assert not video.damaged


def test_no_more_is_decoded_than_is_asked_for(long: Path) -> None:
    pictures = LongVideo(long).pictures()
    next(pictures)
    assert sum(thread.name == "kinema-decoder" for thread in threading.enumerate()) == 1
    pictures.close()
    assert not any(thread.name == "kinema-decoder" for thread in threading.enumerate())


def test_damage_in_the_middle_is_passed_over_and_said(long: Path, tmp_path: Path) -> None:
    content = bytearray(long.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 1000] = random.Random(0).randbytes(1000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    video = LongVideo(path)
    times_s = [one.time_s for one in video.pictures()]
    assert video.damaged
    assert times_s[-1] == pytest.approx(SECONDS - 1 / FPS)
    assert times_s == sorted(set(times_s))
    assert len(times_s) > 0.6 * FPS * SECONDS  # frames are of a few bytes: seconds of them are gone


def test_time_that_jumps_back_in_a_stream_is_counted_on(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{i}.ts", numbered_frames(20, first=20 * i), fps=10, options={"bf": "0"})
        for i in range(2)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    times_s = [one.time_s for one in LongVideo(path).pictures()]
    assert len(times_s) == 40
    np.testing.assert_allclose(times_s, np.arange(40) / 10, atol=1e-3)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut short", "image", "folder", "sound"])
def test_what_is_no_video_is_refused(kind: str, long: Path, tmp_path: Path, data_root: Path) -> None:
    path = tmp_path / ("v.png" if kind == "image" else "v.mp4")
    if kind == "sound":
        path = tmp_path / "v.wav"
        path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + b"\x00" * 24)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        content = {"empty": b"", "text": b"no video " * 99, "cut short": long.read_bytes()[:-5000], "image": b"x"}
        path.write_bytes(content[kind])
    with pytest.raises(DataError, match=path.name) as caught:
        LongVideo(path)
    assert "\n" not in str(caught.value)


# Answering


def watched(path: Path, recogniser: Recogniser, answers: Path) -> KeptAnswers:
    kept = KeptAnswers(answers, OF)
    watch(recogniser, SETTINGS, LongVideo(path), kept)
    return kept


def test_a_video_is_answered_throughout(long: Path, recogniser: Recogniser, remembers: type, tmp_path: Path) -> None:
    kept = watched(long, recogniser, tmp_path / "answers.bin")
    parts = list(kept.parts())
    assert [part.number for part in parts] == [0, 1, 2]
    assert [part.is_last for part in parts] == [False, False, True]
    assert parts[-1].num_frames == FPS * SECONDS
    assert parts[-1].stop_s == SECONDS
    times_s = np.concatenate([part.times_s for part in parts])
    assert np.all(np.diff(times_s) > 0)
    assert np.diff(times_s).max() < 2 * max(timeline.EVERY_S, 1 / FPS) + 1e-6
    # Every answer is of a whole window, but at the very beginning.
    seen = np.concatenate([part.probabilities["action"][:, 1] for part in parts]) * 100
    assert np.all(np.round(seen[times_s >= 2.0]) == 15)  # those that began in it
    newest = np.concatenate([part.probabilities["action"][:, 0] for part in parts]) * 4096
    np.testing.assert_allclose(newest[times_s >= 2.0], times_s[times_s >= 2.0] * FPS - 8, atol=1e-2)


@pytest.mark.parametrize("stop_after", [1, 31, 45, 69])
def test_work_that_was_stopped_goes_on_and_gives_the_same(
    stop_after: int,
    long: Path,
    recogniser: Recogniser,
    remembers: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched(long, recogniser, tmp_path / "whole.bin")
    num_seen = 0
    plain = Remembers.see

    def counted(self: Remembers, pictures: Sequence[Picture]) -> list[Answer]:
        nonlocal num_seen
        num_seen += len(pictures)
        if pictures[-1].time_s >= limit_s:
            raise Stops
        assert len(pictures) <= BATCH
        return plain(self, pictures)

    monkeypatch.setattr(Remembers, "see", counted)
    limit_s = float(stop_after)
    with pytest.raises(Stops):
        watched(long, recogniser, tmp_path / "again.bin")
    limit_s, num_seen = math.inf, 0
    kept = watched(long, recogniser, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    done_s = stop_after // 30 * 30
    lead_s = 2.0 + 0.5
    parts_left = len([one for one in (30, 60) if one >= max(done_s, 1)])
    assert num_seen <= (SECONDS - done_s) * FPS + (parts_left + 1) * (lead_s * FPS + 1)
    num_seen = 0
    watch(recogniser, SETTINGS, LongVideo(long), kept)
    assert num_seen == 0  # all of it is answered


def test_a_file_that_cannot_be_sought_in_goes_on_too(recogniser: Recogniser, remembers: type, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", numbered_frames(FPS * 40), fps=FPS, codec="mpeg4")
    assert not LongVideo(path).can_seek
    whole = tmp_path / "whole.bin"
    watched(path, recogniser, whole)
    parts = list(KeptAnswers(whole, OF).parts())
    assert [part.number for part in parts] == [0, 1]
    other = KeptAnswers(tmp_path / "again.bin", OF)
    other.add(parts[0])
    watch(recogniser, SETTINGS, LongVideo(path), other)
    assert other.path.read_bytes() == whole.read_bytes()


def test_a_hole_in_a_video_has_no_answers(recogniser: Recogniser, remembers: type, tmp_path: Path) -> None:
    times_s = [*(i / 8 for i in range(240)), *(200 + i / 8 for i in range(40))]
    path = write_video(tmp_path / "v.mkv", numbered_frames(280), fps=8, times_s=times_s)
    parts = list(watched(path, recogniser, tmp_path / "a.bin").parts())
    assert [part.number for part in parts] == [0, 6]
    assert parts[-1].num_frames == 280
    assert parts[-1].times_s[0] > 200


def test_what_was_half_written_is_dropped(long: Path, recogniser: Recogniser, remembers: type, tmp_path: Path) -> None:
    path = tmp_path / "answers.bin"
    watched(long, recogniser, path)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:size])
        kept = KeptAnswers(path, OF)
        assert not kept.is_finished
        assert path.stat().st_size <= size
        watch(recogniser, SETTINGS, LongVideo(long), kept)
        assert path.read_bytes() == whole
    changed = bytearray(whole)
    changed[-100] ^= 1
    path.write_bytes(changed)
    assert not KeptAnswers(path, OF).is_finished


def test_answers_of_something_else_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "place" / "answers.bin"
    path.parent.mkdir()
    KeptAnswers(path, OF)
    with pytest.raises(DataError, match="place: holds answers of other weights; name another folder by --out"):
        KeptAnswers(path, OF | {"weights": "others"})
    with pytest.raises(DataError, match="other video and settings"):
        KeptAnswers(path, OF | {"video": "other", "settings": {"every_s": 1}})
    path.write_bytes(b"something else altogether")
    with pytest.raises(DataError, match="not answers of kinema"):
        KeptAnswers(path, OF)


@pytest.mark.parametrize("size", [0, 5, 30, 60])
def test_a_file_that_was_only_begun_is_begun_again(size: int, tmp_path: Path) -> None:
    path = tmp_path / "answers.bin"
    KeptAnswers(path, OF)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert KeptAnswers(path, OF).last is None
    assert path.read_bytes() == whole


# Deciding


def kept_of(tmp_path: Path, times_s: Sequence[float], wave: Sequence[float], *, stop_s: float) -> KeptAnswers:
    """Answers whose probability of waving is given."""
    kept = KeptAnswers(tmp_path / "made.bin", OF)
    values = np.array([[p, 1 - p - 0.01, 0.01] for p in wave], dtype=np.float32)
    half = len(times_s) // 2
    for number, rows in enumerate((slice(0, half), slice(half, None))):
        kept.add(
            Part(
                number=number,
                num_frames=round(stop_s * 10),
                stop_s=stop_s,
                damaged=False,
                is_last=number == 1,
                first_pts=0,
                times_s=np.array(times_s[rows], dtype=np.float64),
                whole=np.ones(len(times_s[rows]), dtype=np.bool_),
                scores=np.full(len(times_s[rows]), math.nan),
                probabilities={"action": values[rows]},
                mark_times_s=np.zeros(0),
                marks=np.zeros(0, dtype=np.int64),
            )
        )
    return kept


def test_answers_are_set_back_to_the_middle_of_what_they_are_about(tmp_path: Path) -> None:
    settings = offline(LiveSection(fast_s=1.0, slow_s=3.0, smoothing_s=0.0, cool_down_s=0.0))
    assert shift_s(settings, CONFIG) == 1.0
    times_s = [(i + 1) / 10 for i in range(200)]
    kept = kept_of(tmp_path, times_s, [0.9 if 6 < t <= 9 else 0.05 for t in times_s], stop_s=20.0)
    result = found(kept, CONFIG, settings)
    first, second, third = result.segments
    assert [one.labels["action"] for one in result.segments] == ["kick", "wave", "kick"]
    assert second.start_s == pytest.approx(5.0, abs=0.11)
    assert second.stop_s == pytest.approx(8.0, abs=0.11)
    assert second.confidence == pytest.approx(0.9, abs=1e-3)
    assert first.start_s < 0.11
    assert third.stop_s == 20.0  # what goes on at the last answer goes on to the end
    assert result.fps == 10
    assert len(result.curve_times_s) == len(result.curves["action"]["wave"])
    middle = result.curves["action"]["wave"][int(6.5 / 20 * len(result.curve_times_s))]
    assert math.isnan(middle) or middle == pytest.approx(0.9)


def test_a_class_that_stands_for_nothing_is_no_action(tmp_path: Path) -> None:
    times_s = [(i + 1) / 10 for i in range(100)]
    kept = kept_of(tmp_path, times_s, [0.9 if t > 5 else 0.05 for t in times_s], stop_s=10.0)
    result = found(kept, CONFIG, SETTINGS, background={"action": 1})
    assert [one.label for one in result.segments] == ["wave"]


def answer(time_s: float, *values: float, score: float | None = None) -> Answer:
    return Answer(time_s=time_s, probabilities={"a": np.array(values, dtype=np.float32)}, score=score)


def test_smoothing_looks_back_and_ahead_alike() -> None:
    rng = np.random.default_rng(0)
    times_s = np.cumsum(rng.uniform(0.02, 0.3, 300))
    values = rng.uniform(0, 1, (300, 2)).astype(np.float32)
    scores = rng.normal(size=300)
    scores[17] = math.inf
    plain = [answer(t, *v, score=s) for t, v, s in zip(times_s.tolist(), values, scores.tolist(), strict=True)]
    smooth = list(smoothed(plain, 0.25))
    assert [one.time_s for one in smooth] == times_s.tolist()
    for i in range(300):
        away = np.abs(times_s - times_s[i])
        weights = np.where(away <= 1.0, np.exp(-away / 0.25), 0)
        np.testing.assert_allclose(smooth[i].probabilities["a"], weights @ values / weights.sum(), rtol=1e-5)
        if i != 17:
            weights[17] = 0
            wanted = weights @ np.where(np.isfinite(scores), scores, 0) / weights.sum()
            assert smooth[i].score == pytest.approx(wanted)
    assert smooth[17].score == math.inf
    assert list(smoothed(plain, 0.0)) == plain


def test_settings_for_a_file_have_no_lag() -> None:
    assert offline(LiveSection()).slow_every_s == 0
    given = offline(LiveSection(every_s=0.0, slow_every_s=0.5))
    assert (given.every_s, given.slow_every_s) == (0.0, 0.5)
    with pytest.raises(ConfigError, match="memory: a timeline looks at windows"):
        offline(LiveSection(memory="state"))


# Files

SEGMENTS = [
    Segment(start_s=0.5, stop_s=2.25, labels={"action": "wave <b>, & more"}, confidence=0.875),
    Segment(start_s=3723.0004, stop_s=3724.5, labels={"action": "kick"}, confidence=1.0),
]


def test_segments_as_a_table_are_what_kinema_reads(tmp_path: Path) -> None:
    rows = list(csv.DictReader(as_csv(SEGMENTS, HEADS, "../v.mp4").splitlines()))
    assert rows[0] == {
        "path": "../v.mp4",
        "start_s": "0.500",
        "stop_s": "2.250",
        "label": "wave <b>, & more",
        "confidence": "0.8750",
    }
    two: Heads = {"verb": ("open",), "noun": ("jar",)}
    both = [Segment(start_s=0, stop_s=1, labels={"verb": "open", "noun": "jar"}, confidence=0.5)]
    assert as_csv(both, two, "v").splitlines()[0] == "path,start_s,stop_s,verb,noun,confidence"


def test_subtitles() -> None:
    assert as_subtitles(SEGMENTS) == (
        "WEBVTT\n\n1\n00:00:00.500 --> 00:00:02.250\nwave &lt;b&gt;, &amp; more (87.5 %)\n\n"
        "2\n01:02:03.000 --> 01:02:04.500\nkick (100.0 %)\n"
    )


def test_json_has_no_nan(tmp_path: Path) -> None:
    record: dict[str, Any] = {"scores": {"action": {"edit": math.nan, "f1": {"10": math.nan}}}}
    write_files(tmp_path, SEGMENTS, HEADS, video=tmp_path / "v.mp4", record=record)
    content = json.loads((tmp_path / "segments.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["scores"]["action"] == {"edit": None, "f1": {"10": None}}
    assert content["segments"][1] == {
        "start_s": 3723.0,
        "stop_s": 3724.5,
        "labels": {"action": "kick"},
        "confidence": 1.0,
    }
    assert replace(SEGMENTS[0], confidence=0.1).label == "wave <b>, & more"
