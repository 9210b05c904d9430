"""A trained model from its folder, where it is to be looked into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kinema.models.load import load_model
from kinema.models.weights import WeightsConfig, weights_folder


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model in evaluation mode.

    Attributes:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        config: Heads and preprocessing.
        device: Where it is.
    """

    model: nn.Module
    config: WeightsConfig
    device: torch.device


def open_weights(folder: Path, *, device: torch.device | str | None = None) -> Opened:
    """Open a weights folder, or a run that has one.

    Args:
        folder: Which.
        device: Where to run; by default a GPU where there is one.

    Raises:
        DataError: It is not a weights folder.
    """
    model, config = load_model(weights_folder(folder))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Opened(model=model.to(place).eval(), config=config, device=place)
