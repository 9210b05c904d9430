"""What an evaluation can be asked for beside the numbers: views, other orders, unknown clips, other lists; and that it
goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video

import kinema
from kinema.data.device import to_model_input
from kinema.data.hashing import content_hash
from kinema.data.probing import probe_all
from kinema.data.reading import plan_clip, read_plan
from kinema.data.views import Views
from kinema.evaluation import answers as keeping
from kinema.evaluation.evaluate import evaluate
from kinema.evaluation.fit_rejection import fit_rejection
from kinema.evaluation.frame_orders import FRAME_ORDERS
from kinema.evaluation.rejection import scores, separation
from kinema.models.build import build_model
from kinema.models.load import load_model
from kinema.models.weights import WeightsConfig, read_rejection, save
from kinema.types import Clip, ConfigError, DataError, Preprocessing

CLASSES = ("close", "open")
RGB = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
NUM_PER_CLASS = 12
ALONE = ["clips.workers=0", "clips.batch_size=4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("more")
    for split in ("train", "validation", "test"):
        for label, name in enumerate(CLASSES):
            (root / "data" / split / name).mkdir(parents=True)
            for number in range(NUM_PER_CLASS if split == "validation" else 3):
                frames = numbered_frames(12, first=100 * label + 5 * number)
                write_video(root / "data" / split / name / f"{number}.mp4", frames, fps=6)
    (root / "others").mkdir()
    for number in range(4):
        write_video(root / "others" / f"{number}.mp4", numbered_frames(12, first=60 + number), fps=6)
    return root


@pytest.fixture
def weights(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    return make_weights(tmp_path / "weights", videos)


def make_weights(
    folder: Path, videos: Path, *, size: Preprocessing = RGB, classes: tuple[str, ...] = CLASSES, **facts: Any
) -> Path:
    torch.manual_seed(0)
    config = WeightsConfig(
        model="cnn_conv1d",
        arguments={"backbone": "tiny", "channels": 8},
        heads={"action": classes},
        preprocessing={"rgb": size},
    )
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    known: dict[str, Any] = {
        "data": {"name": "folder", "root": str(videos / "data")},
        "class_counts": {"action": [1, 1]},
        "commonest": {"action": 1},
        "contents": [content_hash(path) for path in sorted((videos / "data" / "train").rglob("*.mp4"))],
        "groups": [],
    }
    save(folder, model.state_dict(), config, replace(TRAINING, **{**known, **facts}), card="")
    return folder


def test_views_are_the_mean_of_single_ones(weights: Path) -> None:
    """Beside a plain loop over frames, cuts and mirror images."""
    views = Views(clips=2, crops=3, flip=True)
    found = evaluate(weights, ALONE, views=views)
    assert found.record["views"] == {"clips": 2, "crops": 3, "flip": True, "average": "probabilities", "num": 12}
    model, config = load_model(weights)
    right = []
    for row, clip in enumerate(found.predictions.clips):
        (video,) = probe_all([clip.video]).values()
        assert not isinstance(video, DataError)
        probabilities = []
        for view in views:
            plan = plan_clip(clip, video, RGB, look=view)
            frames = torch.from_numpy(read_plan(video, plan, RGB))[None]
            with torch.inference_mode():
                rgb = to_model_input({"rgb": frames}, config.preprocessing)["rgb"]
                rgb = rgb.flip(-1) if view.flip else rgb
                probabilities.append(model({"rgb": rgb})["action"][0].softmax(0).numpy())
            right.append(int(probabilities[-1].argmax()) == clip.labels["action"])
        np.testing.assert_allclose(found.predictions.probabilities("action")[row], np.mean(probabilities, 0), atol=1e-5)
    assert found.record["tasks"]["action"]["single_view_top1"] == pytest.approx(np.mean(right))


def test_one_view_is_none_at_all(weights: Path) -> None:
    plain, one = evaluate(weights, ALONE), evaluate(weights, ALONE, views=Views(), average="vote")
    np.testing.assert_array_equal(plain.predictions.logits["action"], one.predictions.logits["action"])
    assert "views" not in one.record
    assert "single_view_top1" not in one.record["tasks"]["action"]


def test_other_orders_are_those_of_the_frames(weights: Path) -> None:
    found = evaluate(weights, ALONE, orders=FRAME_ORDERS)
    assert found.record["time"].keys() == {"reversed", "shuffled", "still"}
    model, config = load_model(weights)
    for row, clip in enumerate(found.predictions.clips[:2]):
        (video,) = probe_all([clip.video]).values()
        assert not isinstance(video, DataError)
        frames = torch.from_numpy(read_plan(video, plan_clip(clip, video, RGB), RGB))[None]
        for order, places in (("reversed", [3, 2, 1, 0]), ("still", [2, 2, 2, 2])):
            with torch.inference_mode():
                logits = model(to_model_input({"rgb": frames[:, places]}, config.preprocessing))["action"][0]
            np.testing.assert_allclose(found.predictions.reordered[order]["action"][row], logits.numpy(), atol=1e-4)


def test_one_frame_has_no_order(tmp_path: Path, videos: Path) -> None:
    weights = make_weights(tmp_path / "one", videos, size=replace(RGB, num_frames=1))
    with pytest.raises(ConfigError, match="--time-test: this model sees one frame"):
        evaluate(weights, ALONE, orders=FRAME_ORDERS)


class Stopped(BaseException):
    pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches that a model was asked about; it is stopped at the number that is set."""
    from kinema.evaluation import predict

    plain, calls = predict._answers, [0, 10**9]

    def answers(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == calls[1]:
            raise Stopped
        return plain(*arguments)

    monkeypatch.setattr(predict, "_answers", answers)
    return calls


def test_it_goes_on_where_it_was_stopped(weights: Path, asked: list[int], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"views": Views(clips=3), "orders": FRAME_ORDERS}
    whole = evaluate(weights, ALONE, **settings)
    whole.forget()  # where it took long
    assert asked[0] == 6  # 6 clips, 4 at once, 3 views
    asked[:] = [0, 4]
    with pytest.raises(Stopped):
        evaluate(weights, ALONE, **settings)
    asked[:] = [0, 10**9]
    again = evaluate(weights, ALONE, **settings)
    assert asked[0] == 3
    assert json.dumps(again.record) == json.dumps(whole.record)
    np.testing.assert_array_equal(again.predictions.logits["action"], whole.predictions.logits["action"])
    of_all, whole_of_all = again.predictions.inputs, whole.predictions.inputs
    assert of_all.keys() == whole_of_all.keys() == {"rgb"}
    assert of_all["rgb"] == pytest.approx(whole_of_all["rgb"])  # of all batches, not of those since then
    assert len(list((tmp_path / "cache" / "evaluations").iterdir())) == 1  # until the result is saved
    again.forget()
    assert not list((tmp_path / "cache" / "evaluations").iterdir())


HOLD = """
import sys
from pathlib import Path
from kinema.files import locked
with locked(Path(sys.argv[1]), wait=False) as is_mine:
    print(is_mine, flush=True)
    sys.stdin.read()
"""


def test_another_process_at_the_same_is_left_alone(
    weights: Path, asked: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked[1] = 2
    with pytest.raises(Stopped):
        evaluate(weights, ALONE)
    (kept,) = (tmp_path / "cache" / "evaluations").iterdir()
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert before
    asked[:] = [0, 10**9]
    claim = tmp_path / "cache" / "locks" / kept.name
    assert claim.exists()
    command = [sys.executable, "-c", HOLD, str(claim)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with caplog.at_level(logging.WARNING, logger="kinema"):
            logging.getLogger("kinema").propagate = True
            found = evaluate(weights, ALONE)
        assert "another process is at the same evaluation" in caplog.text
        assert asked[0] == 2  # nothing of the other's was taken
        found.forget()
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
        other.communicate("")
    caplog.clear()
    asked[0] = 0
    again = evaluate(weights, ALONE)
    assert asked[0] == 1  # what was kept is good for something now
    assert "another process" not in caplog.text
    np.testing.assert_array_equal(again.predictions.logits["action"], found.predictions.logits["action"])
    again.forget()
    assert not kept.exists()


def test_mirrored_views_of_classes_that_say_a_side_are_warned_of(
    tmp_path: Path, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = make_weights(tmp_path / "sided", videos, classes=("turn left", "turn right"))
    mapped = [*ALONE, "data.class_map={close: turn left, open: turn right}"]
    with caplog.at_level(logging.WARNING, logger="kinema"):
        logging.getLogger("kinema").propagate = True
        evaluate(weights, mapped)
        assert "--flip" not in caplog.text
        evaluate(weights, mapped, views=Views(flip=True))
    assert "--flip also looks at each clip mirrored, and these classes tell left from right: turn left" in caplog.text


@pytest.mark.parametrize("change", ["views", "weights", "video"])
def test_what_was_answered_otherwise_is_not_taken(weights: Path, asked: list[int], videos: Path, change: str) -> None:
    asked[1] = 2
    with pytest.raises(Stopped):
        evaluate(weights, ALONE)
    asked[:] = [0, 10**9]
    if change == "weights":
        path = weights / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    if change == "video":
        (videos / "data" / "test" / "open" / "0.mp4").touch()
    evaluate(weights, ALONE, views=Views(clips=2 if change == "views" else 1))
    assert asked[0] == (4 if change == "views" else 2)


def test_unknown_clips_are_told_apart_as_far_as_scores_go(weights: Path, videos: Path) -> None:
    found = evaluate(weights, ALONE, unknown=videos / "others")
    rejection = found.record["rejection"]
    assert rejection["num_unknown"] == 4
    recogniser = kinema.load(weights, device="cpu")
    predicted = [recogniser.predict(path) for path in sorted((videos / "others").iterdir())]
    unknown = [max(one.probabilities["action"].values()) for one in predicted]
    expected = separation(scores(found.predictions.logits, "max_probability"), np.array(unknown))
    assert rejection["methods"]["max_probability"] == pytest.approx(expected)
    (videos / "list.csv").write_text("path,label\n" + "".join(f"others/{number}.mp4,none\n" for number in range(4)))
    listed = evaluate(weights, ALONE, unknown=videos / "list.csv").record["rejection"]
    assert listed == rejection


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "--unknown: .* does not exist"),
        ("data/train", "all of its 6 clips are of videos that were trained on, such as 0.mp4"),
        ("known.csv", "it holds clips of 'open', which this model knows"),
        ("empty", "no video in this folder"),
    ],
)
def test_clips_that_are_not_unknown_are_refused(weights: Path, videos: Path, place: str, message: str) -> None:
    (videos / "empty").mkdir(exist_ok=True)
    (videos / "known.csv").write_text("path,label\nothers/0.mp4,open\nothers/1.mp4,none\n")
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate(weights, ALONE, unknown=videos / place)


def test_unknown_clips_that_training_knows_are_named(tmp_path: Path, videos: Path) -> None:
    weights = make_weights(tmp_path / "weights", videos, groups=["kitchen 1", "kitchen 2"])
    rows = ["others/0.mp4,none,kitchen 1", "others/1.mp4,none,kitchen 7", "data/train/open/0.mp4,none,kitchen 8"]
    (videos / "groups.csv").write_text("\n".join(["path,label,group", *rows, ""]))

    def said_of(place: str) -> list[str]:
        found = evaluate(weights, ALONE, unknown=videos / place).record["findings"]
        return [finding["message"] for finding in found if "unknown clips" in finding["message"]]

    said = said_of("groups.csv")
    assert [text.partition(":")[0] for text in said] == [
        "1 of 3 unknown clips are of a video that was trained on",
        "1 of 3 unknown clips are of a group with the name of one that was trained on",
    ]
    assert said_of("others") == []


def test_unknown_clips_are_grouped_as_those_trained_on(tmp_path: Path, videos: Path) -> None:
    """By the columns of the training list, which need not be called `group`."""
    place = videos / "held_out.csv"
    rows = ["path,label,set,sequence,split"]
    rows += [
        f"data/{s}/open/{n}.mp4,open,{number},{n},{s}" for number, s in ((1, "train"), (2, "test")) for n in (0, 1)
    ]
    rows += [
        f"data/{s}/close/{n}.mp4,close,{number},{n},{s}" for number, s in ((1, "train"), (2, "test")) for n in (0, 1)
    ]
    place.write_text("\n".join([*rows, ""]))
    data = {"name": "table", "root": str(place), "group": ["set", "sequence"]}
    weights = make_weights(tmp_path / "weights", videos, data=data, groups=["1/0", "1/1"], contents=[])
    (videos / "nothing.csv").write_text("path,label,set,sequence\nothers/0.mp4,none,1,0\nothers/1.mp4,none,2,0\n")
    found = evaluate(weights, ALONE, unknown=videos / "nothing.csv").record["findings"]
    assert [one["message"].partition(" with")[0] for one in found if "unknown" in one["message"]] == [
        "1 of 2 unknown clips are of a group"
    ]


def test_an_evaluation_says_whether_it_is_of_its_own_clips(weights: Path, videos: Path, tmp_path: Path) -> None:
    own = evaluate(weights, ALONE).record["list"]
    assert own["own"]
    moved = tmp_path / "moved"
    shutil.copytree(videos / "data", moved)
    assert evaluate(weights, [*ALONE, f"data.root={moved}"]).record["list"] == own | {"source": str(moved)}
    assert evaluate(weights, [*ALONE, "data.fraction=0.5"]).record["list"] == own  # of training clips
    for path in (moved / "train").rglob("*.mp4"):  # of the same names, and other clips
        path.write_bytes((videos / "others" / "0.mp4").read_bytes())
    assert not evaluate(weights, [*ALONE, f"data.root={moved}"]).record["list"]["own"]
    mapped = evaluate(weights, [*ALONE, "data.class_map={close: open}"]).record["list"]
    assert not mapped["own"]
    (videos / "own.csv").write_text("path,label\ndata/test/open/0.mp4,open\ndata/test/close/1.mp4,close\n")
    listed = evaluate(weights, ALONE, clips=videos / "own.csv").record["list"]
    assert (listed["own"], listed["source"]) == (False, str(videos / "own.csv"))
    assert len({own["fingerprint"], mapped["fingerprint"], listed["fingerprint"]}) == 3
    validation = evaluate(weights, ALONE, split="validation").record["list"]
    assert validation["own"]
    assert validation["fingerprint"] != own["fingerprint"]


@pytest.mark.parametrize("average", ["probabilities", "logits", "vote"])
def test_unknown_clips_are_looked_at_as_the_others(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, average: Any
) -> None:
    """The same clips on both sides are not told apart, whatever the views."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    root, weights = videos / "data" / "test", make_weights(tmp_path / "weights", videos, contents=[])
    found = evaluate(weights, ALONE, views=Views(clips=2, flip=True), average=average, unknown=root).record["rejection"]
    assert {of["auroc"] for of in found["methods"].values()} == {0.5}
    assert ("energy" in found["methods"]) == (average == "logits")


def test_a_threshold_is_fitted_on_validation_clips_and_used(weights: Path, videos: Path) -> None:
    kept = fit_rejection(weights, ALONE, recall=0.5)
    assert read_rejection(weights) == kept
    assert len(kept.clip_ids) == 2 * NUM_PER_CLASS
    validation = evaluate(weights, ALONE, split="validation")
    assert validation.record["rejection"]["known_accepted"] == 0.5
    recogniser = kinema.load(weights, device="cpu")
    known = [recogniser.predict(clip.video) for clip in validation.predictions.clips]
    assert sum(one.known for one in known) == NUM_PER_CLASS
    for one in known:
        assert one.score == pytest.approx(max(one.probabilities["action"].values()), abs=1e-6)
        assert one.known == (one.score is not None and one.score >= kept.threshold)
        assert str(one).startswith("nothing of its classes") != one.known


def test_a_threshold_needs_validation_clips(tmp_path: Path, videos: Path) -> None:
    only = tmp_path / "only"
    (only / "test").mkdir(parents=True)
    for name in CLASSES:
        (only / "test" / name).symlink_to(videos / "data" / "test" / name)
    (only / "train").symlink_to(videos / "data" / "train")
    weights = make_weights(tmp_path / "weights", videos, data={"name": "folder", "root": str(only)})
    with pytest.raises(ConfigError, match=r"no validation split; train with data\.validation=0\.1"):
        fit_rejection(weights, ALONE)
    with pytest.raises(ConfigError, match="name the class that stands for nothing"):
        fit_rejection(weights, ALONE, method="background")


def test_a_broken_threshold_is_named(weights: Path) -> None:
    (weights / "rejection.json").write_text('{"method": "guess", "threshold": 1}')
    with pytest.raises(DataError, match=r"rejection\.json: no threshold of kinema; remove it"):
        kinema.load(weights)


def test_another_list_is_evaluated(weights: Path, videos: Path) -> None:
    rows = [f"data/test/{name}/{number}.mp4,{name}" for name in CLASSES for number in range(2)]
    (videos / "some.csv").write_text("\n".join(["path,label", *rows]))
    found = evaluate(weights, ALONE, clips=videos / "some.csv")
    assert found.record["num_clips"] == 4
    assert found.record["data"]["name"] == "table"
    of_all = evaluate(weights, ALONE)
    places = {clip.video: row for row, clip in enumerate(of_all.predictions.clips)}
    for row, clip in enumerate(found.predictions.clips):
        expected = of_all.predictions.logits["action"][places[clip.video]]
        np.testing.assert_allclose(found.predictions.logits["action"][row], expected, atol=1e-5)
    with pytest.raises(ConfigError, match=r"--clips: .* does not exist"):
        evaluate(weights, ALONE, clips=videos / "nowhere.csv")


def test_kept_answers_are_those_of_short_work_too(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written after every batch, they change nothing."""
    plain = evaluate(weights, ALONE)
    monkeypatch.setattr(keeping.Kept.__init__, "__kwdefaults__", {"every_s": 0.0})
    again = evaluate(weights, ALONE)
    np.testing.assert_array_equal(plain.predictions.logits["action"], again.predictions.logits["action"])
    assert isinstance(again.predictions.clips[0], Clip)
