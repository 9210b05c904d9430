"""`kinema.load(folder).predict(...)`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video
from torch import Tensor

import kinema
from kinema.data.decoding import probe, read_frames
from kinema.data.device import to_model_input
from kinema.data.reading import from_rgb, read_clip
from kinema.inference.recogniser import Prediction, Recogniser
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Clip, DataError, Heads, Preprocessing, UserError

RGB = Preprocessing(num_frames=4, size_px=32, resize_px=40, fit="crop", mean=MEAN, std=STD)
HEADS: Heads = {"verb": ("open", "close", "push"), "noun": ("door", "jar")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = WeightsConfig(model="cnn_lstm", arguments={"backbone": "tiny"}, heads=HEADS, preprocessing={"rgb": RGB})
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=HEADS, inputs=config.inputs)
    save(folder / "weights", model.state_dict(), config, TRAINING, card="")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, numbered_frames(16, width_px=80, height_px=60), fps=8)


@pytest.fixture(scope="module")
def recogniser(run: Path) -> Recogniser:
    return kinema.load(run, device="cpu")


def expected(recogniser: Recogniser, frames: Tensor) -> dict[str, dict[str, float]]:
    with torch.inference_mode():
        logits = recogniser.model(to_model_input({"rgb": frames[None]}, {"rgb": RGB}))
    return {task: dict(zip(HEADS[task], values[0].softmax(0).tolist(), strict=True)) for task, values in logits.items()}


def assert_close(found: Prediction, wanted: dict[str, dict[str, float]]) -> None:
    assert list(found.probabilities) == list(wanted)
    for task, values in wanted.items():
        assert dict(found.probabilities[task]) == pytest.approx(values, abs=1e-6)


def test_a_file(recogniser: Recogniser, video: Path) -> None:
    frames = read_clip(Clip(clip_id="", video=video), probe(video), RGB)
    assert_close(recogniser.predict(video), expected(recogniser, frames))
    assert_close(recogniser.predict(str(video)), expected(recogniser, frames))


def test_a_part_of_a_file(recogniser: Recogniser, video: Path) -> None:
    frames = read_clip(Clip(clip_id="", video=video, start_s=0.5, stop_s=1.25), probe(video), RGB)
    assert_close(recogniser.predict(video, start_s=0.5, stop_s=1.25), expected(recogniser, frames))


def test_all_frames_of_a_clip_say_what_its_file_says(recogniser: Recogniser, video: Path) -> None:
    probed = probe(video)
    frames = torch.from_numpy(np.stack(read_frames(probed, range(16))))
    assert_close(recogniser.predict(frames), {t: dict(v) for t, v in recogniser.predict(video).probabilities.items()})


def test_a_model_that_sees_a_window(recogniser: Recogniser, video: Path) -> None:
    """The middle half second of two, from a file and from frames whose rate is given."""
    half = replace(RGB, window_s=0.5)
    of_window = Recogniser(recogniser.model, replace(recogniser.config, preprocessing={"rgb": half}))
    probed = probe(video)
    frames = torch.from_numpy(np.stack(read_frames(probed, range(16))))
    wanted = {t: dict(v) for t, v in recogniser.predict(frames[6:10]).probabilities.items()}
    assert_close(of_window.predict(video), wanted)
    assert_close(of_window.predict(video, start_s=0.25, stop_s=1.75), wanted)
    assert_close(of_window.predict(frames, fps=8), wanted)
    assert_close(of_window.predict(frames[6:10], fps=8), wanted)
    assert_close(
        recogniser.predict(frames, fps=8), {t: dict(v) for t, v in recogniser.predict(frames).probabilities.items()}
    )
    with pytest.raises(UserError, match=r"this model sees 0.5 s of a clip; give the frames' rate, as in fps=25"):
        of_window.predict(frames)
    for wrong in (0.0, -8.0, float("nan")):
        with pytest.raises(UserError, match=r"fps: .* is no number of frames per second above 0"):
            of_window.predict(frames, fps=wrong)


def test_planes_are_made_of_rgb_where_the_model_takes_planes(recogniser: Recogniser, video: Path) -> None:
    i420 = replace(RGB, pixels="i420")
    of_planes = Recogniser(recogniser.model, replace(recogniser.config, preprocessing={"rgb": i420}))
    probed = probe(video)
    images = read_frames(probed, range(16))
    frames = torch.from_numpy(np.stack(images))
    taken = from_rgb(np.stack(images), (2, 6, 10, 14), i420)
    assert of_planes.predict(frames) == of_planes.predict_frames(taken[None])[0]
    # From the file, planes come without the way through RGB; one grey level is the least that they can differ by.
    read = read_clip(Clip(clip_id="", video=video), probed, i420)
    assert (read.int() - taken.int()).abs().max() <= 3
    assert of_planes.predict(video) == of_planes.predict_frames(read[None])[0]


def test_fewer_frames_than_the_model_takes_are_repeated(recogniser: Recogniser) -> None:
    frame = torch.from_numpy(numbered_frames(1, width_px=80, height_px=60)[0])
    once = recogniser.predict(frame[None])
    assert_close(recogniser.predict(frame.expand(4, -1, -1, -1)), {t: dict(v) for t, v in once.probabilities.items()})


def test_probabilities_are_ordered_and_sum_to_one(recogniser: Recogniser, video: Path) -> None:
    found = recogniser.predict(video)
    for task, values in found.probabilities.items():
        assert set(values) == set(HEADS[task])
        assert sum(values.values()) == pytest.approx(1.0, abs=1e-6)
        assert list(values.values()) == sorted(values.values(), reverse=True)
        assert found.labels[task] == next(iter(values))
        assert found.top(2)[task] == list(values.items())[:2]
        assert found.top(99)[task] == list(values.items())


def test_a_prediction_reads_well() -> None:
    assert str(Prediction(probabilities={"action": {"open": 0.75, "close": 0.25}})) == "open 75.0%"
    two = Prediction(probabilities={"verb": {"open": 0.75}, "noun": {"jar": 0.5, "door": 0.5}})
    assert str(two) == "verb: open 75.0%, noun: jar 50.0%"


def test_it_only_evaluates(recogniser: Recogniser, video: Path) -> None:
    state = {key: value.clone() for key, value in recogniser.model.state_dict().items()}
    first, second = recogniser.predict(video), recogniser.predict(video)
    assert first == second
    assert not recogniser.model.training
    assert all(torch.equal(state[key], value) for key, value in recogniser.model.state_dict().items())


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(4, 32, 32, 3),
        torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(32, 32, 3, dtype=torch.uint8),
        torch.zeros(0, 32, 32, 3, dtype=torch.uint8),
    ],
)
def test_other_tensors_are_refused(recogniser: Recogniser, frames: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as where no test is run
    with pytest.raises(UserError, match=r"^expected uint8 frames \(T, H, W, 3\), got torch\."):
        recogniser.predict(frames)


@pytest.mark.parametrize("given", [3, None, np.zeros((4, 32, 32, 3), np.uint8), [Path("a.mp4")]])
def test_other_things_are_refused(recogniser: Recogniser, given: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match="expected a path or a uint8 tensor"):
        recogniser.predict(given)  # type: ignore[arg-type]


def test_times_of_frames_are_refused(recogniser: Recogniser) -> None:
    with pytest.raises(UserError, match="start_s and stop_s are for files"):
        recogniser.predict(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), start_s=1.0)


def test_files_that_cannot_be_read_are_named(recogniser: Recogniser, video: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.mp4: no such file"):
        recogniser.predict(tmp_path / "nowhere.mp4")
    with pytest.raises(DataError, match=r"the video is 2\.000 s long"):
        recogniser.predict(video, start_s=5.0)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a weights folder"):
        kinema.load(tmp_path)


def test_the_package_has_nothing_else_hidden() -> None:
    assert kinema.load.__module__ == "kinema.inference.recogniser"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = kinema.lod


def test_a_still_image_is_a_clip(recogniser: Recogniser, tmp_path: Path) -> None:
    (image,) = numbered_frames(1, width_px=80, height_px=60, first=9)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert_close(recogniser.predict(tmp_path / "a.png"), expected(recogniser, read_clip_of(tmp_path / "a.png")))
    repeated = torch.from_numpy(np.stack([image] * 4))
    assert_close(recogniser.predict(repeated), expected(recogniser, read_clip_of(tmp_path / "a.png")))


def test_a_folder_of_frames_is_a_clip_when_its_rate_is_given(recogniser: Recogniser, tmp_path: Path) -> None:
    for number, image in enumerate(numbered_frames(16, width_px=80, height_px=60), start=1):
        Image.fromarray(image).save(tmp_path / f"{number:05d}.png")
    frames = torch.from_numpy(np.stack(numbered_frames(16, width_px=80, height_px=60)))
    assert_close(
        recogniser.predict(tmp_path, fps=8), {t: dict(v) for t, v in recogniser.predict(frames).probabilities.items()}
    )
    half = recogniser.predict(tmp_path, fps=8, start_s=1.0)
    assert_close(half, {t: dict(v) for t, v in recogniser.predict(frames[8:]).probabilities.items()})
    with pytest.raises(DataError, match=r"a folder, not a video file; if it is a folder of frames, say their rate"):
        recogniser.predict(tmp_path)


def read_clip_of(path: Path) -> Tensor:
    return read_clip(Clip(clip_id="", video=path), probe(path), RGB)
