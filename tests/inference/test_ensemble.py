"""Weights folders made into one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video

import kinema
from kinema.data.probing import probe_all
from kinema.evaluation.predict import predict_clips
from kinema.evaluation.reading import evaluation_reader
from kinema.inference.ensemble import make_ensemble
from kinema.models.build import build_model
from kinema.models.load import load_model
from kinema.models.weights import WeightsConfig, read_config, read_training, save
from kinema.sections import ClipsSection
from kinema.types import Clip, DataError, Heads, Preprocessing, UserError

RGB = Preprocessing(num_frames=4, size_px=32, resize_px=40, fit="crop", mean=MEAN, std=STD)
HEADS: Heads = {"action": ("open", "close", "push")}
Member = Callable[..., Path]


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """Makes a weights folder of random weights."""

    def make(name: str, *, model: str = "cnn_lstm", heads: Heads = HEADS, facts: Any = TRAINING, **other: Any) -> Path:
        folder = tmp_path / name
        preprocessing = {"rgb": replace(RGB, **other)}
        config = WeightsConfig(model=model, arguments={"backbone": "tiny"}, heads=heads, preprocessing=preprocessing)
        torch.manual_seed(len(name))
        built = build_model(model, config.arguments, heads=heads, inputs=config.inputs)
        built({"rgb": torch.randn(4, 4, 3, 32, 32)})
        save(folder, built.state_dict(), config, facts, card="")
        return folder

    return make


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", numbered_frames(16, width_px=80, height_px=60), fps=8)


def probabilities(folder: Path, video: Path) -> np.ndarray:
    said = kinema.load(folder, device="cpu").predict(video).probabilities["action"]
    return np.array([said[name] for name in HEADS["action"]])


@pytest.mark.parametrize("pixels", ["rgb", "i420"])
@pytest.mark.parametrize("mean", [MEAN, (0.1, 0.2, 0.3)])
def test_what_it_says_is_the_average_of_what_each_says(
    member: Member, video: Path, tmp_path: Path, mean: tuple[float, ...], pixels: str
) -> None:
    folders = [
        member("one", pixels=pixels),
        member("another", model="frame_average", mean=mean, std=(0.3, 0.2, 0.1), pixels=pixels),
    ]
    make_ensemble(folders, tmp_path / "both", shares=(0.6, 0.4))
    each = [probabilities(folder, video) for folder in folders]
    assert probabilities(tmp_path / "both", video) == pytest.approx(0.6 * each[0] + 0.4 * each[1], abs=1e-5)
    assert abs(each[0] - each[1]).max() > 1e-2


@pytest.mark.parametrize(
    "other",
    [
        {"num_frames": 8},
        {"size_px": 36},
        {"resize_px": 56},
        {"fit": "squash"},
        {"pixels": "i420"},
        {"num_frames": 8, "size_px": 36, "fit": "squash", "pixels": "i420", "mean": (0.1, 0.2, 0.3)},
    ],
)
def test_each_member_sees_a_clip_as_it_was_trained_to(
    member: Member, video: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    folders = [member("one"), member("another", model="frame_statistics", **other)]
    config = make_ensemble(folders, tmp_path / "both", shares=(0.6, 0.4))
    each = [probabilities(folder, video) for folder in folders]
    expected = 0.6 * each[0] + 0.4 * each[1]
    assert probabilities(tmp_path / "both", video) == pytest.approx(expected, abs=1e-5)
    if other != {"pixels": "i420"}:  # in which grey frames, as these are, are the same
        assert abs(probabilities(member("unlike.", model="frame_statistics"), video) - each[1]).max() > 1e-4
    assert list(config.preprocessing) == ["rgb", "rgb_2"]
    assert config.arguments["streams"] == [{"rgb": "rgb"}, {"rgb": "rgb_2"}]

    # Evaluation reads clips in another way than use does.
    model, _ = load_model(tmp_path / "both")
    clip = Clip(clip_id="a", video=video, labels={"action": 0})
    clips = [clip, replace(clip, clip_id="b")]
    section = ClipsSection(store="none")
    found = predict_clips(
        model,
        clips,
        probe_all([video]),
        classes=HEADS,
        preprocessing=config.preprocessing,
        batch_size=2,
        workers=0,
        read=lambda some, probed: evaluation_reader(
            model, section, some, probed, config.preprocessing, root=None, name="test"
        ),
    )
    said = torch.from_numpy(found.logits["action"]).softmax(dim=1).numpy()
    assert said == pytest.approx(np.stack([expected, expected]), abs=1e-5)

    # And it may be a member itself, of which those that see the same share what is read.
    make_ensemble([folders[1], tmp_path / "both"], tmp_path / "three", shares=(1, 3))
    assert probabilities(tmp_path / "three", video) == pytest.approx(0.25 * each[1] + 0.75 * expected, abs=1e-5)
    assert len(read_config(tmp_path / "three").preprocessing) == 2


def test_frames_that_were_taken_are_given_stream_by_stream(member: Member, tmp_path: Path) -> None:
    make_ensemble([member("one"), member("another", num_frames=8)], tmp_path / "both")
    recogniser = kinema.load(tmp_path / "both", device="cpu")
    frames = torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8)
    (found,) = recogniser.predict_frames({"rgb": frames[:, :4], "rgb_2": frames})
    assert sum(found.probabilities["action"].values()) == pytest.approx(1)
    with pytest.raises(UserError, match="sees the streams rgb, rgb_2; give frames of each, by its name"):
        recogniser.predict_frames(frames)
    with pytest.raises(UserError, match=r"sees the streams rgb, rgb_2; got frames of rgb$"):
        recogniser.predict_frames({"rgb": frames})


def test_a_folder_like_any_other(member: Member, tmp_path: Path) -> None:
    config = make_ensemble([member("one"), member("another")], tmp_path / "both")
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    assert read_config(tmp_path / "both") == config
    assert config.preprocessing["rgb"] == RGB  # they agree
    card = (tmp_path / "both" / "README.md").read_text()
    assert "Made of models that were trained alone, by taking the mean probabilities of cnn_lstm, cnn_lstm" in card
    assert f"training clips: not measured ({Path('clips').resolve()}: no such file or folder" in card


def test_a_run_stands_for_its_weights_and_an_ensemble_may_be_a_member(
    member: Member, video: Path, tmp_path: Path
) -> None:
    first, second = member("run/weights"), member("another")
    make_ensemble([tmp_path / "run", second], tmp_path / "both", average="logits")
    make_ensemble([tmp_path / "both", second], tmp_path / "three", shares=(2, 1))
    each = [probabilities(folder, video) for folder in (tmp_path / "both", second)]
    assert probabilities(tmp_path / "three", video) == pytest.approx((2 * each[0] + each[1]) / 3, abs=1e-5)
    assert first.is_dir()


def test_all_that_any_member_was_trained_on_is_known(
    member: Member, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = replace(TRAINING, num_clips=9, class_counts={"action": [1, 2, 6]}, commonest={"action": 2}, seed=4)
    more = replace(more, contents=["a" * 24], groups=["g2"])
    elsewhere = replace(TRAINING, data={"name": "folder", "root": "elsewhere"}, groups=["g9"], contents=["b" * 24])
    folders = [member("one"), member("more", facts=more), member("elsewhere", facts=elsewhere)]
    make_ensemble(folders, tmp_path / "all", measure=False)
    facts = read_training(tmp_path / "all")
    assert facts.contents == sorted([*TRAINING.contents, "a" * 24, "b" * 24])
    assert facts.groups == ["g1", "g2"]  # g9 of other data need not be this data's
    assert (facts.num_clips, facts.commonest, facts.seed) == (9, {"action": 2}, 4)
    assert (facts.accuracy, facts.unmeasured) == ({}, "left out when it was made")
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(";")[0] for line in said] == [
        f"{folders[0]} was trained on other clips than {folders[1]}",
        f"{folders[2]} was trained on other data than {folders[1]}",
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"heads": {"verb": HEADS["action"]}}, "its tasks are verb, those of {one} are action"),
        ({"heads": {"action": ("open", "close", "pull")}}, "its task 'action' has the class 'pull', which {one} has"),
        ({"heads": {"action": ("open", "close")}}, "its task 'action' lacks the class 'push' of {one}"),
        ({"heads": {"action": ("close", "open", "push")}}, "'action' has its classes in another order than {one}"),
    ],
)
def test_members_that_do_not_fit_are_named(member: Member, tmp_path: Path, other: dict[str, Any], message: str) -> None:
    one, another = member("one"), member("another", **other)
    with pytest.raises(DataError, match=f"^{another}: .*" + message.format(one=one)):
        make_ensemble([one, another], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_what_is_there_already_stays(member: Member, tmp_path: Path) -> None:
    one, another = member("one"), member("another")
    with pytest.raises(DataError, match=f"^{one}: is there already; name a new folder"):
        make_ensemble([one, another], one)
    with pytest.raises(UserError, match="an ensemble is made of two models at least, got 1"):
        make_ensemble([one], tmp_path / "alone")
    (tmp_path / "clips").mkdir()
    with pytest.raises(DataError, match=f"^{tmp_path / 'clips'}: not a weights folder"):
        make_ensemble([one, tmp_path / "clips"], tmp_path / "both")


def test_a_member_is_built_again_as_it_was(member: Member, tmp_path: Path) -> None:
    """Its arguments are all in config.json: a default that changes later changes nothing."""
    make_ensemble([member("one"), member("another")], tmp_path / "both")
    content = json.loads((tmp_path / "both" / "config.json").read_text())
    assert [each["name"] for each in content["model"]["arguments"]["members"]] == ["cnn_lstm", "cnn_lstm"]
    assert content["model"]["arguments"]["members"][0]["backbone"] == "tiny"
