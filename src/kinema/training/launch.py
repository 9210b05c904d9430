"""Gathering the processes that train together: those of this computer are started here, others by torchrun or srun."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import torch.distributed as dist

from kinema.sections import Recipe
from kinema.training.outside import outside
from kinema.training.strategy import Spread, spread_of
from kinema.training.team import Processes, Team
from kinema.types import ConfigError, StoppedBySignal, UserError

log = logging.getLogger(__name__)

_END_S = 30.0
"""What followers are given to end by themselves."""

_MEET = datetime.timedelta(minutes=10)
"""What processes on several computers are given to find one another."""

_USER = "user: "


@contextlib.contextmanager
def team_of(spread: Spread, team: Team | None) -> Iterator[Team]:
    """The processes that train, gathered here unless they are already.

    Raises:
        UserError: What a follower could not do, and said.
        ConfigError: Others have started several processes, which have not been gathered.
    """
    if team is not None:
        yield team
    elif spread.num_processes == 1:
        yield Team()
    elif (who := outside()) is not None:
        raise ConfigError(f"trainer.devices: {who.starter} has to start kinema train, not a script that calls it")
    else:
        with _started(spread) as processes:
            yield processes


@contextlib.contextmanager
def team_of_outside(recipe: Recipe) -> Iterator[Processes | None]:
    """The processes that torchrun or srun has started, this one among them; None where nobody did, or each is to train
    by itself. Those that are not the first wait until it has something for them, or leaves.

    Raises:
        ConfigError: Their number is not what the recipe says.
    """
    who = outside()
    spread = spread_of(recipe) if who is not None else None
    if who is None or spread is None or spread.num_processes == 1:
        yield None
        return
    host, port = who.meeting_place()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
    store, rank, size = next(dist.rendezvous("env://", rank=who.rank, world_size=who.size, timeout=_MEET))
    team = Processes(store, rank=rank, local_rank=who.local_rank, size=size, backend=spread.backend)
    try:
        yield team
    finally:
        if team.leads and not team.has_shared:
            team.share(None)
        team.leave()


@contextlib.contextmanager
def _started(spread: Spread) -> Iterator[Processes]:
    store = dist.TCPStore("127.0.0.1", 0, spread.num_processes, is_master=True, wait_for_workers=False)
    followers: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    try:
        for rank in range(1, spread.num_processes):
            place = {"rank": rank, "size": spread.num_processes, "port": store.port, "backend": spread.backend}
            # Its own `python`, not a fork: threads and GPUs do not survive one. It needs to find what is imported here.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-m", "kinema.training.follow", json.dumps(place)]
            followers.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        threading.Thread(target=_watch, args=(store, followers, over), daemon=True).start()
        team = Processes(store, rank=0, local_rank=0, size=spread.num_processes, backend=spread.backend)
        try:
            yield team
        except (UserError, StoppedBySignal):
            raise
        except Exception:
            reason = _reason(store, followers)  # before this process leaves, of which the others complain as well
            if reason is not None:
                raise reason from None
            raise
        finally:
            over.set()
            team.leave()
        _wait(followers)
    except StoppedBySignal:
        _wait(followers)
        raise
    finally:
        over.set()
        for follower in followers:
            follower.kill()
            follower.wait()


def _wait(followers: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _END_S
    for follower in followers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            follower.wait(max(0.0, until - time.monotonic()))


def _reason(store: dist.Store, followers: list[subprocess.Popen[bytes]]) -> Exception | None:
    """Why a follower ended, where one did: then what happened here is only a consequence."""
    time.sleep(1.0)  # it may be about to
    for rank, follower in enumerate(followers, start=1):
        if (code := follower.poll()) is not None and code < 0:
            return UserError(f"process {rank} of {len(followers) + 1} was killed by signal {-code}; out of memory?")
    if not store.check([_word(1)]):
        return None
    said = store.get(_word(1)).decode()
    return UserError(said.removeprefix(_USER)) if said.startswith(_USER) else RuntimeError(said)


def say_why(team: Processes, error: Exception) -> None:
    """Leave the leader a word before this process ends."""
    text = "".join(traceback.format_exception(error))
    text = f"{_USER}{error}" if isinstance(error, UserError) else f"process {team.rank} ended:\n{text}"
    with contextlib.suppress(RuntimeError):  # the leader is gone
        team.store.set(_word(team.store.add("kinema/words", 1)), text)


def _word(number: int) -> str:
    """Where it lies: the first to say something has the cause, the others complain that it is gone."""
    return f"kinema/word/{number}"


def _watch(store: dist.Store, followers: list[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """End this process when a follower has died and this one waits for it on a GPU, or for its beginning: nothing else
    interrupts that."""
    while not over.wait(1.0):
        if any(follower.poll() for follower in followers) and not over.wait(_END_S):
            log.error("%s", _reason(store, followers) or "a process of the training has died")
            for follower in followers:
                follower.kill()
            os._exit(1)
