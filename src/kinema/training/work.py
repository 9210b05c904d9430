"""What one process prepares and every process needs to train."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass, field
from typing import Any

from kinema.config import resolve
from kinema.training.prepare import Prepared
from kinema.training.readers import Readers
from kinema.training.run_folder import Run
from kinema.types import ConfigError


@dataclass(kw_only=True)
class Work:
    """All that is found out before the first step.

    Attributes:
        prepared: With a model that is set up for training.
        run: Where to write.
        clips_fingerprint: Differs for other clips.
        readers: Split -> what reads its clips.
        goes_on: Whether there is a checkpoint to go on from.
        clips_done: Training clips that were seen before it.
        precision: Of forward and backward pass, never `auto`.
        compiled: Whether the model is compiled.
        num_threads: That a process computes with, where there are several.
        warned: What was warned of before the first step: key -> message.
    """

    prepared: Prepared
    run: Run
    clips_fingerprint: str
    readers: Readers
    goes_on: bool
    clips_done: int
    precision: str
    compiled: bool = False
    num_threads: int = 1
    warned: dict[str, str] = field(default_factory=dict)


def packed(work: Work) -> bytes:
    """For another process, whose device may be another: the model is taken to the CPU.

    Raises:
        ConfigError: Something of it cannot be sent, such as a model that a script has defined.
    """
    prepared = work.prepared
    prepared.model.cpu()
    dataset = dataclasses.replace(prepared.dataset, splits={}, absent={}, quarantine={})
    parts: dict[str, Any] = {one.name: getattr(prepared, one.name) for one in dataclasses.fields(prepared)}
    parts |= {"recipe": prepared.recipe.to_dict(), "dataset": dataset}  # its classes are made when it is read
    try:
        return pickle.dumps((parts, dataclasses.replace(work, prepared=None)))  # type: ignore[arg-type]
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"trainer.devices: the run cannot be sent to other processes: {error}") from None


def unpacked(content: bytes) -> Work:
    """Inverse of `packed`."""
    parts, work = pickle.loads(content)  # noqa: S301 - what another process of ours wrote
    return dataclasses.replace(work, prepared=Prepared(**{**parts, "recipe": resolve(parts["recipe"])}))
