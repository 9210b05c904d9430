"""What a process computes on whose part of a batch has no clip, so that the others need not wait for it for ever."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from kinema.data.loading import Batch
from kinema.data.shared_batches import Layout
from kinema.types import Heads

_NUM_CLIPS = 2  # batch norm takes no statistics of one


def stand_in(layout: Layout, classes: Heads) -> Batch:
    """Clips that show nothing.

    Args:
        layout: Of the reader.
        classes: Task -> class names.
    """
    tensors = {name: torch.from_numpy(np.zeros((_NUM_CLIPS, *shape), dtype)) for name, (shape, dtype) in layout.items()}
    features = tensors.pop("features", None)
    return Batch(
        streams=tensors,
        labels={task: torch.zeros(_NUM_CLIPS, dtype=torch.int64) for task in classes},
        indices=torch.zeros(_NUM_CLIPS, dtype=torch.int64),
        failures={},
        features=features,
    )


@contextlib.contextmanager
def still_batch_norm(model: nn.Module) -> Iterator[None]:
    """Within it batch norm learns nothing from what it sees, except where all processes have to take part in it."""
    learning = [
        part
        for part in model.modules()
        if isinstance(part, _BatchNorm) and part.training and not isinstance(part, SyncBatchNorm)
    ]
    for part in learning:
        part.eval()
    try:
        yield
    finally:
        for part in learning:
            part.train()
