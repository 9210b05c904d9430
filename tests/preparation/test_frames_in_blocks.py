"""Stores of frames: clips that do not decode, and clips so long that they are stored in blocks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.preparation.test_frames import Data, numbers, preprocessing, read, section, settings_of

from kinema.data.decoding import probe
from kinema.data.frame_store import FrameFormat
from kinema.data.shards import Store
from kinema.data.stored_video import stored_videos
from kinema.preparation import frames
from kinema.preparation.frames import FrameSettings
from kinema.types import DataError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    return Data(tmp_path / "data")


# What does not decode


def test_a_clip_that_does_not_decode_is_known_to_the_store(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = preprocessing()
    path = data.root / "b.mp4"
    data.videos[path] = replace(data.videos[path], times_s=np.arange(40) / 10, duration_s=4.0)  # more than decode
    stored = data.store(tmp_path / "s", settings_of(form))
    assert (stored.num_asked, stored.num_new, list(stored.failures)) == (5, 4, ["b"])
    again = data.store(tmp_path / "s", settings_of(form))
    assert (again.num_before, again.num_new, again.failures) == (4, 0, stored.failures)
    source = data.source(section(form), form)
    assert source.store is not None
    assert source.store.whole
    with pytest.raises(DataError, match=r"b\.mp4: frame \d+ of 40 .* does not decode"):
        read(source, 1)
    # As soon as the file is another, it is tried again.
    os.utime(path, ns=(1, 1))
    data.videos[path] = probe(path)
    assert data.store(tmp_path / "s", settings_of(form)).num_new == 1
    assert data.source(section(form), form).store is not None


def test_what_may_be_the_machine_s_fault_is_tried_again(data: Data, tmp_path: Path) -> None:
    form = preprocessing()
    path = data.root / "b.mp4"
    away = path.rename(tmp_path / "away.mp4")
    files = frames.Files(data.root)
    files._states[path] = {"path": "b.mp4", "size": away.stat().st_size, "mtime_ns": away.stat().st_mtime_ns}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "Files", lambda _root: files)
        stored = data.store(tmp_path / "s", settings_of(form))
    assert list(stored.failures) == ["b"]
    assert Store.open(tmp_path / "s").failures() == {}
    away.rename(path)
    assert data.store(tmp_path / "s", settings_of(form)).num_new == 1


# Long clips


@pytest.mark.parametrize("pixels", ["i420", "rgb", "jpeg"])
def test_a_long_clip_is_stored_in_blocks(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: str
) -> None:
    monkeypatch.setattr(frames, "_FEWEST_FRAMES", 3)
    monkeypatch.setattr(frames, "_BLOCK_BYTES", 1)
    quality = 95 if pixels == "jpeg" else None
    settings = FrameSettings(form=FrameFormat(pixels=pixels, short_side_px=48, quality=quality), rate_fps=1000)
    stored = [data.store(tmp_path / "s", settings, shard=(number, 2)) for number in (1, 2)]
    assert sum(job.num_new for job in stored) == sum(job.num_asked for job in stored) == 5
    assert len(Store.open(tmp_path / "s")) > 5
    form = preprocessing()
    source = data.source(section(form, tmp_path / "s"), form)
    for before, clip in zip(data.clips, source.clips, strict=True):
        video = source.videos[clip.video]
        assert video.container == "store"
        first, last = data.videos[before.video].frames_at([before.start_s, (before.stop_s or 1e9) - 1e-9])
        shown = numbers(video, range(len(video.times_s)))
        assert shown == numbers(data.videos[before.video], range(first, last + 1))


def test_a_long_clip_that_is_not_there_in_full_is_read_from_its_video(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_FEWEST_FRAMES", 3)
    monkeypatch.setattr(frames, "_BLOCK_BYTES", 1)
    settings = FrameSettings(form=FrameFormat(pixels="rgb", short_side_px=48), rate_fps=10)
    data.store(tmp_path / "s", settings, shard=(1, 8))
    found = stored_videos(Store.open(tmp_path / "s"), data.clips, data.videos, root=data.root)
    assert (found.num_stored, len(Store.open(tmp_path / "s"))) == (0, 2)
    data.store(tmp_path / "s", settings)
    again = stored_videos(Store.open(tmp_path / "s"), data.clips, data.videos, root=data.root)
    assert again.num_stored == 5
    assert again.fingerprint != found.fingerprint
