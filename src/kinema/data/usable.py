"""Which clips can be used: those whose video can be read and is not in quarantine."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from kinema.data.background import background_clips, background_labels
from kinema.data.decoding import Video
from kinema.data.probing import frame_rates, probe_all
from kinema.data.sampling import clip_interval_s
from kinema.data.stored_flow import check_flow
from kinema.progress import SILENT, Reporter
from kinema.types import Clip, DataError, Dataset, Split

log = logging.getLogger(__name__)


def probe_splits(
    dataset: Dataset,
    splits: list[Split],
    *,
    workers: int,
    background: bool = False,
    flow: Collection[Split] = (),
    reporter: Reporter = SILENT,
) -> tuple[dict[Split, list[Clip]], dict[Path, Video], dict[Split, dict[str, str]]]:
    """Probe the videos of some splits and sort out the clips that cannot be used. Videos in quarantine are not opened.

    Args:
        dataset: What is listed.
        splits: Of it.
        workers: Processes that probe.
        background: Whether clips of the background are made, where the data set has one: of training clips, and for
            training alone, so that every number is of clips that were filmed.
        flow: Splits of which optical flow is read from files: clips whose flow is not there cannot be used.
        reporter: Where to show progress.

    Returns:
        Split -> usable clips, path -> video, split -> clip id -> reason.

    Raises:
        DataError: A clip's times lie outside its video and are the user's to mend, or no clip of a split (that has
            any) can be used.
    """
    paths = dict.fromkeys(clip.video for split in splits for clip in dataset.splits[split])
    wanted = [path for path in paths if path not in dataset.quarantine]
    rates = frame_rates(clip for split in splits for clip in dataset.splits[split])
    probed = probe_all(wanted, fps=rates, workers=workers, root=dataset.root, reporter=reporter)
    for path, reason in dataset.quarantine.items():
        probed[path] = DataError(f"{path}: in quarantine: {reason}")
    clips: dict[Split, list[Clip]] = {}
    videos: dict[Path, Video] = {}
    skipped: dict[Split, dict[str, str]] = {}
    labels = background_labels(dataset) if background else {}
    for split in splits:
        clips[split], found, skipped[split] = split_readable(dataset.splits[split], probed)
        videos |= found
        clips[split] = [clip for clip in clips[split] if _lies_inside(clip, found, skipped[split], dataset)]
        if split in flow:
            clips[split] = [clip for clip in clips[split] if _has_flow(clip, found, skipped[split])]
        reasons = list(skipped[split].values())
        if reasons:
            log.warning(
                "%s: %d of %d clips cannot be read and are left out, the first because of %s",
                split,
                len(reasons),
                len(dataset.splits[split]),
                reasons[0],
            )
        damaged = [clip.video for clip in clips[split] if found[clip.video].damaged]
        if damaged:
            log.warning(
                "%s: videos of %d of %d clips are damaged in places; what decodes of them is used, such as %s",
                split,
                len(damaged),
                len(clips[split]),
                damaged[0],
            )
        if reasons and not clips[split]:
            raise DataError(f"none of the {len(reasons)} {split} clips can be read; the first: {reasons[0]}")
        if labels and split == "train":
            clips[split] += background_clips(clips[split], found, labels)
    return clips, videos, skipped


def _lies_inside(clip: Clip, videos: Mapping[Path, Video], skipped: dict[str, str], dataset: Dataset) -> bool:
    try:
        clip_interval_s(clip, videos[clip.video])
    except DataError as error:
        if not dataset.published:
            raise
        skipped[clip.clip_id] = str(error).removesuffix("; mend its times")
        return False
    return True


def _has_flow(clip: Clip, videos: Mapping[Path, Video], skipped: dict[str, str]) -> bool:
    try:
        check_flow(clip, videos[clip.video])
    except DataError as error:
        skipped[clip.clip_id] = str(error)
        return False
    return True


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
