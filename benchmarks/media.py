"""The videos that benchmarks read: real ones, and what is made of them (H.264, long files), kept in `build/bench`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from harness import MADE


def avi_files(data: Path, *, num: int) -> dict[str, list[Path]]:
    """Real videos, MPEG-4 in AVI, spread evenly over each collection: `num` of each, fewer where there are fewer; if it
    is one only, the smallest.

    Raises:
        FileNotFoundError: A collection is not there.
    """
    found = {}
    for name, folder in (("UCF101", data / "ucf101" / "UCF-101"), ("UT-Interaction", data / "ut_interaction")):
        paths = sorted(folder.glob("*/*.avi"))
        if not paths:
            raise FileNotFoundError(
                f"{folder}: no videos; name the folder of the real clips by --data or KINEMA_TEST_DATA"
            )
        chosen = np.linspace(0, len(paths) - 1, min(num, len(paths))).round().astype(int)
        found[name] = [paths[i] for i in chosen] if num > 1 else [min(paths, key=lambda path: path.stat().st_size)]
    return found


def as_h264(paths: Sequence[Path], *, folder: Path = MADE) -> list[Path]:
    """The same videos as H.264 in MP4, as x264 makes it by default: groups of 250 frames with B-frames, crf 23."""
    made = [folder / "media" / "h264" / f"{path.parent.name}_{path.stem}.mp4" for path in paths]
    for source, target in zip(paths, made, strict=True):
        if not target.is_file():
            encode(target, frames(source), rate=rate(source))
    return made


def long_file(paths: Sequence[Path], *, minutes: float, key_frames: int | None, folder: Path = MADE) -> Path:
    """One long H.264 file of 320 x 240 at 25 frames per second, of real videos one after the other.

    Args:
        paths: Repeated until it is long enough.
        minutes: How long it is to be.
        key_frames: A key frame at least every so many frames; None: x264's default, 250.
        folder: Where it is kept.
    """
    target = folder / "media" / f"long_{minutes:g}min_{key_frames or 'default'}.mp4"
    if not target.is_file():
        options = {} if key_frames is None else {"g": str(key_frames), "keyint_min": str(key_frames)}
        pictures = (frame for path in cycle(paths) for frame in frames(path, width_px=320, height_px=240))
        encode(target, islice(pictures, round(minutes * 60 * 25)), rate=Fraction(25), options=options)
    return target


def repeated(path: Path, *, times: int) -> Path:
    """A file of the same packets several times over, copied without encoding; times go on."""
    target = path.with_name(f"{path.stem}_x{times}{path.suffix}")
    if target.is_file():
        return target
    temporary = path.with_name(f".{target.name}.tmp{path.suffix}")
    with av.open(str(temporary), "w") as written:
        stream: VideoStream | None = None
        for turn in range(times):
            with av.open(str(path)) as container:
                source = container.streams.video[0]
                stream = stream or written.add_stream_from_template(source)
                assert source.duration is not None, path
                for packet in container.demux(source):
                    if packet.dts is None or packet.pts is None:  # the last, which is empty
                        continue
                    packet.pts, packet.dts = (value + turn * source.duration for value in (packet.pts, packet.dts))
                    packet.stream = stream
                    written.mux(packet)
    temporary.replace(target)
    return target


def every_frame(path: Path) -> Iterator[av.VideoFrame]:
    """Every frame of a video in the order in which they come out of a sequential decode, by one thread."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)


def frames(path: Path, *, width_px: int | None = None, height_px: int | None = None) -> Iterator[av.VideoFrame]:
    """Every frame in order, as 4:2:0 planes of even size."""
    for frame in every_frame(path):
        yield frame.reformat(
            width=(width_px or frame.width) // 2 * 2, height=(height_px or frame.height) // 2 * 2, format="yuv420p"
        )


def rate(path: Path) -> Fraction:
    """Frames per second."""
    with av.open(str(path), metadata_errors="replace") as container:
        return Fraction(container.streams.video[0].average_rate or 25).limit_denominator(100_000)


def encode(
    target: Path, pictures: Iterator[av.VideoFrame], *, rate: Fraction, options: dict[str, str] | None = None
) -> None:
    """Write an H.264 file; a name that is there is a whole file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp.mp4")
    with av.open(str(temporary), "w") as container:
        stream: VideoStream | None = None
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "23", **(options or {})})
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
                stream.codec_context.time_base = 1 / rate
            plain = av.VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p")  # without its old type and time
            plain.time_base, plain.pts = 1 / rate, number
            container.mux(stream.encode(plain))
        assert stream is not None, "no frames"
        container.mux(stream.encode())
    temporary.replace(target)
