"""Renaming classes, so that a model of one data set can be evaluated on another (`data.class_map`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path

from kinema.data.listing import hint
from kinema.files import parse_yaml
from kinema.types import Clip, ConfigError, Dataset

_SHIPPED = resources.files("kinema.data") / "class_lists"


def shipped_class_maps() -> list[str]:
    """Names of the maps that ship with kinema, such as `kinetics_to_stanford40`."""
    return sorted(Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".yaml"))


def read_class_map(value: str | Mapping[str, str]) -> dict[str, str]:
    """Old name -> new name.

    Args:
        value: The map itself, a shipped name, or the path of a YAML file.

    Raises:
        ConfigError: There is no such map, or the file holds none.
    """
    if not isinstance(value, str):
        return dict(value)
    if value in shipped_class_maps():
        text, source = (_SHIPPED / f"{value}.yaml").read_text(encoding="utf-8"), value
    else:
        path = Path(value).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"data.class_map: {value}: no such file, nor a shipped map{hint(value, shipped_class_maps())}"
            )
        text, source = path.read_text(encoding="utf-8"), str(path)
    content = parse_yaml(text, source=source)
    if not isinstance(content, dict) or not all(isinstance(new, str) for new in content.values()):
        raise ConfigError(f"data.class_map: {source}: expected 'old name: new name' in each line")
    return {str(old): new for old, new in content.items()}


def rename_classes(dataset: Dataset, names: Mapping[str, str], *, some: bool = False) -> Dataset:
    """A data set with other names of classes. Classes that get the same name become one, at the place of the first.

    Args:
        dataset: Any.
        names: Old name -> new name. Classes that are not in it keep theirs.
        some: It is enough that there are classes of some of the old names, as in a part of a data set.

    Raises:
        ConfigError: No task has a class of one of the old names.
    """
    known = [name for task in dataset.classes.values() for name in task]
    unknown = [old for old in names if old not in known]
    for old in unknown:
        if not some or len(unknown) == len(names):
            raise ConfigError(f"data.class_map: no class is called {old!r}{hint(old, known)}")
    classes: dict[str, tuple[str, ...]] = {}
    index: dict[str, list[int]] = {}  # task -> new index of each old one
    for task, old_names in dataset.classes.items():
        renamed = [names.get(name, name) for name in old_names]
        classes[task] = tuple(dict.fromkeys(renamed))
        index[task] = [classes[task].index(name) for name in renamed]

    def relabelled(clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
        return tuple(
            replace(clip, labels={task: index[task][label] for task, label in clip.labels.items()}) for clip in clips
        )

    merged = [
        f"data.class_map: {len(dataset.classes[task])} classes of {task!r} are {len(classes[task])} now"
        for task in classes
        if len(classes[task]) < len(dataset.classes[task])
    ]
    return replace(
        dataset,
        classes=classes,
        splits={split: relabelled(clips) for split, clips in dataset.splits.items()},
        absent={split: relabelled(clips) for split, clips in dataset.absent.items()},
        pairs={
            task: tuple((names.get(first, first), names.get(second, second)) for first, second in pairs)
            for task, pairs in dataset.pairs.items()
        },
        tail={task: frozenset(index[task][label] for label in labels) for task, labels in dataset.tail.items()},
        notes=(*dataset.notes, *merged),
    )
