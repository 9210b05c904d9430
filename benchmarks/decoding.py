"""Reading clips in one process, against others; frames by number, cut, scaled, uint8.

    python benchmarks/decoding.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

kinema hands over what its training takes (planes 4:2:0, which become RGB on the device); a second row each says what it
takes to RGB here. `peers.py` says how the peers are used. A peer is timed on the videos on which its frames are the
right ones, and kinema is compared on the same. Indexing, which kinema does once per file, is apart ("facts" in the
JSON). Rows against "floor" say how far the limit is: decoding up to the last wanted frame without those that no other
frame needs, with no conversion or scaling, which the wanted among them would come on top of.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import media
import peers
import pipeline
from harness import MADE, Options, Report, Run, in_turn, options, row, say, timed
from kinema.data.reading import plan_clip, read_plan
from peers import Frames, Request
from pipeline import Task
from truth import Truth


@dataclass(frozen=True, kw_only=True)
class Job:
    """A line of the issue's table.

    Attributes:
        targets: Peer -> least ratio asked for, None where none is.
        floor: Whether to measure the decoding of reference frames alone.
    """

    name: str
    task: Task
    targets: Mapping[str, float | None]
    floor: bool = False


def main() -> None:
    given = options(__doc__, rounds=5)
    torch.set_num_threads(1)  # as in a loader's worker
    report = Report(name="decoding", options=given)
    with tempfile.TemporaryDirectory() as place:
        pipeline.own_cache(Path(place))
        folder = Path(place) if given.quick else MADE
        for job in jobs(given, report, Path(place), folder):
            say(job.name)
            measure(job, given, report)
        hour(given, report, Path(place), folder)
    report.finish()


def jobs(given: Options, report: Report, place: Path, folder: Path) -> list[Job]:
    """All jobs; what they read is made where it is not there yet.

    Args:
        given: The command line.
        report: Where the cost of indexing is noted.
        place: For kinema's index.
        folder: For videos that are made.
    """
    collections = media.avi_files(given.data, num=1 if given.quick else 16)
    avi = [path for paths in collections.values() for path in paths]
    h264 = media.as_h264(avi[: 1 if given.quick else None], folder=folder)
    minutes = 0.2 if given.quick else 5.0
    long_files = {
        "default key frames": media.long_file(avi, minutes=minutes, key_frames=None, folder=folder),
        "a key frame every 12": media.long_file(avi, minutes=minutes, key_frames=12, folder=folder),
    }
    report.notes += [f"{name}: {len(paths)} videos" for name, paths in collections.items()]
    videos, report.facts["index_avi"] = pipeline.index(avi, place)
    mp4, report.facts["index_h264"] = pipeline.index(h264, place)
    long, report.facts["index_long"] = pipeline.index(list(long_files.values()), place)
    large = pipeline.preprocessing(num_frames=20, size_px=224)
    small = pipeline.preprocessing(num_frames=16, size_px=112, resize_px=128)
    half = pipeline.preprocessing(num_frames=16, size_px=224)
    return [
        *(
            Job(
                name=f"20 frames at 224, {name} AVI, one process",
                task=pipeline.uniform(paths, videos, large),
                targets={"decord": 2.5, "torchcodec": 1.5, "torchvision-like": 5.0, "OpenCV": None},
                floor=True,
            )
            for name, paths in collections.items()
        ),
        Job(
            name="20 frames at 224, H.264, one process",
            task=pipeline.uniform(h264, mp4, large),
            targets={"decord": None, "torchcodec": None, "torchvision-like": None, "OpenCV": None},
            floor=True,
        ),
        Job(
            name="16 frames with stride 2 at 112, AVI, one process",
            task=pipeline.strided(avi, videos, small, stride=2),
            targets={"decord": 2.5},
        ),
        Job(
            name="16 frames with stride 2 at 112, H.264, one process",
            task=pipeline.strided(h264, mp4, small, stride=2),
            targets={"decord": 1.5},
        ),
        *(
            Job(
                name=f"16 frames of 2 s in a file of {minutes:g} min, {name}",
                task=pipeline.segments(path, long[path], half, num=2 if given.quick else 12, length_s=2.0),
                targets={"decord": target, "decord, reader kept open": None, "torchcodec": None},
            )
            for (name, path), target in zip(long_files.items(), (2.5, 5.0), strict=True)
        ),
    ]


def measure(job: Job, given: Options, report: Report) -> None:
    """Let all read the clips of a job in turn, and add its rows."""
    task, requests = job.task, job.task.requests
    numbers = range(len(requests))
    truth = Truth(requests)
    contenders: dict[str, Run] = {"kinema": each(task.reader("i420"), numbers)}
    contenders["kinema to RGB"] = each(task.reader("rgb"), numbers)
    right: dict[str, NDArray[np.bool_]] = {}
    titles: dict[str, str] = {}
    rgb = task.reader("rgb")
    places = {id(request): number for number, request in enumerate(requests)}
    if not truth.right(lambda request: rgb(places[id(request)])).all():
        report.notes.append(f"{job.name}: KINEMA RETURNS WRONG FRAMES")
    for peer in job.targets:
        ways = peers.variants(peer)
        if not ways:
            report.notes.append(f"{job.name}: {peer} is not installed or lacks its libraries; left out")
            continue
        way, read = next(iter(ways.items())) if given.quick else peers.fastest(ways, requests[:6])
        right[peer] = truth.right(peers.plain(peer))
        titles[peer] = f"{peer} ({way})"
        if not right[peer].all():
            report.notes.append(
                f"{job.name}: {peer} is right on {right[peer].sum()} of {len(requests)}, timed on those"
            )
        if right[peer].any():
            contenders[peer] = each(read, [r for r, good in zip(requests, right[peer], strict=True) if good])
    if job.floor:
        contenders["floor"] = each(reference_frames, requests)
        titles["floor"] = "floor: decoding reference frames alone"
    seconds = in_turn(contenders, given.rounds)
    facts: dict[str, Any] = {"clips": len(requests)}
    for peer in [*(peer for peer in job.targets if peer in contenders), *(["floor"] if job.floor else [])]:
        chosen = right.get(peer, np.ones(len(requests), dtype=bool))
        for ours, target in (("kinema", job.targets.get(peer)), ("kinema to RGB", None)):
            name = job.name + ("" if ours == "kinema" else ", to RGB")
            report.rows.append(
                row(
                    name,
                    seconds[ours][:, chosen],
                    seconds[peer],
                    titles[peer],
                    amount=int(chosen.sum()),
                    target=target,
                    limit=peer == "floor",
                    right=int(chosen.sum()),
                    **facts,
                )
            )


def each(read: Callable[[Any], Any], items: Sequence[Any]) -> Run:
    """Reads items one after the other; seconds of each."""
    return lambda: [timed(partial(read, item)) for item in items]


def reference_frames(request: Request) -> int:
    """Decode up to the last wanted frame, leaving out those that no other needs; how many came out."""
    import av

    num = 0
    with av.open(str(request.path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count, context.skip_frame = 1, "NONREF"
        packed = container.format.name == "avi" and context.name == "mpeg4"
        unpack = av.BitStreamFilterContext("mpeg4_unpack_bframes", in_stream=stream) if packed else None
        fed = 0
        for packet in container.demux(stream):
            if packet.size == 0 or fed > request.indices[-1]:
                break
            for part in [packet] if unpack is None else unpack.filter(packet):
                num += len(context.decode(part))
                fed += 1
        num += len(context.decode(None))
    return num


def hour(given: Options, report: Report, place: Path, folder: Path) -> None:
    """Opening an hour-long file, whose index is on disk, and reading 2 s somewhere in it, each time anew."""
    say("2 s of an hour-long file")
    minutes, times = (0.2, 5) if given.quick else (5.0, 12)
    part = media.long_file([], minutes=minutes, key_frames=None, folder=folder)
    path = media.repeated(part, times=times)
    length = round(minutes * 60 * 25)
    wanted = pipeline.preprocessing(num_frames=16, size_px=224)
    found, report.facts["index_hour"] = pipeline.index([path, part], place)
    assert len(found[path].times_s) == times * length, "not as long as it is to be"
    task = pipeline.segments(path, found[path], wanted, num=2 if given.quick else 12, length_s=2.0)
    numbers = range(len(task.clips))

    def indexed(number: int) -> Frames:
        videos = pipeline.from_index([path], place)
        plan = plan_clip(task.clips[number], videos[path], wanted)
        return read_plan(videos[path], plan, wanted)

    for number in numbers:  # its packets are those of the part: so are its frames
        plan = task.plans[number]
        expected = read_plan(found[part], replace(plan, indices=tuple(i % length for i in plan.indices)), wanted)
        np.testing.assert_array_equal(indexed(number), expected)
    contenders: dict[str, Run] = {"kinema": each(indexed, numbers)}
    ways = peers.variants("decord")
    if ways:
        contenders["decord"] = each(ways["1 thread, scaled by torch"], task.requests)
    else:
        report.notes.append("an hour-long file: decord is not installed; left out")
    seconds = in_turn(contenders, given.rounds)
    job = f"opening a file of {minutes * times:g} min and reading 16 frames of 2 s"
    title = "decord (1 thread, scaled by torch)" if ways else "none installed"
    report.rows.append(row(job, seconds["kinema"], seconds.get("decord"), title, amount=len(numbers)))


if __name__ == "__main__":
    main()
