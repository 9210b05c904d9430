"""Classes under other names."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.test_load_dataset import make, section

from kinema.data.class_maps import read_class_map, rename_classes, shipped_class_maps
from kinema.data.load_dataset import load_dataset
from kinema.types import Clip, ConfigError, Dataset

CLASSES = ("drinking", "smoking", "drinking beer", "texting")


@pytest.fixture
def dataset() -> Dataset:
    clips = tuple(Clip(clip_id=f"{n}", video=Path(f"{n}.mp4"), labels={"action": n % 4, "place": 0}) for n in range(8))
    return Dataset(
        classes={"action": CLASSES, "place": ("kitchen",)},
        splits={"train": clips[:4], "test": clips[4:]},
        absent={"test": clips[2:4]},
        pairs={"action": (("drinking beer", "texting"),)},
        tail={"action": frozenset({2, 3})},
    )


def test_labels_follow_their_classes(dataset: Dataset) -> None:
    found = rename_classes(dataset, {"drinking beer": "drinking", "texting": "texting_message", "kitchen": "home"})
    assert found.classes == {"action": ("drinking", "smoking", "texting_message"), "place": ("home",)}
    assert [clip.labels["action"] for clip in found.splits["train"]] == [0, 1, 0, 2]
    assert [clip.labels["action"] for clip in found.splits["test"]] == [0, 1, 0, 2]
    assert [clip.labels["action"] for clip in found.absent["test"]] == [0, 2]
    assert found.pairs == {"action": (("drinking", "texting_message"),)}
    assert found.tail == {"action": {0, 2}}
    assert found.notes == ("data.class_map: 4 classes of 'action' are 3 now",)


def test_a_name_that_is_not_there_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^data\.class_map: no class is called 'textin'; did you mean 'texting'"):
        rename_classes(dataset, {"textin": "typing", "drinking": "sipping"})
    assert (
        rename_classes(dataset, {"textin": "typing", "drinking": "sipping"}, some=True).classes["action"][0]
        == "sipping"
    )
    with pytest.raises(ConfigError, match="no class is called 'textin'"):
        rename_classes(dataset, {"textin": "typing"}, some=True)


def test_the_shipped_map(dataset: Dataset) -> None:
    assert shipped_class_maps() == ["kinetics_to_stanford40"]
    names = read_class_map("kinetics_to_stanford40")
    assert len(names) == 13
    assert rename_classes(dataset, names, some=True).classes["action"] == ("drinking", "smoking", "texting_message")


def test_a_recipe_names_a_map(tmp_path: Path) -> None:
    root = make(tmp_path, "path,label\na.mp4,x\nb.mp4,y\nc.mp4,z\n")
    file = tmp_path / "names.yaml"
    file.write_text("x: walk\ny: walk\nunknown: run\n")
    for given in (str(file), {"x": "walk", "y": "walk"}):
        found = load_dataset(section("table", root=root, class_map=given), seed=0)
        assert found.classes == {"action": ("walk", "z")}
    with pytest.raises(ConfigError, match=r"data\.class_map: no class is called 'unknown'"):
        load_dataset(section("table", root=root, class_map={"x": "walk", "unknown": "run"}), seed=0)
    with pytest.raises(ConfigError, match=r"data\.class_map: nowhere\.yaml: no such file, nor a shipped map"):
        load_dataset(section("table", root=root, class_map="nowhere.yaml"), seed=0)
    file.write_text("- a list\n")
    with pytest.raises(ConfigError, match=r"names\.yaml: expected 'old name: new name' in each line"):
        load_dataset(section("table", root=root, class_map=str(file)), seed=0)
