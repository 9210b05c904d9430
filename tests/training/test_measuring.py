"""What `kinema data advise` measures: that it is there, in the time that was given, and of the recipe's own clips."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kinema.models.frame_model import FrameModel
from kinema.sections import Recipe
from kinema.training.measuring import decoding_rate, job_of, measure
from kinema.training.prepare import prepare
from kinema.types import DataError


def test_everything_is_measured_in_the_time_given(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    prepared = prepare(recipe("clips.augmentation.views=2"))
    assert isinstance(prepared.model, FrameModel)
    prepared.model.backbone.freeze()
    began_s = time.monotonic()
    measured = measure(prepared, seconds=1.0, store=tmp_path / "not" / "yet" / "there")
    assert time.monotonic() - began_s < 20  # one second, and what is begun is finished
    rates = (measured.decoded, measured.trained, measured.predicted, measured.backbone, measured.trained_on_features)
    assert all(rate is not None and rate > 0 for rate in rates)
    assert min(measured.disk_bytes, measured.copied_bytes, measured.memory_free, measured.disk_free) > 0
    assert not (tmp_path / "not").exists()


def test_a_backbone_that_is_trained_gives_no_features(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    measured = measure(prepare(recipe()), seconds=0.5, store=tmp_path)
    assert measured.backbone is measured.trained_on_features is None


def test_the_job_is_that_of_the_recipe(recipe: Callable[..., Recipe]) -> None:
    prepared = prepare(recipe("clips.augmentation.views=2"))
    job = job_of(prepared)
    assert (job.num_train, job.num_validation) == (len(prepared.clips["train"]), len(prepared.clips["validation"]))
    assert (job.epochs, job.views, job.num_frames, job.workers) == (3, 2, 4, 0)
    assert job.frame_bytes == math.prod(prepared.preprocessing["rgb"].frame_shape)
    assert job.num_features is not None
    assert job.frozen is False
    assert job.num_videos == len(prepared.videos)


def test_clips_that_cannot_be_read_are_an_error(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    prepared = prepare(recipe())
    gone = {path: replace(video, path=tmp_path / "gone.mp4") for path, video in prepared.videos.items()}
    with pytest.raises(DataError, match=r"no training clip can be read; the last: .*gone\.mp4"):
        decoding_rate(replace(prepared, videos=gone), seconds=0.2)
