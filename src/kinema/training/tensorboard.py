"""The history as an event file for TensorBoard.

Lightning's logger writes through a thread of tensorboard's, in which a full disk ends in a traceback, and of which
nobody hears until a later call. One record per epoch needs no thread.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger

log = logging.getLogger(__name__)


class EventFile(Logger):
    """Writes metrics into a new event file of a folder. TensorBoard puts all files of a folder together.

    What is written here stands in `metrics.csv` too, so training goes on without it: what goes wrong first turns it
    off, with a warning.

    Args:
        folder: Made when the first metrics come.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._path: Path | None = None
        self._works = True

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder.parent)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one value per name."""
        if not self._works:
            return
        # Not at the top: it takes a second, which a run that is only planned need not wait for.
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        event = Event(wall_time=time.time(), step=step or 0, summary=Summary(value=values))
        try:
            if self._path is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
                path = self._folder / name
                _append(path, Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
                self._path = path
            _append(self._path, event.SerializeToString())
        except OSError as error:
            self._works = False
            log.warning(
                "%s: TensorBoard's events are not written from here on: %s; metrics.csv has the same numbers",
                error.filename or self._path or self._folder,
                error.strerror or error,
            )

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""


def _append(path: Path, record: bytes) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    with path.open("ab", buffering=0) as file:
        RecordWriter(file).write(record)
