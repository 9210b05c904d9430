"""Which parts of a model keep their weights in training."""

from __future__ import annotations

from torch import nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.types import ConfigError


def freeze(model: nn.Module, how: str | int) -> str:
    """Keep a part of the weights, and the running statistics of its batch norms, as they are from now on.

    Args:
        model: Changed in place.
        how: The recipe's `init.freeze`.

    Returns:
        What was frozen, in words; empty if nothing was.

    Raises:
        ConfigError: The model has no such part.
    """
    if how == "none":
        return ""
    part = getattr(model, "backbone", None)
    if how != "backbone" or not isinstance(part, FrameBackbone):
        raise ConfigError("init.freeze: this model has no frame backbone to freeze; use none")
    part.freeze()
    return "backbone frozen"
