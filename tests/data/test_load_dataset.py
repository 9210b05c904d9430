from __future__ import annotations

import doctest
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinema import registry
from kinema.config import resolve, section_model
from kinema.data.load_dataset import load_dataset
from kinema.sections import DataSection
from kinema.types import Clip, ConfigError, DataError, Dataset


def section(name: str, **values: Any) -> DataSection:
    model = section_model(registry.entry("dataset", name, key="data.name"))
    checked = model.model_validate({"name": name, **values})
    assert isinstance(checked, DataSection)
    return checked


def make(root: Path, text: str) -> Path:
    (root / "clips.csv").write_text(text)
    for line in text.splitlines()[1:]:
        (root / line.split(",")[0]).touch()
    return root


@pytest.fixture
def dataset() -> Dataset:
    train = tuple(Clip(clip_id=f"{n}", video=Path(f"{n}.mp4"), labels={"action": n % 2}) for n in range(8))
    return Dataset(classes={"action": ("a", "b")}, splits={"train": train})


@pytest.fixture
def given(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """A list whose last element is what the data set `folder` returns."""
    returned = [dataset]
    monkeypatch.setattr("kinema.data.datasets.folder.folder", lambda root, *, group: returned[-1])
    return returned


def test_a_recipe_lists_and_cuts(tmp_path: Path) -> None:
    rows = "".join(f"{n}.mp4,{'ab'[n % 2]},{n % 3},{n // 2}\n" for n in range(24))
    make(tmp_path, f"path,label,set,take\n{rows}")
    model = next(iter(registry.entries("model")))
    recipe = resolve(
        {"data": {"name": "table", "root": str(tmp_path), "group": ["set", "take"]}, "model": {"name": model}},
        ["data.holdout.set=[2]", "data.validation=0.25"],
    )
    found = load_dataset(recipe.data, seed=0)
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 12, "validation": 4, "test": 8}
    assert found.notes == ("validation split: 4 of 16 training clips, 4 of 16 groups by set/take",)
    assert load_dataset(recipe.data, seed=0) == found


@pytest.mark.parametrize("name", ["folder", "table", "ucf101"])
def test_root_is_needed_and_has_to_be_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: missing; "):
        load_dataset(section(name), seed=0)
    with pytest.raises(DataError, match=r"absent: no such file or folder"):
        load_dataset(section(name, root=tmp_path / "absent"), seed=0)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("table", "data.holdoutt.set=[2]", "data.holdoutt: unknown key; did you mean 'holdout'?"),
        ("table", "data.holdout=2", "data.holdout: expected keys and values or null, got 2"),
        ("ucf101", "data.fold=4", "data.fold: input should be 1, 2 or 3, got 4"),
        ("folder", "data.fold=1", "data.fold: unknown key"),
    ],
)
def test_the_signatures_check_recipes(name: str, override: str, message: str) -> None:
    model = next(iter(registry.entries("model")))
    with pytest.raises(ConfigError) as error:
        resolve({"data": {"name": name}, "model": {"name": model}}, [override])
    assert str(error.value).startswith(message)


def test_a_misspelt_column_of_an_override_is_named(tmp_path: Path) -> None:
    make(tmp_path, "path,label,set\na.mp4,x,1\nb.mp4,x,2\n")
    model = next(iter(registry.entries("model")))
    values = {"data": {"name": "table", "root": str(tmp_path)}, "model": {"name": model}}
    recipe = resolve(values, ["data.holdout.sett=[2]"])
    with pytest.raises(ConfigError, match=r"^data\.holdout\.sett: .* no such column; did you mean 'set'\?"):
        load_dataset(recipe.data, seed=0)
    recipe = resolve(values, ["data.holdout.set=2"])
    assert [clip.clip_id for clip in load_dataset(recipe.data, seed=0).splits["test"]] == ["b.mp4"]


def test_a_validation_split_of_its_own_stays(tmp_path: Path) -> None:
    make(tmp_path, "path,label,split\na.mp4,x,train\nb.mp4,x,val\nc.mp4,x,train\n")
    found = load_dataset(section("table", root=tmp_path, validation=0.5), seed=0)
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 2, "validation": 1}
    assert "data.validation is not used" in found.notes[-1]


def test_training_clips_are_needed(tmp_path: Path) -> None:
    make(tmp_path, "path,label,split\na.mp4,x,train\nb.mp4,x,test\n")
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(DataError, match=r"no training clip is there \(clips by split: test 1\)"):
        load_dataset(section("table", root=tmp_path), seed=0)


def test_groups_in_two_splits_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "path,label,split,take\na.mp4,x,train,1\nb.mp4,x,test,1\nc.mp4,x,train,2\nd.mp4,x,train,3\n")
    found = load_dataset(section("table", root=tmp_path, group="take"), seed=0)
    assert found.notes == (
        "1 of 3 groups have clips in more than one split, such as '1': results on them are better than on new data",
    )


def test_videos_in_two_splits_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "path,label,split,stop_s\na.mp4,x,train,1\na.mp4,x,val,2\nc.mp4,x,train,2\n")
    (note,) = load_dataset(section("table", root=tmp_path), seed=0).notes
    assert note.startswith("1 of 2 videos have clips in more than one split, such as ")


def test_holding_out_segments_of_one_video_is_noticed(tmp_path: Path) -> None:
    make(tmp_path, "path,label,stop_s,take\na.mp4,x,1,1\na.mp4,y,2,2\na.mp4,y,3,3\nc.mp4,x,2,4\nd.mp4,x,2,5\n")
    found = load_dataset(section("table", root=tmp_path, holdout={"take": 2}, validation=0.3), seed=0)
    places = {split: {clip.video.name for clip in clips} for split, clips in found.splits.items()}
    assert not places["train"] & places["validation"]
    (note,) = [note for note in found.notes if "more than one split" in note]
    assert note.startswith("1 of 3 videos have clips in more than one split, such as ")


def test_what_a_data_set_returns_is_checked(given: list[Dataset], dataset: Dataset) -> None:
    assert load_dataset(section("folder"), seed=0) == dataset
    train = dataset.splits["train"]
    wrong = {
        "two clips are called '0'": {"train": train, "test": train[:1]},
        "clip '0' has label 2 for 'action', which has 2 classes": {"train": (replace(train[0], labels={"action": 2}),)},
        "clip '0' has label -1 for": {"train": (replace(train[0], labels={"action": -1}),)},
        "clip '0' has a label for 'verb', which has no class names": {
            "train": (replace(train[0], labels={"verb": 0}),)
        },
        "clip '0' of the train split has no label for action": {"train": (replace(train[0], labels={}),)},
        "the data set has a split 'extra'": {"train": train[1:], "extra": train[:1]},
    }
    for message, splits in wrong.items():
        given.append(replace(dataset, splits=splits))  # type: ignore[arg-type] # that is the point
        with pytest.raises(DataError) as error:
            load_dataset(section("folder"), seed=0)
        assert str(error.value).startswith(f"folder: {message}")


def test_an_unlabelled_test_list_is_allowed(given: list[Dataset], dataset: Dataset) -> None:
    train = dataset.splits["train"]
    given.append(replace(dataset, splits={"train": train[1:], "test": (replace(train[0], labels={}),)}))
    assert load_dataset(section("folder"), seed=0).splits["test"][0].labels == {}


@pytest.mark.parametrize("name", ["folder", "table"])
def test_examples_run(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"kinema.data.datasets.{name}"))
    assert attempted > 0
    assert failed == 0
