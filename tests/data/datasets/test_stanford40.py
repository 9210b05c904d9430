from __future__ import annotations

from pathlib import Path

import pytest

from kinema.data.class_maps import read_class_map
from kinema.data.datasets.stanford40 import stanford40
from kinema.types import Clip, ConfigError, DataError

LISTS = {
    "riding_a_bike_train": ["riding_a_bike_001.jpg", "riding_a_bike_010.jpg"],
    "riding_a_bike_test": ["riding_a_bike_002.jpg"],
    "applauding_train": ["applauding_003.jpg"],
    "applauding_test": ["applauding_001.jpg"],
}
# As the lists of the data set are called.
CLASSES = """applauding blowing_bubbles brushing_teeth cleaning_the_floor climbing cooking cutting_trees
cutting_vegetables drinking feeding_a_horse fishing fixing_a_bike fixing_a_car gardening holding_an_umbrella jumping
looking_through_a_microscope looking_through_a_telescope phoning playing_guitar playing_violin pouring_liquid
pushing_a_cart reading riding_a_bike riding_a_horse rowing_a_boat running shooting_an_arrow smoking taking_photos
texting_message throwing_frisby using_a_computer walking_the_dog washing_dishes watching_TV waving_hands
writing_on_a_board writing_on_a_book""".split()  # noqa: SIM905


def make(root: Path, *, lists: str = "ImageSplits", images: str = "JPEGImages") -> Path:
    (root / lists).mkdir(parents=True)
    (root / images).mkdir(parents=True, exist_ok=True)
    for name, files in LISTS.items():
        (root / lists / f"{name}.txt").write_text("\n".join(files) + "\n")
        for file in files:
            (root / images / file).touch()
    (root / lists / "train.txt").write_text("all of them\n")
    (root / lists / "actions.txt").write_text("action_name\tnumber_of_images\napplauding\t2\nriding_a_bike\t3\n")
    (root / images / "riding_a_bike_010.jpg").unlink()
    return root


def test_an_image_is_a_clip(tmp_path: Path) -> None:
    found = stanford40(make(tmp_path))
    assert found.classes == {"action": ("applauding", "riding_a_bike")}
    assert found.splits["train"] == (
        Clip(clip_id="applauding_003.jpg", video=tmp_path / "JPEGImages/applauding_003.jpg", labels={"action": 0}),
        Clip(
            clip_id="riding_a_bike_001.jpg", video=tmp_path / "JPEGImages/riding_a_bike_001.jpg", labels={"action": 1}
        ),
    )
    assert [clip.clip_id for clip in found.splits["test"]] == ["applauding_001.jpg", "riding_a_bike_002.jpg"]
    assert found.num_listed == {"train": 3, "test": 2}
    assert found.notes == ("4 of 5 listed images are there, 1 are absent (train 2 of 3, test 2 of 2)",)


def test_files_that_macos_puts_beside_the_lists_are_no_lists(tmp_path: Path) -> None:
    (make(tmp_path) / "ImageSplits" / "._applauding_train.txt").write_bytes(b"\0\5\x16\7")
    assert stanford40(tmp_path).classes == {"action": ("applauding", "riding_a_bike")}


def test_other_layouts_give_the_same(tmp_path: Path) -> None:
    roots = {
        "everything in root": make(tmp_path / "flat", lists=".", images="images/.."),
        "the folder of images, lists beside it": make(tmp_path / "beside") / "JPEGImages",
    }
    by_class = make(tmp_path / "by_class")
    for image in (by_class / "JPEGImages").glob("*.jpg"):
        folder = by_class / image.stem[:-4]
        folder.mkdir(exist_ok=True)
        image.rename(folder / image.name)
    (by_class / "JPEGImages").rmdir()
    roots["a folder per class"] = by_class
    for layout, root in roots.items():
        found = stanford40(root)
        assert [clip.clip_id for clip in found.splits["train"]] == ["applauding_003.jpg", "riding_a_bike_001.jpg"], (
            layout
        )
    apart = make(tmp_path / "apart", lists="lists")
    assert stanford40(apart, annotations="lists").num_listed == {"train": 3, "test": 2}


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    make(tmp_path)
    lists = tmp_path / "ImageSplits"
    with pytest.raises(ConfigError, match=r"^data\.annotations: .*nowhere is not a folder"):
        stanford40(tmp_path, annotations="nowhere")
    (lists / "actions.txt").write_text("action_name\tnumber_of_images\nclimbing\t2\n")
    with pytest.raises(DataError, match=r"actions\.txt: line 2: class 'climbing' has no list beside it"):
        stanford40(tmp_path)
    (lists / "actions.txt").unlink()
    (lists / "applauding_test.txt").write_text("\napplauding_001\n")
    with pytest.raises(DataError, match=r"applauding_test\.txt: line 2: expected the name of an image, found 'app"):
        stanford40(tmp_path)
    (lists / "applauding_test.txt").unlink()
    with pytest.raises(DataError, match=r"applauding_train\.txt: beside it, there is no test list"):
        stanford40(tmp_path)
    (lists / "applauding_train.txt").unlink()
    for image in (tmp_path / "JPEGImages").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="none of the 3 listed images is there"):
        stanford40(tmp_path)
    for file in lists.iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no list <class>_train\.txt is in .*; unpack Stanford40_ImageSplits\.zip"):
        stanford40(tmp_path)


def test_the_shipped_map_of_kinetics_leads_to_classes_that_exist() -> None:
    assert len(CLASSES) == 40
    assert set(read_class_map("kinetics_to_stanford40").values()) < set(CLASSES)
