"""`kinema data prepare --transcode`: videos with dense key frames."""

from __future__ import annotations

from kinema.cli.data_prepare_job import Job, finish, usable_clips
from kinema.cli.data_section import data_section

_KEY_EVERY, _CRF = 12, 18


def store_videos(job: Job, *, short_side: int | None, key_every: int | None, crf: int | None) -> None:
    """Store the videos of all clips anew.

    Args:
        job: Of which clips, and where.
        short_side: At most so many pixels.
        key_every: Frames between key frames.
        crf: Quality.
    """
    from kinema.preparation.transcode import TranscodeSettings, transcode_videos

    section = data_section(job.name, job.root, job.overrides, job.annotations)
    _, videos, record = usable_clips(job, section)
    done = transcode_videos(
        videos,
        TranscodeSettings(
            short_side_px=short_side, key_every=key_every or _KEY_EVERY, crf=_CRF if crf is None else crf
        ),
        job.folder,
        root=section.root,
        shard=job.shard,
        workers=job.workers,
        reporter=job.output.reporter,
    )
    finish(job, record, section, "videos", done)
