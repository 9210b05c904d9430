"""EPIC-KITCHENS-55: 40,000 actions in 55 hours of unscripted cooking, seen from the head; verbs and nouns.

Damen et al., "Scaling Egocentric Vision: The EPIC-KITCHENS Dataset", ECCV 2018, https://arxiv.org/abs/1804.02748.
Annotations: https://github.com/epic-kitchens/epic-kitchens-55-annotations
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kinema.data.epic import (
    Footage,
    Vocabulary,
    all_absent,
    clips_of,
    indices,
    lists_folder,
    only_participants,
    sort_clips,
)
from kinema.data.epic_files import find_media
from kinema.data.epic_lists import (
    ClassList,
    Segment,
    missing_lists,
    read_classes,
    read_rows,
    read_segments,
    read_videos,
    refuse_pickles,
)
from kinema.data.listing import existing_folder, some_there
from kinema.registry import register_dataset
from kinema.types import DataError, Dataset, Split

_REPOSITORY = "epic-kitchens-55-annotations"
_TRAIN = "EPIC_train_action_labels.csv"
_TESTS = {"s1": "EPIC_test_s1_timestamps.csv", "s2": "EPIC_test_s2_timestamps.csv"}
_VIDEOS = "EPIC_video_info.csv"
_MANY_SHOT = {"verb": "EPIC_many_shot_verbs.csv", "noun": "EPIC_many_shot_nouns.csv"}
_WITHOUT = {
    _TRAIN: "no training clips",
    _TESTS["s1"]: "no test clips of seen kitchens",
    _TESTS["s2"]: "no test clips of unseen kitchens, and no unseen participants",
    _MANY_SHOT["verb"]: "no tail verbs",
    _MANY_SHOT["noun"]: "no tail nouns",
}


@register_dataset
def epic_kitchens_55(
    root: Path | None,
    *,
    tasks: tuple[Literal["verb", "noun", "action"], ...] = ("verb", "noun"),
    test: Literal["s1", "s2", "both"] = "both",
    participants: list[str] | None = None,
    source: Literal["auto", "videos", "frames"] = "auto",
    frame_rate: Literal["published", "native"] = "published",
    annotations: str | None = None,
) -> Dataset:
    """EPIC-KITCHENS-55 in any layout of its downloads, with its official lists.

    Videos and frames are looked for as `videos/train/P01/P01_01.MP4` and `frames_rgb_flow/rgb/train/P01/P01_01/*.jpg`,
    and as `epic_kitchens_100` does. There is no official validation split: `data.validation` cuts one by participant.
    The official test lists have no labels. Tail classes are those that are not in the official lists of many-shot
    classes (those with more than 100 training segments); unseen participants are those of the second test list.

    Args:
        root: The folder.
        tasks: What to recognise: 125 verbs, 352 nouns, and `action`, the pairs of verb and noun that occur in training.
        test: Which test list: `s1`, kitchens that are also in training, `s2`, those that are not, or both.
        participants: Use only these, such as `[P01, P22]`.
        source: Read video files, or folders of frames; `auto` takes the file where there is one.
        frame_rate: Frames of the published archives are at 60 frames per second, whatever the rate of the video.
            `native` is for frames that were extracted at the rate of the videos.
        annotations: Folder with the lists, if it is another; a relative path starts at `root`.

    Raises:
        ConfigError: `root` is missing, or an argument is impossible.
        DataError: The lists are not found or not as published, or the videos of all listed segments are absent.
    """
    root = existing_folder(root)
    names = [_TRAIN, *_TESTS.values()]
    lists = lists_folder(root, annotations, names=names, folders=[_REPOSITORY, f"{_REPOSITORY}-master", "annotations"])
    refuse_pickles(lists, _TRAIN, source=f"github.com/epic-kitchens/{_REPOSITORY}")
    verbs, nouns = (_classes(lists, kind) for kind in ("verb", "noun"))
    segments = _segments(lists, verbs, nouns, test)
    if "action" in tasks and "train" not in segments:
        raise DataError(f"{lists}: the actions are those of the training list, {_TRAIN}, which is absent")
    pairs = {(s.verb, s.noun) for s in segments.get("train", ()) if s.verb is not None and s.noun is not None}
    vocabulary = Vocabulary(tasks, verbs=verbs, nouns=nouns, pairs=pairs)
    kept, note = only_participants(segments, participants)
    facts = read_videos(lists / _VIDEOS, id_column="video") if (lists / _VIDEOS).is_file() else {}
    footage = Footage(root=root, media=find_media(root), source=source, frame_rate=frame_rate, facts=facts)
    listed = {split: clips_of(rows, vocabulary, footage) for split, rows in kept.items()}
    splits, absent, notes = sort_clips(listed, footage)
    unseen = lists / _TESTS["s2"]
    dataset = Dataset(
        published=True,
        classes=vocabulary.classes,
        splits=splits,
        group_name="participant",
        absent=absent,
        tail=vocabulary.tail(_rare(lists, "verb", verbs), _rare(lists, "noun", nouns)),
        unseen_groups=frozenset(
            name for _, (name,) in (read_rows(unseen, ["participant_id"]) if unseen.is_file() else ())
        ),
        notes=(*note, *notes, *missing_lists(lists, _WITHOUT)),
    )
    return some_there(dataset, all_absent(absent, footage, lists))


def _classes(lists: Path, kind: str) -> ClassList:
    return read_classes(
        lists / f"EPIC_{kind}_classes.csv", id_column=f"{kind}_id", key_column="class_key", category_column=None
    )


def _segments(
    lists: Path, verbs: ClassList, nouns: ClassList, test: Literal["s1", "s2", "both"]
) -> dict[Split, list[Segment]]:
    found: dict[Split, list[Segment]] = {}
    if (lists / _TRAIN).is_file():
        found["train"] = list(read_segments(lists / _TRAIN, id_column="uid", verbs=verbs, nouns=nouns))
    for which, name in _TESTS.items():
        if test in (which, "both") and (lists / name).is_file():
            rows = read_segments(lists / name, id_column="uid", verbs=None, nouns=None)
            found.setdefault("test", []).extend(rows)
    return found


def _rare(lists: Path, kind: str, classes: ClassList) -> frozenset[int]:
    many = indices(lists, _MANY_SHOT[kind], f"{kind}_class", classes)
    return frozenset(range(len(classes.names))) - many if many else many
