"""A run that was interrupted, however and wherever, and goes on ends as if it had not been."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tests.training.processes import Commands, Ended, at, wait_until
from tests.training.runs import position, result, rows, temporary_files

from kinema.data.frame_store import FrameFormat
from kinema.models.frame_model import FrameModel
from kinema.preparation.frames import FrameSettings, prepare_frames
from kinema.preparation.transcode import TranscodeSettings, transcode_videos
from kinema.sections import Recipe
from kinema.training import module
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.train import train
from kinema.types import DataError

BATCHES = 6
OFTEN = "trainer.checkpoint_minutes=1e-9"


@pytest.fixture(scope="session")
def recipe_file(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="session")
def undisturbed(server: Popen[str], recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that nothing happened to ends in."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = Commands(server, folder, {"KINEMA_CACHE": str(folder / "cache")}).run(
        "train", recipe_file, "output=run", "clips.workers=1"
    )
    assert (ended.code, ended.stderr) == (0, "")
    assert len(rows(folder / "run")) == 3
    return result(folder / "run")


@pytest.fixture
def begin(commands: Commands, recipe_file: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Starts the run `tmp_path/run`, to which an event happens."""

    def start(event: dict[str, Any], *overrides: str) -> Ended:
        return commands.run(
            "train", recipe_file, f"output={tmp_path / 'run'}", "clips.workers=1", *overrides, event=event
        )

    return start


def resumed(commands: Commands, run: Path, event: dict[str, Any] | None = None) -> Ended:
    return commands.run("train", "--resume", run, event=event)


@pytest.mark.parametrize(
    ("event", "often", "checkpoint"),
    [
        pytest.param(at("training", signal.SIGKILL, epoch=2, batch=4), True, (2, 3), id="middle of an epoch"),
        pytest.param(at("training", signal.SIGKILL, epoch=3, batch=6), True, (3, 5), id="last batch of all"),
        pytest.param(at("training", signal.SIGKILL, epoch=2, batch=4), False, (1, 6), id="after an epoch"),
        pytest.param(at("training", signal.SIGKILL, epoch=1, batch=3), False, None, id="no checkpoint yet"),
        pytest.param(at("validation", signal.SIGKILL, epoch=2, batch=2), True, (2, 5), id="validation"),
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    commands: Commands,
    begin: Callable[..., Ended],
    tmp_path: Path,
    undisturbed: dict[str, Any],
    event: dict[str, Any],
    often: bool,
    checkpoint: tuple[int, int] | None,
) -> None:
    run = tmp_path / "run"
    killed = begin(event, *([OFTEN] if often else []))
    assert killed.code == -signal.SIGKILL
    assert not (run / "weights").exists()
    if checkpoint is None:
        assert not (run / "checkpoints" / "last.ckpt").exists()
    else:
        assert position(run) == checkpoint
    ended = resumed(commands, run)
    assert (ended.code, ended.stderr) == (0, "")
    assert result(run) == undisturbed


def test_a_run_may_be_killed_more_than_once(
    commands: Commands, begin: Callable[..., Ended], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    killed = begin(at("training", signal.SIGKILL, epoch=1, batch=5), OFTEN)
    for event, expected in (
        (at("training", signal.SIGKILL, epoch=1, batch=6), (1, 5)),
        (at("training", signal.SIGKILL, epoch=3, batch=2), (3, 1)),
    ):
        assert resumed(commands, run, event).code == -signal.SIGKILL
        assert position(run) == expected
    # What a kill in the middle of writing a checkpoint would leave.
    (run / "checkpoints" / ".last.ckpt.12345.tmp").write_bytes(b"half")
    assert resumed(commands, run).code == 0
    assert result(run) == undisturbed
    assert not temporary_files(run)
    # The processes that read clips notice within some seconds that they are alone.
    wait_until(lambda: not killed.children(), longest_s=15)


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143)],
)
def test_a_signal_saves_and_leaves(
    commands: Commands,
    begin: Callable[..., Ended],
    tmp_path: Path,
    undisturbed: dict[str, Any],
    number: signal.Signals,
    to_group: bool,
    code: int,
) -> None:
    run = tmp_path / "run"
    ended = begin(at("training", number, epoch=2, batch=3, to_group=to_group))
    assert ended.code == code
    assert ended.stderr == f"stopped; go on with: kinema train --resume {run}\n"
    assert not ended.children()
    assert position(run) == (2, 3)
    assert not temporary_files(run)
    assert "stopped by signal" in (run / "log.txt").read_text()
    if not to_group:
        assert resumed(commands, run).code == 0
        assert result(run) == undisturbed


def test_a_signal_in_the_last_batch_waits_for_the_epoch_s_end(
    commands: Commands, begin: Callable[..., Ended], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    ended = begin(at("training", signal.SIGINT, epoch=3, batch=BATCHES, to_group=True))
    assert ended.code == 130
    assert position(run) == (3, BATCHES)
    assert len(rows(run)) == 3
    ended = resumed(commands, run, at("training", signal.SIGKILL, epoch=3, batch=1))  # no step is left
    assert ended.code == 0
    assert result(run) == undisturbed


def test_a_second_signal_ends_at_once(commands: Commands, begin: Callable[..., Ended], tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = begin(at("training", signal.SIGINT, signal.SIGINT, epoch=2, batch=3, to_group=True))
    assert ended.code == 130
    assert ended.stderr == f"stopped; go on with: kinema train --resume {run}\n"
    assert position(run) == (1, BATCHES)  # there was no time for another checkpoint
    wait_until(lambda: not ended.children(), longest_s=1)


@pytest.mark.parametrize("place", ["probing", "setting up"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_leaves_no_run(
    begin: Callable[..., Ended], tmp_path: Path, place: str, number: signal.Signals, code: int
) -> None:
    ended = begin(at(place, number))
    assert (ended.code, ended.stderr) == (code, "stopped\n")
    assert not (tmp_path / "run").exists()
    assert not ended.children()


def test_a_signal_before_the_first_checkpoint_saves_one(begin: Callable[..., Ended], tmp_path: Path) -> None:
    assert begin(at("training", signal.SIGTERM, epoch=1, batch=1)).code == 143
    assert position(tmp_path / "run") == (1, 1)


def test_a_signal_while_the_result_is_measured(
    commands: Commands, begin: Callable[..., Ended], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    ended = begin(at("finishing", signal.SIGTERM))
    assert ended.code == 143
    assert ended.stderr == f"stopped; go on with: kinema train --resume {run}\n"
    assert not (run / "weights").exists()
    assert resumed(commands, run).code == 0
    assert result(run) == undisturbed


def test_files_that_may_not_grow(
    commands: Commands, begin: Callable[..., Ended], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """What a full disk is like where no disk can be made for the purpose: see `test_full_disk.py`."""
    run = tmp_path / "run"
    ended = begin(at("training", epoch=2, batch=1, largest_file=100_000))
    assert ended.code == 2
    assert ended.stderr.startswith(f"error: {run / 'checkpoints'}/")
    assert "cannot be written: File too large; make room and go on with --resume" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert position(run) == (1, BATCHES)
    assert not temporary_files(run)
    assert resumed(commands, run).code == 0
    assert result(run) == undisturbed


# In this process: what needs no process of its own.


class CrashError(Exception):
    pass


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Lets training break at the beginning of a batch; epoch 0 mends it."""
    step = RecogniserTraining.training_step

    def arrange(epoch: int, batch: int) -> None:
        def broken(self: RecogniserTraining, *arguments: Any) -> Any:
            if (self.current_epoch + 1, self.batches_done + 1) == (epoch, batch):
                raise CrashError
            return step(self, *arguments)

        monkeypatch.setattr(RecogniserTraining, "training_step", broken)

    return arrange


def interrupted(recipe: Recipe, crash: Callable[[int, int], None], epoch: int, batch: int) -> Run:
    run = create_run(recipe)
    crash(epoch, batch)
    with pytest.raises(CrashError):
        train(prepare(recipe), run)
    crash(0, 0)
    return run


@pytest.mark.parametrize("begun_with", ["features", "frames"])
def test_what_a_frozen_backbone_s_run_reads_stays_the_same(
    recipe: Callable[..., Recipe],
    crash: Callable[[int, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun_with: str,
) -> None:
    """Features are rounded to fp16: whether there is room for them must not change sides in the middle of a run."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    features = tmp_path / "cache" / "features"
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
    frozen = [f"init.weights={tmp_path / 'weights.pt'}", "init.freeze=backbone", "clips.augmentation.views=2"]
    frozen += ["init.mean=[0.5,0.5,0.5]", "init.std=[0.5,0.5,0.5]", OFTEN]

    def has_room(yes: bool) -> None:
        free = SimpleNamespace(free=2**40 if yes else 0)
        monkeypatch.setattr("kinema.preparation.room.shutil.disk_usage", lambda _: free)

    has_room(begun_with == "features")
    undisturbed = recipe(*frozen, f"output={tmp_path / 'undisturbed'}")
    train(prepare(undisturbed), create_run(undisturbed))
    made = recipe(*frozen)
    run = interrupted(made, crash, 2, 3)
    if begun_with == "features":
        assert list(features.iterdir())
        shutil.rmtree(features)
        has_room(False)
        with pytest.raises(DataError, match=r"features of train clips cannot be kept .* was begun with features"):
            train(prepare(made), run)
    has_room(True)
    train(prepare(made), run)
    assert features.exists() == (begun_with == "features")
    assert result(run.folder)["model.safetensors"] == result(tmp_path / "undisturbed")["model.safetensors"]


@pytest.mark.parametrize("kind", ["frames", "transcode"])
def test_a_store_that_has_grown_since_the_run_was_begun(
    recipe: Callable[..., Recipe], crash: Callable[[int, int], None], tmp_path: Path, kind: str
) -> None:
    """What it holds is not the same to the bit as what a decoder gives."""
    store = tmp_path / "store"
    made = recipe(f"clips.store={store}")
    prepared = prepare(recipe())

    def fill(shard: tuple[int, int]) -> None:
        if kind == "frames":
            settings = FrameSettings(form=FrameFormat(pixels="rgb", short_side_px=40), rate_fps=8)
            some = {split: list(clips) for split, clips in prepared.clips.items()}
            prepare_frames(some, prepared.videos, settings, store, root=made.data.root, shard=shard)
        else:
            transcode_videos(prepared.videos, TranscodeSettings(), store, root=made.data.root, shard=shard)

    fill((1, 2))
    kept = shutil.copytree(store, tmp_path / "kept")
    undisturbed = recipe(f"clips.store={store}", f"output={tmp_path / 'undisturbed'}")
    train(prepare(undisturbed), create_run(undisturbed))
    run = interrupted(made, crash, 2, 3)
    fill((2, 2))
    with pytest.raises(DataError, match=r"clips.store: .*store: what is stored of \w+ clips is not what the run was"):
        train(prepare(made), run)
    shutil.rmtree(store)
    kept.rename(store)
    train(prepare(made), run)
    assert result(run.folder) == result(tmp_path / "undisturbed")


def test_a_run_that_was_moved_goes_on(
    recipe: Callable[..., Recipe],
    crash: Callable[[int, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The best epoch lies before the move, and one after it is better than nothing, but not the best."""
    tops = iter([0.9, 0.2, 0.5])
    monkeypatch.setattr(module, "accuracy", lambda _predictions: {"action": next(tops)})
    run = interrupted(recipe(), crash, 3, 2)
    moved = Run(tmp_path / "elsewhere")
    shutil.move(run.folder, moved.folder)
    trained = train(prepare(moved.recipe()), moved)
    assert trained.best["epoch"] == 1
    assert not run.folder.exists()


def test_learning_rates_of_two_parts_go_on(
    recipe: Callable[..., Recipe], crash: Callable[[int, int], None], tmp_path: Path
) -> None:
    rates = ["optim.backbone_lr_factor=0.1", "optim.stage_lr_factor=0.5", OFTEN]
    undisturbed = create_run(recipe(*rates, f"output={tmp_path / 'undisturbed'}"))
    train(prepare(undisturbed.recipe()), undisturbed)
    run = interrupted(recipe(*rates), crash, 2, 4)
    train(prepare(run.recipe()), run)
    assert result(run.folder) == result(undisturbed.folder)
    assert "lr_backbone" in rows(run.folder)[0]


def test_early_stopping_counts_on(
    recipe: Callable[..., Recipe], crash: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tops = iter([0.9, 0.2, 0.2, 0.5, 0.6])
    monkeypatch.setattr(module, "accuracy", lambda _predictions: {"action": next(tops)})
    made = recipe("trainer.epochs=5", "trainer.patience=3")
    run = interrupted(made, crash, 4, 2)
    trained = train(prepare(made), run)
    assert trained.best["epoch"] == 1
    assert len(rows(run.folder)) == 4  # the fourth is the third that is not better


@pytest.mark.parametrize("stops_early", [False, True])
def test_only_the_weights_are_missing(
    recipe: Callable[..., Recipe],
    crash: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    stops_early: bool,
) -> None:
    made = recipe("trainer.patience=1") if stops_early else recipe()
    if stops_early:
        tops = iter([0.9, 0.2])
        monkeypatch.setattr(module, "accuracy", lambda _predictions: {"action": next(tops)})
    run = create_run(made)
    train(prepare(made), run)
    assert len(rows(run.folder)) == (2 if stops_early else 3)
    before = result(run.folder)
    shutil.rmtree(run.weights)
    # The evaluation stays: the next attempt replaces it.

    def no_step(*_: Any) -> None:
        raise AssertionError("training is over")

    monkeypatch.setattr(RecogniserTraining, "training_step", no_step)
    train(prepare(made), run)
    assert result(run.folder) == before


def test_a_checkpoint_can_be_loaded_safely(recipe: Callable[..., Recipe], crash: Callable[[int, int], None]) -> None:
    run = interrupted(recipe(OFTEN), crash, 2, 3)
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    assert checkpoint["epoch_state"]["batches_done"] == 2


def test_a_broken_checkpoint_is_named(recipe: Callable[..., Recipe], crash: Callable[[int, int], None]) -> None:

    run = interrupted(recipe(), crash, 2, 3)
    run.last_checkpoint.write_bytes(run.last_checkpoint.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"last\.ckpt: the checkpoint cannot be read: "):
        train(prepare(recipe()), run)


def test_other_clips_than_the_run_was_begun_with(
    recipe: Callable[..., Recipe], crash: Callable[[int, int], None], clips_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(clips_root, tmp_path / "own clips")
    made = recipe(f"data.root={root}")
    run = interrupted(made, crash, 2, 3)
    broken = root / "train" / "rising" / "5.mp4"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="run: the run was begun with other clips"):
        train(prepare(made), run)
    shutil.copy(root / "train" / "rising" / "4.mp4", broken)
    with pytest.raises(DataError, match="a video is new, replaced, missing"):
        train(prepare(made), run)
    broken.write_bytes(whole)
    for old, new in (("falling", "gone"), ("rising", "falling"), ("gone", "rising")):  # the labels change places
        for split in ("train", "validation", "test"):
            (root / split / old).rename(root / split / new)
    with pytest.raises(DataError, match="or labels or times have changed"):
        train(prepare(made), run)
    for old, new in (("falling", "gone"), ("rising", "falling"), ("gone", "rising")):
        for split in ("train", "validation", "test"):
            (root / split / old).rename(root / split / new)
    assert train(prepare(made), run).run == run
