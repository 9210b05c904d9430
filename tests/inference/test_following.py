"""What is said of a stream, picture by picture, is what is said of clips of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tests.inference.following import HEADS, RGB, pictures, recogniser
from tests.models.facts import MEAN, STD
from tests.models.test_contract import NAMES, small
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import probe
from kinema.data.device import to_model_input
from kinema.inference.following import Follower
from kinema.inference.live_settings import FAST_S, SLOW_S, LiveSection
from kinema.inference.live_types import Answer, Picture
from kinema.inference.recogniser import Recogniser
from kinema.inference.sights import Kept
from kinema.models.frame_model import FrameModel
from kinema.models.layers.shift import shifts_of
from kinema.models.tsm import ShiftModel
from kinema.models.weights import Rejection
from kinema.types import ConfigError, DataError, Motion, Preprocessing, UserError

FPS = 10
TINY = {"backbone": "tiny"}
WINDOW_S = 1.1
"""No moment that is looked at then lies where one frame follows another, where rounding would decide."""
ONE_WINDOW = LiveSection(fast_s=WINDOW_S, slow_s=WINDOW_S)

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("tsn", {**TINY, "consensus": "max"}),
    ("cnn_lstm", {**TINY, "hidden_size": 8, "bidirectional": True}),
    ("cnn_conv1d", {**TINY, "channels": 8, "feature_norm": "clip"}),
    ("cnn_conv1d", {**TINY, "channels": 8, "causal": True}),
    ("tsm", {"backbone": "resnet18", "online": True}),
]
"""Beside every model with the arguments of its contract."""
ALIKE = ("s3d", "c3d")
"""Of random weights these say the same of every clip but for some 1e-6, which tells nothing."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "stream.mp4"
    return write_video(path, numbered_frames(30, width_px=80, height_px=60), fps=FPS)


def assert_offline(answer: Answer, of: Recogniser, video: Path, window_s: float, *, tolerance: float = 1e-4) -> None:
    """The answer is that of the clip that ends where it does."""
    stop_s = round(answer.time_s, 9)  # sums of durations are a rounding error beside the times of frames
    wanted = of.predict(video, start_s=max(0.0, stop_s - window_s), stop_s=stop_s)
    for task, values in answer.probabilities.items():
        found = dict(zip(HEADS[task], values.tolist(), strict=True))
        assert found == pytest.approx(dict(wanted.probabilities[task]), abs=tolerance), (task, answer.time_s)


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_of_every_model_is_that_of_the_clip_that_ends_there(name: str, video: Path) -> None:
    check_answers(name, small(name), video)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=str)
def test_and_so_it_is_with_other_arguments(name: str, arguments: Mapping[str, Any], video: Path) -> None:
    check_answers(name, arguments, video)


def check_answers(name: str, arguments: Mapping[str, Any], video: Path) -> None:
    of = recogniser(name, arguments)
    follower = Follower(of, ONE_WINDOW.model_copy(update={"every_s": 1 / FPS}))
    answers = [answer for picture in pictures(video) for answer in follower.see([picture])]
    assert [round(answer.time_s * FPS) for answer in answers] == list(range(1, 31))
    # Of random weights answers may be nearly the same: what they differ by from clip to clip is the measure.
    spread = float(np.ptp([answer.probabilities["verb"] for answer in answers], axis=0).max())
    assert name in ALIKE or spread > 1e-5
    for answer in answers[::6] + answers[-1:]:
        assert_offline(answer, of, video, WINDOW_S, tolerance=min(1e-4, max(0.02 * spread, 1e-6)))


def test_pictures_one_by_one_or_many_at_once(video: Path) -> None:
    of = recogniser("cnn_conv1d", {**TINY, "channels": 8})
    one_by_one, together = Follower(of, LiveSection()), Follower(of, LiveSection())
    single = [answer for picture in pictures(video) for answer in one_by_one.see([picture])]
    everything = list(pictures(video))
    several = [
        answer
        for part in (slice(0, 7), slice(7, 8), slice(8, 28), slice(28, 30))
        for answer in together.see(everything[part])
    ]
    assert [answer.time_s for answer in single] == [answer.time_s for answer in several]
    for one, other in zip(single, several, strict=True):
        np.testing.assert_allclose(one.probabilities["verb"], other.probabilities["verb"], atol=1e-5)


def test_two_windows_are_averaged(video: Path) -> None:
    of = recogniser("cnn_conv1d", {**TINY, "channels": 8})
    follower = Follower(of, LiveSection(fast_s=0.5, slow_s=1.5, slow_every_s=0.3))
    answers = [answer for picture in pictures(video) for answer in follower.see([picture])]
    assert len(answers) == 30
    answer = answers[-1]  # 3.0 s, where the long one is looked at again
    fast = of.predict(video, start_s=2.5, stop_s=3.0).probabilities["verb"]
    slow = of.predict(video, start_s=1.5, stop_s=3.0).probabilities["verb"]
    wanted = [(fast[name] + slow[name]) / 2 for name in HEADS["verb"]]
    np.testing.assert_allclose(answer.probabilities["verb"], wanted, atol=1e-4)
    # In between, what it last said counts.
    answer = answers[-2]  # 2.9 s; the last look was at 2.7 s
    fast = of.predict(video, start_s=2.4, stop_s=2.9).probabilities["verb"]
    slow = of.predict(video, start_s=1.2, stop_s=2.7).probabilities["verb"]
    wanted = [(fast[name] + slow[name]) / 2 for name in HEADS["verb"]]
    np.testing.assert_allclose(answer.probabilities["verb"], wanted, atol=1e-4)


@pytest.mark.parametrize("modality", ["rgb_difference", "flow"])
@pytest.mark.parametrize("stack", [1, 3])
def test_fields_of_motion(modality: Any, stack: int, video: Path) -> None:
    pytest.importorskip("cv2")
    of_flow = {"method": "dis", "bound_px": 20.0} if modality == "flow" else {}
    motion = Motion(stack=stack, interval_s=2 / FPS, **of_flow)  # type: ignore[arg-type]
    per_field = 2 if modality == "flow" else 3
    moves = replace(
        RGB,
        pixels="rgb",
        modality=modality,
        motion=motion,
        mean=(0.5,) * per_field * stack,
        std=(0.1,) * per_field * stack,
    )
    model = {"network": {"name": "cnn_conv1d", **TINY, "channels": 8}}
    of = recogniser("two_stream", model, preprocessing={"rgb": RGB, modality: moves})
    follower = Follower(of, ONE_WINDOW)
    answers = [answer for picture in pictures(video) for answer in follower.see([picture])]
    assert answers[0].time_s == pytest.approx((2 * stack + 1) / FPS)  # the first field needs so many pictures
    for answer in answers[-12::4]:
        assert_offline(answer, of, video, WINDOW_S)


def test_the_same_moments_of_a_fast_and_a_slow_camera(tmp_path: Path) -> None:
    """60 frames/s of which every fourth is new show what 15 frames/s show."""
    shown = numbered_frames(60, width_px=80, height_px=60)
    slow = write_video(tmp_path / "slow.mp4", shown, fps=15)
    of = recogniser("cnn_lstm", {**TINY, "hidden_size": 8})
    # Of these windows no moment that is looked at lies where one frame follows another.
    settings = LiveSection(fast_s=0.41, slow_s=1.23, every_s=1 / 15)
    of_slow = Follower(of, settings)
    few = [answer for picture in pictures(slow) for answer in of_slow.see([picture])]
    many = []
    follower = Follower(of, settings)
    for picture in pictures(slow):
        for part in range(4):
            quarter = replace(
                picture, time_s=picture.time_s + part * picture.duration_s / 4, duration_s=picture.duration_s / 4
            )
            many += follower.see([quarter])
    by_time = {round(answer.time_s, 4): answer for answer in many}
    compared = 0
    for answer in few:
        other = by_time.get(round(answer.time_s, 4))
        if (
            other is not None and answer.time_s > 1.6
        ):  # then the long window is full, and was when it was last looked at
            np.testing.assert_allclose(answer.probabilities["verb"], other.probabilities["verb"], atol=1e-5)
            compared += 1
    assert compared == 36


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cnn_lstm", {**TINY, "hidden_size": 8, "bidirectional": False}),
        ("cnn_gru", {**TINY, "hidden_size": 8}),
        ("cnn_conv1d", {**TINY, "channels": 8, "causal": True}),
        ("cnn_conv_lstm", {**TINY, "channels": 4}),
        ("cnn_lsta", {**TINY, "channels": 4}),
        ("frame_average", TINY),
        ("tsm", {"backbone": "resnet18", "online": True}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_from_its_state_it_says_what_it_says_of_the_stream_from_its_start(
    name: str, arguments: Mapping[str, Any], video: Path
) -> None:
    of = recogniser(name, arguments)
    settings = LiveSection(memory="state", fast_s=0.5, slow_s=0.5)  # 5 frames of half a second: a step for each
    follower = Follower(of, settings)
    everything = list(pictures(video))
    answers = [answer for picture in everything for answer in follower.see([picture])]
    assert len(answers) == 30
    taken = [follower._takers["rgb"].take(picture)[0].values for picture in everything]
    frames = to_model_input({"rgb": torch.from_numpy(np.stack(taken))[None]}, {"rgb": RGB})["rgb"]
    for num in (1, 7, 30):
        with torch.inference_mode():
            if isinstance(of.model, FrameModel):
                logits = of.model({"rgb": frames[:, :num]})
            else:
                assert isinstance(of.model, ShiftModel)
                logits = _whole(of.model, frames[:, :num])
        for task, values in logits.items():
            np.testing.assert_allclose(answers[num - 1].probabilities[task], values.softmax(1)[0].numpy(), atol=1e-4)


def _whole(model: ShiftModel, frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """An online network's answer to clips of any length: its shifts are told how long these are."""
    shifts = list(shifts_of(model.backbone.body))
    before = [shift.num_frames for shift in shifts]
    try:
        for shift in shifts:
            shift.num_frames = frames.shape[1]
        features = model.backbone.body(frames.flatten(0, 1))
        return model.heads(features.reshape(*frames.shape[:2], -1).mean(dim=1))
    finally:
        for shift, num in zip(shifts, before, strict=True):
            shift.num_frames = num


def test_steps_of_a_state_lie_in_time(video: Path) -> None:
    """Of half as many pictures each counts twice; of twice as many one of two is seen."""
    of = recogniser("cnn_gru", {**TINY, "hidden_size": 8})
    settings = LiveSection(memory="state", slow_s=0.5)
    whole, half = Follower(of, settings), Follower(of, settings)
    of_half = [answer for picture in pictures(video, every=2) for answer in half.see([picture])]
    doubled = []
    for picture in pictures(video, every=2):
        for part in range(2):
            doubled += whole.see([replace(picture, time_s=picture.time_s + part / FPS, duration_s=1 / FPS)])
    for one, other in zip(of_half, doubled[1::2], strict=True):
        assert one.time_s == pytest.approx(other.time_s)
        np.testing.assert_allclose(one.probabilities["verb"], other.probabilities["verb"], atol=1e-5)


@pytest.mark.parametrize("name", ["cnn_transformer", "conv3d", "tsm"])
def test_a_model_that_looks_ahead_has_no_state_to_go_on_from(name: str) -> None:
    arguments = {"conv3d": {}, "tsm": {"backbone": "resnet18"}}.get(name, {**TINY, "width": 16, "num_heads": 2})
    with pytest.raises(ConfigError, match="memory=window"):
        Follower(recogniser(name, arguments), LiveSection(memory="state"))


def test_a_model_of_stored_flow_cannot_follow_a_stream() -> None:
    motion = Motion(stack=1, interval_s=0.1, method="stored", bound_px=20.0)
    moves = replace(RGB, pixels="rgb", modality="flow", motion=motion, mean=(0.5,) * 2, std=(0.1,) * 2)
    with pytest.raises(DataError, match="reads optical flow from files"):
        Follower(recogniser("frame_average", TINY, preprocessing={"flow": moves}))


def test_networks_on_clips_are_answered_as_windows_half_overlap(video: Path) -> None:
    of = recogniser("conv3d")
    follower = Follower(of, LiveSection(fast_s=0.8, slow_s=0.8))
    assert follower.is_dear
    answers = [answer for picture in pictures(video) for answer in follower.see([picture])]
    assert [round(answer.time_s, 3) for answer in answers[1:]] == [0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8]


def test_only_the_newest_is_answered_and_all_are_seen(video: Path) -> None:
    of = recogniser("conv3d")
    everything = list(pictures(video))
    follower = Follower(of, ONE_WINDOW)
    assert len(follower.see(everything[:25], only_newest=True)) == 1
    (answer,) = follower.see(everything[25:], only_newest=True)
    assert_offline(answer, of, video, WINDOW_S)


def test_nothing_is_kept_for_longer_than_it_is_needed(video: Path) -> None:
    of = recogniser("cnn_conv1d", {**TINY, "channels": 8})
    follower = Follower(of, LiveSection(fast_s=0.2, slow_s=0.4))
    sizes = []
    for picture in pictures(video):
        follower.see([picture])
        sizes.append(max(len(kept) for kept in follower._sight._kept.values()))  # type: ignore[union-attr]
    assert max(sizes) <= 6


def test_what_is_kept_is_bounded_however_long_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinema.inference.sights._MOST_BYTES", 40 * 4)
    kept = Kept()
    for number in range(1000):
        kept.add(float(number), torch.full((4,), float(number)))
        assert len(kept) <= 11
    found = kept.at([-5.0, 0.0, 995.0, 999.5, 2000.0], newest_s=998.0)[:, 0].tolist()
    assert found[0] == found[1] == 0.0
    assert found[3:] == [998.0, 998.0]
    assert found == sorted(found)


def test_a_stream_that_begins_anew(video: Path) -> None:
    of = recogniser("cnn_conv1d", {**TINY, "channels": 8})
    follower = Follower(of, ONE_WINDOW)
    first = [answer for picture in pictures(video) for answer in follower.see([picture])]
    with pytest.raises(UserError, match="reset"):
        follower.see([next(pictures(video))])
    follower.reset()
    again = [answer for picture in pictures(video) for answer in follower.see([picture])]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.probabilities["verb"], other.probabilities["verb"])


def test_it_says_when_the_short_window_is_full(video: Path) -> None:
    follower = Follower(recogniser("frame_average", TINY), LiveSection(fast_s=0.5, slow_s=1.0))
    answers = [answer for picture in pictures(video) for answer in follower.see([picture])]
    assert [answer.is_whole for answer in answers[:7]] == [False] * 4 + [True] * 3


def test_a_picture_may_be_rgb_and_change_its_size(video: Path) -> None:
    follower = Follower(recogniser("frame_average", TINY), ONE_WINDOW)
    rng = np.random.default_rng(0)
    for number, size in enumerate([(60, 80), (61, 33), (120, 20), (60, 80)]):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        (answer,) = follower.see([Picture(image=image, time_s=number / FPS, duration_s=1 / FPS)])
        assert np.isfinite(answer.probabilities["verb"]).all()


def test_a_turned_video_is_seen_upright(tmp_path: Path) -> None:
    """As it is read by `predict`."""
    shown = numbered_frames(25, width_px=80, height_px=60)
    path = write_video(tmp_path / "turned.mp4", shown, fps=FPS, rotation_deg=90)
    of = recogniser("frame_average", TINY)
    probed = probe(path)
    follower = Follower(of, LiveSection(fast_s=0.5, slow_s=0.5))
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            start_s = float(probed.times_s[index])
            picture = Picture(image=frame, time_s=start_s, duration_s=1 / probed.fps, orientation=probed.orientation)
            (answer,) = follower.see([picture])
            if index == 20:
                break
    wanted = of.predict(path, start_s=answer.time_s - 0.5, stop_s=answer.time_s).probabilities["verb"]
    np.testing.assert_allclose(answer.probabilities["verb"], [wanted[name] for name in HEADS["verb"]], atol=1e-4)


def test_scores_are_those_of_clips(video: Path) -> None:
    rejection = Rejection(
        method="max_probability", threshold=0.5, recall=0.95, background=None, split="validation", clip_ids=[]
    )
    of = recogniser("cnn_conv1d", {**TINY, "channels": 8}, rejection=rejection)
    follower = Follower(of, ONE_WINDOW)
    answer = [answer for picture in pictures(video) for answer in follower.see([picture])][-1]
    assert answer.score == pytest.approx(of.predict(video, start_s=3.0 - WINDOW_S, stop_s=3.0).score, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "window_s", "expected"),
    [
        ({}, None, (FAST_S, SLOW_S)),
        ({}, 3.0, (1.0, 3.0)),
        ({"slow_s": 6.0}, 3.0, (2.0, 6.0)),
        ({"fast_s": 2.0}, None, (2.0, 2.0)),
        ({"fast_s": 0.1, "slow_s": 0.2}, None, (0.1, 0.2)),
    ],
)
def test_lengths_of_windows(settings: Any, window_s: float | None, expected: tuple[float, float]) -> None:
    preprocessing: dict[str, Preprocessing] = {"rgb": replace(RGB, window_s=window_s, mean=MEAN, std=STD)}
    assert LiveSection(**settings).windows_s(preprocessing) == pytest.approx(expected)
