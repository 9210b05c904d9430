"""Making a store of videos in H.264 with dense key frames: smaller, and quick to enter anywhere."""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinema.data.containers import Reading, opened
from kinema.data.decoding import Video, probe, read_frames
from kinema.data.frame_store import Files
from kinema.data.machine import Passing, reason_of
from kinema.data.processes import results
from kinema.data.transcoded import FOLDER, KIND, digest, file_name, video_key
from kinema.preparation.pictures import even_size, scaler
from kinema.preparation.storing import Entry, Made, Stored, storing
from kinema.progress import SILENT, Reporter
from kinema.types import DataError

log = logging.getLogger(__name__)

_SAMPLES, _SAMPLE_FRAMES = 8, 36
_MARGIN = 1.25
"""By how much more room is asked for than samples take: beginnings of videos are not all of them."""
"""From how many videos, and how much of each, the size of all is estimated."""
_IMAGES_AT_ONCE = 16
SOFTWARE = "libx264"
_HARDWARE = ("h264_nvenc", "h264_videotoolbox", "h264_qsv")
_TICK_S = Fraction(1, 90_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscodeSettings:
    """What videos become.

    Attributes:
        short_side_px: The longest that the short side of a frame may be; None leaves frames as large as they are.
        key_every: Frames between key frames, at most.
        crf: Of x264: the smaller, the better and larger.
    """

    short_side_px: int | None = None
    key_every: int = 12
    crf: int = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a process has to know."""

    videos: Sequence[Video]
    files: Files
    settings: TranscodeSettings
    encoder: str
    folder: Path
    prefix: str


def transcode_videos(
    videos: Mapping[Path, Video],
    settings: TranscodeSettings,
    folder: Path,
    *,
    root: Path | None,
    shard: tuple[int, int] = (1, 1),
    workers: int = 2,
    reporter: Reporter = SILENT,
) -> Stored:
    """Transcode videos; those that are there already are left as they are. Each file is whole or not there.

    Args:
        videos: Path -> what probing it found.
        settings: What they become.
        folder: The store.
        root: Folder of the data set.
        shard: (i, n): do the i-th of n parts.
        workers: Processes to use.
        reporter: Shown how many videos are done.

    Raises:
        DataError: There is no room, or the folder holds another store, or a file has gone in the meantime.
    """
    files = Files(root)
    found = list(videos.values())
    entries = [Entry(key=video_key(files.state(video.path)), name=str(video.path), path=video.path) for video in found]
    chosen = encoder()
    work = _Work(
        videos=found,
        files=files,
        settings=settings,
        encoder=chosen,
        folder=folder,
        prefix=".{}-of-{}.".format(*shard),
    )
    with storing(
        entries,
        folder,
        kind=KIND,
        settings=asdict(settings),
        files=files,
        shard=shard,
        estimate=partial(_estimate, found, settings),
        unit="videos",
    ) as job:
        (folder / FOLDER).mkdir(exist_ok=True)
        for leftover in (folder / FOLDER).glob(f"{work.prefix}*"):
            leftover.unlink()
        job.run(
            partial(_transcode, work),
            again=partial(_transcode, replace(work, encoder=SOFTWARE)),
            title="Transcoding videos",
            workers=workers,
            reporter=reporter,
            apart=chosen != SOFTWARE,  # a driver does not survive a fork of the process that uses it
            stored=_Fallback(chosen),
        )
    return job.result()


class _Fallback:
    """Says once that what was to be encoded on hardware is not."""

    def __init__(self, chosen: str) -> None:
        self._said = chosen == SOFTWARE
        self._chosen = chosen

    def __call__(self, meta: Mapping[str, Any]) -> None:
        if not self._said and meta["encoder"] == SOFTWARE:
            self._said = True
            log.warning("%s fails; what it fails on is encoded by %s", self._chosen, SOFTWARE)


def encoder() -> str:
    """A hardware encoder of H.264 if there is one that works, else x264. Tried in a process of its own: drivers crash,
    and do not survive that a process forks."""
    for name in _HARDWARE:
        if name in av.codecs_available:
            ((_, works),) = results(_encodes, [name], workers=1, apart=True)
            if works is True:
                return name
            log.debug("%s does not work here", name)
    return SOFTWARE


def _encodes(name: str) -> bool:
    frame = VideoFrame(256, 256, "yuv420p")
    frame.pts = 0
    with suppress(av.FFmpegError, ValueError, OSError), av.open(io.BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream(name, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        container.mux([*stream.encode(frame), *stream.encode()])
        return True
    return False


def _transcode(work: _Work, place: int) -> Made:
    """Data and meta of the entry of a video; or why it has none. What fails on hardware is done without.

    Raises:
        DataError: The disk is full.
    """
    made = _transcode_with(work.encoder, work, place)
    if isinstance(made, str) and work.encoder != SOFTWARE:
        made = _transcode_with(SOFTWARE, work, place)
    return made


def _transcode_with(encoder: str, work: _Work, place: int) -> Made:
    video = work.videos[place]
    state = work.files.state(video.path)
    name = file_name(video_key(state))
    temporary, path = work.folder / FOLDER / f"{work.prefix}{name}", work.folder / FOLDER / name
    try:
        with temporary.open("wb+") as file:
            _write(video, _frames(video, work.settings), work.settings, encoder, file)
            file.flush()
            os.fsync(file.fileno())
        _check(video, temporary)
        content = digest(temporary)
        temporary.replace(path)
    except DataError as error:
        temporary.unlink(missing_ok=True)
        return reason_of(error)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"{path}: cannot be written: {os.strerror(error.errno)}; make room and run it again: it goes on where "
                "it stopped"
            ) from None
        message = f"{video.path}: cannot be transcoded: {error}"
        # Not FFmpeg's: of the disk that is written to, which says nothing about the video.
        return reason_of(error, message) if isinstance(error, av.FFmpegError) else Passing(message)
    except (av.FFmpegError, ValueError) as error:
        temporary.unlink(missing_ok=True)
        return reason_of(error, f"{video.path}: cannot be transcoded by {encoder}: {error}")
    meta = {"video": state, "file": name, "bytes": path.stat().st_size, "encoder": encoder}
    return content, {**meta, "num_frames": len(video.times_s)}


def _write(
    video: Video, frames: Iterable[NDArray[np.uint8]], settings: TranscodeSettings, encoder: str, file: IO[bytes]
) -> None:
    """Encode frames, each an I420 row, at the times of the video's first frames."""
    height_px, width_px = even_size(video, settings.short_side_px)
    tick_s, ticks = _ticks(video)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=round(video.fps) or 1, options=_options(encoder, settings.crf))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = tick_s
        context.gop_size = settings.key_every
        context.thread_count = 1
        # Tagged, as players otherwise take large frames for BT.709.
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 6, 6, 6, 1
        for tick, row in zip(ticks, frames, strict=False):
            frame = VideoFrame.from_numpy_buffer(row.reshape(height_px * 3 // 2, width_px), format="yuv420p")
            frame.pts, frame.time_base = int(tick), tick_s
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _options(encoder: str, crf: int) -> dict[str, str]:
    quality = str(crf)
    return {
        SOFTWARE: {"crf": quality, "preset": "fast", "threads": "1"},
        "h264_nvenc": {"rc": "vbr", "cq": quality},
        "h264_qsv": {"global_quality": quality},
        "h264_videotoolbox": {"q": "65"},
    }[encoder]


def _frames(video: Video, settings: TranscodeSettings) -> Iterator[NDArray[np.uint8]]:
    """All frames of a video in order, each an upright I420 row.

    Raises:
        DataError: One of them does not decode.
    """
    make = scaler(video, *even_size(video, settings.short_side_px), is_i420=True)
    num = len(video.times_s)
    if video.is_images:
        for first in range(0, num, _IMAGES_AT_ONCE):
            yield from map(make, read_frames(video, range(first, min(first + _IMAGES_AT_ONCE, num))))
        return
    next_index = 0
    with opened(video.path) as (container, stream):
        time_base = stream.time_base
        index_of: dict[int, int] | None = None
        if video.first_pts is not None and time_base is not None:
            ticks = [video.first_pts + round(Fraction(float(time_s)) / time_base) for time_s in video.times_s]
            index_of = {pts: index for index, pts in enumerate(ticks)}
        for position, frame in enumerate(Reading(container, stream).frames()):
            index = position if index_of is None else index_of.get(frame.pts or 0)
            if index == next_index:
                yield make(frame)
                next_index += 1
                if next_index == num:
                    return
    raise DataError(f"{video.path}: frame {next_index} of {num} does not decode")


def _ticks(video: Video) -> tuple[Fraction, NDArray[np.int64]]:
    """A unit of time, and when frames are on display in it: exactly where the file's own unit is found."""
    times_s = video.times_s
    candidates = [_TICK_S]
    if len(times_s) > 1:
        candidates.insert(0, Fraction(float(times_s[-1]) / (len(times_s) - 1)).limit_denominator(1_000_000))
    if not video.is_images:
        with opened(video.path) as (_, stream):
            candidates = [base for base in (stream.time_base, candidates[0]) if base] + candidates
    for tick_s in candidates:
        ticks = np.rint(times_s * tick_s.denominator / tick_s.numerator).astype(np.int64) if tick_s else None
        if ticks is not None and np.array_equal(ticks * tick_s.numerator / tick_s.denominator, times_s):
            return tick_s, ticks
    return _TICK_S, np.rint(times_s / float(_TICK_S)).astype(np.int64)


def _check(video: Video, path: Path) -> None:
    """See that what was written has the same frames at the same times.

    Raises:
        DataError: It has not.
    """
    made = probe(path)
    if len(made.times_s) != len(video.times_s) or not np.allclose(made.times_s, video.times_s, rtol=0, atol=1e-5):
        raise DataError(
            f"{video.path}: cannot be transcoded: {len(made.times_s)} of {len(video.times_s)} frames came out, or not "
            "at their times"
        )


def _estimate(videos: Sequence[Video], settings: TranscodeSettings, places: Sequence[int]) -> int:
    """Bytes that videos will take, from the beginnings of some; a quarter more, as these are not the whole."""
    num_bytes = num_pixels = 0
    for place in places[:: -(-len(places) // _SAMPLES)]:
        video, file = videos[place], io.BytesIO()
        with suppress(av.FFmpegError, ValueError, OSError):
            _write(video, islice(_frames(video, settings), _SAMPLE_FRAMES), settings, SOFTWARE, file)
            num_pixels += min(_SAMPLE_FRAMES, len(video.times_s)) * video.height_px * video.width_px
            num_bytes += file.getbuffer().nbytes
    if not num_pixels:
        return 0
    total = sum(len(videos[i].times_s) * videos[i].height_px * videos[i].width_px for i in places)
    return round(_MARGIN * total * num_bytes / num_pixels)
