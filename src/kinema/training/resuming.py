"""What a run that goes on is asked first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinema.training.callbacks import read_checkpoint
from kinema.training.prepare import Prepared
from kinema.training.run_folder import Run
from kinema.training.strategy import Spread
from kinema.types import ConfigError, DataError, fingerprint


def checkpoint_of(run: Run, prepared: Prepared, spread: Spread, clips: str) -> dict[str, Any] | None:
    """The last checkpoint of a run, if there is one.

    Args:
        run: Its folder.
        prepared: What is to be trained.
        spread: Over what.
        clips: From `clips_fingerprint`.

    Raises:
        DataError: It is of other clips, or cannot be read.
        ConfigError: It cannot be gone on from with this strategy.
    """
    checkpoint = read_checkpoint(run.last_checkpoint) if run.last_checkpoint.exists() else None
    if checkpoint is not None and checkpoint["epoch_state"]["clips"] != clips:
        raise DataError(
            f"{run.folder}: the run was begun with other clips; a video is new, replaced, missing, or cannot be read "
            "any more, or labels or times have changed. Mend the data set, or begin a new run"
        )
    if checkpoint is not None and (before := checkpoint["epoch_state"].get("optimiser_state", "whole")) != spread.state:
        raise ConfigError(
            f"trainer.strategy: {run.folder} was begun with {'ddp or one process' if before == 'whole' else before}, "
            f"which keeps the optimiser's state in another form; it can go on over other devices, but not with "
            f"{spread.strategy if spread.is_sharded else 'ddp or one process'}"
        )
    return checkpoint


def clips_fingerprint(prepared: Prepared) -> str:
    """Differs whenever clips, their labels or times, or the classes do, or a video has another size."""
    sizes = {path: path.stat().st_size for path in prepared.videos if path.exists()}
    clips = {
        split: [
            [clip.clip_id, clip.start_s, clip.stop_s, clip.labels, clip.group, sizes.get(clip.video)]
            for clip in of_split
        ]
        for split, of_split in prepared.clips.items()
    }
    return fingerprint({"classes": prepared.dataset.classes, "clips": clips})


def clips_done(checkpoint: Mapping[str, Any] | None, prepared: Prepared) -> int:
    """Clips that an interrupted run has seen already."""
    if checkpoint is None:
        return 0
    state = checkpoint["epoch_state"]
    per_epoch = len(prepared.clips["train"])
    inside = min(state["batches_done"] * prepared.recipe.clips.batch_size, per_epoch)
    return int(state["epoch"] * per_epoch + inside)


def is_over(checkpoint: Mapping[str, Any], num_epochs: int) -> bool:
    """Whether training was complete when this checkpoint was written, and only the weights were missing."""
    history = next(state for name, state in checkpoint["callbacks"].items() if name.startswith("History"))
    if len(history["rows"]) >= num_epochs:
        return True
    stopping = [state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")]
    return bool(stopping) and stopping[0]["stopped_epoch"] > 0
