"""Several streams of a clip at once: read, trained on from frames and from features, gone on with, evaluated, used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.flow_files import write_flow, write_frames
from tests.videos import write_video

import kinema
from kinema.data.streams import StreamsReader
from kinema.evaluation.evaluate import evaluate
from kinema.evaluation.frame_orders import FRAME_ORDERS
from kinema.explain.opened import open_weights
from kinema.explain.subjects import of_model
from kinema.inference.ensemble import make_ensemble
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.streams_model import StreamsModel
from kinema.preparation.feature_store import StreamFeatures
from kinema.progress import SILENT
from kinema.report.augmented_batch import shown_clips
from kinema.sections import Recipe
from kinema.training.prepare import Prepared, prepare
from kinema.training.readers import frame_reader, readers_of
from kinema.training.run_folder import create_run
from kinema.training.sanity import blind_loss
from kinema.training.train import train

LSTM = "{name: cnn_lstm, backbone: tiny, hidden_size: 16, dropout: 0}"
STREAMS = ("data.modality=[rgb, flow]", f"model={{name: two_stream, network: {LSTM}}}", "clips.motion.bound_px=8")
FROZEN = ("init.freeze=backbone", "clips.augmentation={preset: none, flip: 0.5, views: 2, colour: 0.3}")


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Squares that go up or down, in two splits."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, num in (("train", 6), ("validation", 2)):
        for number in range(num):
            path = tmp_path / "moving" / split / ("up", "down")[number % 2] / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            patch = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            frames = []
            for step in range(12):
                frame = np.full((48, 48, 3), 90, dtype=np.uint8)
                top = 2 + 2 * (step if number % 2 else 11 - step)
                frame[top : top + 16, 16:32] = patch
                frames.append(frame)
            write_video(path, frames, fps=30)
    return tmp_path / "moving"


@pytest.fixture
def made(recipe: Callable[..., Recipe], moving: Path, tmp_path: Path) -> Callable[..., Prepared]:
    torch.save(FrameBackbone("tiny").body.state_dict(), tmp_path / "tiny.pt")
    weights = f"init={{weights: {tmp_path / 'tiny.pt'}, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}"

    def make(*overrides: str) -> Prepared:
        return prepare(recipe(f"data={{name: folder, root: {moving}}}", *STREAMS, weights, *overrides))

    return make


def test_streams_show_the_same_cut_and_side(made: Callable[..., Prepared]) -> None:
    prepared = made("clips.augmentation={min_scale: 0.5, flip: 0.5, colour: 0.4, erase: 0.5}")
    reader = frame_reader(prepared, "train", prepared.recipe.clips.augmentation)
    assert isinstance(reader, StreamsReader)
    flips = set()
    for index in range(len(reader)):
        for epoch in range(3):
            plans, drawn = reader.readers["rgb"].plan(index, epoch)
            of_motion, of_flow = reader.readers["flow"].plan(index, epoch)
            rgb, flow = plans["rgb"], of_motion["flow"]
            assert (rgb.indices, rgb.box, rgb.flip) == (flow.indices, flow.box, flow.flip)
            assert drawn.colour is not None
            assert of_flow.colour is None
            out = {name: np.empty(shape, dtype) for name, (shape, dtype) in reader.layout().items()}
            read = reader.read(index, epoch, out)
            assert (read.flip, read.colour, read.changes) == (drawn.flip, drawn.colour, drawn.changes)
            flips.add(read.flip)
    assert flips == {True, False}


def test_from_features_as_from_frames(made: Callable[..., Prepared]) -> None:
    """What the frozen backbones say of both streams is stored, and is what they say."""
    prepared = made(*FROZEN)
    readers = readers_of(prepared, None, SILENT)
    features = readers["train"]
    assert isinstance(features, StreamFeatures)
    model = prepared.model.eval()
    assert isinstance(model, StreamsModel)
    frames = frame_reader(prepared, "train", prepared.recipe.clips.augmentation)
    from kinema.data.device import to_model_input

    for index in range(len(frames)):
        for epoch in range(2):
            out = {name: np.empty(shape, dtype) for name, (shape, dtype) in frames.layout().items()}
            drawn = frames.read(index, epoch, out)
            inputs = to_model_input(
                {name: torch.from_numpy(values)[None] for name, values in out.items()},
                prepared.preprocessing,
                flip=torch.tensor([drawn.flip]),
                colour=None if drawn.colour is None else torch.tensor([drawn.colour]),
            )
            stored = {"features": np.empty(features.form.shape, features.form.dtype)}
            features.read(index, epoch, stored)
            with torch.no_grad():
                expected = torch.cat(
                    [network.features(inputs[stream]) for stream, network in model.frame_models.items()], dim=2
                )[0]
            difference = (torch.from_numpy(stored["features"]).float() - expected).abs().max()
            assert float(difference) < 5e-3 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("more", [(), FROZEN], ids=["frames", "features"])
def test_trained_evaluated_and_used(made: Callable[..., Prepared], moving: Path, more: tuple[str, ...]) -> None:
    prepared = made(*more, "trainer.epochs=2")
    run = create_run(prepared.recipe)
    train(prepared, run)
    config = json.loads((run.weights / "config.json").read_text())
    assert list(config["preprocessing"]) == ["rgb", "flow"]
    assert config["preprocessing"]["flow"]["motion"]["bound_px"] == 8
    kept = json.loads((run.weights / "training.json").read_text())
    assert {"rgb", "flow"} <= kept["inputs"].keys()
    found = evaluate(run.weights, ["clips.workers=0"], split="validation").record
    assert found["num_clips"] == 2
    video = next((moving / "validation" / "up").iterdir())
    said = kinema.load(run.weights).predict(video)
    assert sum(said.probabilities["action"].values()) == pytest.approx(1)
    # Of features pictures are drawn for what sees pictures.
    still, whole = of_model(open_weights(run.weights), size_px=32)
    assert still.module.name == "tiny"
    assert isinstance(whole.module, FrameModel)
    shown = shown_clips(prepared)
    assert {clip.caption.partition(" ")[2] for clip in shown} == {"(rgb)", "(flow)"}


def test_moments_of_all_streams_are_put_in_one_order(
    made: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers from frames and from stored features, to clips whose moments are in another order."""
    prepared = made(*FROZEN)
    run = create_run(prepared.recipe)
    train(prepared, run)
    found = {}
    for store in ("auto", "none"):
        settings = ["clips.workers=0", f"clips.store={store}"]
        found[store] = evaluate(run.weights, settings, split="train", orders=FRAME_ORDERS)
    for evaluation in found.values():
        assert evaluation.record["moving"] == ["flow"]
        assert evaluation.record["time"].keys() == set(FRAME_ORDERS)
    for order in FRAME_ORDERS:
        stored, read = (one.predictions.reordered[order]["action"] for one in found.values())
        assert np.abs(stored - read).max() < 1e-2
        assert not np.allclose(read, found["none"].predictions.logits["action"], atol=1e-5)


@pytest.mark.parametrize("more", [(), FROZEN], ids=["frames", "features"])
def test_clips_of_nothing_have_no_motion(made: Callable[..., Prepared], more: tuple[str, ...]) -> None:
    prepared = made(*more, "data.background=nothing")
    clips = prepared.clips["train"]
    assert len(clips) == 12
    reader = frame_reader(prepared, "train", prepared.recipe.clips.augmentation)
    still = [index for index, clip in enumerate(clips) if clip.still]
    assert 0 < len(still) < 7
    for index in range(len(clips)):
        out = {name: np.empty(shape, dtype) for name, (shape, dtype) in reader.layout().items()}
        reader.read(index, 0, out)
        assert bool((out["flow"] == 128).all()) is (index in still)
    run = create_run(prepared.recipe)
    train(prepared, run)
    config = json.loads((run.weights / "config.json").read_text())
    assert config["heads"]["action"] == ["down", "up", "nothing"]


def test_a_stream_that_is_for_training_alone(made: Callable[..., Prepared], moving: Path, tmp_path: Path) -> None:
    """The magnitude of flow reaches the optimiser through the loss, and nobody who uses the model needs it."""
    model = "{name: flow_attention, backbone: tiny, grid: 8, flow_channels: 4, channels: 8, dropout: 0, flow_weight: W}"
    state = {}
    for weight in ("0", "5"):
        given = ("data.modality=[rgb, flow_magnitude]", f"model={model.replace('W', weight)}", "trainer.epochs=2")
        prepared = made(*given, f"output={tmp_path / weight}")
        assert list(prepared.preprocessing) == ["rgb", "flow_magnitude"]
        assert isinstance(frame_reader(prepared, "train", None), StreamsReader)
        assert not isinstance(frame_reader(prepared, "validation", None), StreamsReader)
        run = create_run(prepared.recipe)
        train(prepared, run)
        config = json.loads((run.weights / "config.json").read_text())
        assert list(config["preprocessing"]) == ["rgb"]
        state[weight] = kinema.load(run.weights)
    assert evaluate(run.weights, ["clips.workers=0"], split="validation").record["num_clips"] == 2
    said = state["5"].predict(next((moving / "validation" / "up").iterdir()))
    assert sum(said.probabilities["action"].values()) == pytest.approx(1)
    without, with_loss = (state[weight].model.state_dict() for weight in ("0", "5"))
    name = "magnitude.0.weight"
    assert not torch.equal(without[name], with_loss[name])


def test_flow_that_is_for_training_alone_is_asked_of_training_clips_alone(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames whose flow others have computed, of training clips; of validation clips there is none."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    rows = ["path,label,split,flow,flow_fps"]
    for number in range(6):
        write_frames(tmp_path / "frames" / str(number), 10)
        write_flow(tmp_path / "flow" / str(number), 9, lambda field: (field / 4, 0.0))
        rows.append(f"frames/{number},{'xy'[number % 2]},{'train' if number < 4 else 'validation'},flow/{number},10")
    for number in (4, 5):
        shutil.rmtree(tmp_path / "flow" / str(number))
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    model = "{name: flow_attention, backbone: tiny, grid: 8, flow_channels: 4, channels: 8, dropout: 0}"
    given = (
        f"data={{name: table, root: {tmp_path}, fps: 10}}",
        "data.modality=[rgb, flow_magnitude]",
        "clips.motion={method: stored, bound_px: 10}",
        f"model={model}",
    )
    prepared = prepare(recipe(*given))
    assert {split: len(clips) for split, clips in prepared.clips.items()} == {"train": 4, "validation": 2}
    assert not any(prepared.skipped.values())
    assert blind_loss(prepared) is None  # the loss of maps is part of it
    shutil.rmtree(tmp_path / "flow" / "0")
    assert {split: len(clips) for split, clips in prepare(recipe(*given)).clips.items()} == {
        "train": 3,
        "validation": 2,
    }


@pytest.mark.parametrize("fusion", ["features", "convolution"])
def test_networks_begin_from_runs_and_are_trained_together(
    made: Callable[..., Prepared], tmp_path: Path, fusion: str
) -> None:
    """From a run on frames and one on flow, by the command's settings alone."""
    alone = ("model=" + LSTM, "trainer.epochs=1")
    for name, more in (("rgb", "clips.motion={bound_px: 20}"), ("flow", "clips.motion.bound_px=8")):
        prepared = made(f"data.modality={name}", *alone, more, f"output={tmp_path / name}")
        train(prepared, create_run(prepared.recipe))
    weights = f"{{networks.rgb: {tmp_path / 'rgb'}, networks.flow: {tmp_path / 'flow'}}}"
    model = f"model={{name: two_stream, network: {LSTM}, fusion: {fusion}}}"
    prepared = made(model, f"init={{weights: {weights}}}", "trainer.epochs=1", f"output={tmp_path / 'both'}")
    before = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    for stream in ("rgb", "flow"):
        source = kinema.load(tmp_path / stream).model.state_dict()
        name = "backbone.body.convolutions.0.0.weight"
        assert torch.equal(before[f"networks.{stream}.{name}"], source[name])
    assert prepared.preprocessing["rgb"].mean == (0.5, 0.5, 0.5)
    run = create_run(prepared.recipe)
    train(prepared, run)
    after = prepared.model.state_dict()
    for stream in ("rgb", "flow"):
        name = f"networks.{stream}.backbone.body.convolutions.0.0.weight"
        assert not torch.equal(before[name], after[name].cpu())
    still, *whole = of_model(open_weights(run.weights), size_px=32)
    assert still.module.name == "tiny"
    assert len(whole) == (fusion == "features")


def plain(folder: Path, video: Path) -> Mapping[str, float]:
    """Probabilities without a temperature."""
    recogniser = kinema.load(folder)
    recogniser.temperatures = {}
    return recogniser.predict(video).probabilities["action"]


def test_networks_that_were_trained_alone_are_averaged(
    made: Callable[..., Prepared], moving: Path, tmp_path: Path
) -> None:
    """On frames, on flow, and on both: as their probabilities by hand."""
    alone = ("model=" + LSTM, "trainer.epochs=1")
    runs = []
    for name, more in (
        ("rgb", ("data.modality=rgb", "clips.motion={bound_px: 20}", *alone)),
        ("flow", ("data.modality=flow", *alone)),
        ("two", ("trainer.epochs=1",)),
    ):
        prepared = made(*more, f"output={tmp_path / name}")
        run = create_run(prepared.recipe)
        train(prepared, run)
        runs.append(run.weights)
    video = next((moving / "validation" / "up").iterdir())
    each = {path.parent.name: plain(path, video) for path in runs}
    for members in (["rgb", "flow"], ["flow", "flow"], ["two", "two"], ["rgb", "two"]):
        out = tmp_path / "-".join(members)
        make_ensemble([tmp_path / name for name in members], out)
        found = plain(out, video)
        for label, probability in found.items():
            assert probability == pytest.approx(sum(each[name][label] for name in members) / 2, abs=1e-5)


def test_a_stored_stream_is_taken(made: Callable[..., Prepared], moving: Path, tmp_path: Path) -> None:
    """Flow that was prepared is read, frames beside it are decoded; as without the store, to the byte."""
    from kinema.data.frame_store import FrameFormat
    from kinema.preparation.frames import FrameSettings, prepare_frames

    prepared = made("clips.augmentation=none")
    flow = prepared.preprocessing["flow"]
    settings = FrameSettings(form=FrameFormat.of(flow), num_frames=flow.num_frames)
    prepare_frames(prepared.clips, prepared.videos, settings, tmp_path / "flow", root=moving, workers=0)
    plain = frame_reader(made("clips.augmentation=none", "clips.store=none"), "train", None)
    stored = frame_reader(prepared, "train", None)
    assert isinstance(stored, StreamsReader)
    assert stored.readers["flow"].store is not None
    assert stored.readers["rgb"].store is None
    for index in range(len(stored)):
        outs = []
        for reader in (plain, stored):
            out: dict[str, Any] = {name: np.empty(shape, dtype) for name, (shape, dtype) in reader.layout().items()}
            reader.read(index, 0, out)
            outs.append(out)
        assert all(np.array_equal(outs[0][stream], outs[1][stream]) for stream in ("rgb", "flow"))
