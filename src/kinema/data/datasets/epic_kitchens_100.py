"""EPIC-KITCHENS-100: 90,000 actions in 100 hours of unscripted cooking, seen from the head; verbs and nouns.

Damen et al., "Rescaling Egocentric Vision: Collection, Pipeline and Challenges for EPIC-KITCHENS-100", IJCV 2022,
https://arxiv.org/abs/2006.13256. Annotations: https://github.com/epic-kitchens/epic-kitchens-100-annotations
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

_REPOSITORY = "epic-kitchens-100-annotations"
_LISTS: dict[Split, str] = {
    "train": "EPIC_100_train.csv",
    "validation": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
_VIDEOS = "EPIC_100_video_info.csv"
_TAIL = {"verb": "EPIC_100_tail_verbs.csv", "noun": "EPIC_100_tail_nouns.csv"}
_UNSEEN = ("EPIC_100_unseen_participant_ids_validation.csv", "EPIC_100_unseen_participant_ids_test.csv")
_WITHOUT = {
    "EPIC_100_train.csv": "no training clips",
    "EPIC_100_validation.csv": "no validation clips",
    "EPIC_100_test_timestamps.csv": "no test clips",
    "EPIC_100_tail_verbs.csv": "no tail verbs",
    "EPIC_100_tail_nouns.csv": "no tail nouns",
    "EPIC_100_unseen_participant_ids_validation.csv": "no unseen participants in the validation split",
    "EPIC_100_unseen_participant_ids_test.csv": "no unseen participants in the test split",
}


@register_dataset
def epic_kitchens_100(
    root: Path | None,
    *,
    tasks: tuple[Literal["verb", "noun", "verb_category", "noun_category", "action"], ...] = ("verb", "noun"),
    participants: list[str] | None = None,
    source: Literal["auto", "videos", "frames"] = "auto",
    frame_rate: Literal["published", "native"] = "published",
    annotations: str | None = None,
) -> Dataset:
    """EPIC-KITCHENS-100 as its download scripts lay it out, with its official lists.

    Videos, frames and flow are looked for as `P01/videos/P01_01.MP4`, `P01/rgb_frames/P01_01/frame_0000000001.jpg` and
    `P01/flow_frames/P01_01`, in the layout of EPIC-KITCHENS-55 and in flat ones, in `root` or in `root/EPIC-KITCHENS`.
    Where a video is there as a file and as frames, the file is read, and the notes say how many were which. Times are
    the timestamps of the lists, in seconds, whatever the frame rate. Segments whose video is absent are counted and
    left out. The group is the participant; tail classes and unseen participants are carried along. The official test
    list has no labels.

    Args:
        root: The folder.
        tasks: What to recognise: 97 verbs, 300 nouns, their 13 and 21 categories, and `action`, the pairs of verb and
            noun that occur in the training and validation lists.
        participants: Use only these, such as `[P01, P22]`.
        source: Read video files, or folders of frames; `auto` takes the file where there is one.
        frame_rate: Frames of the published archives are at 60 frames per second (videos of 2018, such as P01_01) and 50
            (the later ones, such as P01_101). `native` is for frames that were extracted at the rate of the videos.
        annotations: Folder with the lists, if it is another; a relative path starts at `root`.

    Raises:
        ConfigError: `root` is missing, or an argument is impossible.
        DataError: The lists are not found or not as published, or the videos of all listed segments are absent.
    """
    root = existing_folder(root)
    lists = lists_folder(
        root, annotations, names=[*_LISTS.values()], folders=[_REPOSITORY, f"{_REPOSITORY}-master", "annotations"]
    )
    refuse_pickles(lists, _LISTS["train"], source=f"github.com/epic-kitchens/{_REPOSITORY}")
    verbs, nouns = read_class_lists(lists)
    segments: dict[Split, list[Segment]] = {
        split: list(
            read_segments(
                lists / name,
                id_column="narration_id",
                verbs=None if split == "test" else verbs,
                nouns=None if split == "test" else nouns,
            )
        )
        for split, name in _LISTS.items()
        if (lists / name).is_file()
    }
    if "action" in tasks and not {"train", "validation"} <= segments.keys():
        raise DataError(
            f"{lists}: the actions are those of the training and the validation list; one of them is absent"
        )
    vocabulary = Vocabulary(tasks, verbs=verbs, nouns=nouns, pairs=_pairs(segments))
    kept, note = only_participants(segments, participants)
    facts = read_videos(lists / _VIDEOS, id_column="video_id") if (lists / _VIDEOS).is_file() else {}
    footage = Footage(root=root, media=find_media(root), source=source, frame_rate=frame_rate, facts=facts)
    listed = {split: clips_of(rows, vocabulary, footage) for split, rows in kept.items()}
    splits, absent, notes = sort_clips(listed, footage)
    dataset = Dataset(
        published=True,
        classes=vocabulary.classes,
        splits=splits,
        group_name="participant",
        absent=absent,
        tail=vocabulary.tail(
            indices(lists, _TAIL["verb"], "verb", verbs), indices(lists, _TAIL["noun"], "noun", nouns)
        ),
        unseen_groups=frozenset(
            name
            for file in _UNSEEN
            if (lists / file).is_file()
            for _, (name,) in read_rows(lists / file, ["participant_id"])
        ),
        notes=(*note, *notes, *missing_lists(lists, _WITHOUT)),
    )
    return some_there(dataset, all_absent(absent, footage, lists))


def read_class_lists(lists: Path) -> tuple[ClassList, ClassList]:
    """Verbs and nouns with their categories. `EPIC_100_noun_classes_v2.csv`, which has five nouns more, is not the list
    that the action labels are made with.

    Raises:
        DataError: They are not in the folder, or not as published.
    """
    verbs, nouns = (
        read_classes(
            lists / f"EPIC_100_{kind}_classes.csv", id_column="id", key_column="key", category_column="category"
        )
        for kind in ("verb", "noun")
    )
    return verbs, nouns


def _pairs(segments: dict[Split, list[Segment]]) -> set[tuple[int, int]]:
    return {
        (segment.verb, segment.noun)
        for of_split in segments.values()
        for segment in of_split
        if segment.verb is not None and segment.noun is not None
    }
