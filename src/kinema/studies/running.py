"""Doing all runs of a study, in this process or in several that each take what nobody has taken yet."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from kinema.data.processes import available_cores
from kinema.files import read_json_object
from kinema.progress import SILENT, Reporter, Task
from kinema.studies.jobs import PLAN, Job, Place
from kinema.types import DataError

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_END_WITHIN_S = 120.0
"""A checkpoint is written meanwhile."""


def open_jobs(jobs: Sequence[Job], place: Place) -> list[Job]:
    """Those that are not done, each recipe once."""
    return list({job.fingerprint: job for job in jobs if place.result(job) is None}.values())


def run_here(jobs: Sequence[Job], place: Place, *, reporter: Reporter = SILENT) -> None:
    """Do what is not done, one run after the other, in this process. A run that fails does not stop the others.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came; the same call goes on from there.
        DataError: The study's folder cannot be written.
    """
    from kinema.studies.work import do

    todo = open_jobs(jobs, place)
    with reporter.track("runs", total=len(jobs), unit="runs", done=len(jobs) - len(todo)) as task:
        for job in todo:
            with place.claim(job) as mine:
                if not mine:
                    log.warning("%s: another process is doing it", job.name)
                elif (record := do(job, place)) is not None:
                    task.advance(1, last=f"{job.name} {record['measured'][job.split]['top1']:.1%}")
                    continue
                else:
                    log.warning("%s: failed: %s", job.name, place.failure(job))
            task.advance(1)


def work(folder: Path, plan: Mapping[str, Any]) -> None:
    """Take runs of a plan that nobody has taken, until there is none left.

    Args:
        folder: The study's.
        plan: Of the command that started this process.

    Raises:
        StoppedBySignal: As above.
        DataError: The folder cannot be written.
    """
    from kinema.studies.work import do

    place = Place(folder)
    for job in map(Job.from_dict, plan["jobs"]):
        if place.result(job) is not None or place.failure(job) is not None:
            continue
        with place.claim(job) as mine:
            if mine and place.result(job) is None and place.failure(job) is None:
                do(job, place)


def end_with_input() -> None:
    """End this process when its standard input does: then the one that started it is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class _Worker:
    """A process that does runs, one after the other.

    Args:
        command: How it is started.
        log_file: Where its output goes.
        threads: That it may compute with.
    """

    def __init__(self, command: Sequence[str], log_file: BinaryIO, threads: int) -> None:
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.log_file = log_file
        self.process = subprocess.Popen(  # noqa: S603 - this program itself
            list(command), stdin=subprocess.PIPE, stdout=log_file, stderr=log_file, env=environment
        )

    def end(self) -> None:
        """Ask it to end, which its input's end does."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def why_it_ended(self) -> str:
        code = self.process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; out of memory?" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        lines = Path(self.log_file.name).read_text(encoding="utf-8", errors="replace").splitlines()
        return f"its process ended with code {code}: {lines[-1] if lines else 'it said nothing'}"


def read_plan(own: Path) -> dict[str, Any]:
    """What the command that started this process wants done.

    Args:
        own: The folder of the command's processes.

    Raises:
        DataError: It is not there, or broken.
    """
    return read_json_object(own / PLAN)


def _worker_command(folder: Path, own: Path, *arguments: str) -> list[str]:
    """How `kinema` is started as a worker."""
    places = str(folder.absolute()), str(own.absolute())
    return [sys.executable, "-m", "kinema.cli.main", "study", "work", *places, *arguments]


def run_in_processes(
    jobs: Sequence[Job], place: Place, *, num: int, reporter: Reporter = SILENT, say: Callable[[str], None]
) -> None:
    """Do what is not done in processes of their own: what kills one of them kills no other run. What processes of
    another command are doing is left to them.

    Args:
        jobs: Of the study.
        place: Its folder.
        num: Processes at once.
        reporter: Where to show progress.
        say: Gets a line for each run that ends.

    Raises:
        DataError: Processes end without having done anything.
    """
    todo = open_jobs(jobs, place)
    for job in todo:
        place.forget_failure(job)
    every = {job.fingerprint: job for job in jobs}
    epochs = {print_: job.recipe.trainer.epochs for print_, job in every.items()}
    done = sum(epochs[p] for p in epochs if p not in {job.fingerprint for job in todo})
    before = done + sum(min(place.epochs_done(job), epochs[job.fingerprint]) for job in todo)
    with reporter.track("study", total=sum(epochs.values()), unit="epochs", done=before) as task:
        watch = _Watch(todo, place, task, say, num_all=len(every))
        plan = {"jobs": [job.to_dict() for job in jobs]}
        watched(place, watch, plan, num=min(num, len(todo)))
    for job in todo:
        if place.result(job) is None and place.failure(job) is None:
            say(f"{job.name}: a process of another command is doing it")


class Watch(Protocol):
    """Follows what processes do."""

    def look(self) -> None:
        """Say what is new."""

    def blame(self, pid: int, reason: str) -> bool:
        """Write down that what a process worked on failed with it; whether another is to take its place.

        Raises:
            DataError: It worked on nothing: all others would end like it.
        """


def watched(place: Place, watch: Watch, plan: Mapping[str, Any], arguments: Sequence[str] = (), *, num: int) -> None:
    """Start processes, and watch them until they end; those that die are replaced.

    Args:
        place: The study's folder.
        watch: Is asked to look every now and then.
        plan: What they are to do.
        arguments: For them.
        num: How many.

    Raises:
        DataError: They cannot be started, or end without having done anything.
    """
    with contextlib.ExitStack() as held:
        try:
            own = held.enter_context(place.workers(plan))
            logs = [held.enter_context((own / f"{number}.txt").open("wb")) for number in range(1, num + 1)]
        except OSError as error:
            raise DataError(f"{place.folder / 'workers'}: cannot be written: {error.strerror or error}") from None
        _watched(watch, _worker_command(place.folder, own, *arguments), logs)


def _watched(watch: Watch, command: Sequence[str], logs: Sequence[BinaryIO]) -> None:
    num = len(logs)
    threads = max(1, available_cores() // max(1, num))
    workers: list[_Worker] = []
    try:
        workers += [_Worker(command, log_file, threads) for log_file in logs]
        while workers:
            time.sleep(_LOOK_EVERY_S)
            watch.look()
            for worker in [worker for worker in workers if worker.process.poll() is not None]:
                workers.remove(worker)
                worker.end()
                if worker.process.returncode and watch.blame(worker.process.pid, worker.why_it_ended()):
                    workers.append(_Worker(command, worker.log_file, threads))
        watch.look()
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            try:
                worker.process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


class _Watch:
    """Follows the runs through what their processes write into the study's folder."""

    def __init__(
        self, todo: Sequence[Job], place: Place, task: Task, say: Callable[[str], None], *, num_all: int
    ) -> None:
        self._open = {job.fingerprint: job for job in todo}
        self._place = place
        self._task = task
        self._say = say
        self._num_all = num_all
        self._num_failed = 0
        self._shown = {job.fingerprint: place.epochs_done(job) for job in todo}

    def look(self) -> None:
        """Count the epochs that are new, and say which runs have ended."""
        for print_, job in list(self._open.items()):
            result, failure = self._place.result(job), self._place.failure(job)
            epochs = job.recipe.trainer.epochs if result or failure else self._place.epochs_done(job)
            new = min(epochs, job.recipe.trainer.epochs) - self._shown[print_]
            if result is not None:
                top1 = result["measured"][job.split]["top1"]
                self._say(f"{job.name}: {top1:.1%} on {job.split if job.fold is None else 'held-out'} clips")
            elif failure is not None:
                self._say(f"{job.name}: failed: {failure}")
                self._num_failed += 1
            if result is not None or failure is not None:
                del self._open[print_]
            self._shown[print_] += max(0, new)
            if new > 0 or print_ not in self._open:
                facts = {"failed": str(self._num_failed)} if self._num_failed else {}
                self._task.advance(max(0, new), runs=f"{self._num_all - len(self._open)}/{self._num_all}", **facts)

    def blame(self, pid: int, reason: str) -> bool:
        """Write down that the run that a process worked on failed with it; whether any is left to be done.

        Raises:
            DataError: It worked on none: all others would end like it.
        """
        guilty = [job for job in self._open.values() if self._place.holder(job) == pid]
        unfinished = [job for job in guilty if not self._place.result(job) and not self._place.failure(job)]
        for job in unfinished:
            self._place.keep_failure(job, reason)
        self.look()
        if not unfinished and self._open:
            raise DataError(f"{self._place.folder}: a run could not be begun: {reason}")
        return bool(self._open)
