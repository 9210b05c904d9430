"""Stanford 40 Actions: 9,532 photographs of 40 classes, with official lists for training and testing.

Yao, Jiang, Khosla, Lin, Guibas and Fei-Fei, "Human Action Recognition by Learning Bases of Action Attributes and
Parts", ICCV 2011, http://vision.stanford.edu/Datasets/40actions.html
"""

from __future__ import annotations

import re
from pathlib import Path

from kinema.data.listing import Presence, coverage_note, existing_folder, hint, natural_key, some_there, sort_out
from kinema.data.official_lists import find_lists, numbered_lines
from kinema.registry import register_dataset
from kinema.types import Clip, DataError, Dataset, Split

_LIST = re.compile(r"(?P<class>[^.].*)_(?P<split>train|test)\.txt")
_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


@register_dataset
def stanford40(root: Path | None, *, annotations: str | None = None) -> Dataset:
    """Stanford 40 Actions in its official layout: still images, each a clip of one frame.

    Images are looked for in `root/JPEGImages` or in `root` itself, in one folder or in a folder per class. The lists
    (`applauding_train.txt`, ...) are looked for in `root/ImageSplits`, in `root` and beside it. Images that are
    listed but not there are counted and left out. The classes are those that have lists. Nothing says which images
    belong together, so that every image is a group of its own.

    Args:
        root: The folder.
        annotations: Folder with the lists, if it is another; a relative path starts at `root`.

    Raises:
        ConfigError: `root` is missing, or `annotations` is not there.
        DataError: The lists are not found or not as published, or no listed image is there.
    """
    root = existing_folder(root)
    lists = _lists(root, annotations)
    classes = tuple(sorted({name for name, _ in lists}, key=natural_key))
    _check_actions(next(iter(lists.values())).parent / "actions.txt", classes)
    images = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    presence = Presence()
    listed: dict[Split, list[Clip]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for word, split in _SPLITS.items():
            if (name, word) not in lists:
                raise DataError(
                    f"{lists[name, 'train' if word == 'test' else 'test']}: beside it, there is no {word} list"
                )
            for image in _listed(lists[name, word]):
                paths = (images / image, images / name / image)
                listed[split].append(
                    Clip(
                        clip_id=image,
                        video=next((path for path in paths if path in presence), paths[0]),
                        labels={"action": label},
                    )
                )
    splits, absent = sort_out(listed, lambda clip: clip.video in presence)
    dataset = Dataset(
        classes={"action": classes},
        splits=splits,
        absent=absent,
        notes=coverage_note(splits, absent, noun="images"),
    )
    return some_there(dataset, f"{root}: none of the {sum(map(len, listed.values()))} listed images is there")


def _lists(root: Path, annotations: str | None) -> dict[tuple[str, str], Path]:
    """(class, train or test) -> list."""

    def lists_in(place: Path) -> dict[tuple[str, str], Path]:
        matches = ((_LIST.fullmatch(path.name), path) for path in place.iterdir())
        return {(match["class"], match["split"]): path for match, path in matches if match}

    places = [root / "ImageSplits", root, root.parent / "ImageSplits"]
    place = find_lists(root, annotations, places=places, holds=lambda place: bool(lists_in(place)))
    if place is None:
        where = str(root / annotations) if annotations else " or ".join(map(str, places))
        raise DataError(
            f"{root}: no list <class>_train.txt is in {where}; unpack Stanford40_ImageSplits.zip there or name the "
            "folder of the lists in data.annotations"
        )
    return lists_in(place)


def _check_actions(file: Path, classes: tuple[str, ...]) -> None:
    """`actions.txt` has a line per class, after a header: its name and the number of its images."""
    if not file.is_file():
        return
    for number, line in numbered_lines(file):
        name = line.split()[0]
        if number > 1 and name not in classes:
            raise DataError(f"{file}: line {number}: class {name!r} has no list beside it{hint(name, classes)}")


def _listed(file: Path) -> list[str]:
    names = []
    for number, line in numbered_lines(file):
        if not line.lower().endswith((".jpg", ".jpeg", ".png")):
            raise DataError(f"{file}: line {number}: expected the name of an image, found {line!r}")
        names.append(line)
    return names
