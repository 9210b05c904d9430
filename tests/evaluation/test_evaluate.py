"""From a weights folder and videos to numbers."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video
from torch import Tensor, nn

import kinema
from kinema.data.decoding import Video, probe
from kinema.data.device import to_model_input
from kinema.data.hashing import content_hash
from kinema.data.loading import Batch
from kinema.data.reading import read_clip
from kinema.evaluation.collector import Collector
from kinema.evaluation.evaluate import evaluate, with_classes
from kinema.evaluation.predict import predict_clips
from kinema.files import write_json
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Clip, ConfigError, DataError, Dataset, Preprocessing, UserError

CLASSES = ("open", "close")
RGB = Preprocessing(num_frames=3, size_px=32, resize_px=32, fit="squash", mean=MEAN, std=STD)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class below a folder per split; the clips of a class show other numbers."""
    root = tmp_path_factory.mktemp("videos")
    for split, per_class in (("train", 1), ("test", 3)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                frames = numbered_frames(8, first=100 * label + 9 * number)
                write_video(root / split / name / f"{number}.mp4", frames, fps=8)
    return root


@pytest.fixture
def weights(tmp_path: Path, videos: Path) -> Path:
    torch.manual_seed(0)
    config = WeightsConfig(
        model="cnn_conv1d",
        arguments={"backbone": "tiny", "channels": 8},
        heads={"action": CLASSES},
        preprocessing={"rgb": RGB},
    )
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    facts = replace(
        TRAINING,
        data={"name": "folder", "root": str(videos)},
        class_counts={"action": [1, 1]},
        commonest={"action": 1},
        accuracy={"action": 1.0},
    )
    save(tmp_path / "weights", model.state_dict(), config, facts, card="")
    return tmp_path / "weights"


def test_an_evaluation_equals_the_recogniser_on_every_clip(weights: Path) -> None:
    evaluation = evaluate(weights, ["clips.workers=0", "clips.batch_size=4"])
    assert evaluation.record["split"] == "test"
    assert evaluation.record["num_clips"] == 6
    assert evaluation.record["tasks"]["action"]["majority"] == 0.5
    recogniser = kinema.load(weights, device="cpu")
    right = []
    for row, clip in enumerate(evaluation.predictions.clips):
        found = recogniser.predict(clip.video)
        expected = evaluation.predictions.probabilities("action")[row]
        for index, name in enumerate(CLASSES):
            assert found.probabilities["action"][name] == pytest.approx(expected[index], abs=1e-6)
        right.append(found.labels["action"] == CLASSES[clip.labels["action"]])
    assert evaluation.record["tasks"]["action"]["top1"] == pytest.approx(np.mean(right))


def test_a_recogniser_is_as_sure_as_its_calibration_says(weights: Path) -> None:
    calibration = {"temperatures": {"action": 3.0}, "split": "validation", "clip_ids": ["another"]}
    write_json(weights / "calibration.json", calibration)
    evaluation = evaluate(weights, ["clips.workers=0"])
    clip, logits = evaluation.predictions.clips[0], evaluation.predictions.logits["action"][0]
    found = kinema.load(weights, device="cpu").predict(clip.video).probabilities["action"]
    expected = torch.from_numpy(logits / 3).softmax(0)
    assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-6)
    assert evaluation.record["tasks"]["action"]["calibration"]["temperature"] == 3
    assert evaluation.record["temperature_fitted_here"] is False
    write_json(weights / "calibration.json", calibration | {"clip_ids": [clip.clip_id]})
    assert evaluate(weights, ["clips.workers=0"]).record["temperature_fitted_here"] is True


def test_neither_workers_nor_batch_size_change_the_numbers(weights: Path) -> None:
    first = evaluate(weights, ["clips.workers=0", "clips.batch_size=1"])
    second = evaluate(weights, ["clips.workers=2"], defaults={"batch_size": 5})
    np.testing.assert_allclose(
        first.predictions.logits["action"], second.predictions.logits["action"], rtol=0, atol=1e-5
    )


def test_the_split_is_chosen_and_named(
    weights: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.INFO)
    assert evaluate(weights, ["clips.workers=0"], split="train").record["split"] == "train"
    assert "evaluating on the train split, 2 clips" in caplog.text
    with pytest.raises(ConfigError, match="--split: this data set has no validation split; it has train, test"):
        evaluate(weights, split="validation")


def test_without_a_test_split_it_is_the_validation_split(weights: Path, videos: Path) -> None:
    record = evaluate(weights, [f"data.root={videos / 'test'}", "data.validation=0.4", "clips.workers=0"]).record
    assert record["split"] == "validation"


def test_of_the_data_trained_on_training_clips_are_not_evaluated_unasked(weights: Path, videos: Path) -> None:
    edit(weights / "training.json", lambda content: content["data"].update(root=str(videos / "test")))
    with pytest.raises(ConfigError, match="--split: this data set has neither a test nor a validation split"):
        evaluate(weights)
    assert evaluate(weights, ["clips.workers=0"], split="train").record["leakage"] is None


def test_of_other_data_all_clips_are_evaluated(weights: Path, videos: Path) -> None:
    edit(weights / "training.json", lambda content: content["data"].update(validation=0.3))
    other = [f"data.root={videos / 'test'}", "clips.workers=0"]
    record = evaluate(weights, other).record
    assert (record["split"], record["num_clips"]) == ("train", 6)
    assert record["data"]["validation"] == 0.0
    assert record["leakage"] == {"same_video": 0, "same_group": 0}


def test_test_clips_alone_are_enough(weights: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos / "test", tmp_path / "only" / "test")
    evaluation = evaluate(weights, [f"data.root={tmp_path / 'only'}", "clips.workers=0"])
    assert (evaluation.record["split"], evaluation.record["num_clips"]) == ("test", 6)
    here = evaluate(weights, ["clips.workers=0"])
    assert np.array_equal(evaluation.predictions.logits["action"], here.predictions.logits["action"])


def test_data_that_were_moved_are_split_as_before(weights: Path, videos: Path) -> None:
    known = [content_hash(path) for path in sorted((videos / "test").rglob("*.mp4"))]
    edit(weights / "training.json", lambda content: content.update(contents=known))
    edit(weights / "training.json", lambda content: content["data"].update(validation=0.3))
    record = evaluate(weights, [f"data.root={videos / 'test'}", "clips.workers=0"]).record
    assert (record["split"], record["data"]["validation"]) == ("validation", 0.3)


def test_a_key_of_the_run_that_does_not_fit_other_data_is_named(weights: Path, videos: Path) -> None:
    edit(weights / "training.json", lambda content: content["data"].update(group="take (\\d+)"))
    root = f"data.root={videos / 'test'}"
    with pytest.raises(
        ConfigError, match=r"^data\.group: .* \(the key is the trained recipe's; data\.group=null drops it\)$"
    ):
        evaluate(weights, [root])
    with pytest.raises(ConfigError, match=r"^data\.group: .*class folder$"):
        evaluate(weights, [root, "data.group=shot"])


def test_broken_clips_are_counted(weights: Path, videos: Path, tmp_path: Path) -> None:
    for video in sorted(videos.rglob("*.mp4")):
        copy = tmp_path / "copy" / video.relative_to(videos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(video.read_bytes())
    (tmp_path / "copy" / "test" / "open" / "1.mp4").write_bytes(b"")
    evaluation = evaluate(weights, [f"data.root={tmp_path / 'copy'}", "clips.workers=0"])
    assert (evaluation.record["num_clips"], evaluation.record["num_skipped"]) == (5, 1)
    assert list(evaluation.predictions.skipped) == ["test/open/1.mp4"]
    for video in (tmp_path / "copy" / "test").rglob("*.mp4"):
        video.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 6 test clips can be read; the first: "):
        evaluate(weights, [f"data.root={tmp_path / 'copy'}", "clips.workers=0"])


def test_clips_that_were_trained_on_are_counted(weights: Path, videos: Path) -> None:
    known = [content_hash(path) for path in sorted((videos / "test").rglob("*.mp4"))[:2]]
    edit(weights / "training.json", lambda content: content.update(contents=known))
    assert evaluate(weights, ["clips.workers=0"]).record["leakage"] == {"same_video": 2, "same_group": 0}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_facts_of_another_training_are_refused(weights: Path) -> None:
    edit(weights / "training.json", lambda content: content.update(class_counts={"verb": [1, 1]}))
    with pytest.raises(DataError, match=r"training\.json: its classes are not those of config\.json"):
        evaluate(weights)


# Predicting


class Brightness(nn.Module):
    """Logits that only depend on the clip's own pixels."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float("nan") if broken else 1.0))

    def forward(self, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        mean = streams["rgb"].mean(dim=(1, 2, 3, 4)) * self.scale
        return {"action": torch.stack([mean, -mean], dim=1)}


def clips_of(videos: Path) -> tuple[list[Clip], dict[Path, Video | DataError]]:
    paths = sorted((videos / "test").rglob("*.mp4"))
    clips = [Clip(clip_id=path.name + path.parent.name, video=path, labels={"action": 0}) for path in paths]
    return clips, {path: probe(path) for path in paths}


def test_predictions_are_those_of_the_model_and_leave_it_as_it_was(videos: Path) -> None:
    clips, probed = clips_of(videos)
    probed[clips[1].video] = DataError("broken: when it was probed")
    gone = replace(clips[4], video=Path("gone.mp4"))
    video = probed[clips[4].video]
    assert isinstance(video, Video)
    probed[gone.video] = replace(video, path=gone.video)
    model = Brightness().train()
    found = predict_clips(
        model,
        [*clips[:4], gone, *clips[5:]],
        probed,
        classes={"action": CLASSES},
        preprocessing={"rgb": RGB},
        batch_size=2,
        workers=0,
    )
    assert model.training
    assert found.skipped == {
        clips[1].clip_id: "broken: when it was probed",
        gone.clip_id: "gone.mp4: no such file",
    }
    kept = [clips[i] for i in (0, 2, 3, 5)]
    assert list(found.clips) == kept
    for row, clip in enumerate(kept):
        own = probed[clip.video]
        assert isinstance(own, Video)
        expected = model(to_model_input({"rgb": read_clip(clip, own, RGB)[None]}, {"rgb": RGB}))["action"][0]
        np.testing.assert_allclose(found.logits["action"][row], expected.detach().numpy(), rtol=0, atol=1e-6)


def test_no_clip_gives_no_row(videos: Path) -> None:
    clips, probed = clips_of(videos)
    broken: dict[Path, Video | DataError] = {path: DataError(f"{path}: broken") for path in probed}
    found = predict_clips(
        Brightness(),
        clips,
        broken,
        classes={"action": CLASSES},
        preprocessing={"rgb": RGB},
        batch_size=2,
        workers=0,
    )
    assert found.logits["action"].shape == (0, 2)
    assert found.labels["action"].shape == (0,)
    assert len(found.skipped) == len(clips)


def test_logits_that_are_not_finite_are_refused(videos: Path) -> None:
    clips, probed = clips_of(videos)
    model = Brightness(broken=True).train()
    with pytest.raises(UserError, match="the model gives numbers that are not finite for 'action'"):
        predict_clips(
            model, clips, probed, classes={"action": CLASSES}, preprocessing={"rgb": RGB}, batch_size=2, workers=0
        )
    assert model.training


def test_the_collector_keeps_rows_and_clips_together() -> None:
    clips = [Clip(clip_id=str(i), video=Path("v.mp4"), labels={"action": i % 2}) for i in range(5)]
    collector = Collector()
    for indices, failures in (([3, 0], {1: "gone"}), ([], {2: "broken"}), ([4], {})):
        batch = Batch(streams={}, labels={}, indices=torch.tensor(indices, dtype=torch.int64), failures=failures)
        collector.add(batch, {"action": torch.tensor([[float(i), 0.0] for i in indices])} if indices else {})
    found = collector.predictions(clips, {"action": CLASSES}, {"9": "never there"})
    assert [clip.clip_id for clip in found.clips] == ["3", "0", "4"]
    assert found.logits["action"][:, 0].tolist() == [3.0, 0.0, 4.0]
    assert found.labels["action"].tolist() == [1, 0, 0]
    assert found.skipped == {"9": "never there", "1": "gone", "2": "broken"}


# Classes of other data


def labelled(task_classes: dict[str, tuple[str, ...]], *labels: dict[str, int]) -> Dataset:
    clips = tuple(Clip(clip_id=str(i), video=Path("v.mp4"), labels=own) for i, own in enumerate(labels))
    return Dataset(classes=task_classes, splits={"test": clips})


def test_classes_are_matched_by_name() -> None:
    dataset = labelled({"action": ("close", "open")}, {"action": 0}, {"action": 1})
    found = with_classes(dataset, {"action": ("wave", "open", "close")})
    assert found.classes == {"action": ("wave", "open", "close")}
    assert [clip.labels for clip in found.splits["test"]] == [{"action": 2}, {"action": 1}]


def test_equal_classes_change_nothing() -> None:
    dataset = labelled({"action": CLASSES}, {"action": 0})
    assert with_classes(dataset, {"action": CLASSES}) is dataset


def test_only_the_models_tasks_are_kept() -> None:
    dataset = labelled({"noun": ("b", "a"), "verb": ("x",)}, {"noun": 0, "verb": 0})
    found = with_classes(dataset, {"noun": ("a", "b")})
    assert [clip.labels for clip in found.splits["test"]] == [{"noun": 1}]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"verb": CLASSES}, "the data set has no labels for the model's task 'action'; it has verb"),
        (
            {"action": ("open", "shut", "lock")},
            "has 2 classes of 'action' that the model does not know, such as 'shut'",
        ),
    ],
)
def test_classes_that_the_model_does_not_know_are_refused(classes: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_classes(labelled(classes), {"action": CLASSES})


def test_unlabelled_clips_cannot_be_evaluated(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = labelled({"action": CLASSES}, {"action": 0}, {}, {})
    monkeypatch.setattr("kinema.evaluation.evaluate.load_dataset", lambda *_, **__: dataset)
    with pytest.raises(DataError, match="2 clips of the test split have no label"):
        evaluate(weights)
