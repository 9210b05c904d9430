"""What Lightning calls while it trains: history, checkpoints, stopping on a signal, progress."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch.optim import Optimizer

from kinema.data.loading import Batch
from kinema.files import write_atomically
from kinema.progress import Task
from kinema.training.module import RecogniserTraining
from kinema.training.optimisers import BACKBONE
from kinema.training.team import Team
from kinema.types import DataError, StoppedBySignal

LAST = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, also when the disk fills up while one is written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(path), buffer.getvalue())
        except OSError as error:
            size_mb = buffer.getbuffer().nbytes / 1e6
            raise DataError(
                f"{path}: the checkpoint of {size_mb:.0f} MB cannot be written: {error.strerror or error}; "
                f"{_way_on(Path(path).with_name(LAST))}"
            ) from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU. Nothing in it is executed.

    Raises:
        DataError: It is missing or broken.
    """
    if path.is_dir():  # DeepSpeed's: a file of each process
        return _of_deepspeed(path)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: the checkpoint cannot be read: {reason}; begin a new run") from None
    return checkpoint


def _of_deepspeed(folder: Path) -> dict[str, Any]:
    from lightning.pytorch.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

    with tempfile.TemporaryDirectory() as place:
        return convert_zero_checkpoint_to_fp32_state_dict(folder, Path(place) / "whole.ckpt")


def _way_on(last_checkpoint: Path) -> str:
    """What can be done when something of a run could not be written."""
    if not last_checkpoint.is_file():
        return "make room and begin again"
    return f"make room and go on with --resume {last_checkpoint.parent.parent}, the last checkpoint is untouched"


class History(Callback):
    """One row per epoch, in memory, in the checkpoint and in `metrics.csv`, whose columns are

    epoch                   from 1
    lr                      learning rate that the next step would have
    lr_backbone             that of the backbone, or of its last stage, where it has one of its own
    train/loss              mean over the epoch's clips, augmented and with label smoothing, while weights changed
    train/TASK_top1         accuracy on the same clips; for several tasks also joint, right in all of them
    validation/loss         mean over the validation clips, without label smoothing
    validation/TASK_top1    accuracy on the validation clips
    seconds                 duration; of an epoch that was interrupted, of its last part

    The loggers get the same numbers, without epoch and seconds, at the step `epoch`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._began = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RecogniserTraining)
        row = {"epoch": float(trainer.current_epoch + 1), **_learning_rates(trainer.optimizers[0])}
        row |= pl_module.train_metrics()
        row |= {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("validation/") and name != "validation/selection"
        }
        self.rows.append({**row, "seconds": time.monotonic() - self._began})
        if not trainer.is_global_zero:
            return
        try:
            write_atomically(self.path, self._csv().encode())
        except OSError as error:
            hint = _way_on(self.path.parent / "checkpoints" / LAST)
            raise DataError(f"{self.path}: cannot be written: {error.strerror or error}; {hint}") from None
        for logger in trainer.loggers:
            logger.log_metrics({n: v for n, v in row.items() if n != "epoch"}, step=trainer.current_epoch + 1)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
        return text.getvalue()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]


def _learning_rates(optimiser: Optimizer) -> dict[str, float]:
    """Of what is behind the backbone, and the highest of the backbone, where that is another."""
    groups = optimiser.param_groups
    of_backbone = [group["lr"] for group in groups if group["part"] == BACKBONE]
    return {"lr": groups[0]["lr"], **({"lr_backbone": max(of_backbone)} if of_backbone else {})}


class StopNow(BaseException):
    """Ends training at once, through whatever is being done. Lightning would turn a KeyboardInterrupt into exit code 1.

    Attributes:
        signum: The signal that came.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """SIGINT and SIGTERM. While batches are trained on, the first one asks to stop behind the batch at hand; a second
    one, and one that comes before or afterwards, ends everything at once.

    Args:
        listens: False where another process decides, and ends this one.

    Attributes:
        signum: The signal that asked to stop.
        can_wait: Whether somebody looks at `signum`.
    """

    def __init__(self, *, listens: bool = True) -> None:
        self.signum: int | None = None
        self.can_wait = False
        self._listens = listens
        self._process = os.getpid()

    def install(self) -> None:
        """Take over the signals; also again when `fit` has begun, because Lightning then installs its own handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle if self._listens else signal.SIG_IGN)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a terminal sends Ctrl-C to the processes that read clips too; they end with this one
        if not self.can_wait or self.signum is not None:
            raise StopNow(signum)
        self.signum = signum


@contextlib.contextmanager
def stop_request(*, listens: bool = True) -> Iterator[StopRequest]:
    """A request that nobody has made yet; the signals' handlers are restored afterwards."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    request = StopRequest(listens=listens)
    request.install()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class BestCheckpoint(ModelCheckpoint):
    """Weights of the best epoch so far. Unlike its base it goes on when the run's folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None
        here = self.format_checkpoint_name({})
        scores = dict.fromkeys([here] * len(state_dict["best_k_models"]), state_dict["best_model_score"])
        paths = {"best_model_path": here, "kth_best_model_path": here} if scores else {}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` after every epoch, every few minutes within one, and when training is asked to stop.

    Last in the list of callbacks, so that the checkpoint holds what the others have decided. Of several processes all
    do the same: a signal that one of them got, or its clock, is for all.

    Args:
        path: The checkpoint.
        every_minutes: Within an epoch.
        request: May ask to stop.
        share: Of the time, at most so much is spent on writing: where epochs are short, not every one of them is
            followed by a checkpoint. The last one is.
        team: The processes that train together.
    """

    def __init__(
        self,
        path: Path,
        *,
        every_minutes: float,
        request: StopRequest,
        share: float = 1.0,
        team: Team | None = None,
    ) -> None:
        self.path = path
        self.every_s = 60 * every_minutes
        self.request = request
        self.share = share
        self.team = team or Team()
        self._saved_at = time.monotonic()
        self._saving_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.request.install()
        self.request.can_wait = True
        self._saved_at = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.request.can_wait = False
        if self.request.signum is not None:
            raise StopNow(self.request.signum)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, RecogniserTraining)
        if pl_module.batches_done >= pl_module.steps_per_epoch:
            return  # the epoch's end is at hand, with its validation
        if not pl_module.is_between_steps:
            return
        is_due = time.monotonic() - self._saved_at >= self.every_s
        signum, due = self.team.most([self.request.signum or 0, is_due])
        if signum or due:
            self._save(trainer)
        if signum:
            self._stop(signum)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        waited = (time.monotonic() - self._saved_at) * self.share >= self._saving_s * (1 - self.share)
        signum, due = self.team.most([self.request.signum or 0, is_last or waited])
        if signum or due:
            self._save(trainer)
        if signum:
            self._stop(signum)

    def _save(self, trainer: Trainer) -> None:
        began = time.monotonic()
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - began

    def _stop(self, signum: float) -> NoReturn:
        raise StoppedBySignal(int(signum), self.path.parent.parent)


class Progress(Callback):
    """Tells the reporter's task how far training is, and what share of the time it waited for clips."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._mark = time.monotonic()
        self._waited_s = 0.0
        self._total_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        self._waited_s += now - self._mark
        self._total_s += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, RecogniserTraining)
        now = time.monotonic()
        self._total_s += now - self._mark
        self._mark = now
        metrics = pl_module.train_metrics()
        facts = {"loss": f"{metrics['train/loss']:.3f}", "waiting for clips": f"{self.waiting[0]:.0%}"}
        self.task.advance(
            pl_module.num_read,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            **facts,
            **_accuracies(trainer.callback_metrics),
        )

    @property
    def waiting(self) -> tuple[float, float]:
        """Share of the time that was waited for clips, and the time, in seconds."""
        return (self._waited_s / self._total_s if self._total_s else 0.0), self._total_s


def _accuracies(metrics: Mapping[str, torch.Tensor]) -> dict[str, str]:
    prefix, suffix = "validation/", "_top1"
    return {
        f"validation {name.removeprefix(prefix).removesuffix(suffix)}": f"{float(value):.1%}"
        for name, value in metrics.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }


def quiet_lightning() -> None:
    """Lightning announces devices and tips through loggers; kinema says itself what matters."""
    import logging

    os.environ.setdefault("PYTORCH_LIGHTNING_DISABLE_TIPS", "1")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
