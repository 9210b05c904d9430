"""Where the videos, frames and flow of EPIC-KITCHENS lie, in any of the layouts in which they are distributed.

    P01/videos/P01_01.MP4    P01/rgb_frames/P01_01/*.jpg    P01/flow_frames/P01_01/     the download scripts
    videos/train/P01/P01_01.MP4                                                         EPIC-KITCHENS-55
    frames_rgb_flow/rgb/train/P01/P01_01/*.jpg    frames_rgb_flow/flow/...              EPIC-KITCHENS-55

in `root` or in a folder `EPIC-KITCHENS` or `EPIC_KITCHENS_2018` of it; levels may be left out. Only folders with these
names are entered, and none of frames: there are twenty million.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from kinema.data.listing import VIDEO_SUFFIXES
from kinema.types import DataError

_VIDEO_ID = re.compile(r"P\d\d_\d{2,3}")
_PARTICIPANT = re.compile(r"P\d\d")
_FLOW = frozenset({"flow", "flow_frames"})
_ENTERED = _FLOW | frozenset(
    {"epic-kitchens", "epic_kitchens_2018", "frames", "frames_rgb_flow", "rgb", "rgb_frames", "test", "train", "videos"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What is there, by name of video ("P01_01").

    Attributes:
        videos: Files.
        frames: Folders of RGB frames that are not empty.
        flow: Folders of optical flow that are not empty.
        archives: Archives of frames that are not unpacked beside themselves.
    """

    videos: dict[str, Path] = field(default_factory=dict)
    frames: dict[str, Path] = field(default_factory=dict)
    flow: dict[str, Path] = field(default_factory=dict)
    archives: list[Path] = field(default_factory=list)


def find_media(root: Path) -> Media:
    """Look for videos, frames and flow. The first of several with one name counts, in alphabetical order of paths.

    Raises:
        DataError: A folder cannot be read.
    """
    media = Media()
    _scan(root, media, is_flow=False, entered=set())
    return media


def expected_place(root: Path, video_id: str, *, frames: bool) -> Path:
    """Where a video, or its folder of frames, would be as the download scripts put it."""
    participant = _participant(root, video_id)
    return participant / "rgb_frames" / video_id if frames else participant / "videos" / f"{video_id}.MP4"


def expected_flow(root: Path, video_id: str) -> Path:
    """The same of the folder of its optical flow."""
    return _participant(root, video_id) / "flow_frames" / video_id


def _participant(root: Path, video_id: str) -> Path:
    base = root / "EPIC-KITCHENS" if (root / "EPIC-KITCHENS").is_dir() else root
    return base / video_id.partition("_")[0]


def _scan(folder: Path, media: Media, *, is_flow: bool, entered: set[Path]) -> None:
    place = folder.resolve()
    if place in entered:
        return
    entered.add(place)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - half a million Paths would take seconds
            if _VIDEO_ID.fullmatch(stem.upper()):
                _take(entry, stem.upper(), suffix.lower(), media, is_flow=is_flow)
            elif (entry.name.lower() in _ENTERED or _PARTICIPANT.fullmatch(entry.name.upper())) and entry.is_dir():
                _scan(Path(entry.path), media, is_flow=is_flow or entry.name.lower() in _FLOW, entered=entered)
    except OSError as error:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None


def _take(entry: os.DirEntry[str], video_id: str, suffix: str, media: Media, *, is_flow: bool) -> None:
    if not suffix and entry.is_dir():
        with os.scandir(entry.path) as inside:
            if next(inside, None) is not None:
                (media.flow if is_flow else media.frames).setdefault(video_id, Path(entry.path))
    elif suffix in VIDEO_SUFFIXES and entry.is_file():
        media.videos.setdefault(video_id, Path(entry.path))
    elif suffix == ".tar" and entry.is_file() and not Path(entry.path).with_suffix("").is_dir():
        media.archives.append(Path(entry.path))
