"""A process that takes part in a training that another one leads: `python -m kinema.training.follow PLACE`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import warnings

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl.h


def main() -> None:
    """Follow the leader of this computer that has started this process, to the end."""
    # Ctrl-C reaches the whole group: what follows is for the leader to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    place = json.loads(sys.argv[1])

    import torch.distributed as dist

    from kinema.training.launch import say_why
    from kinema.training.team import Processes
    from kinema.training.train import follow
    from kinema.types import StoppedBySignal

    logging.getLogger("kinema").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # the leader has the same
    store = dist.TCPStore("127.0.0.1", place["port"], place["size"], is_master=False)
    rank, size = place["rank"], place["size"]
    team = Processes(store, rank=rank, local_rank=rank, size=size, backend=place["backend"])
    code = 0
    try:
        with contextlib.suppress(StoppedBySignal):
            follow(team, listens=False)
        team.leave()
    except Exception as error:  # noqa: BLE001 - told to the leader, who says it
        say_why(team, error)
        code = 2
    # Not through Python's own end, in which gloo aborts now and then.
    os._exit(code)


if __name__ == "__main__":
    main()
