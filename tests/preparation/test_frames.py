"""Stored frames are what would be decoded, and clips can be cut out of stored frames as out of videos."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.videos import numbered_frame, numbered_frames, read_number, write_video

from kinema.data.decoding import Video, probe, read_frames
from kinema.data.frame_store import FrameFormat
from kinema.data.loading import ClipReader
from kinema.data.reading import plan_clip, plan_of_view, read_plan
from kinema.data.shards import Store
from kinema.data.sources import FOLDER, clip_reader, register, registered, say_frames
from kinema.data.stored_video import stored_videos
from kinema.preparation import room
from kinema.preparation.frames import FrameSettings, prepare_frames
from kinema.preparation.storing import Stored
from kinema.sections import Augmentation, ClipsSection
from kinema.types import Clip, DataError, Preprocessing, Split

NUM = 4


def preprocessing(**changes: Any) -> Preprocessing:
    settings: dict[str, Any] = {"num_frames": NUM, "size_px": 32, "resize_px": 36, "fit": "crop", "pixels": "rgb"}
    return Preprocessing(**{**settings, **changes}, mean=(0, 0, 0), std=(1, 1, 1))


class Data:
    """A data set of a few videos and clips of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        write_video(root / "a.avi", numbered_frames(20), fps=10, codec="mpeg4")
        write_video(root / "b.mp4", numbered_frames(12, first=100), fps=10)
        write_video(root / "c.mp4", numbered_frames(9, first=200, width_px=80), fps=10, rotation_deg=90)
        write_video(root / "short.mp4", numbered_frames(2, first=300), fps=10)
        clips = [("a", None, 0.0, None), ("b", None, 0.0, None), ("a", "later", 0.65, 1.75), ("c", None, 0.0, None)]
        self.videos: dict[Path, Video] = {}
        self.clips = [self.clip(*facts) for facts in (*clips, ("short", None, 0.0, None))]

    def clip(self, stem: str, part: str | None, start_s: float, stop_s: float | None) -> Clip:
        (path,) = self.root.glob(f"{stem}.*")
        self.videos.setdefault(path, probe(path))
        name = stem if part is None else f"{stem}:{part}"
        return Clip(clip_id=name, video=path, start_s=start_s, stop_s=stop_s, labels={"action": 0})

    def store(self, folder: Path, settings: FrameSettings, split: Split = "train", **more: Any) -> Stored:
        return prepare_frames({split: self.clips}, self.videos, settings, folder, root=self.root, **more)

    def source(self, section: ClipsSection, form: Preprocessing, **more: Any) -> ClipReader:
        return clip_reader(section, self.clips, self.videos, {"rgb": form}, root=self.root, **more)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    return Data(tmp_path / "data")


def settings_of(form: Preprocessing, **more: Any) -> FrameSettings:
    return FrameSettings(form=FrameFormat.of(form), num_frames=form.num_frames, window_s=form.window_s, **more)


def section(form: Preprocessing, store: Any = "auto") -> ClipsSection:
    names = ("num_frames", "window_s", "size_px", "fit", "pixels")
    given = {name: getattr(form, name) for name in names}
    if form.fit == "crop":
        given["resize_px"] = form.resize_px
    return ClipsSection(**given, store=store)


def read(reader: ClipReader, index: int, epoch: int = 0) -> np.ndarray:
    """What lies ready of a clip."""
    form = reader.preprocessing["rgb"]
    out = np.zeros((form.num_frames, *form.frame_shape), dtype=np.uint8)
    assert reader.store is not None
    assert reader.store.read(index, epoch, out) is not None
    return out


def decoded(data: Data, clip: Clip, form: Preprocessing) -> np.ndarray:
    video = data.videos[clip.video]
    return read_plan(video, plan_clip(clip, video, form), form)


# What is stored is what would be decoded


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pixels": "i420"},
        {"pixels": "i420", "fit": "squash", "resize_px": 32},
        {"num_frames": 1},
        {"num_frames": 7},
        {"window_s": 0.5},
    ],
)
def test_stored_frames_are_those_that_would_be_decoded(data: Data, tmp_path: Path, changes: Mapping[str, Any]) -> None:
    form = preprocessing(**changes)
    stored = data.store(tmp_path / "s", settings_of(form))
    assert (stored.num_asked, stored.num_new, stored.num_before, stored.failures) == (5, 5, 0, {})
    source = data.source(section(form, tmp_path / "s"), form)
    assert source.store is not None
    assert source.store.whole
    assert source.clips == data.clips
    for index, clip in enumerate(data.clips):
        assert np.array_equal(read(source, index), decoded(data, clip, form))
    assert Store.open(tmp_path / "s").damaged() == []


MORE = {"frame_stride": [1, 3], "multi_scale": [1, 0.8], "rotation_deg": 20, "erase": 0.5, "rand_augment": 1}


@pytest.mark.parametrize(("pixels", "more"), [("i420", {}), ("rgb", {}), ("i420", MORE)])
def test_random_versions_are_those_that_training_reads(
    data: Data, tmp_path: Path, pixels: str, more: Mapping[str, Any]
) -> None:
    form = preprocessing(pixels=pixels)
    augmentation = Augmentation.model_validate({"views": 3, **more})
    settings = settings_of(form, augmentation=augmentation, seed=5)
    stored = data.store(tmp_path / "s", settings)
    if not more:  # some of so few rectangles are drawn twice
        assert stored.num_new == 5 * (1 + 3)
    source = data.source(section(form, tmp_path / "s"), form, augmentation=augmentation, seed=5)
    assert source.store is not None
    assert source.store.whole
    plain = ClipReader(data.clips, data.videos, {"rgb": form}, augmentation=augmentation, seed=5)
    readers = [plain, source]
    assert [reader.in_processes for reader in readers] == [True, False]
    for index in range(len(data.clips)):
        for epoch in range(7):
            out = [np.zeros((NUM, *form.frame_shape), dtype=np.uint8) for _ in readers]
            drawn = [reader.read(index, epoch, {"rgb": one}) for reader, one in zip(readers, out, strict=True)]
            assert np.array_equal(out[0], out[1])
            assert drawn[0] == drawn[1]
    other_seed = data.source(section(form), form, augmentation=augmentation, seed=6)
    assert other_seed.store is None or not other_seed.store.whole
    every_epoch = data.source(section(form), form, augmentation=Augmentation(views=None), seed=5)
    assert every_epoch.store is None


def test_what_only_the_device_changes_needs_one_version(data: Data, tmp_path: Path) -> None:
    """Frames that are stored once serve every epoch, and what is drawn for each is what it would be without them."""
    form = preprocessing()
    data.store(tmp_path / "s", settings_of(form))
    augmentation = Augmentation.model_validate("aggressive")
    source = data.source(section(form, tmp_path / "s"), form, augmentation=augmentation, seed=5)
    assert source.store is not None
    assert source.store.whole
    plain = ClipReader(data.clips, data.videos, {"rgb": form}, augmentation=augmentation, seed=5)
    for epoch in range(3):
        out = [np.zeros((NUM, *form.frame_shape), dtype=np.uint8) for _ in range(2)]
        drawn = [reader.read(1, epoch, {"rgb": one}) for reader, one in zip((plain, source), out, strict=True)]
        assert np.array_equal(out[0], out[1])
        assert drawn[0] == drawn[1]
        assert drawn[0].changes is not None


def test_more_versions_can_be_added(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    assert data.store(tmp_path / "s", settings_of(form), split="test").num_new == 5
    for views, num_new in ((1, 5), (3, 10), (2, 0)):
        settings = settings_of(form, augmentation=Augmentation(views=views))
        assert data.store(tmp_path / "s", settings).num_new == num_new
    assert data.store(tmp_path / "s", settings, split="test").num_asked == 5  # versions are of training clips


# Again, in parts, with several processes


def test_what_is_there_is_not_stored_again(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    for number in (1, 2):
        data.store(tmp_path / "s", settings_of(form), shard=(number, 2))
    assert sorted(path.name for path in (tmp_path / "s").glob("*.bin")) == ["1-of-2.bin", "2-of-2.bin"]
    again = data.store(tmp_path / "s", settings_of(form))
    assert (again.num_new, again.num_before) == (0, 5)
    assert data.source(section(form), form).store is not None


def test_in_processes_too(tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(18):
        write_video(root / f"{number}.avi", [numbered_frame(number)] * 3, fps=10, codec="mpeg4")
    (root / "7.avi").write_bytes((root / "7.avi").read_bytes()[:100])
    videos = {path: probe(root / "1.avi") for path in root.iterdir()}
    clips = [Clip(clip_id=path.stem, video=path) for path in videos]
    videos = {path: (probe(path) if path.stem != "7" else probe_as(path, videos[path])) for path in videos}
    form = preprocessing(num_frames=1, fit="squash", resize_px=32)
    stored = prepare_frames({"test": clips}, videos, settings_of(form), tmp_path / "s", root=root, workers=2)
    assert (stored.num_asked, stored.num_new, list(stored.failures)) == (18, 17, ["7"])
    reader = clip_reader(section(form, tmp_path / "s"), clips, videos, {"rgb": form}, root=root)
    for index, clip in enumerate(clips):
        if clip.clip_id != "7":
            assert read_number(read(reader, index)[0].transpose(1, 2, 0)) == int(clip.clip_id)


def probe_as(path: Path, video: Video) -> Video:
    """What was found before the file was damaged."""
    return replace(video, path=path, packets=None)


# What has changed


def test_a_file_that_has_changed_is_read_itself(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    data.store(tmp_path / "s", settings_of(form))
    path = data.root / "b.mp4"
    write_video(path, numbered_frames(12, first=500), fps=10)
    data.videos[path] = probe(path)
    source = data.source(section(form), form)
    assert source.store is not None
    assert not source.store.whole
    out = np.zeros((NUM, *form.frame_shape), dtype=np.uint8)
    for index, clip in enumerate(data.clips):
        held = source.store.read(index, 0, out) is not None
        assert held == (clip.clip_id != "b")
    assert data.store(tmp_path / "s", settings_of(form)).num_new == 1


def test_a_data_set_can_be_moved_with_its_stores(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    data.store(data.root / FOLDER / "frames", settings_of(form))
    moved = Data.__new__(Data)
    moved.root = tmp_path / "moved"
    shutil.move(data.root, moved.root)
    moved.videos = {}
    moved.clips = [moved.clip(c.clip_id.partition(":")[0], None, c.start_s, c.stop_s) for c in data.clips]
    source = moved.source(section(form), form)
    assert source.store is not None
    assert source.store.whole


# Which stores are taken


def test_only_stores_that_give_the_same_are_taken_unasked(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = preprocessing()
    assert data.source(section(form), form).store is None
    data.store(tmp_path / "s", settings_of(form))
    assert tmp_path / "s" in registered()
    for other in (preprocessing(size_px=34), preprocessing(num_frames=3), preprocessing(fit="squash", resize_px=32)):
        assert data.source(section(other), other).store is None
    assert data.source(section(form, "none"), form).store is None
    with monkeypatch.context() as context:  # frames that swscale scaled may be others with another version
        context.setattr("kinema.data.sources.described", lambda name: f"{name} of tomorrow")
        assert data.source(section(form), form).store is None
    taken = data.source(section(form), form)
    assert taken.store is not None
    with caplog.at_level(logging.INFO, logger="kinema"):
        say_frames(taken, "train")
    assert caplog.messages == [f"train: all read from frames stored in {tmp_path / 's'}"]


def test_a_broken_store_is_passed_over_unless_it_was_asked_for(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form = preprocessing()
    data.store(tmp_path / "s", settings_of(form))
    (tmp_path / "s" / "store.json").write_text('{"version": 9}')
    assert data.source(section(form), form).store is None
    assert "a store of version 9" in caplog.text
    with pytest.raises(DataError, match="a store of version 9"):
        data.source(section(form, tmp_path / "s"), form)
    with pytest.raises(DataError, match="not a store"):
        data.source(section(form, tmp_path / "nothing"), form)


def test_a_store_that_was_cut_short_is_passed_over_unless_it_was_asked_for(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form = preprocessing()
    data.store(tmp_path / "s", settings_of(form))
    os.truncate(tmp_path / "s" / "1-of-1.bin", 100)
    assert data.source(section(form), form).store is None
    assert "the store is damaged" in caplog.text
    with pytest.raises(DataError, match="the store is damaged"):
        data.source(section(form, tmp_path / "s"), form)


def test_a_store_that_was_named_gives_what_it_holds_and_videos_the_rest(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    some: dict[Split, list[Clip]] = {"train": data.clips[:2]}
    prepare_frames(some, data.videos, settings_of(form), tmp_path / "s", root=data.root)
    source = data.source(section(form, tmp_path / "s"), form)
    assert source.store is not None
    assert not source.store.whole
    for index, clip in enumerate(data.clips[:2]):
        assert np.array_equal(read(source, index), decoded(data, clip, form))


def test_squares_of_another_cut_are_refused(data: Data, tmp_path: Path) -> None:
    data.store(tmp_path / "s", settings_of(preprocessing(fit="squash", resize_px=32)))
    form = preprocessing()
    with pytest.raises(DataError, match=r"clips.store: .* holds squares of another cut \(fit squash"):
        data.source(section(form, tmp_path / "s"), form)


def test_frames_of_a_window_are_of_that_window_alone(data: Data, tmp_path: Path) -> None:
    """What is stored for one window, or for none, is found for another where the frames are the same, and refused where
    it would have to stand for frames that it does not hold."""
    half, tenth, whole = preprocessing(window_s=0.5), preprocessing(window_s=0.1), preprocessing()
    data.store(tmp_path / "half", settings_of(half))
    data.store(tmp_path / "whole", settings_of(whole))
    with pytest.raises(DataError, match="window_s"):
        data.store(tmp_path / "half", settings_of(tenth))
    found = data.source(section(half, tmp_path / "whole"), half)
    short = next(index for index, clip in enumerate(data.clips) if clip.clip_id == "short")
    assert found.store is not None
    assert not found.store.whole
    assert np.array_equal(read(found, short), decoded(data, data.clips[short], half))  # it is 0.2 s long
    form = found.preprocessing["rgb"]
    out = np.zeros((form.num_frames, *form.frame_shape), dtype=np.uint8)
    assert found.store.read(0, 0, out) is None
    assert data.source(section(half), half).store is not None
    data.clips = [clip for clip in data.clips if clip.clip_id != "short"]
    for name, form, seen in (
        ("whole", half, "0.5 s of them"),
        ("half", whole, "whole clips"),
        ("half", tenth, "0.1 s"),
    ):
        with pytest.raises(DataError, match=rf"clips.store: .* holds 4 frames of .*, and this model sees {seen}"):
            data.source(section(form, tmp_path / name), form)
    anywhere = Augmentation(flip=0, colour=0)
    with pytest.raises(
        DataError, match=r"4 frames of the middle 0.5 s of clips, and .* 0.5 s of them, anywhere in them"
    ):
        data.source(section(half, tmp_path / "half"), half, augmentation=anywhere)


def test_windows_are_cut_out_of_frames_at_a_rate(data: Data, tmp_path: Path) -> None:
    data.store(tmp_path / "s", FrameSettings(form=FrameFormat(pixels="rgb", short_side_px=48), rate_fps=1000.0))
    form = preprocessing(window_s=0.5)
    for augmentation in (None, Augmentation(flip=0, colour=0, min_scale=1)):
        source = data.source(section(form, tmp_path / "s"), form, augmentation=augmentation)
        for place, (before, clip) in enumerate(zip(data.clips, source.clips, strict=True)):
            both = [
                read_frames(video, plan_of_view(one, video, form, index=place, augmentation=augmentation)[0].indices)
                for one, video in ((clip, source.videos[clip.video]), (before, data.videos[before.video]))
            ]
            assert all(map(np.array_equal, *both))


def test_a_store_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    register(tmp_path / "gone")
    assert tmp_path / "gone" not in registered()


# Clips cut out of stored frames


@pytest.mark.parametrize("pixels", ["i420", "rgb", "jpeg"])
@pytest.mark.parametrize("rate_fps", [None, 5.0, 1000.0])
def test_stored_frames_are_a_video(data: Data, tmp_path: Path, pixels: str, rate_fps: float | None) -> None:
    quality = 95 if pixels == "jpeg" else None
    settings = FrameSettings(
        form=FrameFormat(pixels=pixels, short_side_px=36, quality=quality),
        num_frames=8 if rate_fps is None else None,
        rate_fps=rate_fps,
    )
    data.store(tmp_path / "s", settings)
    form = preprocessing()
    source = data.source(section(form, tmp_path / "s"), form)
    assert source.store is None
    assert [clip.clip_id for clip in source.clips] == [clip.clip_id for clip in data.clips]
    for before, clip in zip(data.clips, source.clips, strict=True):
        video, original = source.videos[clip.video], data.videos[before.video]
        portrait = before.clip_id == "c"
        assert (video.width_px, video.height_px) == ((36, 60) if portrait else (48, 36))
        assert clip.labels == before.labels
        start_s, stop_s = before.start_s, before.stop_s or original.duration_s
        behind = original.frames_at(video.times_s[1:] + start_s + 1e-9).tolist()  # the first is there from the start
        assert numbers(video, range(1, 1 + len(behind))) == numbers(original, behind)
        if rate_fps == 1000.0:  # then it is all of them
            first, last = original.frames_at([start_s, stop_s - 1e-9])
            assert behind == [*range(first + 1, last + 1)]
            plans = plan_clip(clip, video, form), plan_clip(before, original, form)
            assert numbers(video, plans[0].indices) == numbers(original, plans[1].indices)


def numbers(video: Video, indices: Iterable[int]) -> list[int]:
    return [read_number(image) for image in read_frames(video, indices)]


@pytest.mark.parametrize("num_frames", [1, 4, 8])
def test_as_many_frames_as_are_stored_are_the_stored_ones(data: Data, tmp_path: Path, num_frames: int) -> None:
    settings = FrameSettings(form=FrameFormat(pixels="rgb", short_side_px=48), num_frames=num_frames)
    data.store(tmp_path / "s", settings)
    form = preprocessing(num_frames=num_frames)
    source = data.source(section(form, tmp_path / "s"), form)
    for before, clip in zip(data.clips, source.clips, strict=True):
        plan = plan_clip(clip, source.videos[clip.video], form)
        stored = read_frames(source.videos[clip.video], plan.indices)
        original = plan_clip(before, data.videos[before.video], form)
        decoded = read_frames(data.videos[before.video], original.indices)
        assert all(map(np.array_equal, stored, decoded))


def test_random_cuts_of_stored_frames(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    data.store(tmp_path / "s", FrameSettings(form=FrameFormat(pixels="i420", short_side_px=40), rate_fps=10))
    augmentation = Augmentation(views=None)
    source = data.source(section(form, tmp_path / "s"), form, augmentation=augmentation, name="train")
    assert source.provenance.startswith("5 of 5 clips are cut out of the frames stored in")
    assert source.provenance.endswith("which have been scaled once before")
    rng = np.random.default_rng(0)
    for clip in source.clips:
        video = source.videos[clip.video]
        plan = plan_clip(clip, video, form, augmentation=augmentation, rng=rng)
        assert read_plan(video, plan, form).shape == (NUM, 3, 32, 32)


def test_clips_that_are_not_stored_are_read_from_their_videos(data: Data, tmp_path: Path) -> None:
    all_clips = data.clips
    data.clips = all_clips[:3]
    data.store(tmp_path / "s", FrameSettings(form=FrameFormat(pixels="jpeg", short_side_px=40), num_frames=4))
    os.utime(data.root / "b.mp4", ns=(1, 1))
    data.clips = all_clips
    found = stored_videos(Store.open(tmp_path / "s"), data.clips, data.videos, root=data.root)
    assert (found.num_stored, found.num_stale) == (2, 1)
    assert [clip.video == before.video for clip, before in zip(found.clips, data.clips, strict=True)] == [
        False,
        True,
        False,
        True,
        True,
    ]


# Room


@pytest.mark.parametrize("pixels", ["rgb", "jpeg"])
def test_what_will_not_fit_is_refused_with_the_figures(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: str
) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr(room.shutil, "disk_usage", lambda _path: Usage())
    form = FrameFormat(pixels=pixels, short_side_px=40, quality=90 if pixels == "jpeg" else None)
    with pytest.raises(DataError, match=r"s: 5 clips take about .* and 100 bytes are free there; give a folder"):
        data.store(tmp_path / "s", FrameSettings(form=form, num_frames=4))
    assert not (tmp_path / "s").exists()  # so that a smaller one can be made there


def test_the_estimate_is_what_it_takes(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinema.preparation import storing

    said: list[int] = []
    monkeypatch.setattr(storing, "check_room", lambda _folder, num_bytes, _what: said.append(num_bytes))
    for pixels in ("rgb", "i420", "jpeg"):
        form = FrameFormat(pixels=pixels, short_side_px=40, quality=90 if pixels == "jpeg" else None)
        data.store(tmp_path / pixels, FrameSettings(form=form, num_frames=4))
        assert Store.open(tmp_path / pixels).num_bytes == pytest.approx(said[-1], rel=1e-3)
    data.store(tmp_path / "rgb", FrameSettings(form=FrameFormat(pixels="rgb", short_side_px=40), num_frames=4))
    assert said[-1] == 0


def test_a_job_looks_for_room_for_its_own_part(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 60_000  # the first two clips take 51,840 bytes, the other three 70,560

    monkeypatch.setattr(room.shutil, "disk_usage", lambda _path: Usage())
    settings = FrameSettings(form=FrameFormat(pixels="rgb", short_side_px=40), num_frames=4)
    with pytest.raises(DataError, match=r"5 clips take about"):
        data.store(tmp_path / "s", settings)
    with pytest.raises(DataError, match=r"3 clips take about"):
        data.store(tmp_path / "s", settings, shard=(2, 2))
    assert data.store(tmp_path / "s", settings, shard=(1, 2)).num_new == 2
