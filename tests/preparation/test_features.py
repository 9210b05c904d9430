"""Stored features of a frozen backbone stand for the frames that they were computed from."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import Video, probe
from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.models.frame_average import frame_average
from kinema.models.frame_model import FrameModel
from kinema.preparation.features import FeatureReader, frozen_features, remove_leftovers
from kinema.sections import Augmentation
from kinema.types import Clip, Preprocessing

SMALL = Preprocessing(num_frames=3, size_px=32, resize_px=32, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
THREE_VIEWS = Augmentation(views=3, flip=0.5, min_scale=0.4, colour=0.3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        probe(write_video(folder / f"{number}.mp4", numbered_frames(12, first=50 * number), fps=10))
        for number in range(4)
    ]


def reader(videos: list[Video], augmentation: Augmentation | None = THREE_VIEWS, seed: int = 0) -> ClipReader:
    clips = [Clip(clip_id=video.path.stem, video=video.path, labels={"action": 0}) for video in videos]
    known = {video.path: video for video in videos}
    return ClipReader(clips, known, {"rgb": SMALL}, augmentation=augmentation, seed=seed)


def frozen_model(seed: int = 0) -> FrameModel:
    torch.manual_seed(seed)
    model = frame_average({"action": ("a", "b")}, {"rgb": SMALL.shape}, backbone="tiny")
    assert isinstance(model, FrameModel)
    model.backbone.freeze()
    return model


def stored(model: FrameModel, clips: ClipReader) -> FeatureReader:
    features = frozen_features(model, clips, batch_size=3, workers=0)
    assert features is not None
    return FeatureReader(features, clips)


@pytest.mark.parametrize("augmentation", [None, THREE_VIEWS])
def test_features_are_those_of_the_frames(cache: Path, videos: list[Video], augmentation: Augmentation | None) -> None:
    model, clips = frozen_model(), reader(videos, augmentation)
    features = stored(model, clips)
    order = EpochOrder(len(clips), batch_size=3, seed=1)
    seen = []
    for epoch in range(4):
        order.set_position(epoch=epoch, first_batch=0)
        for short, long in zip(
            clip_loader(features, order, workers=0), clip_loader(clips, order, workers=0), strict=True
        ):
            assert short.indices.tolist() == long.indices.tolist()
            assert short.labels["action"].tolist() == long.labels["action"].tolist()
            inputs = to_model_input(long.streams, clips.preprocessing, colour=long.colour, flip=long.flip)
            with torch.inference_mode():
                expected = model.eval().features(inputs["rgb"])
            assert short.features is not None
            torch.testing.assert_close(short.features.float(), expected, rtol=2e-3, atol=2e-3)
            if 0 in short.indices:
                seen.append(short.features[short.indices.tolist().index(0)].float())
    assert torch.equal(seen[0], seen[3])  # epochs take turns: the fourth has the first one's version again
    assert torch.equal(seen[0], seen[1]) == (augmentation is None)


def test_second_time_nothing_is_read(cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen_model()
    first = stored(model, reader(videos)).features
    monkeypatch.setattr(ClipReader, "read", None)
    assert np.array_equal(stored(model, reader(videos)).features, first)
    assert len(list(cache.glob("*.npy"))) == 1


def test_whatever_changes_features_changes_the_file(cache: Path, videos: list[Video]) -> None:
    stored(frozen_model(), reader(videos))
    stored(frozen_model(seed=1), reader(videos))
    stored(frozen_model(), reader(videos, seed=1))
    stored(frozen_model(), reader(videos, None))
    stored(frozen_model(), reader(videos[:3]))
    os.utime(videos[0].path, ns=(1, 1))
    stored(frozen_model(), reader(videos))
    assert len(list(cache.glob("*.npy"))) == 6


def test_a_clip_that_cannot_be_read_is_named_and_nothing_is_kept(
    cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    promised = replace(videos[1], times_s=np.arange(40) / 10, duration_s=4.0)  # more frames than decode
    model = frozen_model().train()
    assert frozen_features(model, reader([videos[0], promised, videos[2]]), batch_size=3, workers=0) is None
    assert f"a clip cannot be read: {videos[1].path}" in caplog.text
    assert not list(cache.iterdir())
    assert model.training


def test_a_video_that_is_gone_is_named(
    cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    gone = replace(videos[1], path=videos[1].path.with_name("gone.mp4"))
    assert frozen_features(frozen_model(), reader([videos[0], gone]), batch_size=3, workers=0) is None
    assert f"a clip cannot be read: {gone.path}: No such file" in caplog.text


def test_no_room_falls_back_to_frames(
    cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert frozen_features(frozen_model(), reader(videos), batch_size=3, workers=0) is None
    assert "No space left on device" in caplog.text
    assert not list(cache.iterdir())


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = platform.node()
    ours, elsewhere = f".a.npy.{here}.{os.getpid()}.tmp", f".a.npy.another-{here}.{dead.pid}.tmp"
    for name in (f".a.npy.{here}.{dead.pid}.tmp", ours, elsewhere):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ours, elsewhere}


def test_frames_at_another_rate_are_other_clips(tmp_path: Path, cache: Path) -> None:
    for number, image in enumerate(numbered_frames(20, first=7)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    found = {}
    for fps in (10.0, 20.0):
        clip = Clip(clip_id="a", video=tmp_path, stop_s=1.0, fps=fps, labels={"action": 0})
        video = probe(tmp_path, fps=fps)
        frames = ClipReader([clip], {tmp_path: video}, {"rgb": SMALL}, augmentation=None, seed=0)
        found[fps] = stored(frozen_model(), frames).features
    assert len(list(cache.glob("*.npy"))) == 2
    assert not np.array_equal(found[10.0], found[20.0])


@pytest.mark.parametrize("length", [0, 60, -100])
def test_a_broken_file_is_computed_again(cache: Path, videos: list[Video], length: int) -> None:
    first = np.array(stored(frozen_model(), reader(videos)).features)
    (path,) = cache.glob("*.npy")
    with path.open("r+b") as file:
        file.truncate(length if length >= 0 else path.stat().st_size + length)
    assert np.array_equal(stored(frozen_model(), reader(videos)).features, first)
    assert np.array_equal(np.load(path), first)
