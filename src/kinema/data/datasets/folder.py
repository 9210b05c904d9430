"""A folder per class."""

from __future__ import annotations

import re
from pathlib import Path

from kinema.data.listing import (
    VIDEO_SUFFIXES,
    Listing,
    existing_folder,
    group_in,
    group_pattern,
    hint,
    list_files,
    natural_key,
    split_of,
    subfolders,
    videos_directly_in,
)
from kinema.registry import register_dataset
from kinema.types import SPLITS, Clip, ConfigError, DataError, Dataset, Split


@register_dataset
def folder(root: Path | None, *, group: str | None = None) -> Dataset:
    """Videos in a folder per class, below a folder per split or not.

    Either `root/<split>/<class>/*`, with split folders called train, validation (or val, valid) and test, or
    `root/<class>/*`, in which case all clips are training clips and `data.validation` cuts a validation split out
    of them. Videos may lie in further folders inside that of their class. The classes are those of the training
    split, or of all splits where there is none.

    Args:
        root: The folder.
        group: Regular expression for clips that belong together (pieces of one recording): what it finds in the
            path of a video below its class folder, or its first parenthesis, is the clip's group.

    Raises:
        ConfigError: `root` is missing, or `group` is not a regular expression or finds nothing.
        DataError: `root` is not laid out like that, a class folder holds no video, or a class of another split has
            no folder in the training split.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as place:
        ...     for name in ("jump/a.mp4", "run/b.mp4"):
        ...         video = Path(place, name)
        ...         video.parent.mkdir()
        ...         video.touch()
        ...     folder(Path(place)).classes["action"]
        ('jump', 'run')
    """
    root = existing_folder(root)
    pattern = None if group is None else group_pattern(group)
    split_folders = _split_folders(root)
    class_folders = {split: _class_folders(place) for split, place in split_folders.items()}
    # Without training clips, which an evaluation does not need, all classes are known that are there.
    named = class_folders.get("train") or [place for places in class_folders.values() for place in places]
    names = sorted({place.name for place in named}, key=natural_key)
    labels = {name: label for label, name in enumerate(names)}
    splits: dict[Split, tuple[Clip, ...]] = {}
    num_others = 0
    for split, places in class_folders.items():
        clips: list[Clip] = []
        for place in places:
            if place.name not in labels:
                raise DataError(
                    f"{place}: class {place.name!r} of the {split} split is unknown in the training split "
                    f"{split_folders['train']}{hint(place.name, labels)}"
                )
            files = _class_files(place)
            num_others += files.num_others
            clips.extend(_clip(video, root, place, labels[place.name], pattern) for video in files.videos)
        splits[split] = tuple(clips)
    if pattern is not None and not any(clip.group for clips in splits.values() for clip in clips):
        raise ConfigError(f"data.group: {group!r} is found in the path of no video below its class folder")
    notes = []
    if num_others:
        notes.append(f"files in class folders that are not videos, left out: {num_others}")
    stray = [video for place in dict.fromkeys([root, *split_folders.values()]) for video in videos_directly_in(place)]
    if stray:
        notes.append(f"videos in no class folder, left out: {len(stray)}, such as {stray[0]}")
    return Dataset(
        classes={"action": tuple(labels)},
        splits=splits,
        group_name=None if pattern is None else "group",
        notes=tuple(notes),
    )


def _split_folders(root: Path) -> dict[Split, Path]:
    """Split -> the folder that holds its class folders. Without split folders, everything is for training."""
    places = subfolders(root)
    by_split: dict[Split, Path] = {}
    for place in places:
        split = split_of(place.name)
        if split is None:
            continue
        if split in by_split:
            raise DataError(
                f"{root}: both {by_split[split].name!r} and {place.name!r} mean the {split} split; keep one"
            )
        by_split[split] = place
    if not by_split:
        return {"train": root}
    found = ", ".join(place.name for place in by_split.values())
    rest = [place for place in places if place not in by_split.values()]
    if rest:
        raise DataError(
            f"{root}: holds split folders ({found}) beside others ({rest[0].name}); give either a folder per "
            "split with a folder per class in each, or a folder per class"
        )
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _class_folders(place: Path) -> list[Path]:
    folders = subfolders(place)
    if not folders:
        num_videos = len(videos_directly_in(place))
        found = f"{num_videos} videos but no folder" if num_videos else "no folder"
        raise DataError(f"{place}: holds {found}; put the videos of each class into a folder of its name")
    return folders


def _class_files(place: Path) -> Listing:
    files = list_files(place)
    if files.videos:
        return files
    if files.num_others:
        raise DataError(
            f"{place}: the class folder holds no video, only {files.num_others} other files such as "
            f"{files.first_other} (videos end in {' '.join(sorted(VIDEO_SUFFIXES))})"
        )
    raise DataError(f"{place}: the class folder is empty; put videos into it or remove it")


def _clip(video: Path, root: Path, place: Path, label: int, pattern: re.Pattern[str] | None) -> Clip:
    group = None if pattern is None else group_in(video.relative_to(place).as_posix(), pattern)
    return Clip(clip_id=video.relative_to(root).as_posix(), video=video, labels={"action": label}, group=group)
