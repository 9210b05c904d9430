"""The arithmetic of `kinema data advise`, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kinema.preparation.advice import Advice, Job, Measured, Way, advise

GB = 10**9

MEASURED = Measured(
    disk_bytes=100e6,
    decoded=10.0,
    trained=20.0,
    predicted=50.0,
    backbone=25.0,
    trained_on_features=1000.0,
    copied_bytes=1.5e9,
    memory_free=16 * GB,
    disk_free=100 * GB,
)
JOB = Job(
    num_train=1000,
    num_validation=100,
    epochs=20,
    views=4,
    num_frames=20,
    frame_bytes=75_000,
    num_features=1280,
    frozen=True,
    cores=2,
    workers=2,
    on_gpu=False,
    num_videos=1100,
    video_s=4.0,
    video_frames=100,
    clip_frames=100,
    group_frames=50,
    height_px=240,
    width_px=320,
    resize_px=224,
)


def ways(advice: Advice) -> dict[str, Way]:
    return {way.name: way for way in advice.ways}


def test_without_a_store_workers_and_model_share_the_cores() -> None:
    plain = advise(MEASURED, JOB).ways[0]
    # 1000 clips: 100 s of decoding on both cores, then 50 s of training; 100 clips: 10 s and 2 s.
    assert plain.epoch_s == pytest.approx(162)
    assert plain.total_s == pytest.approx(20 * 162)
    assert advise(MEASURED, replace(JOB, workers=0)).ways[0].epoch_s == pytest.approx(162)
    # One of two workers' cores: decoding takes half of what both can do.
    assert advise(MEASURED, replace(JOB, workers=1)).ways[0].epoch_s == pytest.approx(100 / 2 + 50 + 10)
    assert advise(MEASURED, replace(JOB, on_gpu=True)).ways[0].epoch_s == pytest.approx(100 + 10)


def test_frames_are_copied_from_memory_or_read_from_the_disk() -> None:
    frames = ways(advise(MEASURED, JOB))["frames"]
    assert frames.num_bytes == 4100 * 20 * 75_000
    assert frames.build_s == pytest.approx(410)
    assert frames.epoch_s == pytest.approx(1000 / 1000 + 50 + 0.1 + 2)  # 1.5 GB/s / 1.5 MB a clip
    assert frames.total_s == pytest.approx(410 + 20 * 53.1)
    assert frames.pays_after == 4  # 410 s / 108.9 s
    little = ways(advise(replace(MEASURED, memory_free=1 * GB), JOB))["frames"]
    assert little.epoch_s == pytest.approx(1000 * 1.5 / 100 + 50 + 1.5 + 2)


def test_features_are_the_advice_where_the_backbone_is_frozen() -> None:
    advice = advise(MEASURED, JOB)
    features = ways(advice)["features"]
    assert features.num_bytes == 4100 * 20 * 1280 * 2
    assert features.build_s == pytest.approx(4100 / 10 + 4100 / 25)
    assert features.epoch_s == pytest.approx(1 + 100 / 3000)
    assert advice.best is features


def test_what_cannot_be_stored_says_why() -> None:
    found = ways(advise(replace(MEASURED, backbone=None, trained_on_features=None), replace(JOB, views=None)))
    assert "init.freeze=backbone" in (found["features"].refused or "")
    assert "clips.augmentation.views" in (found["frames"].refused or "")
    assert "most of their videos" in (found["transcode"].refused or "")
    assert advise(MEASURED, replace(JOB, views=None)).best.name == "no store"


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    found = advise(replace(MEASURED, disk_free=1 * GB), JOB)
    assert ways(found)["frames"].refused == "it does not fit: it takes 6.15 GB, 1 GB are free"
    assert found.best.name == "features"


def test_nothing_is_advised_where_it_would_not_pay() -> None:
    assert advise(MEASURED, replace(JOB, epochs=1)).best.name == "no store"
    slow_model = replace(MEASURED, trained=0.1, trained_on_features=0.1)
    assert advise(slow_model, JOB).best.name == "no store"
    assert ways(advise(replace(MEASURED, trained_on_features=0.1), JOB))["features"].pays_after is None


def test_long_videos_are_transcoded() -> None:
    job = replace(
        JOB, views=None, num_videos=10, video_s=600, video_frames=18_000, clip_frames=60, group_frames=240,
        height_px=1080, width_px=1920, resize_px=216,
    )  # fmt: skip
    advice = advise(MEASURED, job)
    transcode = ways(advice)["transcode"]
    # 60 + 120 frames become 60 + 6, of a 25th of the pixels.
    assert transcode.epoch_s == pytest.approx(162 - 110 * (1 - 66 / 180 / 25))
    assert transcode.build_s == pytest.approx(2 * 180_000 / (10 * 180))
    assert advice.best is transcode
    assert ways(advise(MEASURED, replace(job, group_frames=None)))["transcode"].refused


def test_features_that_training_keeps_by_itself_need_no_store() -> None:
    num_bytes = (1000 * 4 + 100) * 20 * 1280 * 2
    kept = advise(MEASURED, replace(JOB, kept_bytes=num_bytes))
    plain, features = kept.ways[0], ways(kept)["features"]
    assert kept.best is plain
    assert (plain.num_bytes, plain.total_s) == (num_bytes, features.total_s)
    assert features.pays_after is None
    too_many = advise(MEASURED, replace(JOB, kept_bytes=num_bytes - 1))
    assert too_many.best.name == "features"
    assert too_many.ways[0].total_s == pytest.approx(20 * 162)
