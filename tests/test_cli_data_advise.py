"""`kinema data advise`, as it is typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.commands import Kinema

from kinema import recipes
from kinema.cli.data_advise import prepare_command, store_place
from kinema.config import resolve
from kinema.data.shards import Store
from kinema.preparation.advice import Way, WayName

SMALL = [
    "data.num_train_backgrounds=1",
    "data.num_validation_backgrounds=1",
    "data.num_test_backgrounds=0",
    "clips.workers=0",
    "clips.num_frames=4",
    "clips.batch_size=4",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "motion"


def test_what_is_measured_and_what_is_derived(kinema: Kinema, root: Path) -> None:
    settings = [*SMALL, f"data.root={root}", "clips.augmentation.views=2"]
    done = kinema("data", "advise", "motion/cnn_conv1d", *settings, "--seconds", "1", "--json", "facts.json")
    assert done.code == 0, done
    for word in ("measured", "derived", "training step", "no store:", "frames:", "features:", "advice: "):
        assert word in done.out
    assert not list(root.rglob("kinema-stores"))
    assert not list(Path().glob("runs"))


def test_the_same_facts_as_json(kinema: Kinema, root: Path) -> None:
    settings = [*SMALL, f"data.root={root}", "clips.augmentation.views=2", "trainer.epochs=1000000"]
    facts = kinema("data", "advise", "motion/cnn_conv1d", *settings, "--seconds", "1", "--json", "-").json
    assert facts.keys() == {"measured", "job", "derived", "advice", "command"}
    assert facts["measured"]["decoded"] > 0
    assert facts["job"]["num_train"] == 10
    ways = {way["name"]: way for way in facts["derived"]}
    assert ways.keys() == {"no store", "frames", "features", "transcode"}
    assert "init.freeze=backbone" in ways["features"]["refused"]
    assert ways["frames"]["num_bytes"] == (2 * 10 + 10) * 4 * facts["job"]["frame_bytes"]
    if facts["advice"] == "frames":  # copying is faster than decoding on any machine; how much, is the machine's
        words = shlex.split(facts["command"])
        assert words[:5] == ["kinema", "data", "prepare", "motion", str(root)]
        assert "data.num_train_backgrounds=1" in words
        assert "clips.augmentation.views=2" in words
        assert words[-5:-3] == ["--out", str(root / "kinema-stores" / "frames")]
        assert words[-3:] == ["--frames", "--recipe", "motion/cnn_conv1d"]
    else:
        assert facts["command"] is None


@pytest.mark.parametrize("name", ["frames", "transcode"])
def test_the_command_that_is_printed_makes_the_store(kinema: Kinema, root: Path, name: WayName) -> None:
    overrides = [*SMALL, f"data.root={root}", "clips.augmentation.views=2", "clips.size_px=32"]
    recipe = resolve(recipes.read("motion/cnn_conv1d"), overrides)
    way = Way(name=name, num_bytes=1, build_s=1.0, epoch_s=1.0, total_s=1.0, pays_after=1, arithmetic=())
    command = prepare_command(way, recipe, "motion/cnn_conv1d", overrides, store_place(recipe))
    assert command is not None
    words = shlex.split(command)
    assert words[0] == "kinema"
    answer = kinema(*words[1:], "--workers", 0)
    assert answer.code == 0, answer
    kind = {"frames": "frames", "transcode": "transcode"}[name]
    assert len(Store.open(root / "kinema-stores" / name, kind=kind)) > 0


def test_a_recipe_whose_data_are_not_there(kinema: Kinema, tmp_path: Path) -> None:
    answer = kinema("data", "advise", "folder/cnn_conv1d", f"data.root={tmp_path / 'none'}")
    assert (
        answer.error()
        == f"{tmp_path / 'none'}: no such file or folder; data.root has to name the place of the data set"
    )


def test_a_key_that_is_misspelt(kinema: Kinema) -> None:
    assert "clips.batchsize: unknown key" in kinema("data", "advise", "motion/cnn_conv1d", "clips.batchsize=2").error()
