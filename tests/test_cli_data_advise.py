"""`kinema data advise`, as it is typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.commands import Kinema

from kinema import recipes
from kinema.cli.data_advise import commands_of, store_place
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
    assert facts.keys() == {"measured", "job", "derived", "advice", "commands"}
    assert facts["measured"]["decoded"] > 0
    assert facts["job"]["num_train"] == 10
    ways = {way["name"]: way for way in facts["derived"]}
    assert ways.keys() == {"no store", "frames", "features", "transcode"}
    assert "init.freeze=backbone" in ways["features"]["refused"]
    assert ways["frames"]["num_bytes"] == (2 * 10 + 10) * 4 * facts["job"]["frame_bytes"]
    if facts["advice"] == "frames":  # copying is faster than decoding on any machine; how much, is the machine's
        prepare, train = facts["commands"]
        words = shlex.split(prepare)
        assert words[:5] == ["kinema", "data", "prepare", "motion", str(root)]
        assert "data.num_train_backgrounds=1" in words
        assert "clips.augmentation.views=2" in words
        assert words[-5:-3] == ["--out", str(root / "kinema-stores" / "frames")]
        assert words[-3:] == ["--frames", "--recipe", "motion/cnn_conv1d"]
        assert shlex.split(train) == ["kinema", "train", "motion/cnn_conv1d", *settings]
    else:
        assert facts["commands"] is None


@pytest.mark.parametrize("name", ["frames", "transcode"])
def test_the_commands_that_are_printed_make_the_store_and_train_from_it(
    kinema: Kinema, root: Path, name: WayName
) -> None:
    overrides = [*SMALL, f"data.root={root}", "clips.augmentation.views=2", "clips.size_px=32", "trainer.epochs=1"]
    recipe = resolve(recipes.read("motion/cnn_conv1d"), overrides)
    way = Way(name=name, num_bytes=1, build_s=1.0, epoch_s=1.0, total_s=1.0, pays_after=1, arithmetic=())
    commands = commands_of(way, recipe, "motion/cnn_conv1d", overrides, store_place(recipe))
    assert commands is not None
    prepare, train = (shlex.split(command) for command in commands)
    answer = kinema(*prepare[1:], "--workers", 0)
    assert answer.code == 0, answer
    store = Store.open(root / "kinema-stores" / name, kind=name)
    assert len(store) > 0
    answer = kinema(*train[1:])
    assert answer.code == 0, answer
    said = {"frames": "train: all read from frames stored in", "transcode": "are read as transcoded in"}[name]
    assert f"{said} {store.folder}" in answer.out
    if name == "transcode":
        assert store.settings["short_side_px"] == recipe.clips.resize_px


def test_a_recipe_whose_data_are_not_there(kinema: Kinema, tmp_path: Path) -> None:
    answer = kinema("data", "advise", "folder/cnn_conv1d", f"data.root={tmp_path / 'none'}")
    assert (
        answer.error()
        == f"{tmp_path / 'none'}: no such file or folder; data.root has to name the place of the data set"
    )


def test_a_key_that_is_misspelt(kinema: Kinema) -> None:
    assert "clips.batchsize: unknown key" in kinema("data", "advise", "motion/cnn_conv1d", "clips.batchsize=2").error()
