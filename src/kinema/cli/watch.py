"""`kinema watch`: a camera, a stream or a file, recognised as it comes."""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from kinema.cli.console import JsonOption, Output
from kinema.types import DataError, Heads, UserError
from kinema.wording import percent

if TYPE_CHECKING:
    from kinema.inference.live_settings import LiveSection
    from kinema.inference.live_types import Segment
    from kinema.inference.watch_video import VideoSaver
    from kinema.inference.watch_window import WatchWindow
    from kinema.inference.watching import Watcher
    from kinema.progress import Task

_POLL_S = 0.05


def watch(
    weights: Annotated[Path | None, typer.Argument(metavar="WEIGHTS", help="A weights folder, or a run.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Of what is made of answers, as in slow_s=2 enter=0.6."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            metavar="N|URL|FILE", help="Number of a camera, address of a stream (rtsp, http, ...), or a file."
        ),
    ] = "0",
    list_cameras: Annotated[bool, typer.Option("--list", help="List the cameras of this machine, and end.")] = False,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Play a file as fast as it was made, as if it were a camera.")
    ] = False,
    show: Annotated[
        bool | None,
        typer.Option("--show/--headless", help="A window, or none; by default one where there is a display."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="OUT.mp4", help="Save what was looked at, with the answers drawn into it.")
    ] = None,
    events: Annotated[
        Path | None, typer.Option(metavar="OUT.jsonl", help="Write each action that has ended, a line of JSON each.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of the same keys; a key=value overrides it.")
    ] = None,
    retry_s: Annotated[
        float, typer.Option(min=0.0, help="How long a camera or stream that was lost is waited for, in seconds.")
    ] = 60.0,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="End after so many seconds.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Recognise actions in a camera, a stream or a file, as they happen, with a delay that has a bound: what there is
    no time for is left out and counted. A window shows it (space: pause, r: reset, q: quit)."""
    output = Output(json_file)
    if list_cameras:
        _list(output)
        return
    if weights is None:
        raise typer.BadParameter("give a weights folder or a run, or --list", param_hint="'WEIGHTS'")
    from kinema.inference.live_settings import live_settings

    chosen = live_settings(overrides or [], settings)
    _check_files(source, {"--save": save, "--events": events})
    with ExitStack() as stack:
        lines = None if events is None else stack.enter_context(_lines_to(events))
        is_shown = _is_shown(show, output)
        watcher, heads = _watcher(weights, chosen, source, realtime=realtime, retry_s=retry_s, output=output)
        window = _window(stack, watcher.source.name, heads) if is_shown else None
        saver = None if save is None else _saver(stack, save, watcher, heads)
        session = _Session(watcher, output, lines=lines, seconds=seconds)
        problem = session.run(window)
    if saver is not None:
        problem = _say_saved(saver, output) or problem
    _conclude(watcher, output, signum=session.signum, problem=problem)


class _Session:
    """One watch, from its first picture to its last."""

    def __init__(self, watcher: Watcher, output: Output, *, lines: IO[str] | None, seconds: float | None) -> None:
        self._watcher, self._output = watcher, output
        self._lines, self._seconds = lines, seconds
        self._task: Task | None = None
        self._done = 0
        self.signum: int | None = None

    def run(self, window: WatchWindow | None) -> str | None:
        """Watch until the source ends, or somebody does; why it cannot go on, if it is not for that."""
        gc.collect()
        gc.freeze()  # what is there stays; looking through all of it again would take longer than a frame lasts
        watcher = self._watcher
        with self._signals():
            try:
                watcher.start()
                self._begin_lines()
                if window is not None:
                    window.run(watcher, self._tick)
                else:
                    with self._output.reporter.track("Watching", total=None, unit="frames") as self._task:
                        while watcher.is_running:
                            time.sleep(_POLL_S)
                            self._tick()
            finally:
                gc.unfreeze()
                watcher.stop()
            try:
                watcher.join()
            except DataError as error:
                return str(error)
            finally:
                self._tick()
        return None

    def _begin_lines(self) -> None:
        # What was in the file goes only now that nothing is left that could be mistyped.
        if self._lines is not None and Path(self._lines.name).is_file():  # and no pipe
            self._lines.truncate(0)

    def _tick(self) -> None:
        figures = self._watcher.figures
        for segment in self._watcher.ended():
            self._output.say(
                f"{_clock(segment.start_s)} to {_clock(segment.stop_s)}  {segment.label}  {percent(segment.confidence)}"
            )
            if self._lines is not None:
                self._lines.write(json.dumps(_record(segment), ensure_ascii=False) + "\n")
                self._lines.flush()
        if self._task is not None:
            _, delay_ms = figures.now()
            facts = {"dropped": f"{figures.dropped:,}"} if figures.dropped else {}
            if delay_ms is not None and not self._watcher.source.waits:
                facts["delay"] = f"{delay_ms:.0f} ms"
            self._task.advance(figures.frames - self._done, **facts)
            self._done = figures.frames
        began_s = figures.began_s
        if self._seconds is not None and began_s is not None and time.monotonic() - began_s >= self._seconds:
            self._watcher.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first request to stop ends the watch as if it were over; a second one ends the program."""

        def stop(signum: int, _frame: FrameType | None) -> None:
            if self.signum is not None:
                raise KeyboardInterrupt
            self.signum = signum
            self._watcher.stop()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _list(output: Output) -> None:
    from kinema.inference.cameras import cameras

    found = cameras()
    if found:
        output.table(
            ["camera", "name", "device", ""], [[str(c.index), c.name, c.place, c.problem or ""] for c in found]
        )
    else:
        output.say("no cameras found; a stream or a file is watched by --source ADDRESS or --source FILE")
    output.finish([{"index": c.index, "name": c.name, "device": c.place, "problem": c.problem} for c in found])


def _check_files(source: str, written: Mapping[str, Path | None]) -> None:
    """What is written must not be what is read.

    Args:
        source: As given.
        written: Option -> file.
    """
    for option, path in written.items():
        if path is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise UserError(f"{option}: {path} is what --source reads; give another file")


@contextmanager
def _lines_to(path: Path) -> Iterator[IO[str]]:
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--events: {path} cannot be written: {error.strerror}") from None
    with file:
        yield file


def _is_shown(show: bool | None, output: Output) -> bool:
    if show is False:
        return False
    try:
        from kinema.inference.watch_window import why_no_window
    except ImportError as error:  # Tk is a part of Python that some systems have in a package of its own
        reason: str | None = f"{error}; on Debian python3-tk brings it"
    else:
        reason = why_no_window()
    if reason is None:
        return True
    if show:
        raise UserError(f"--show: no window can be opened here ({reason}); --headless does without")
    output.say(f"without a window ({reason})")
    return False


def _watcher(
    weights: Path, chosen: LiveSection, source: str, *, realtime: bool, retry_s: float, output: Output
) -> tuple[Watcher, Heads]:
    from kinema.inference.deciding import Decider
    from kinema.inference.following import Follower
    from kinema.inference.live_sources import source_of
    from kinema.inference.recogniser import load
    from kinema.inference.watching import Watcher, share_cores
    from kinema.models.runtime import keep_memory

    what = source_of(source, realtime=realtime)
    keep_memory()
    recogniser = load(weights)
    follower = Follower(recogniser, chosen)
    share_cores(follower)
    heads = recogniser.config.heads
    watcher = Watcher(
        what, follower, Decider(heads, chosen, recogniser.rejection, nothing=recogniser.nothing), retry_s=retry_s
    )
    output.say(f"{what.name}: {follower.how}")
    return watcher, heads


def _window(stack: ExitStack, name: str, heads: Heads) -> WatchWindow:
    from kinema.inference.watch_window import WatchWindow

    window = WatchWindow(name, heads)
    stack.callback(window.close)
    return window


def _saver(stack: ExitStack, path: Path, watcher: Watcher, heads: Heads) -> VideoSaver:
    from kinema.inference.watch_video import VideoSaver

    saver = VideoSaver(path, heads, watcher.figures, waits=watcher.source.waits)
    stack.callback(saver.close)
    watcher.on_seen = saver.put
    return saver


def _say_saved(saver: VideoSaver, output: Output) -> str | None:
    """Why there is no video, if there is none."""
    if saver.problem is not None:
        return f"--save: {saver.path} cannot be written: {saver.problem}"
    left_out = f"; {saver.left_out:,} frames are not in it, there was no time" if saver.left_out else ""
    output.say(
        f"saved {saver.path}{left_out}" if saver.is_written else f"nothing was seen, {saver.path} is not written"
    )
    return None


def _conclude(watcher: Watcher, output: Output, *, signum: int | None, problem: str | None) -> None:
    """Say what was seen, and end as it ended."""
    record = {"source": watcher.source.name, **watcher.figures.record()}
    output.say(_summary(record))
    output.finish(record)
    if signum is not None:
        if signum == signal.SIGTERM:
            sys.stderr.write("stopped\n")  # of the other the command line says so itself
        raise typer.Exit(128 + signum)
    if problem is not None:
        raise UserError(problem)


def _summary(record: dict[str, Any]) -> str:
    parts = [f"{record['frames']:,} frames, {record['answers']:,} answers, {record['dropped']:,} dropped"]
    if record["answers_per_s"] is not None:
        parts.append(f"{record['answers_per_s']:.1f} answers/s")
    if record["latency_p50_ms"] is not None:
        parts.append(f"delay {record['latency_p50_ms']:.1f} ms (95 %: {record['latency_p95_ms']:.1f} ms)")
    names = ("actions", "broken_frames", "reconnections", "stalls", "size_changes")
    parts += [f"{record[name]:,} {name.replace('_', ' ')}" for name in names if record[name]]
    return ", ".join(parts)


def _record(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": round(segment.start_s, 3),
        "stop_s": round(segment.stop_s, 3),
        "label": segment.label,
        "labels": dict(segment.labels),
        "confidence": round(segment.confidence, 4),
    }


def _clock(seconds: float) -> str:
    """`0:07.5`, `1:02:03.0`."""
    minutes, rest = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"
