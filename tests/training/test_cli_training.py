"""`kinema train` as a user has it: exit codes, lines, files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.training.processes import wait_until
from tests.training.runs import position, result, training_json

from kinema.cli import console
from kinema.cli.main import main

THREADS = torch.get_num_threads()
"""What a process of its own takes; the fixtures take one, which is faster on clips so small."""


@dataclass(frozen=True)
class Done:
    """What a command answered."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@pytest.fixture
def kinema(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """Runs a command in this process, in the folder `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["kinema", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def recipe(settings: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(done: Done, pattern: str) -> None:
    """Exit code 2, nothing on standard output that is JSON, and one line that says what is wrong."""
    assert done.code == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert re.search(pattern, lines[0].removeprefix("error: ")), lines[0]
    assert "Traceback" not in done.stderr


# A run


def test_a_run_from_its_beginning_to_its_end(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    done = kinema("train", recipe, "output=run", "--json", "-")
    assert done.code == 0
    facts = done.json
    assert set(facts) == {"run", "weights", "report", "best"}
    assert (facts["run"], facts["weights"]) == ("run", "run/weights")
    best = facts["best"]
    assert set(best) == {"epoch", "selected_by", "train_top1", "split", "top1", "gap"}
    assert best["epoch"] == training_json(tmp_path / "run")["epoch"]
    assert best["gap"] == pytest.approx(best["train_top1"] - best["top1"])
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO ", line) for line in log)
    printed = [line for line in done.stderr.splitlines() if not line.startswith(("training: ", "measuring", "evaluat"))]
    assert [line.split(" INFO ", 1)[1] for line in log] == [line for line in printed if line]
    assert any("cnn_lstm, 201,522 parameters" in line for line in log)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["command"] == ["kinema", "train", str(recipe), "output=run", "--json", "-"]

    again = kinema("train", "--resume", "run", "--json", "-")
    assert again.code == 0
    assert again.json == facts
    assert "run is finished already" in again.stderr


def test_a_run_without_json(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    done = kinema("train", recipe, "output=run", "trainer.epochs=1", "--json", "facts.json")
    assert (done.code, done.stderr) == (0, "")
    assert json.loads((tmp_path / "facts.json").read_text())["run"] == "run"
    assert "weights: run/weights" in done.stdout
    assert re.search(r"epoch 1 kept; top-1 [\d.]+ % on training clips, [\d.]+ % on validation clips", done.stdout)
    assert "next:    kinema evaluate run" in done.stdout


def test_progress_says_rate_estimate_and_waiting(
    kinema: Callable[..., Done], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    done = kinema("train", recipe, "output=run", "trainer.epochs=2")
    lines = [line for line in done.stdout.splitlines() if line.startswith("training: ")]
    number = r"[\d.,e+]+"
    running = rf"training: \d+/32 clips, {number} clips/s, \d+ s left, epoch [12]/2, loss \d+\.\d{{3}}, "
    running += r"waiting for clips \d+%(, validation action [\d.]+%)?"
    assert len(lines) >= 12
    assert all(re.fullmatch(running, line) for line in lines[:11]), lines
    assert "validation action" in lines[10]
    shares = [int(re.findall(r"clips (\d+)%", line)[0]) for line in lines[:11]]
    assert all(0 <= share <= 100 for share in shares)
    assert max(shares) > 0  # decoding takes some time


def test_a_plan_makes_nothing(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    before = content(tmp_path)
    done = kinema("train", recipe, "output=run", "--dry-run", "--json", "-")
    assert done.code == 0
    made = content(tmp_path)
    plan = done.json
    assert made.pop(plan["picture"]).startswith(b"\x89PNG")
    assert made == before
    assert not (tmp_path / "run").exists()
    assert f"picture of a training batch: {plan['picture']}" in done.stderr
    assert plan["clips"] == {"train": 16, "validation": 4}
    assert plan["skipped"] == {"train": 0, "validation": 0}
    assert plan["classes"] == {"action": 2}
    assert plan["steps"] == 18
    assert plan["select"] == "best"
    assert plan["parameters"] == plan["trainable"] == 201_522
    assert plan["recipe"]["optim"]["lr"] == 3e-3
    assert kinema("train", recipe, "output=run", "--dry-run").code == 0
    assert not (tmp_path / "run").exists()


def test_a_plan_without_room_for_its_picture(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "kinema-dry-run.png").mkdir()
    done = kinema("train", recipe, "--dry-run", "--json", "-")
    assert done.code == 0
    assert done.json["picture"] is None
    assert "no picture of a training batch: " in done.stderr


# What is refused


def test_an_output_that_exists_is_left_alone(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("text")
    before = content(tmp_path)
    for name in ("mine", "file"):
        assert_one_line(kinema("train", recipe, f"output={name}"), rf"^output: {name} exists already")
    assert content(tmp_path) == before


def test_an_empty_output_folder_is_taken(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert kinema("train", recipe, "output=run", "trainer.epochs=1").code == 0
    assert (tmp_path / "run" / "weights").is_dir()


def test_going_on_with_other_settings_is_refused(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    assert kinema("train", recipe, "output=run", "trainer.epochs=1").code == 0
    before = content(tmp_path / "run")
    for arguments, key in (
        (["--resume", "run", "trainer.epochs=5"], r"trainer\.epochs: the run was begun with 1, now it is 5"),
        (["--resume", "run", recipe], r"trainer\.epochs: .* 1, now it is 3"),
        ([recipe, "trainer.epochs=1", "clips.augmentation.flip=0", "--resume", "run"], r"clips\.augmentation\.flip: "),
        (["--resume", "run", "model.hidden_size=8"], r"model\.hidden_size: the run was begun with 16, now it is 8"),
        (["--resume", "run", "trainer.epohcs=1"], r"trainer\.epohcs: unknown key; did you mean 'epochs'"),
    ):
        assert_one_line(kinema("train", *arguments), rf"^{key}")
    assert kinema("train", "--resume", "run", "trainer.epochs=1").code == 0
    assert kinema("train", recipe, "trainer.epochs=1", "output=elsewhere", "--resume", "run").code == 0
    assert content(tmp_path / "run") == before


def test_a_folder_that_is_no_run_is_not_gone_on_with(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert_one_line(kinema("train", "--resume", "mine"), r"^mine: not a run, config\.yaml is missing")
    assert_one_line(kinema("train", "--resume", "nowhere"), r"^nowhere: not a run, config\.yaml is missing")
    assert_one_line(kinema("train"), r"^RECIPE: missing")
    # A recipe called config.yaml in a folder that is not ours, and that cannot be trained: nothing is removed.
    text = recipe.read_text().replace("root: ", "root: /nowhere")
    (tmp_path / "mine" / "config.yaml").write_text(text)
    assert_one_line(kinema("train", "--resume", "mine"), r"^/nowhere.*: no such file or folder")
    assert sorted(content(tmp_path / "mine")) == ["config.yaml", "thesis.tex"]


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("init.weights=nowhere.pt", r"nowhere\.pt: "),
        ("data.root=/nowhere", r"^/nowhere: no such file or folder"),
        ("clips.batch_size=0", r"^clips\.batch_size: .*greater than or equal to 1"),
        ("task.weights={verb: 1}", r"^task\.weights\.verb: no such task; this data set has action"),
        ("clips.num_frames=1", r"^clips\.batch_size: with 3 and 16 training clips, an epoch has a batch of one clip"),
        ("optim.lr=1e30", r"^the (loss is (nan|inf) in epoch 1, batch \d|model gives numbers that are not finite)"),
    ],
)
def test_what_fails_before_anything_was_trained_leaves_nothing(
    kinema: Callable[..., Done], recipe: Path, tmp_path: Path, override: str, pattern: str
) -> None:
    assert_one_line(kinema("train", recipe, "output=run", override), pattern)
    assert not (tmp_path / "run").exists()
    (tmp_path / "mount").mkdir()
    assert_one_line(kinema("train", recipe, "output=mount", override), pattern)
    assert content(tmp_path / "mount") == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    for setting in ("trainer.precision=fp16", "trainer.accelerator=gpu"):
        done = kinema("train", recipe, "output=run", setting, "data.root=/nowhere")
        assert_one_line(done, rf"^{setting.partition('=')[0]}: ")
    assert not (tmp_path / "run").exists()


def test_broken_clips_are_said_once_and_left_out(
    kinema: Callable[..., Done],
    recipe: Path,
    tmp_path: Path,
    clips_root: Path,
) -> None:
    root = shutil.copytree(clips_root, tmp_path / "clips")
    (root / "train" / "rising" / "0.mp4").write_bytes(b"")
    whole = (root / "train" / "rising" / "1.mp4").read_bytes()
    (root / "train" / "rising" / "1.mp4").write_bytes(whole[: len(whole) // 2])
    done = kinema("train", recipe, f"data.root={root}", "output=run", "trainer.epochs=1")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.count("cannot be read and are left out") == 1
    assert "train: 14 clips, 2 left out" in done.stdout
    assert training_json(tmp_path / "run")["class_counts"] == {"action": [8, 6]}
    for path in (root / "train").rglob("*.mp4"):
        path.write_bytes(b"")
    done = kinema("train", recipe, f"data.root={root}", "output=other")
    assert_one_line(done, r"^none of the 16 train clips can be read; the first: .*0\.mp4: ")
    assert not (tmp_path / "other").exists()


def test_a_table_with_a_time_outside_its_video(
    kinema: Callable[..., Done],
    recipe: Path,
    tmp_path: Path,
    clips_root: Path,
) -> None:
    videos = sorted((clips_root / "train").rglob("*.mp4"))[:4]
    lines = [f"{path},{path.parent.name},0,{7.5 if number == 2 else 1}" for number, path in enumerate(videos)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,start_s,stop_s", *lines]) + "\n")
    data = f"data={{name: table, root: {tmp_path / 'clips.csv'}}}"
    plain = ["trainer.select=last", "trainer.patience=null", "output=run"]
    done = kinema("train", recipe, data, *plain)
    assert_one_line(done, rf"^{videos[2]}: the clip .* is annotated from 0 to 7\.5 s, but the video is 1\.000 s long")
    assert not (tmp_path / "run").exists()


# The real thing


def test_the_installed_command_is_killed_and_goes_on(kinema: Callable[..., Done], recipe: Path, tmp_path: Path) -> None:
    """From a shell's point of view, with as many threads as there are cores, and a kill whose moment nobody chose."""
    command = [str(Path(sys.executable).with_name("kinema")), "train"]
    environment = {**os.environ, "KINEMA_CACHE": str(tmp_path / "cache")}
    settings = ["clips.workers=1", "trainer.checkpoint_minutes=1e-9", "trainer.epochs=2"]
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    begin = [*command, str(recipe), *settings]
    with subprocess.Popen([*begin, f"output={run}"], env=environment, start_new_session=True) as process:
        checkpoint = run / "checkpoints" / "last.ckpt"
        while True:
            wait_until(checkpoint.exists)
            process.send_signal(signal.SIGSTOP)  # so that it does not run on between a look and the kill
            assert process.poll() is None, "it was not caught in the middle of an epoch"
            epoch, batches = position(run)
            if batches in range(1, 6):
                break
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert position(run) == (epoch, batches)
    resumed = subprocess.run([*command, "--resume", str(run)], env=environment, capture_output=True, text=True)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    torch.set_num_threads(THREADS)
    assert kinema("train", recipe, *settings, f"output={undisturbed}").code == 0
    assert result(run) == result(undisturbed)
