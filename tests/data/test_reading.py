"""From a clip to frames: the right ones, cut and mirrored alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.videos import Image, numbered_frames, read_number, write_video
from torch import Tensor

from kinema.data.decoding import Video, probe, read_frames
from kinema.data.geometry import Box, random_box
from kinema.data.reading import clip_interval_s, plan_clip, plan_of_view, read_clip, read_plan, to_size
from kinema.data.sampling import sample_times_s
from kinema.sections import Augmentation
from kinema.types import Clip, DataError, Preprocessing

SQUASH = Preprocessing(num_frames=5, size_px=48, resize_px=48, fit="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
STILL = Augmentation(jitter=False, flip=0, min_scale=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """40 numbered frames at 10 fps."""
    path = tmp_path_factory.mktemp("reading") / "numbered.mp4"
    return probe(write_video(path, numbered_frames(40), fps=10, options={"bf": "2", "crf": "12"}))


def clip_of(video: Video, start_s: float = 0.0, stop_s: float | None = None) -> Clip:
    return Clip(clip_id="a", video=video.path, start_s=start_s, stop_s=stop_s, labels={"action": 0})


def numbers(frames: Tensor) -> list[int]:
    return [read_number(frame.permute(1, 2, 0).numpy()) for frame in frames]


def read_augmented(clip: Clip, video: Video, preprocessing: Preprocessing, **random: Any) -> torch.Tensor:
    plan = plan_clip(clip, video, preprocessing, **random)
    frames = torch.from_numpy(read_plan(video, plan, preprocessing))
    return frames.flip(-1) if plan.flip else frames


def test_frames_are_those_on_display_at_the_times(video: Video) -> None:
    frames = read_clip(clip_of(video), video, SQUASH)
    assert frames.shape == (5, 3, 48, 48)
    assert frames.dtype == torch.uint8
    assert frames.is_contiguous()
    # Middles of fifths of 4 s: 0.4, 1.2, ... s, at 10 frames per second.
    assert numbers(frames) == [4, 12, 20, 28, 36]


def test_the_last_frame_is_before_the_end_of_the_clip(video: Video) -> None:
    many = replace(SQUASH, num_frames=20)
    assert set(numbers(read_clip(clip_of(video, 1.0, 2.0), video, many))) == set(range(10, 20))


def test_a_clip_shorter_than_a_frame_repeats_it(video: Video) -> None:
    assert numbers(read_clip(clip_of(video, 1.04, 1.06), video, SQUASH)) == [10] * 5


def test_variable_frame_rates_are_sampled_in_time(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 0.2, 0.3, 2.0, 3.9]
    path = write_video(tmp_path / "variable.mp4", numbered_frames(6), fps=10, times_s=times_s)
    uneven = probe(path)
    frames = read_clip(clip_of(uneven, 0.0, 4.0), uneven, SQUASH)
    # 0.4, 1.2, 2.0, 2.8, 3.6 s: mostly the two frames that stay long.
    assert numbers(frames) == [3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    ("start_s", "stop_s"), [(0.0, 4.2), (4.0, None), (-0.1, 1.0), (2.0, 1.0), (1.0, 1.0), (5.0, 6.0)]
)
def test_times_outside_the_video_are_refused(video: Video, start_s: float, stop_s: float | None) -> None:
    with pytest.raises(DataError) as caught:
        read_clip(clip_of(video, start_s, stop_s), video, SQUASH)
    assert str(caught.value).startswith(f"{video.path}: the clip 'a' is annotated from {start_s:g} to ")
    assert "but the video is 4.000 s long" in str(caught.value)


def test_half_a_frame_too_long_is_forgiven(video: Video) -> None:
    assert clip_interval_s(clip_of(video, 3.0, 4.04), video) == (3.0, 4.0)


@pytest.mark.parametrize(("start_s", "stop_s"), [(4.0, 4.04), (4.01, 4.04), (float("nan"), 1.0), (0.0, float("nan"))])
def test_nothing_of_a_clip_behind_the_last_frame_is_not_forgiven(video: Video, start_s: float, stop_s: float) -> None:
    with pytest.raises(DataError, match="mend its times"):
        clip_interval_s(clip_of(video, start_s, stop_s), video)


def test_without_randomness_augmentation_changes_nothing(video: Video) -> None:
    plain = read_clip(clip_of(video), video, SQUASH)
    augmented = read_augmented(clip_of(video), video, SQUASH, augmentation=STILL, rng=np.random.default_rng(0))
    assert torch.equal(augmented, plain)


def test_a_flip_mirrors_every_frame(video: Video) -> None:
    plain = read_clip(clip_of(video), video, SQUASH)
    always = Augmentation(jitter=False, flip=float(np.nextafter(1, 0)), min_scale=1)
    flipped = read_augmented(clip_of(video), video, SQUASH, augmentation=always, rng=np.random.default_rng(0))
    assert torch.equal(flipped, plain.flip(-1))
    assert not torch.equal(flipped, plain)


def test_half_of_the_clips_are_flipped(video: Video) -> None:
    half = Augmentation(jitter=False, flip=0.5, min_scale=1)
    plain = read_clip(clip_of(video), video, SQUASH)
    flips = [
        not torch.equal(
            read_augmented(clip_of(video), video, SQUASH, augmentation=half, rng=np.random.default_rng(s)), plain
        )
        for s in range(30)
    ]
    assert 5 < sum(flips) < 25


def test_a_random_cut_is_the_same_in_all_frames(video: Video) -> None:
    cut = Augmentation(jitter=False, flip=0, min_scale=0.3)
    found = read_augmented(clip_of(video), video, SQUASH, augmentation=cut, rng=np.random.default_rng(3))
    box = random_box(video.height_px, video.width_px, SQUASH, min_scale=0.3, rng=np.random.default_rng(3))
    assert box.height_px < video.height_px
    frames = read_frames(video, video.frames_at(sample_times_s(0, 4, num_frames=5)))
    assert torch.equal(found, to_size(frames, box, 48))


def test_jitter_moves_each_frame_inside_its_own_part(video: Video) -> None:
    jitter = Augmentation(jitter=True, flip=0, min_scale=1)
    seen = [
        numbers(read_augmented(clip_of(video), video, SQUASH, augmentation=jitter, rng=np.random.default_rng(seed)))
        for seed in range(12)
    ]
    assert len({tuple(found) for found in seen}) > 1
    for found in seen:
        assert [number // 8 for number in found] == [0, 1, 2, 3, 4]


def test_cutting_out_without_scaling_keeps_the_pixels() -> None:
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    box = Box(top_px=1, left_px=2, height_px=4, width_px=4)
    found = to_size([frame, frame[::-1]], box, 4)
    assert torch.equal(found[0], torch.from_numpy(frame[1:5, 2:6].copy()).permute(2, 0, 1))
    assert torch.equal(found[1], torch.from_numpy(frame[::-1][1:5, 2:6].copy()).permute(2, 0, 1))


def test_scaling_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, 1::4] = stripes[:, 2::4] = 255
    small = to_size([stripes], Box(top_px=0, left_px=0, height_px=64, width_px=64), 16)
    # Half of the columns are white, and without antialiasing those alone would be seen.
    assert ((small >= 110) & (small <= 145)).all()


def test_a_frame_of_one_colour_keeps_it() -> None:
    frame: Image = np.full((30, 50, 3), (10, 128, 250), dtype=np.uint8)
    found = to_size([frame], Box(top_px=3, left_px=4, height_px=20, width_px=33), 24)
    assert (found == torch.tensor([10, 128, 250], dtype=torch.uint8).view(1, 3, 1, 1)).all()


def test_a_random_frame_rate(video: Video) -> None:
    """Frames of the clip's own stretch, as far apart as drawn; of a clip that is too short what evaluation takes."""
    stride = Augmentation.model_validate({"preset": "none", "frame_stride": [1, 3], "jitter": True})
    seen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = numbers(read_augmented(clip_of(video, 1.0, 3.0), video, SQUASH, augmentation=stride, rng=rng))
        assert 10 <= found[0] <= found[-1] < 30
        seen.add(found[1] - found[0])
        assert len(set(np.diff(found).tolist())) == 1
    assert seen == {1, 2, 3}
    short = clip_of(video, 1.0, 1.4)
    still = stride.model_copy(update={"jitter": False})
    found = numbers(read_augmented(short, video, SQUASH, augmentation=still, rng=np.random.default_rng(0)))
    assert found == numbers(read_clip(short, video, SQUASH))


def test_multi_scale_and_stretched_crops_are_read(video: Video) -> None:
    for more in ({"multi_scale": [0.75, 0.5]}, {"min_scale": 0.4, "max_aspect": 1.5}):
        cut = Augmentation.model_validate({"preset": "none", **more})
        plans = [
            plan_clip(clip_of(video), video, SQUASH, augmentation=cut, rng=np.random.default_rng(seed))
            for seed in range(10)
        ]
        assert len({plan.box for plan in plans}) > 5
        assert len({plan.indices for plan in plans}) == 1


@pytest.mark.parametrize("fps", [15, 60])
def test_a_window_is_the_same_stretch_at_every_rate(tmp_path: Path, fps: int) -> None:
    """One second in the middle of three, and of a clip that lies in a longer video."""
    small = probe(write_video(tmp_path / "a.mp4", numbered_frames(3 * fps), fps=fps))
    second = replace(SQUASH, window_s=1.0)
    times_s = small.times_s[list(plan_clip(clip_of(small), small, second).indices)]
    assert np.abs(times_s - (1.1, 1.3, 1.5, 1.7, 1.9)).max() <= 1 / fps
    times_s = small.times_s[list(plan_clip(clip_of(small, 1.5), small, second).indices)]
    assert np.abs(times_s - (1.85, 2.05, 2.25, 2.45, 2.65)).max() <= 1 / fps


def test_a_window_of_variable_frame_rate_is_sampled_in_time(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 0.2, 0.3, 2.0, 3.9]
    uneven = probe(write_video(tmp_path / "variable.mp4", numbered_frames(6), fps=10, times_s=times_s))
    # The second from 1.5 s on: the fourth frame until 2 s, then the fifth.
    assert numbers(read_clip(clip_of(uneven, 0.0, 4.0), uneven, replace(SQUASH, window_s=1.0))) == [3, 3, 4, 4, 4]
    assert numbers(read_clip(clip_of(uneven, 0.0, 4.0), uneven, replace(SQUASH, window_s=0.4))) == [3, 3, 4, 4, 4]


@pytest.mark.parametrize("window_s", [4.0, 5.0])
@pytest.mark.parametrize("augmentation", [None, Augmentation(jitter=True, flip=0, min_scale=1)])
def test_a_clip_that_is_no_longer_than_the_window_is_taken_whole(
    video: Video, window_s: float, augmentation: Augmentation | None
) -> None:
    plans = [
        plan_clip(clip_of(video), video, form, augmentation=augmentation, rng=np.random.default_rng(5))
        for form in (SQUASH, replace(SQUASH, window_s=window_s))
    ]
    assert plans[0] == plans[1]


def test_in_training_the_window_lies_anywhere(video: Video) -> None:
    """Each second of the clip's two in the middle is seen, nothing outside, and each version is drawn by its number."""
    second = replace(SQUASH, window_s=1.0)
    jitter = Augmentation(jitter=True, flip=0, min_scale=1)
    clip, starts = clip_of(video, 1.0, 3.0), set()
    for view in range(40):
        plans = [plan_of_view(clip, video, second, index=3, view=view, augmentation=jitter, seed=1)[0] for _ in "ab"]
        assert plans[0] == plans[1]
        first, last = plans[0].indices[0], plans[0].indices[-1]
        assert 10 <= first <= last < 30
        assert 6 <= last - first <= 10  # a second, of which frames are drawn in its first and its last fifth
        starts.add(first)
    assert len(starts) > 8
    still = jitter.model_copy(update={"jitter": False})
    found = plan_clip(clip, video, second, augmentation=still, rng=np.random.default_rng(0))
    assert found == plan_clip(clip, video, second)
    assert found.indices == (16, 18, 20, 22, 24)
