"""Stored features of a frozen backbone stand for the frames that they were computed from."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import Video, probe
from kinema.data.device import to_model_input
from kinema.data.frame_store import Files
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.shards import Store
from kinema.models.cnn_conv_lstm import cnn_conv_lstm
from kinema.models.frame_average import frame_average
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import Arithmetic, FrameBackbone
from kinema.preparation.arithmetic import Look, agreed_arithmetic
from kinema.preparation.feature_store import FeatureReader, clip_keys
from kinema.preparation.features import frozen_features, prepare_features
from kinema.sections import Augmentation
from kinema.types import Clip, DataError, Preprocessing

SMALL = Preprocessing(num_frames=3, size_px=32, resize_px=32, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
THREE_VIEWS = Augmentation(views=3, flip=0.5, min_scale=0.4, colour=0.3)
CHANGED = Augmentation.model_validate(
    {"preset": "aggressive", "views": 3, "rand_augment": 1, "blur": 0.5, "frame_stride": [1, 4]}
)


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


def stored(model: FrameModel, clips: ClipReader, **settings: Any) -> FeatureReader:
    features = frozen_features(model.backbone, clips, batch_size=3, workers=0, **settings)
    assert features is not None
    return features


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the clips that are decoded from now on."""
    seen: list[int] = []
    read = ClipReader.read

    def counted(self: ClipReader, index: int, epoch: int, out: Any) -> Any:
        seen.append(index)
        return read(self, index, epoch, out)

    monkeypatch.setattr(ClipReader, "read", counted)
    return seen


@pytest.mark.parametrize("augmentation", [None, THREE_VIEWS, CHANGED])
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
            inputs = to_model_input(
                long.streams, clips.preprocessing, colour=long.colour, flip=long.flip, changes=long.changes
            )
            with torch.inference_mode():
                expected = model.eval().features(inputs["rgb"])
            assert short.features is not None
            torch.testing.assert_close(short.features.float(), expected, rtol=2e-3, atol=2e-3)
            if 0 in short.indices:
                seen.append(short.features[short.indices.tolist().index(0)].float().clone())
    assert torch.equal(seen[0], seen[3])  # epochs take turns: the fourth has the first one's version again
    assert torch.equal(seen[0], seen[1]) == (augmentation is None)


def test_a_module_that_takes_maps_gets_stored_maps(cache: Path, videos: list[Video]) -> None:
    torch.manual_seed(0)
    model = cnn_conv_lstm({"action": ("a", "b")}, {"rgb": SMALL.shape}, backbone="tiny", channels=4).eval()
    assert isinstance(model, FrameModel)
    model.backbone.freeze()
    clips = reader(videos)
    features = stored(model, clips, maps=model.takes_maps)
    assert features.form.shape[1:] == model.feature_shape(SMALL.size_px)
    order = EpochOrder(len(clips), batch_size=3, seed=None)
    (short, *_), (long, *_) = clip_loader(features, order, workers=0), clip_loader(clips, order, workers=0)
    assert short.features is not None
    with torch.inference_mode():
        expected = model(to_model_input(long.streams, clips.preprocessing))["action"]
        found = model.classify(short.features.float())["action"]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "more", [{"hue": 0.1}, {"grey": 0.99}, {"blur": 0.99}, {"erase": 0.99}, {"rotation_deg": 5}, {"rand_augment": 1}]
)
def test_features_are_of_one_augmentation(videos: list[Video], more: dict[str, Any]) -> None:
    """Whatever is changed on the device is in the keys; where nothing is, they are what they always were."""
    plain = {"views": 2, "flip": 0.5, "min_scale": 1.0}
    keys = [clip_keys(reader(videos, Augmentation.model_validate({**plain, **m})), Files(None))[0] for m in ({}, more)]
    assert (keys[0] != keys[1]).any(axis=2).all()
    weaker = {"rand_augment": 1, "rand_magnitude": 3} if "rand_augment" in more else {k: v / 2 for k, v in more.items()}
    other = clip_keys(reader(videos, Augmentation.model_validate({**plain, **weaker})), Files(None))[0]
    assert (other != keys[1]).any()


def test_second_time_nothing_is_read(cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen_model()
    first = stored(model, reader(videos)).values()
    monkeypatch.setattr(ClipReader, "read", None)
    assert np.array_equal(stored(model, reader(videos)).values(), first)
    assert len(list(cache.iterdir())) == 1


def test_whatever_changes_features_is_computed_again(
    cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(frozen_model(), reader(videos))
    seen = count_computed(monkeypatch)

    def computed(model: FrameModel, clips: ClipReader) -> list[int]:
        seen.clear()
        stored(model, clips)
        return sorted(seen)

    thrice = sorted([*range(4)] * 3)
    assert computed(frozen_model(), reader(videos)) == []
    assert computed(frozen_model(seed=1), reader(videos)) == thrice
    assert computed(frozen_model(), reader(videos, seed=1)) == thrice
    assert computed(frozen_model(), reader(videos, None)) == [0, 1, 2, 3]
    other = reader(videos, None)
    other.preprocessing = {"rgb": replace(SMALL, mean=(0.4,) * 3)}
    assert computed(frozen_model(), other) == [0, 1, 2, 3]
    other.preprocessing = {"rgb": replace(SMALL, window_s=0.3)}
    assert computed(frozen_model(), other) == [0, 1, 2, 3]
    assert len(list(cache.iterdir())) == 4  # weights, normalisation and windows have stores of their own


def test_a_new_or_changed_clip_costs_only_itself(
    cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(frozen_model(), reader(videos[:3], None))
    seen = count_computed(monkeypatch)
    stored(frozen_model(), reader(videos, None))
    assert seen == [3]
    seen.clear()
    stored(frozen_model(), reader(videos[1:], None))  # positions in the list do not matter
    assert seen == []
    before = videos[0].path.stat()
    os.utime(videos[0].path, ns=(1, 1))
    try:
        stored(frozen_model(), reader(videos, None))
        assert seen == [0]
    finally:
        os.utime(videos[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_data_set_may_be_moved(cache: Path, videos: list[Video], tmp_path: Path, monkeypatch: Any) -> None:
    stored(frozen_model(), reader(videos, None), root=videos[0].path.parent)
    moved = []
    for video in videos:
        path = tmp_path / "moved" / video.path.name
        path.parent.mkdir(exist_ok=True)
        shutil.copy2(video.path, path)
        moved.append(probe(path))
    seen = count_computed(monkeypatch)
    stored(frozen_model(), reader(moved, None), root=tmp_path / "moved")
    assert seen == []


def test_a_clip_that_cannot_be_read_is_named_as_without_a_store(cache: Path, videos: list[Video]) -> None:
    promised = replace(videos[1], times_s=np.arange(40) / 10, duration_s=4.0)  # more frames than decode
    gone = replace(videos[2], path=videos[2].path.with_name("gone.mp4"))
    clips = reader([videos[0], promised, gone, videos[3]], None)
    model = frozen_model()
    features = stored(model, clips)
    order = EpochOrder(4, batch_size=4, seed=None)
    (batch,) = clip_loader(features, order, workers=0)
    assert batch.indices.tolist() == [0, 3]
    assert batch.failures.keys() == {1, 2}
    assert str(videos[1].path) in batch.failures[1]
    assert batch.failures[2] == f"{gone.path}: cannot be read: No such file or directory"


def test_no_room_falls_back_to_frames(
    cache: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    model = frozen_model()
    assert frozen_features(model.backbone, reader(videos), batch_size=3, workers=0) is None
    assert "features are not kept" in caplog.text
    assert "12 clips take about 9.22 kB and 1 kB are free there" in caplog.text


def test_too_much_is_not_written_unasked(
    cache: Path,
    videos: list[Video],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    monkeypatch.setattr("kinema.preparation.features.LARGEST_BYTES", 1000)
    backbone, store = frozen_model().backbone, tmp_path / "store"
    with caplog.at_level(logging.INFO, "kinema"):
        assert frozen_features(backbone, reader(videos), batch_size=3, workers=0) is None
    assert "kinema data prepare --features" in caplog.text
    assert not cache.exists()
    prepare_features(backbone, [reader(videos)], store, root=None, batch_size=3, workers=0)
    assert len(stored(frozen_model(), reader(videos), folder=store)) == 4


@pytest.mark.parametrize("stored_as", ["fp16", "fp32"])
@pytest.mark.parametrize("maps", [False, True])
def test_a_prepared_store(
    videos: list[Video], tmp_path: Path, stored_as: Literal["fp16", "fp32"], maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clips, store = frozen_model(), reader(videos, None), tmp_path / "store"
    settings: dict[str, Any] = {"root": None, "stored_as": stored_as, "maps": maps, "batch_size": 3, "workers": 0}
    done = prepare_features(model.backbone, [clips], store, **settings)
    shape = (3, 64, 2, 2) if maps else (3, 128)
    size = {"fp16": 2, "fp32": 4}[stored_as]
    assert (done.num_asked, done.num_before, done.num_new, done.failures) == (4, 0, 4, {})
    assert done.num_bytes == 4 * size * int(np.prod(shape))
    again = prepare_features(model.backbone, [clips], store, **settings)
    assert (again.num_new, again.num_before) == (0, 4)
    if maps:
        with pytest.raises(DataError, match=r"clips.store: .* holds feature maps, .*; prepare it without --maps"):
            stored(model, clips, folder=store)
        return
    monkeypatch.setattr(ClipReader, "read", None)
    features = stored(model, clips, folder=store)
    assert features.layout() == {"features": (shape, np.dtype(f"float{8 * size}"))}
    with pytest.raises(DataError, match=r"clips.store: .* holds features of something else: weights is"):
        stored(frozen_model(seed=1), clips, folder=store)
    other = reader(videos, None)
    other.preprocessing = {"rgb": replace(SMALL, num_frames=2)}
    with pytest.raises(DataError, match=r"num_frames is 3 there and 2 here"):
        stored(model, other, folder=store)


def test_a_prepared_store_is_found(cache: Path, videos: list[Video], tmp_path: Path, monkeypatch: Any) -> None:
    clips, settings = reader(videos), {"root": None, "batch_size": 3, "workers": 0}
    prepare_features(frozen_model().backbone, [clips], tmp_path / "store", stored_as="fp32", **settings)  # type: ignore[arg-type]
    seen = count_computed(monkeypatch)
    features = stored(frozen_model(), clips)
    assert (features.folders, features.form.stored_as, seen) == ([tmp_path / "store"], "fp32", [])
    assert not cache.exists()
    assert [folder.parent for folder in stored(frozen_model(seed=1), clips).folders] == [
        cache
    ]  # of something else: not taken


@pytest.mark.parametrize("named", [False, True])
def test_a_store_with_a_clip_that_does_not_decode_is_complete(
    cache: Path, videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    promised = replace(videos[1], times_s=np.arange(40) / 10, duration_s=4.0)  # more frames than decode
    clips, settings = reader([videos[0], promised], None), {"root": None, "batch_size": 3, "workers": 0}
    done = prepare_features(frozen_model().backbone, [clips], tmp_path / "store", **settings)  # type: ignore[arg-type]
    assert (done.num_new, list(done.failures)) == (1, ["1"])
    again = prepare_features(frozen_model().backbone, [clips], tmp_path / "store", **settings)  # type: ignore[arg-type]
    assert (again.num_before, again.num_new, again.failures) == (1, 0, done.failures)
    monkeypatch.setattr("kinema.preparation.storing.ShardWriter", None)
    features = stored(frozen_model(), clips, folder=tmp_path / "store" if named else None)
    assert features.folders == [tmp_path / "store"]
    assert not cache.exists()
    (batch,) = clip_loader(features, EpochOrder(2, batch_size=2, seed=None), workers=0)
    assert batch.indices.tolist() == [0]
    assert "does not decode" in batch.failures[1]


@pytest.mark.parametrize("named", [False, True])
def test_what_a_prepared_store_lacks_is_kept_in_the_cache(
    cache: Path, videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    store, settings = tmp_path / "store", {"root": None, "batch_size": 3, "workers": 0, "stored_as": "fp32"}
    prepare_features(frozen_model().backbone, [reader(videos[:3], None)], store, **settings)  # type: ignore[arg-type]
    size, seen = (store / "1-of-1.idx").stat().st_size, count_computed(monkeypatch)
    folder = store if named else None
    features = stored(frozen_model(), reader(videos, None), folder=folder)
    assert seen == [3]
    assert (features.form.stored_as, len(features.folders)) == ("fp32", 2)
    assert (store / "1-of-1.idx").stat().st_size == size
    again = stored(frozen_model(), reader(videos, None), folder=folder)
    assert seen == [3]
    assert again.source == features.source
    assert np.array_equal(again.values(), features.values())
    monkeypatch.setattr("kinema.preparation.features.LARGEST_BYTES", 10)
    shutil.rmtree(cache)
    if named:
        with pytest.raises(DataError, match=r"clips.store: .* lacks features of 1 clips, .* kinema data prepare"):
            stored(frozen_model(), reader(videos, None), folder=folder)
    else:
        assert frozen_features(frozen_model().backbone, reader(videos, None), batch_size=3, workers=0) is None


def test_nothing_is_computed_where_it_is_only_looked_up(cache: Path, videos: list[Video], tmp_path: Path) -> None:
    backbone = frozen_model().backbone
    look: dict[str, Any] = {"batch_size": 3, "workers": 0, "compute": False}
    assert frozen_features(backbone, reader(videos, None), **look) is None
    stored(frozen_model(), reader(videos[:3], None))
    assert frozen_features(backbone, reader(videos, None), **look) is None
    assert frozen_features(backbone, reader(videos[:3], None), **look) is not None


def test_jobs_share_the_work(videos: list[Video], tmp_path: Path) -> None:
    model, clips = frozen_model(), reader(videos)
    settings: dict[str, Any] = {"root": None, "batch_size": 3, "workers": 0}
    jobs = [prepare_features(model.backbone, [clips], tmp_path, shard=(i, 3), **settings) for i in (1, 2, 3)]
    assert sum(job.num_new for job in jobs) == sum(job.num_asked for job in jobs) == 12
    assert max(job.num_new for job in jobs) < 12
    assert len(Store.open(tmp_path)) == 12


def test_a_store_that_would_not_fit_is_refused(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"12 clips take about 9.22 kB and 1 kB are free there"):
        prepare_features(frozen_model().backbone, [reader(videos)], tmp_path, root=None, batch_size=3, workers=0)


def test_features_that_fp16_cannot_hold(videos: list[Video], tmp_path: Path) -> None:
    backbone = frozen_model().backbone
    with torch.no_grad():
        backbone.body.project[2].weight.fill_(1e9)  # type: ignore[index,union-attr]
    settings: dict[str, Any] = {"root": None, "batch_size": 3, "workers": 0}
    with pytest.raises(DataError, match=r"too large for fp16; store fp32"):
        prepare_features(backbone, [reader(videos)], tmp_path / "half", **settings)
    assert prepare_features(backbone, [reader(videos)], tmp_path / "full", stored_as="fp32", **settings).num_new


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.preparation.test_features import frozen_model, probe, reader
from kinema.data.shards import ShardWriter
from kinema.preparation.features import prepare_features
append, left = ShardWriter.append, int(sys.argv[2])
def few(self, *arguments):
    global left
    append(self, *arguments)
    self.commit()
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
ShardWriter.append = few
videos = [probe(Path(path)) for path in sys.argv[3:]]
prepare_features(frozen_model().backbone, [reader(videos)], Path(sys.argv[1]), root=None, batch_size=2, workers=0)
"""


def test_a_killed_job_goes_on_where_it_was(
    videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", KILLED, str(store), "5", *(str(video.path) for video in videos)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert len(Store.open(store)) == 5
    seen = count_computed(monkeypatch)
    done = prepare_features(frozen_model().backbone, [reader(videos)], store, root=None, batch_size=2, workers=0)
    assert (done.num_before, done.num_new, len(seen)) == (5, 7, 7)
    prepare_features(frozen_model().backbone, [reader(videos)], tmp_path / "b", root=None, batch_size=2, workers=0)
    whole, other = Store.open(store), Store.open(tmp_path / "b")
    assert set(whole.keys()) == set(other.keys())
    assert all(np.array_equal(whole.get(key), other.get(key)) for key in set(whole.keys()))
    assert not whole.damaged()


def test_frames_at_another_rate_are_other_clips(tmp_path: Path, cache: Path) -> None:
    for number, image in enumerate(numbered_frames(20, first=7)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    found = {}
    for fps in (10.0, 20.0):
        clip = Clip(clip_id="a", video=tmp_path, stop_s=1.0, fps=fps, labels={"action": 0})
        video = probe(tmp_path, fps=fps)
        frames = ClipReader([clip], {tmp_path: video}, {"rgb": SMALL}, augmentation=None, seed=0)
        found[fps] = stored(frozen_model(), frames).values()
    assert not np.array_equal(found[10.0], found[20.0])


@pytest.mark.parametrize("suffix", ["bin", "idx"])
@pytest.mark.parametrize("length", [0, 60, -100])
def test_a_broken_store_of_the_cache_is_computed_again(
    cache: Path, videos: list[Video], length: int, suffix: str
) -> None:
    first = stored(frozen_model(), reader(videos)).values()
    (path,) = cache.glob(f"*/*.{suffix}")
    with path.open("r+b") as file:
        file.truncate(length if length >= 0 else path.stat().st_size + length)
    assert np.array_equal(stored(frozen_model(), reader(videos)).values(), first)


def test_a_store_that_another_run_is_just_beginning_is_left_alone(cache: Path, videos: list[Video]) -> None:
    backbone = frozen_model().backbone
    assert frozen_features(backbone, reader(videos), batch_size=3, workers=0) is not None
    (description,) = cache.glob("*/store.json")
    description.unlink()  # it is written after the folder is made
    before = sorted(description.parent.iterdir())
    assert before
    assert frozen_features(backbone, reader(videos), batch_size=3, workers=0, compute=False) is None
    assert sorted(description.parent.iterdir()) == before


def test_bits_are_saved_only_where_predictions_agree(
    videos: list[Video], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.INFO, "kinema")
    backbone, clips = frozen_model().backbone, reader(videos)
    many = [replace(clip, labels={"action": number % 2}) for number, clip in enumerate([*clips.clips] * 30)]
    many = [replace(clip, clip_id=str(n), stop_s=0.4 + n / 200) for n, clip in enumerate(many)]
    sample = ClipReader(many, clips.videos, clips.preprocessing, augmentation=None, seed=0)

    def chosen(reader: ClipReader) -> Arithmetic:
        return agreed_arithmetic(backbone, Look(reader=reader, batch_size=16, workers=0), "bf16")

    assert chosen(clips) == "fp32"
    assert "4 clips are too few" in caplog.text
    monkeypatch.setattr("kinema.preparation.arithmetic.predictions_agree", lambda *_: 0.996)
    assert chosen(sample) == "bf16"
    monkeypatch.undo()
    run = type(backbone).forward

    def disagreeing(self: FrameBackbone, frames: torch.Tensor) -> torch.Tensor:
        values = run(self, frames)
        return values if self.arithmetic == "fp32" else values.flip(0)

    monkeypatch.setattr(type(backbone), "forward", disagreeing)
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.INFO, "kinema")
    monkeypatch.setattr("kinema.preparation.arithmetic.predictions_agree", lambda *_: 0.99)
    assert chosen(sample) == "fp32"
    assert "features in fp32: on 120 training clips" in caplog.text
    assert backbone.arithmetic == "fp32"
