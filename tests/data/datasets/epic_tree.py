"""A small EPIC-KITCHENS-100 with lists as they are published, for the tests of both data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
)
LABELS = "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
VERBS = "id,key,instances,category\n0,take,\"['take', 'grab']\",retrieve\n1,put,['put'],leave\n2,let-go,['let'],leave\n"
# A cell may hold line breaks, as in EPIC_100_noun_classes_v2.csv.
NOUNS = """"id","key","instances","category"
0,"tap","['tap',
 'tap:water']","appliances"
1,"pan:dust",['pan'],other
"""

TRAIN = [("P01_01_0", 0, 0), ("P01_01_1", 1, 0), ("P02_02_0", 0, 0), ("P03_101_0", 2, 0), ("P03_101_1", 0, 1)]
VALIDATION = [("P01_11_0", 1, 1), ("P18_09_0", 0, 0)]
TEST = ["P33_101_0", "P01_102_0"]


def write_lists(folder: Path) -> Path:
    """The lists of EPIC-KITCHENS-100. Segment k of a video lasts from second k to second k + 1.5."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "train": _rows(TRAIN),
        "validation": _rows(VALIDATION),
        "test_timestamps": [HEADER, *(_times(name) for name in TEST)],
        "tail_verbs": ["verb", "2"],
        "tail_nouns": ["noun", "1"],
        "unseen_participant_ids_validation": ["participant_id", "P18"],
        "unseen_participant_ids_test": ["participant_id", "P33"],
        "video_info": ["video_id,duration,fps,resolution", "P01_01,100.0,59.9400599400599,1920x1080"]
        + [f"{name},2.25,50.0,1920x1080" for name in ("P01_11", "P02_02", "P03_101", "P33_101", "P01_102", "P18_09")],
    }
    for name, lines in files.items():
        (folder / f"EPIC_100_{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "EPIC_100_verb_classes.csv").write_text(VERBS)
    (folder / "EPIC_100_noun_classes.csv").write_text(NOUNS)
    return folder


def touch(root: Path, paths: Iterable[str]) -> Path:
    """Empty files; where a path ends in "/", a folder with one empty frame."""
    for name in paths:
        path = root / name / "frame_0000000001.jpg" if name.endswith("/") else root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _times(clip_id: str) -> str:
    participant, video, number = clip_id.split("_")
    start = int(number)
    return f"{clip_id},{participant},{participant}_{video},,00:00:{start:02d}.00,00:00:{start + 1:02d}.50,0,0"


def _rows(segments: Sequence[tuple[str, int, int]]) -> list[str]:
    return [
        f"{HEADER},{LABELS}",
        *(
            f'{_times(name)},"do, then {name}",x,{verb},y,{noun},"[\'y\', \'z\']","[{noun}, 0]"'
            for name, verb, noun in segments
        ),
    ]
