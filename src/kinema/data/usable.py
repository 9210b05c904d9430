"""Which clips can be used: those whose video can be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from kinema.data.decoding import Video
from kinema.data.probing import probe_all
from kinema.data.reading import clip_interval_s
from kinema.progress import SILENT, Reporter
from kinema.types import Clip, DataError, Dataset, Split

log = logging.getLogger(__name__)


def probe_splits(
    dataset: Dataset, splits: list[Split], *, workers: int, reporter: Reporter = SILENT
) -> tuple[dict[Split, list[Clip]], dict[Path, Video], dict[Split, dict[str, str]]]:
    """Probe the videos of some splits and sort out the clips that cannot be used.

    Returns:
        Split -> usable clips, path -> video, split -> clip id -> reason.

    Raises:
        DataError: A clip's times lie outside its video, or no clip of a split (that has any) can be used.
    """
    paths = dict.fromkeys(clip.video for split in splits for clip in dataset.splits[split])
    probed = probe_all(paths, workers=workers, reporter=reporter)
    clips: dict[Split, list[Clip]] = {}
    videos: dict[Path, Video] = {}
    skipped: dict[Split, dict[str, str]] = {}
    for split in splits:
        clips[split], found, skipped[split] = split_readable(dataset.splits[split], probed)
        videos |= found
        for clip in clips[split]:
            clip_interval_s(clip, found[clip.video])
        reasons = list(skipped[split].values())
        if reasons:
            log.warning(
                "%s: %d of %d clips cannot be read and are left out, the first because of %s",
                split,
                len(reasons),
                len(dataset.splits[split]),
                reasons[0],
            )
        if reasons and not clips[split]:
            raise DataError(f"none of the {len(reasons)} {split} clips can be read; the first: {reasons[0]}")
    return clips, videos, skipped


def split_readable(
    clips: Sequence[Clip], videos: Mapping[Path, Video | DataError]
) -> tuple[list[Clip], dict[Path, Video], dict[str, str]]:
    """Clips whose video could be probed, those videos, and clip id -> reason for the others."""
    probed: dict[Path, Video] = {}
    skipped: dict[str, str] = {}
    readable = []
    for clip in clips:
        video = videos[clip.video]
        if isinstance(video, DataError):
            skipped[clip.clip_id] = str(video)
        else:
            probed[clip.video] = video
            readable.append(clip)
    return readable, probed, skipped
