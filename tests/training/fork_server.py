"""A process that has imported what training needs, and forks a `kinema` command for every line of JSON that it reads.

The child is the command as a shell would start it: own session, signals, working folder, output and exit code. It is
spared the ten seconds that importing torch and Lightning takes on a busy machine. See `processes.py` for the other end.

A request is `{"arguments", "folder", "stdout", "stderr", "environment", "event"}` and is answered by the process's id,
or `{"wait": id}`, answered by the exit code. An event happens to the child when it comes to a place:
`{"place", "epoch", "batch", "signals": [...], "to_group", "largest_file"}`, the place one of `PLACES`, or "training" or
"validation", where epoch and batch say more.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import kinema.training.finish
import kinema.training.prepare
import kinema.training.train
from kinema.cli.main import main
from kinema.training.module import RecogniserTraining

PRELOADED = (
    "kinema.report.page",
    "rich.progress",
    "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.record_writer",
)

PLACES: dict[str, tuple[Any, str]] = {
    "probing": (kinema.training.prepare, "probe_splits"),
    "setting up": (RecogniserTraining, "configure_optimizers"),
    "finishing": (kinema.training.finish, "content_hash"),
}
"""Place -> what is called there."""


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                become_command(request)
        print(answer, flush=True)


def become_command(request: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for descriptor, path in enumerate([os.devnull, request["stdout"], request["stderr"]]):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, flags, 0o600), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["kinema", *request["arguments"]]
    if request["event"] is not None:
        arrange(request["event"])
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)  # taking all modules apart would take longer than the run


def arrange(event: dict[str, Any]) -> None:
    """Let the event happen when its place is reached."""
    if event["place"] in PLACES:
        owner, name = PLACES[event["place"]]
        called: Callable[..., Any] = getattr(owner, name)

        def call_with_event(*arguments: Any, **keywords: Any) -> Any:
            happen(event)
            return called(*arguments, **keywords)

        setattr(owner, name, call_with_event)
        return
    name = f"{event['place']}_step"
    step: Callable[..., Any] = getattr(RecogniserTraining, name)

    def step_with_event(module: RecogniserTraining, batch: Any, batch_idx: int) -> Any:
        done = module.batches_done if event["place"] == "training" else batch_idx
        if (module.current_epoch + 1, done + 1) == (event["epoch"], event["batch"]):
            happen(event)
        return step(module, batch, batch_idx)

    setattr(RecogniserTraining, name, step_with_event)


def happen(event: dict[str, Any]) -> None:
    if event["largest_file"] is not None:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (event["largest_file"], limit))
    for number in event["signals"]:
        if event["to_group"]:
            os.killpg(0, number)
        else:
            os.kill(os.getpid(), number)
        time.sleep(0.05)  # Python runs a handler between two instructions


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # collecting in the child would copy all that it shares with this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, which closes the pipe
    serve()
