"""The generated data set `motion`. See `kinema.data.motion_scenes` for what is in it and why."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from kinema.data.cache import cache_folder
from kinema.data.motion_scenes import CLIPS_FILE, NOUNS, PAIRS, VERBS, Plan, write
from kinema.registry import register_dataset
from kinema.types import SPLITS, Clip, ConfigError, DataError, Dataset, Split

_CLASSES = {"verb": VERBS, "noun": NOUNS}
_MIN_SIZE_PX = 32  # a shape is hardly more than a spot below


@register_dataset
def motion(
    root: Path | None,
    *,
    num_train_backgrounds: int = 48,
    num_validation_backgrounds: int = 12,
    num_test_backgrounds: int = 24,
    size_px: int = 72,
    seed: int = 0,
    tasks: tuple[Literal["verb", "noun"], ...] = ("verb",),
    imbalance: float = 1.0,
    texture: bool = True,
    moving: bool = True,
) -> Dataset:
    """Generated videos of shapes that move; verbs come in pairs that only the order of the frames tells apart.

    The videos are written when they are not there. In front of every background, each of the 10 verbs is shown
    once, so a split has ten times as many clips as backgrounds; no two splits share a background. Left and right
    are part of some verbs: train without horizontal flips (`clips.augmentation.flip: 0`).

    Args:
        root: Folder in which a folder for these arguments is made; by default in kinema's cache.
        num_train_backgrounds: Backgrounds of the training split. Multiples of 6 keep the nouns balanced.
        num_validation_backgrounds: Backgrounds of the validation split; 0: no such split.
        num_test_backgrounds: Backgrounds of the test split; 0: no such split.
        size_px: Height and width of the videos, even.
        seed: Of everything random; the same seed gives the same videos.
        tasks: What is to be recognised: the motion (`verb`), the shape (`noun`) or both.
        imbalance: How many times as many training clips the commonest class of the first task has as the rarest; those
            between fall exponentially, in an order that `seed` draws. 1: all have the same. The other splits stay even.
        texture: Shapes and backgrounds are textured. false: each is of one colour, so that only edges can be seen to
            move, and a disc not to turn; the scenes are the same otherwise.
        moving: false: every clip shows the middle frame of its scene throughout, so that the verbs of a pair are the
            same picture and nothing moves.

    Raises:
        ConfigError: An argument is impossible.
        DataError: The videos cannot be written, or some of them have gone.
    """
    sizes: dict[Split, int] = {
        "train": num_train_backgrounds,
        "validation": num_validation_backgrounds,
        "test": num_test_backgrounds,
    }
    _check(sizes, size_px, seed, tasks)
    if imbalance < 1:
        raise ConfigError(f"data.imbalance: has to be at least 1, got {imbalance:g}")
    plan = Plan(num_backgrounds=sizes, size_px=size_px, seed=seed, texture=texture, moving=moving)
    folder = write(plan, root or cache_folder() / "motion")

    names: dict[str, str] = {task: task if len(tasks) > 1 else "action" for task in tasks}
    clips = _read(folder, names, num_clips=len(VERBS) * sum(sizes.values()))
    if imbalance > 1:
        clips["train"] = _skewed(clips["train"], names[tasks[0]], imbalance=imbalance, seed=seed)
    return Dataset(
        classes={name: _CLASSES[task] for task, name in names.items()},
        splits={split: tuple(of_split) for split, of_split in clips.items() if of_split},
        group_name="background",
        pairs={names["verb"]: PAIRS} if "verb" in names else {},
        notes=(f"generated from seed {seed}, in {folder}",),
    )


def _skewed(clips: list[Clip], task: str, *, imbalance: float, seed: int) -> list[Clip]:
    """Clips of a task's classes in numbers that fall exponentially (Cao et al., "Learning Imbalanced Datasets with
    Label-Distribution-Aware Margin Loss", NeurIPS 2019, section 4.1), those of a class drawn at random.

    Raises:
        ConfigError: Nothing would be left of the rarest.
    """
    rng = np.random.default_rng([seed, 1])
    of_class: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        of_class.setdefault(clip.labels[task], []).append(index)
    most = max(map(len, of_class.values()))
    if most < imbalance:
        raise ConfigError(
            f"data.imbalance: the commonest class has {most} clips, and the rarest would have less than one; take at "
            f"most {most}, or raise data.num_train_backgrounds"
        )
    kept: list[int] = []
    for rank, label in enumerate(rng.permutation(sorted(of_class)).tolist()):
        number = round(most * imbalance ** (-rank / (len(of_class) - 1)))
        kept += rng.permutation(of_class[label])[:number].tolist()
    return [clips[index] for index in sorted(kept)]


def _check(sizes: dict[Split, int], size_px: int, seed: int, tasks: tuple[str, ...]) -> None:
    for split, num in sizes.items():
        least = 1 if split == "train" else 0
        if num < least:
            raise ConfigError(f"data.num_{split}_backgrounds: has to be at least {least}, got {num}")
    if size_px < _MIN_SIZE_PX or size_px % 2:
        raise ConfigError(f"data.size_px: has to be even and at least {_MIN_SIZE_PX}, got {size_px}")
    if seed < 0:
        raise ConfigError(f"data.seed: has to be at least 0, got {seed}")
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(_CLASSES):
        raise ConfigError(f"data.tasks: has to be [verb], [noun] or [verb, noun], got {list(tasks)}")


def _read(folder: Path, names: dict[str, str], *, num_clips: int) -> dict[Split, list[Clip]]:
    advice = f"delete {folder} to have it written again"
    path = folder / CLIPS_FILE
    clips: dict[Split, list[Clip]] = {split: [] for split in SPLITS}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if len(rows) != num_clips:
            raise ValueError
        for row in rows:
            video = folder / row["path"]
            if not video.is_file():
                raise DataError(f"{video}: is no longer there; {advice}")
            split = next(split for split in SPLITS if split == row["split"])
            clips[split].append(
                Clip(
                    clip_id=row["path"].removesuffix(".mp4"),
                    video=video,
                    labels={name: _CLASSES[task].index(row[task]) for task, name in names.items()},
                    group=row["background"],
                    attributes={key: row[key] for key in ("verb", "noun", "num_frames", "fps")},
                )
            )
    except (OSError, KeyError, ValueError, StopIteration, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not what was written; {advice}") from None
    return clips
