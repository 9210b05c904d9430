"""Streams of motion: which pictures their fields are of, and what becomes of these."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.videos import numbered_frames, write_video

from kinema.config import resolve
from kinema.data.decoding import Video, probe, read_frames
from kinema.data.device import to_model_input, to_rgb
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.modalities import stacks_of
from kinema.data.optical_flow import dequantise
from kinema.data.reading import from_rgb, plan_clip, read_clip, read_plan
from kinema.preprocessing import make_preprocessing, rgb_normalisation
from kinema.sections import Augmentation, ClipsSection
from kinema.types import Clip, ConfigError, DataError, Motion, Preprocessing, fingerprint

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE_PX = 64
SHIFT_PX = 3


def form(modality: Any, **motion: Any) -> Preprocessing:
    clips = {"num_frames": 4, "size_px": SIZE_PX, "fit": "squash"}
    return make_preprocessing(ClipsSection.model_validate({**clips, "motion": motion}), modality, mean=MEAN, std=STD)


def texture(height_px: int, width_px: int, seed: int = 0) -> NDArray[np.float32]:
    """Smooth, with structure of several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height_px, width_px), dtype=np.float32)
    for cells in (8, 16, 32):
        noise = torch.from_numpy(rng.random((1, 1, cells, cells)).astype(np.float32))
        total += torch.nn.functional.interpolate(noise, size=(height_px, width_px), mode="bicubic")[0, 0].numpy()
    return (total - total.min()) / (total.max() - total.min())


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """30 frames at 30 per second; what they show goes to the right by 3 pixels from each to the next."""
    wide = (texture(SIZE_PX, SIZE_PX + 30 * SHIFT_PX) * 219 + 16).astype(np.uint8)
    frames = []
    for number in range(30):
        left = (29 - number) * SHIFT_PX
        frames.append(np.repeat(wide[:, left : left + SIZE_PX, None], 3, axis=2))
    path = tmp_path_factory.mktemp("moving") / "right.mp4"
    return probe(write_video(path, frames, fps=30, options={"crf": "4"}))


def clip_of(video: Video, start_s: float = 0.0, stop_s: float | None = None) -> Clip:
    return Clip(clip_id="a", video=video.path, start_s=start_s, stop_s=stop_s, labels={"action": 0})


def test_flow_is_how_far_pixels_go(moving: Video) -> None:
    frames = read_clip(clip_of(moving), moving, form("flow", bound_px=10, stack=2))
    assert frames.shape == (4, 4, SIZE_PX, SIZE_PX)
    inner = frames[:, :, 8:-8, 8:-8].numpy()
    flow_px = dequantise(inner, 10)
    assert np.abs(flow_px[:, 0::2].mean(axis=(2, 3)) - SHIFT_PX).max() < 0.3
    assert np.abs(flow_px[:, 1::2].mean(axis=(2, 3))).max() < 0.3


def test_pixels_are_those_of_the_model(moving: Video) -> None:
    """Half the size, half the way."""
    half = replace(form("flow", bound_px=10), size_px=32, resize_px=32)
    flow_px = dequantise(read_clip(clip_of(moving), moving, half)[:, 0, 4:-4, 4:-4].numpy(), 10)
    assert abs(flow_px.mean() - SHIFT_PX / 2) < 0.3


def test_magnitude_is_the_length(moving: Video) -> None:
    both = read_clip(clip_of(moving), moving, form("flow", bound_px=10, magnitude=True)).numpy()
    alone = read_clip(clip_of(moving), moving, form("flow_magnitude", bound_px=10)).numpy()
    assert both.shape[1] == 3
    assert np.array_equal(both[:, 2:], alone)
    length_px = np.hypot(dequantise(both[:, 0], 10), dequantise(both[:, 1], 10))
    # Of u and v half a step each, and half of its own.
    assert np.abs(alone[:, 0] * (10 / 255) - length_px).max() <= np.sqrt(2) * 10 / 254 + 10 / 510 + 1e-6


def test_differences_are_of_the_pictures_that_are_read(moving: Video) -> None:
    wanted = form("rgb_difference", stack=2, interval_s=2 / 30)
    plan = plan_clip(clip_of(moving), moving, wanted)
    assert plan.indices == (3, 11, 18, 26)
    assert plan.stacks == ((3, 5, 7), (11, 13, 15), (18, 20, 22), (25, 27, 29))
    found = read_plan(moving, plan, wanted)
    for frame, stack in zip(found, plan.stacks, strict=True):
        pictures = [picture.astype(int).transpose(2, 0, 1) for picture in read_frames(moving, stack)]
        for number in range(2):
            change = (pictures[number + 1] - pictures[number]).clip(-127, 127)
            assert np.array_equal(frame[3 * number : 3 * number + 3], change + 128)


@pytest.mark.parametrize(("fps", "step"), [(5, 1), (25, 1), (30, 1), (50, 2), (60, 2), (120, 4)])
def test_pictures_lie_as_far_apart_at_any_rate(tmp_path: Path, fps: int, step: int) -> None:
    video = probe(write_video(tmp_path / "video.mp4", numbered_frames(40), fps=fps))
    ((first, second),) = stacks_of([3], clip_of(video), video, Motion(stack=1, interval_s=1 / 30))
    assert (first, second - first) == (3, step)


@given(
    data=st.data(),
    stack=st.integers(1, 12),
    interval_s=st.floats(0.01, 0.5),
    start=st.integers(0, 28),
)
def test_pictures_stay_in_the_clip(moving: Video, data: Any, stack: int, interval_s: float, start: int) -> None:
    stop = data.draw(st.integers(start + 2, 30))
    indices = data.draw(st.lists(st.integers(start, stop - 1), min_size=1, max_size=5))
    clip = clip_of(moving, start / 30, stop / 30)
    stacks = stacks_of(indices, clip, moving, Motion(stack=stack, interval_s=interval_s))
    step = max(1, round(interval_s * 30))
    for index, pictures in zip(indices, stacks, strict=True):
        assert len(pictures) == stack + 1
        assert start <= pictures[0] <= index
        assert pictures[-1] <= stop - 1
        gaps = set(np.diff(pictures).tolist())
        if stop - start > stack * step:
            assert gaps == {step}
        assert pictures[0] != pictures[1]  # something may move, however short the clip


def test_a_picture_has_no_motion(tmp_path: Path) -> None:
    video = probe(write_video(tmp_path / "one.mp4", numbered_frames(1), fps=10))
    with pytest.raises(DataError, match=r"one\.mp4: the clip 'a' is a single picture, in which nothing moves"):
        read_clip(clip_of(video), video, form("flow"))


@pytest.mark.parametrize("modality", ["flow", "rgb_difference", "flow_magnitude"])
def test_what_stands_still_is_zero(tmp_path: Path, modality: Any) -> None:
    still = np.repeat((texture(SIZE_PX, SIZE_PX) * 255).astype(np.uint8)[..., None], 3, axis=2)
    video = probe(write_video(tmp_path / "still.mp4", [still] * 8, fps=10, options={"crf": "0"}))
    wanted = form(modality)
    inputs = to_model_input({modality: read_clip(clip_of(video), video, wanted)[None]}, {modality: wanted})[modality]
    assert float(inputs.abs().max()) < 1e-6


def test_input_is_as_large_as_weights_of_rgb_expect(moving: Video) -> None:
    """A difference as a difference of normalised pixels, flow at the bound as half the way from black to white."""
    wanted = form("rgb_difference")
    frames = torch.full((1, 4, 3, SIZE_PX, SIZE_PX), 128 + 51, dtype=torch.uint8)
    inputs = to_model_input({"d": frames}, {"d": wanted})["d"]
    assert torch.allclose(inputs[0, 0, :, 0, 0], 51 / 255 / torch.tensor(STD), atol=1e-5)
    flow = form("flow")
    inputs = to_model_input({"f": torch.full((1, 4, 2, SIZE_PX, SIZE_PX), 255, dtype=torch.uint8)}, {"f": flow})["f"]
    assert torch.allclose(inputs, torch.tensor(127 / 255 / 0.25), atol=1e-5)
    assert rgb_normalisation({"d": wanted})[1] == pytest.approx(STD)
    assert rgb_normalisation({"f": flow})[1] == pytest.approx((0.25,) * 3)


def test_a_mirrored_clip_moves_the_other_way(moving: Video) -> None:
    """What is stored is mirrored, and u negated, exactly; as flow of mirrored pictures is, but for its noise."""
    wanted = form("flow", bound_px=10, magnitude=True, stack=2)
    stored = read_clip(clip_of(moving), moving, wanted)[None]
    streams = {"flow": stored}
    plain = to_model_input(streams, {"flow": wanted})["flow"]
    mirrored = to_model_input(streams, {"flow": wanted}, flip=torch.tensor([True]))["flow"]
    u = [0, 3]
    others = [1, 2, 4, 5]
    assert torch.allclose(mirrored[:, :, u], -plain[:, :, u].flip(-1), atol=1e-6)
    assert torch.equal(mirrored[:, :, others], plain[:, :, others].flip(-1))
    assert float(plain[:, :, u].mean()) > 0.1


@pytest.mark.parametrize("modality", ["flow", "rgb_difference", "flow_magnitude"])
def test_fields_can_be_looked_at(moving: Video, modality: Any) -> None:
    wanted = form(modality, stack=2)
    seen = to_rgb(read_clip(clip_of(moving), moving, wanted), wanted)
    assert seen.shape == (4, 3, SIZE_PX, SIZE_PX)
    assert seen.dtype == torch.uint8
    assert int(seen.max()) > int(seen.min())


def test_random_versions_have_no_colours(moving: Video) -> None:
    augmentation = Augmentation(colour=0.4, erase=1.0)
    for modality, has_colour in (("rgb", True), ("flow", False)):
        wanted = form("flow") if modality == "flow" else replace(form("flow"), modality="rgb", motion=None)
        reader = ClipReader(
            [clip_of(moving)], {moving.path: moving}, {modality: wanted}, augmentation=augmentation, seed=0
        )
        drawn = reader.plan(0, 0)[1]
        assert (drawn.colour is not None) is has_colour
        assert drawn.changes is not None
        assert drawn.changes.erased is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["clips.motion.stack=2"], r"clips\.motion is of what moves; set data\.modality"),
        (
            ["data.modality=rgb_difference", "clips.motion.bound_px=5"],
            "differences of frames have stack and interval_s",
        ),
        (["data.modality=flow_magnitude", "clips.motion.magnitude=true"], "is of data.modality=flow"),
        (["data.modality=flow", "clips.augmentation.rotation_deg=5"], "rotation_deg: changes pictures"),
        (["data.modality=flow", "clips.motion.method=raft"], "method raft needs weights"),
        (["data.modality=flow", "clips.motion.weights=published"], "weights are of method raft"),
        (["data.modality=flows"], r"data\.modality"),
        (["data.modality=[rgb, rgb]"], "a stream comes twice"),
    ],
)
def test_settings_that_say_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"data": {"name": "motion"}, "model": {"name": "cnn_lstm"}}, overrides)


def test_what_is_erased_is_drawn_clip_by_clip(moving: Video) -> None:
    """Clips of which nothing is erased say so; else others would have it in their place."""
    wanted = form("flow")
    clips = [replace(clip_of(moving), clip_id=str(number)) for number in range(12)]
    reader = ClipReader(
        clips, {moving.path: moving}, {"flow": wanted}, augmentation=Augmentation(erase=0.5, flip=0), seed=0
    )
    drawn = [reader.plan(index, 0)[1].changes for index in range(12)]
    assert all(one is not None for one in drawn)
    erased = [one is not None and one.erased is not None for one in drawn]
    assert True in erased
    assert False in erased
    loader = clip_loader(reader, EpochOrder(12, batch_size=12, seed=None), workers=0)
    with loader:
        (batch,) = loader
    inputs = to_model_input(batch.streams, {"flow": wanted}, changes=batch.changes)["flow"]
    plain = to_model_input(batch.streams, {"flow": wanted})["flow"]
    assert [not torch.equal(one, other) for one, other in zip(inputs, plain, strict=True)] == erased


def test_other_weights_of_a_network_are_other_fields(tmp_path: Path) -> None:
    path = tmp_path / "raft.pth"
    found = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        found.append(form("flow", method="raft", weights=str(path)).fingerprint)
    assert found[0] != found[1]
    with pytest.raises(DataError, match=r"clips\.motion\.weights: .*gone\.pth: No such file"):
        form("flow", method="raft", weights=str(tmp_path / "gone.pth"))


def test_flow_needs_an_even_size() -> None:
    with pytest.raises(ConfigError, match=r"clips\.size_px: .* 33 is odd"):
        make_preprocessing(ClipsSection(size_px=33), "flow", mean=MEAN, std=STD)
    assert make_preprocessing(ClipsSection(size_px=33), "rgb_difference", mean=MEAN, std=STD).frame_shape == (3, 33, 33)


NAMES = (
    "h264_10bits.mp4",
    "nasa_13013_rotated.mp4",
    "portrait_h264.mp4",
    "testsrc2_mpeg4.avi",
    "test_non_zero_start.mp4",
)


@pytest.mark.parametrize("name", NAMES)
def test_awkward_videos_move_as_their_upright_pictures_do(data_root: Path, name: str) -> None:
    """10 bits, turned, portrait, without timestamps, from another time than 0: as flow of the RGB that players show."""
    video = probe(data_root / "edge_cases" / name)
    num = min(len(video.times_s), 24)
    wanted = form("flow", bound_px=4)
    clip = clip_of(video, 0.0, float(video.times_s[num]) if num < len(video.times_s) else None)
    plan = plan_clip(clip, video, wanted)
    found = read_plan(video, plan, wanted)
    pictures = np.stack(read_frames(video, range(num)))
    expected = from_rgb(pictures, plan.indices, wanted, fps=video.fps).numpy()
    # Brightness is computed twice here, and rounded twice.
    assert np.abs(found.astype(int) - expected).mean() < 1.0
    turned = from_rgb(pictures[:, ::-1].copy(), plan.indices, wanted, fps=video.fps).numpy()
    if np.abs(expected.astype(int) - 128).mean() > 0.5:  # something moves
        assert np.abs(found.astype(int) - turned).mean() > 2 * np.abs(found.astype(int) - expected).mean()


def test_stores_of_before_are_found() -> None:
    """The keys of a store of flow are what they were before flow could be read from files."""
    motion = form("flow").motion
    assert motion is not None
    names = ["stack", "interval_s", "method", "bound_px", "magnitude", "weights", "digest"]
    assert list(motion.facts) == names
    assert motion == Motion(**motion.facts)
    assert replace(motion, stored_bound_px=10.0).facts["stored_bound_px"] == 10


def test_what_is_not_set_does_not_count() -> None:
    """A setting that comes later leaves what was trained before as it was."""
    wanted = form("flow")
    assert wanted.motion is not None
    settings = {name: value for name, value in asdict(wanted).items() if value is not None}
    settings["motion"] = {name: value for name, value in asdict(wanted.motion).items() if value is not None}
    assert {"weights", "digest"}.isdisjoint(settings["motion"])
    assert wanted.fingerprint == fingerprint(settings)
    assert form("flow", bound_px=5).fingerprint != wanted.fingerprint
