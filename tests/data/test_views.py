"""Several looks at one clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import Video, probe
from kinema.data.geometry import centre_box
from kinema.data.loading import ClipReader
from kinema.data.reading import plan_clip
from kinema.data.views import ONE_VIEW, View, Views
from kinema.types import Clip, ConfigError, Preprocessing

RGB = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    path = tmp_path_factory.mktemp("views") / "clip.mp4"
    write_video(path, numbered_frames(20), fps=10)
    return probe(path)


def test_views_are_named_as_the_field_does() -> None:
    assert Views.parse("10x3") == Views(clips=10, crops=3)
    assert Views.parse("1x1") == ONE_VIEW
    assert list(ONE_VIEW) == [View()]
    assert len(Views(clips=10, crops=3)) == 30
    assert len(Views(clips=2, crops=3, flip=True)) == len(set(Views(clips=2, crops=3, flip=True))) == 12
    assert [view.crop for view in Views(crops=3)] == [0, 0.5, 1]
    for wrong in ("3", "0x1", "x", "3x0", "-1x1", "1x1x1"):
        with pytest.raises(ConfigError, match=r"--views: .* is not clips x crops"):
            Views.parse(wrong)


def test_whole_frames_have_no_crops() -> None:
    Views(clips=5).check(replace(RGB, fit="squash"))
    with pytest.raises(ConfigError, match="there is nothing to crop; take 5x1"):
        Views(clips=5, crops=3).check(replace(RGB, fit="squash"))


def test_the_views_of_a_clip_are_all_its_frames(video: Video) -> None:
    """Five choices of four frames are twenty frames, each once: frame averaging, for a model of one frame."""
    clip = Clip(clip_id="a", video=video.path)
    one_frame = replace(RGB, num_frames=1)
    for preprocessing, clips in ((RGB, 5), (one_frame, 20)):
        found = [plan_clip(clip, video, preprocessing, look=view).indices for view in Views(clips=clips)]
        assert sorted(index for indices in found for index in indices) == list(range(20))
    assert plan_clip(clip, video, RGB, look=View()) == plan_clip(clip, video, RGB)


@pytest.mark.parametrize(("height_px", "width_px"), [(100, 180), (180, 100)])
def test_crops_lie_along_the_longer_side(height_px: int, width_px: int) -> None:
    boxes = [centre_box(height_px, width_px, RGB, along=view.crop) for view in Views(crops=5)]
    places = [box.left_px + box.top_px for box in boxes]
    assert places == [0, 20, 40, 60, 80]
    assert all((box.height_px, box.width_px) == (100, 100) for box in boxes)
    assert boxes[2] == centre_box(height_px, width_px, RGB)


def test_a_reader_gives_a_view_in_each_epoch(video: Video) -> None:
    clip = Clip(clip_id="a", video=video.path)
    views = Views(clips=2, flip=True)
    reader = ClipReader([clip], {video.path: video}, {"rgb": RGB}, augmentation=None, seed=0, views=views)
    assert reader.num_views == 4
    numbers, flips = [], []
    for view in range(len(views)):
        out = {"rgb": np.zeros((4, 3, 32, 32), dtype=np.uint8)}
        flips.append(reader.read(0, view, out).flip)
        numbers.append(reader.plan(0, view)[0]["rgb"].indices)
    assert flips == [False, False, True, True]
    assert numbers[0] == numbers[2] == (1, 6, 11, 16)
    assert numbers[1] == numbers[3] == (3, 8, 13, 18)


def test_views_in_time_of_a_model_with_a_window_are_windows(video: Video) -> None:
    """From the clip's start to its end: 2 s are twenty frames, and half a second is five of them."""
    half = replace(RGB, num_frames=5, window_s=0.5)
    clip = Clip(clip_id="a", video=video.path)
    found = [plan_clip(clip, video, half, look=view).indices for view in Views(clips=4)]
    assert found == [tuple(range(start, start + 5)) for start in (0, 5, 10, 15)]
    (middle,) = (plan_clip(clip, video, half, look=view) for view in ONE_VIEW)
    assert middle == plan_clip(clip, video, half)
    assert middle.indices == (8, 9, 10, 11, 12)
    assert [plan_clip(clip, video, half, look=view).indices[0] for view in Views(clips=3)] == [0, 8, 15]


def test_views_of_a_clip_that_is_shorter_than_the_window_are_other_frames_of_it(video: Video) -> None:
    clip = Clip(clip_id="a", video=video.path)
    long = replace(RGB, window_s=2.0)
    for view in Views(clips=5):
        assert plan_clip(clip, video, long, look=view) == plan_clip(clip, video, RGB, look=view)
