"""`kinema` commands in real processes. See `fork_server.py`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_LONGEST_S = 300.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: Exit code; a signal's number, negative, where one ended it.
        stdout: What it printed.
        stderr: What it printed there.
        pid: Its process, which was also its session.
    """

    code: int
    stdout: str
    stderr: str
    pid: int

    def children(self) -> list[int]:
        """Processes of its session that are still there."""
        return session_of(self.pid)


class Commands:
    """Starts commands.

    Args:
        server: Running `fork_server.py`.
        folder: For their output.
        environment: Added to the environment.
    """

    def __init__(self, server: subprocess.Popen[str], folder: Path, environment: dict[str, str]) -> None:
        self._server = server
        self._folder = folder
        self._environment = environment
        self._number = 0

    def run(
        self,
        *arguments: str | Path,
        event: dict[str, Any] | None = None,
        while_running: Callable[[int], None] | None = None,
    ) -> Ended:
        """Run `kinema ARGUMENTS` to its end.

        Args:
            arguments: Of the command.
            event: From `at`.
            while_running: Called with the process's id.
        """
        self._number += 1
        stdout, stderr = (self._folder / f"{self._number}.{name}" for name in ("stdout", "stderr"))
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(self._folder),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "environment": self._environment,
            "event": event,
        }
        pid = self._ask(request)
        try:
            code = self._ask({"wait": pid})
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"kinema {request['arguments']} did not end:\n{stderr.read_text()}") from None
        return Ended(code, stdout.read_text(), stderr.read_text(), pid)

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        if not select.select([self._server.stdout], [], [], _LONGEST_S)[0]:
            raise TimeoutError
        return int(self._server.stdout.readline())


@contextlib.contextmanager
def fork_server() -> Iterator[subprocess.Popen[str]]:
    """A running server."""
    command = [sys.executable, str(FOLDER / "fork_server.py")]
    # Several threads wait for each other by spinning, which costs many times the work where cores are shared.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield server
        finally:
            assert server.stdin is not None
            server.stdin.close()


def at(
    place: str,
    *signals: signal.Signals,
    epoch: int = 0,
    batch: int = 0,
    to_group: bool = False,
    largest_file: int | None = None,
) -> dict[str, Any]:
    """An event in a command's life.

    Args:
        place: "training" or "validation", at the beginning of a batch, or a place of `fork_server.PLACES`.
        signals: Are sent one after the other.
        epoch: From 1.
        batch: From 1.
        to_group: Send them also to the processes that read clips, as a terminal does.
        largest_file: From here on no file can grow beyond so many bytes.
    """
    return {
        "place": place,
        "epoch": epoch,
        "batch": batch,
        "signals": [int(number) for number in signals],
        "to_group": to_group,
        "largest_file": largest_file,
    }


def session_of(leader: int) -> list[int]:
    """Processes of a session that are not zombies."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                state, _parent, _group, session = (place / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    found.append(int(place.name))
    return found


def wait_until(condition: Callable[[], object], *, longest_s: float = _LONGEST_S) -> None:
    """Return when the condition holds; fail when it does not in time."""
    until = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.002)
