"""The command line: words on the right stream, JSON alone where JSON was asked for, one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from tests.commands import Kinema
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video

from kinema import recipes
from kinema.config import json_schema, resolve
from kinema.files import parse_yaml
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.registry import entries
from kinema.types import Preprocessing
from kinema.version import __version__

KINEMA = Path(sys.executable).with_name("kinema")
HEAVY = ("torch", "torchvision", "lightning", "timm", "av", "numpy", "matplotlib")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of a model that nobody trained, and beside it the videos that it says it was trained on."""
    place = tmp_path_factory.mktemp("trained")
    for name in ("open", "close"):
        (place / "clips" / name).mkdir(parents=True)
        write_video(place / "clips" / name / "a.mp4", numbered_frames(8), fps=8)
    rgb = Preprocessing(num_frames=2, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
    config = WeightsConfig(
        model="frame_average",
        arguments={"backbone": "tiny"},
        heads={"action": ("close", "open")},
        preprocessing={"rgb": rgb},
    )
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    facts = replace(TRAINING, data={"name": "folder", "root": str(place / "clips")}, class_counts={"action": [1, 1]})
    save(place / "weights", model.state_dict(), config, facts, card="")
    return place / "weights"


# The installed command


def test_the_installed_command_answers() -> None:
    done = subprocess.run([KINEMA, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "evaluate" in done.stdout
    done = subprocess.run([KINEMA, "predict"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Missing argument 'WEIGHTS'; see kinema predict --help\n"


def test_nobody_reads_on() -> None:
    with subprocess.Popen(
        [KINEMA, "recipes", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert "Traceback" not in done.stderr.read()
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--help"], 0),
        (["train", "--help"], 0),
        (["recipes"], 0),
        (["recipes", "ls"], 0),
        (["recipes", "show", "motion/cnn_lstm"], 0),
        (["recipes", "validate", "motion/cnn_lstm"], 0),
        (["recipes", "schema"], 0),
        (["datasets"], 0),
        (["data"], 0),
        (["data", "check", "--help"], 0),
        (["data", "list", "ucf101", "root", "data.folds=1"], 2),
        (["models", "--json", "-"], 0),
        (["models", "video_transformer"], 0),
        (["models", "cnn_ltsm"], 2),
        (["watch", "--help"], 0),
        (["watch", "--list"], 0),
        (["watch"], 2),
        (["watch", "weights", "entr=0.5"], 2),
        (["tarin"], 2),
        (["train", "motion/cnn_ltsm"], 2),
        (["train", "motion/cnn_lstm", "modle.name=x"], 2),
        (["train", "motion/cnn_lstm", "model.hiden_size=3"], 2),
        (["train", "motion/cnn_lstm", "clips.batch_size=0"], 2),
        (["recipes", "validate", "motion/cnn_lstm", "optim.lr=fast"], 2),
    ],
)
def test_what_needs_no_torch_does_not_load_it(arguments: list[str], code: int) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['kinema', *{arguments!r}]\n"
        "from kinema.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as leave:\n"
        f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    sys.stderr.write(f'\\n{leave.code} {loaded}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == f"{code} []"


@pytest.mark.parametrize(("given", "kept"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_sleep(kinema: Kinema, monkeypatch: pytest.MonkeyPatch, given: str | None, kept: str) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "to be put back after the test")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert kinema("recipes", "ls").code == 0
    assert os.environ["OMP_WAIT_POLICY"] == kept


# What there is


def test_without_arguments_it_helps(kinema: Kinema) -> None:
    found = kinema()
    assert (found.code, found.err) == (0, "")
    assert found.out == kinema("--help").out
    for command in ("demo", "recipes", "data", "datasets", "models", "info", "train", "evaluate", "predict"):
        assert f"\n  {command} " in found.out
        assert kinema(command, "--help").code == 0


def test_recipes(kinema: Kinema) -> None:
    found = kinema("recipes", "ls", "--json", "-")
    assert found.code == 0
    assert [row["name"] for row in found.json] == recipes.names()
    assert set(found.json[0]) == {"name", "data", "model", "epochs"}
    listed = kinema("recipes", "ls")
    assert all(name in listed.out for name in recipes.names())
    assert kinema("recipes").out == listed.out


def test_show_is_the_file(kinema: Kinema) -> None:
    found = kinema("recipes", "show", "motion/cnn_lstm")
    assert found.out == recipes.find("motion/cnn_lstm").read_text().rstrip() + "\n"


def test_show_prints_any_text_as_it_is(kinema: Kinema) -> None:
    text = "# :smile: [bold]x[/bold] " + "long " * 60 + "\ndata: {name: motion}\n"
    Path("mine.yaml").write_text(text)
    assert kinema("recipes", "show", "mine.yaml").out == text
    assert kinema("recipes", "show", "mine.yaml", "--json", "-").json == {
        "name": "mine.yaml",
        "path": "mine.yaml",
        "text": Path("mine.yaml").read_text(),
        "settings": recipes.read("mine.yaml"),
    }


def test_cp_and_validate(kinema: Kinema) -> None:
    assert kinema("recipes", "cp", "motion/cnn_lstm", "mine.yaml").code == 0
    assert Path("mine.yaml").read_bytes() == recipes.find("motion/cnn_lstm").read_bytes()
    Path("folder").mkdir()
    found = kinema("recipes", "cp", "motion/cnn_lstm", "folder", "--json", "-")
    assert found.json == {"name": "motion/cnn_lstm", "file": "folder/cnn_lstm.yaml"}
    assert "kinema recipes cp --json FILE" in kinema("recipes", "--json", "-", "cp", "motion/cnn_lstm", "a").error()
    assert Path("folder/cnn_lstm.yaml").is_file()
    assert "mine.yaml: exists already" in kinema("recipes", "cp", "motion/cnn_lstm", "mine.yaml").error()
    assert "cannot be written" in kinema("recipes", "cp", "motion/cnn_lstm", "nowhere/mine.yaml").error()
    found = kinema("recipes", "validate", "mine.yaml", "optim.lr=1e-4")
    expected = resolve(recipes.read("motion/cnn_lstm"), ["optim.lr=1e-4"]).to_dict()
    assert found.code == 0
    assert parse_yaml(found.out, source="") == expected
    assert kinema("recipes", "validate", "mine.yaml", "optim.lr=1e-4", "--json", "-").json == expected


def test_schema(kinema: Kinema) -> None:
    assert kinema("recipes", "schema").json == json_schema()
    found = kinema("recipes", "schema", "--json", "schema.json")
    assert (found.code, found.out) == (0, "")
    assert json.loads(Path("schema.json").read_text()) == json_schema()


@pytest.mark.parametrize(("command", "kind"), [("datasets", "dataset"), ("models", "model")])
def test_catalogues(kinema: Kinema, command: str, kind: Any) -> None:
    found = kinema(command, "--json", "-").json
    assert [row["name"] for row in found] == list(entries(kind))
    for row, known in zip(found, entries(kind).values(), strict=True):
        assert [argument["name"] for argument in row["arguments"]] == [p.name for p in known.parameters]
        assert all(argument["required"] != ("default" in argument) for argument in row["arguments"])
    words = kinema(command).out
    assert all(name in words for name in entries(kind))


def test_what_a_model_comes_to(kinema: Kinema) -> None:
    (found,) = (row for row in kinema("models", "--json", "-").json if row["name"] == "cnn_lstm")
    assert found["input"] == {"rgb": [20, 3, 224, 224]}
    assert (found["feature_store"], found["streams"]) == (True, "state")
    configurations = {one["name"]: one for one in found["configurations"]}
    assert configurations["epic_categories"]["parameters"] == {"total": 2_491_035, "trainable": 267_163}
    assert configurations["epic_categories"]["arguments"] == {"hidden_size": 50, "head_norm": "batch"}
    assert 7 < configurations["epic_categories"]["gflops"] < 9
    assert configurations["epic_efficientnet_b3_bi"]["streams"] == "window"
    assert kinema("models", "cnn_lstm", "--json", "-").json == found
    words = kinema("models", "cnn_lstm").out
    assert all(text in words for text in ("Donahue et al.", "hidden_size", "267,163", "window"))
    assert (
        "\nepic_categories: model.hidden_size=50 model.head_norm=batch init.freeze=backbone clips.num_frames=20"
        in words
    )
    defaults = {line.split()[0]: line.split()[1:] for line in words.splitlines() if len(line.split()) > 1}
    assert defaults["bidirectional"][:2] == ["bool", "false"]
    assert defaults["head_hidden"][:3] == ["tuple[int,", "...]", "[]"]
    listed = kinema("models").out
    assert "2,958,821" in listed
    assert [line.split()[6] for line in listed.splitlines() if line.startswith((" cnn_lstm ", " tsm "))] == [
        "6.00",
        "32.70",
    ]


def test_what_is_shown_of_a_configuration_can_be_written_behind_a_recipe(kinema: Kinema) -> None:
    lines = kinema("models", "cnn_transformer").out.splitlines()
    (settings,) = (line.split(": ", 1)[1] for line in lines if line.startswith("epic_improved: "))
    command = ["recipes", "validate", "ucf101/frame_average", "model.name=cnn_transformer", *settings.split()]
    found = kinema(*command, "--json", "-")
    assert found.code == 0, found.err
    assert found.json["model"]["width"] is None
    assert found.json["init"]["freeze"] == 2


def test_stacked_flow_is_written_behind_a_recipe(kinema: Kinema) -> None:
    lines = kinema("models", "two_stream_cross_task").out.splitlines()
    (settings,) = (line for line in lines if line.startswith("epic: "))
    assert settings.endswith('data.modality=["rgb", "flow"] clips.motion.stack=5')


def test_a_model_that_there_is_not_is_one_line(kinema: Kinema) -> None:
    assert (
        kinema("models", "cnn_ltsm").error().startswith("NAME: there is no model 'cnn_ltsm'; did you mean 'cnn_lstm'?")
    )


def test_types_in_a_catalogue_are_readable(kinema: Kinema) -> None:
    tables = {row["name"]: row for row in kinema("models", "--json", "-").json}
    types = {argument["name"]: argument["type"] for argument in tables["cnn_lstm"]["arguments"]}
    expected = {"backbone": "str", "hidden_size": "int", "bidirectional": "bool", "pool": "Literal['last', 'mean']"}
    assert {name: types[name] for name in expected} == expected
    data = {row["name"]: row for row in kinema("datasets", "--json", "-").json}
    types = {argument["name"]: argument["type"] for argument in data["table"]["arguments"]}
    assert (types["csv"], types["labels"]) == ("str | dict[str, str] | None", "str | list[str] | None")


def test_info(kinema: Kinema) -> None:
    found = kinema("info", "--json", "-")
    assert found.json["kinema"] == __version__
    assert found.json["torch"] == version("torch")
    assert found.json["cores"] >= 1
    assert found.json["cache"] == os.environ["KINEMA_CACHE"]
    words = kinema("info").out
    assert all(name in words for name in found.json)


# JSON


@pytest.mark.parametrize(
    "command",
    [["recipes"], ["recipes", "ls"], ["recipes", "validate", "motion/cnn_lstm"], ["datasets"], ["models"], ["info"]],
)
def test_json_is_the_same_in_a_file_and_on_standard_output(kinema: Kinema, command: list[str]) -> None:
    found = kinema(*command, "--json", "facts.json")
    assert found.code == 0
    assert found.out == ("" if "validate" in command else kinema(*command).out)
    assert json.loads(Path("facts.json").read_text()) == kinema(*command, "--json", "-").json
    assert [path.name for path in Path.cwd().iterdir()] == ["facts.json"]


@pytest.mark.parametrize("place", ["nowhere/facts.json", "."])
def test_json_that_cannot_be_written_is_said_before_the_work(
    kinema: Kinema, place: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinema.inference.recogniser.load", _must_not_be_called)
    assert kinema("predict", weights, "a.mp4", "--json", place).error().startswith(f"--json: {place}")
    assert not any(Path.cwd().iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(kinema: Kinema) -> None:
    assert kinema("datasets", "--json", "/dev/full").error() == (
        "--json: /dev/full cannot be written: No space left on device"
    )


def _must_not_be_called(*_: object, **__: object) -> None:
    raise AssertionError


# Mistakes


def write_recipe(text: str, name: str = "mine.yaml") -> str:
    Path(name).write_text(text)
    return name


FOLDER = "data: {name: folder, root: clips}\nmodel: {name: frame_average, backbone: tiny}\nclips: {size_px: 32}\n"


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["tarin"], "No such command 'tarin'"),
        (["train"], "RECIPE: missing"),
        (["train", "--recipe", "x"], "No such option: --recipe"),
        (["predict"], "Missing argument 'WEIGHTS'"),
        (["predict", "w", "v", "--top", "0"], "Invalid value for '--top'"),
        (["evaluate", "w", "--split", "tset"], "Invalid value for '--split'"),
        (["train", "motion/cnn_ltsm"], "motion/cnn_ltsm: no such recipe; did you mean 'motion/cnn_lstm'?"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", "motion/cnn_lstm", "clips.batch_size=0"], "clips.batch_size: input should be greater"),
        (["train", "motion/cnn_lstm", "optim.learnrate=1"], "optim.learnrate: unknown key"),
        (["train", "motion/cnn_lstm", "optim"], "'optim': expected section.key=value"),
        (["train", "--resume", "nowhere"], "nowhere: not a run, config.yaml is missing"),
        (["evaluate", "nowhere"], "nowhere: no such weights folder"),
        (["predict", "nowhere", "a.mp4"], "nowhere: no such weights folder"),
        (["predict", ".", "a.mp4"], ".: not a weights folder, config.json is missing"),
    ],
)
def test_a_mistake_is_one_line(kinema: Kinema, arguments: list[str], start: str) -> None:
    found = kinema(*arguments)
    assert found.error().startswith(start)
    assert found.out == ""
    assert not any(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: [1", "mine.yaml: not valid YAML, line 1: "),
        ("just words", "mine.yaml: expected sections (data:, model:, ...), found str"),
        ("", "mine.yaml: expected sections"),
        (FOLDER.replace("clips: {size_px", "clip: {size_px"), "clip: unknown section; did you mean 'clips'?"),
        (FOLDER.replace(", root: clips", ""), "data.root: missing; give the folder of the data set"),
        (FOLDER, "HERE/clips: no such file or folder; data.root has to name the place of the data set"),
        (FOLDER.replace("clips}", "mine.yaml}"), "HERE/mine.yaml: is a file; data.root has to name the folder"),
        (FOLDER.replace("tiny", "tinny"), "model.backbone: no image network 'tinny'"),
    ],
)
def test_a_recipe_with_a_mistake_is_one_line(kinema: Kinema, text: str, start: str) -> None:
    write_recipe(text)
    if "tinny" in text:
        Path("clips/open").mkdir(parents=True)
        Path("clips/open/a.mp4").touch()
    found = kinema("train", "mine.yaml")
    assert found.error().startswith(start.replace("HERE", str(Path.cwd())))
    assert not Path("runs").exists()


def test_an_empty_class_folder_is_one_line(kinema: Kinema) -> None:
    write_recipe(FOLDER)
    Path("clips/open").mkdir(parents=True)
    assert kinema("train", "mine.yaml").error().startswith(f"{Path.cwd()}/clips/open: the class folder is empty")


def test_several_mistakes_are_a_line_each(kinema: Kinema) -> None:
    found = kinema("train", "motion/cnn_lstm", "optim.lr=0", "optim.lrr=1")
    assert found.code == 2
    assert [line.partition(": ")[2].partition(":")[0] for line in found.err.splitlines()] == ["optim.lr", "optim.lrr"]


# Predicting


def test_predict(kinema: Kinema, weights: Path) -> None:
    video = weights.parent / "clips" / "open" / "a.mp4"
    found = kinema("predict", weights, video, "--json", "-")
    assert (found.code, [row["video"] for row in found.json]) == (0, [str(video)])
    named = found.json[0]["tasks"]["action"]
    assert {row["class"] for row in named} == {"open", "close"}
    assert sum(row["probability"] for row in named) == pytest.approx(1)
    one = kinema("predict", weights.parent, video, "--top", 1, "--json", "-").json
    assert one[0]["tasks"]["action"] == named[:1]
    assert named[0]["class"] in kinema("predict", weights, video).out


def test_predict_says_what_was_damaged(kinema: Kinema, weights: Path, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", numbered_frames(24), fps=8, codec="mpeg4")
    content = whole.read_bytes()
    start = content.index(b"movi") + 400
    damaged = tmp_path / "damaged.avi"
    damaged.write_bytes(content[:start] + bytes(40) + content[start + 40 :])
    found = kinema("predict", weights, whole, damaged, "--json", "-")
    assert found.code == 0
    assert [row["damaged"] for row in found.json] == [False, True]
    assert f"{damaged}: damaged in places; what decodes of it is used" in found.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "empty (0 bytes)"), (b"not a video\n" * 100, "not a video that FFmpeg can read")],
)
def test_a_video_that_cannot_be_read_is_one_line(
    kinema: Kinema, weights: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        Path("clip.avi").write_bytes(content)
    found = kinema("predict", weights, "clip.avi", "--json", "-")
    assert found.error().startswith(f"clip.avi: {message}")
    assert found.json == [{"video": "clip.avi", "error": found.error()}]


def test_other_videos_are_named_all_the_same(kinema: Kinema, weights: Path) -> None:
    video = weights.parent / "clips" / "open" / "a.mp4"
    found = kinema("predict", weights, "gone.mp4", video)
    assert found.error() == "gone.mp4: no such file"
    assert str(video.name) in found.out


def test_a_file_with_sound_only_is_one_line(kinema: Kinema, weights: Path) -> None:
    with av.open("sound.mpg", "w") as container:
        stream = container.add_stream("mp2", rate=44100)
        assert isinstance(stream, AudioStream)
        frame = AudioFrame.from_ndarray(np.zeros((1, 2 * 4608), dtype=np.int16), format="s16", layout="stereo")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode()])
    assert kinema("predict", weights, "sound.mpg").error() == "sound.mpg: no video stream"


def test_awkward_files_are_decoded(kinema: Kinema, weights: Path, data_root: Path) -> None:
    suffixes = {".mkv", ".mp4", ".mpg", ".avi", ".webm"}
    files = sorted(path for path in (data_root / "edge_cases").iterdir() if path.suffix in suffixes)
    assert len(files) == 11
    found = kinema("predict", weights, *files, "--json", "-")
    assert found.code == 0
    assert [(row["video"], list(row["tasks"])) for row in found.json] == [(str(file), ["action"]) for file in files]
    license_ = data_root / "edge_cases" / "LICENSE.torchcodec"
    assert kinema("predict", weights, license_).error().startswith(f"{license_}: not a video that FFmpeg can read")


# Evaluating


def test_evaluate(kinema: Kinema, weights: Path) -> None:
    found = kinema("evaluate", weights, "--split", "train", "clips.workers=0", "--json", "-")
    assert found.code == 0
    assert (found.json["split"], found.json["num_clips"], found.json["num_skipped"]) == ("train", 2, 0)
    assert found.json["tasks"]["action"]["chance"] == 0.5
    assert "evaluating on the train split, 2 clips" in found.err
    words = kinema("evaluate", weights, "--split", "train", "clips.workers=0").out
    assert "train split: 2 clips, 0 skipped" in words
    assert "50.0 %" in words
    assert not any(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["clips.size_px=64"], "clips.size_px: belongs to the weights"),
        (["model.name=cnn_lstm"], "model.name: an evaluation takes data.*"),
        (["data.rot=x"], "data.rot: unknown key; did you mean 'root'?"),
        (["data.root=nowhere"], "HERE/nowhere: no such file or folder"),
        ([], "--split: this data set has neither a test nor a validation split; say --split train"),
        (["--split", "test"], "--split: this data set has no test split; it has train"),
    ],
)
def test_an_evaluation_with_a_mistake_is_one_line(
    kinema: Kinema, weights: Path, arguments: list[str], start: str
) -> None:
    assert kinema("evaluate", weights, *arguments).error().startswith(start.replace("HERE", str(Path.cwd())))


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_without_a_traceback(tmp_path: Path, number: int, code: int) -> None:
    program = (
        "import os, sys\n"
        "from kinema.cli import main\n"
        f"main.catalogue.entries = lambda kind: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv = ['kinema', 'models']\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "stopped\n")
